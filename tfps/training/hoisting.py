"""Hoists lookups before the forward pass: one request a server for all tables of a step, for any model.

In almost all models the ids that a step looks up depend on its inputs alone, so their rows can be requested first:
(1) record: trace the step in a graph that is thrown away, and record the table and ids of each lookup;
(2) lift: copy only the operations between the inputs and the ids into the real graph;
(3) fetch all rows at once;
(4) replay: trace the step for real, and answer each lookup with its rows, in the same order.
A lookup whose ids depend on anything else (the rows of another lookup, a random number, a variable, a branch or loop of
the model) is served at the point where the model makes it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import tensorflow as tf
from tensorflow.python.framework import auto_control_deps_utils  # which operations write a resource is not public
from tensorflow.python.util import object_identity

from tfps import step
from tfps.embedding import row_cache
from tfps.embedding.lookup import fetch
from tfps.embedding.lookup_group import LookupResult
from tfps.embedding.placeholder_lookups import OPERATIONS, PlaceholderLookups
from tfps.embedding.table import Table
from tfps.embedding.whole import is_read
from tfps.stages import IDS, in_stage
from tfps.training.copied_tensors import copy_tensor
from tfps.training.device_batches import divide, share_spec
from tfps.training.fixed_seeds import has_fixed_seeds
from tfps.training.step_lookups import DeviceLookups, DirectLookups, ReadWhole, Replay
from tfps.types import Nest, VariableKey

_PURE_THOUGH_STATEFUL = {"LookupTableFindV2"}
"""Operations that TensorFlow calls stateful although their results depend on their inputs alone."""

Trace: TypeAlias = Callable[["Recorder", Nest], Nest]
"""Traces a step over a batch; the recorder serves its lookups."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """One lookup of the recording.

    Args:
        table: the table that is looked up.
        ids: the ids in the graph of the recording; None if they cannot be computed before the forward pass.
    """

    table: Table
    ids: tf.Tensor | None


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedWhole:
    """One conversion of a table to a tensor in the recording.

    Args:
        table: the table.
        rows: the tensor in the graph of the recording.
        lookup: the lookup that computes it.
    """

    table: Table
    rows: tf.Tensor
    lookup: Recorded


class Recorder(DirectLookups):
    """Records the lookups of a step that is traced only for this purpose.

    Args:
        graph: the graph of the recording.
        sources: the placeholders of the recording whose values are known before the step.

    Attributes:
        lookups: the lookups recorded so far, in order.
        wholes: the conversions of tables to tensors so far, in order.
    """

    never_runs = True

    def __init__(self, graph: tf.Graph, sources: Sequence[tf.Tensor]) -> None:
        super().__init__()
        self.lookups: list[Recorded] = []
        self.wholes: list[RecordedWhole] = []
        self._graph, self._sources = graph, {source.op for source in sources}
        self._placeholders = PlaceholderLookups()

    def look_up(self, table: Table, ids: tf.Tensor) -> LookupResult:
        """Records the lookup and returns rows that are never evaluated; a late one may be in an inner graph."""
        ids = tf.convert_to_tensor(ids)
        # Ids of an inner graph, such as the body of a loop in the model, are not available in the outer graph.
        early = ids.graph is self._graph and self._is_pure(ids)
        self.lookups.append(Recorded(table, ids if early else None))
        if not early:
            return super().look_up(table, ids)
        found = self._placeholders.look_up(table, ids)
        self.groups[id(found.group)] = found.group
        return found

    def read_whole(self, table: Table) -> tf.Tensor:
        """Records the read; only the end of the trace shows whether anything uses it."""
        rows = self._expand_all(table)
        self.wholes.append(RecordedWhole(table, rows, self.lookups[-1]))
        return rows

    def _is_pure(self, tensor: tf.Tensor) -> bool:
        """Returns whether a tensor depends only on what is known before the step and operations without state."""
        known = self._sources | {internal.op for _, internal in self._graph.captures}
        known |= {one.op for one in self._graph.deferred_internal_captures if isinstance(one, tf.Tensor)}
        waiting, seen = [tensor.op], set()
        while waiting:
            op = waiting.pop()
            # Operations may be reached on many paths; without this check a deep model would take exponential time.
            if op in seen:
                continue
            seen.add(op)
            if op._is_stateful and op.type not in _PURE_THOUGH_STATEFUL:
                return False
            # `tf.vectorized_map` traces its function over a placeholder of its own.
            if op.type == "Placeholder" and op not in known:
                return False
            # An operation with a function is a branch or a loop. Its body may do anything, and `_copy` copies no
            # functions.
            if any(value.HasField("func") for value in op.node_def.attr.values()):
                return False
            waiting += [source.op for source in op.inputs]
        return True


class Recording:
    """A step that is traced over placeholders for its batch, in a graph that is thrown away.

    Args:
        trace: traces the step over a batch; the recorder that it gets serves the lookups.
        batch_spec: tensors or their specs, in the structure of the batches to come.
        read_whole: reads a table whole, once for all steps, in the graph in which the recording is made; None if each
            step looks up all rows.
        devices: the number of devices that share a batch; the step is traced for the part of one of them. 0 for steps
            that run where the closure does.

    Attributes:
        result: the result of `trace`, tensors that cannot be evaluated.
        tables: the tables of *early* lookups, in order: those whose rows can be requested before the step. With several
            devices, the tables of the first device come first.
        late_tables: the tables of all other lookups.
    """

    def __init__(self, trace: Trace, batch_spec: Nest, read_whole: ReadWhole | None = None, devices: int = 0) -> None:
        self._is_divided, self._devices = devices > 0, max(1, devices)
        batch_spec = share_spec(batch_spec, self._devices)
        self._graph = tf.__internal__.FuncGraph("tfps_recorded_step")
        with self._graph.as_default():
            self._stand_in = tf.nest.map_structure(_placeholder, batch_spec, expand_composites=True)
            sources = tf.nest.flatten(self._stand_in, expand_composites=True)
            recorder = Recorder(self._graph, [source for source in sources if source is not None])
            self.result = trace(recorder, self._stand_in)
        results = tf.nest.flatten(self.result, expand_composites=True)
        used = [whole for whole in recorder.wholes if is_read(whole.rows, results)]
        # A read that nothing uses is no lookup, and neither is one that is made once for all steps.
        left_out = {id(one.lookup) for one in recorder.wholes if one not in used or read_whole is not None}
        self._lookups = [recorded for recorded in recorder.lookups if id(recorded) not in left_out]
        self._sort()
        self._is_used = [whole in used for whole in recorder.wholes]
        tables = {whole.table.key: whole.table for whole in used}
        self._wholes = {key: read_whole(table) for key, table in tables.items()} if read_whole else None

    def _sort(self) -> None:
        """Lists early and late lookups."""
        self._early_ids = [recorded.ids for recorded in self._lookups if recorded.ids is not None]
        self.tables = [recorded.table for recorded in self._lookups if recorded.ids is not None] * self._devices
        self.late_tables = [recorded.table for recorded in self._lookups if recorded.ids is None]

    def make_all_late(self, tables: Iterable[Table]) -> None:
        """Makes every lookup of some tables a late one."""
        keys = {table.key for table in tables}
        self._lookups = [Recorded(one.table, None) if one.table.key in keys else one for one in self._lookups]
        self._sort()

    @in_stage(IDS)
    def ids(self, batch: Nest) -> list[tf.Tensor]:
        """Copies the operations that compute the ids of early lookups, and applies them to `batch`; returns the ids."""
        shares = [batch] if self._devices == 1 else divide(batch, self._devices).batches
        return [ids for share in shares for ids in self._ids(share)]

    def _ids(self, batch: Nest) -> list[tf.Tensor]:
        # Maps the name of a tensor in the recording to the tensor that replaces it in the current graph.
        known = {internal.name: external for external, internal in self._graph.captures}
        # Resources that differ between workers, such as the hash table of a lookup layer, are captured at call time.
        late = zip(self._graph.deferred_external_captures, self._graph.deferred_internal_captures, strict=True)
        known.update({internal.name: capture()[0] for capture, internal in late if isinstance(internal, tf.Tensor)})
        sources = tf.nest.flatten(self._stand_in, expand_composites=True)
        replaced = zip(sources, tf.nest.flatten(batch, expand_composites=True), strict=True)
        known.update({internal.name: external for internal, external in replaced if internal is not None})
        return [copy_tensor(ids, known) for ids in self._early_ids]

    def written(self, handles: Mapping[VariableKey, tf.Tensor]) -> set[VariableKey]:
        """Returns the keys of the resources that the step may write, in a branch or a loop too.

        Args:
            handles: the handle of each resource in the graph outside, by key.
        """
        inner = {id(external): internal for external, internal in self._graph.captures}
        captured = {key: inner[id(handle)] for key, handle in handles.items() if id(handle) in inner}
        writes = object_identity.ObjectIdentitySet(
            handle
            for operation in self._graph.get_operations()
            for handle in auto_control_deps_utils.get_read_write_resource_inputs(operation)[1]
        )
        return {key for key, handle in captured.items() if handle in writes}

    @property
    def operations(self) -> int:
        """The number of operations in the step, about."""
        return (len(self._graph.get_operations()) + OPERATIONS * len(self._early_ids)) * self._devices

    @property
    def has_fixed_seeds(self) -> bool:
        """Whether the step has operations such as `tf.random.normal` whose sequence begins with a fixed seed."""
        return has_fixed_seeds(self._graph)

    def ids_per_step(self, examples: int | None) -> dict[str, int | None]:
        """Counts the ids that one step looks up in each table, repeats included; None where the number varies by batch.

        Args:
            examples: the examples in a batch, if known but not part of the static shape; the last batch may have fewer.
        """
        found: dict[str, int | None] = {}
        for recorded in self._lookups:
            more = None if recorded.ids is None else self._count_ids(recorded.ids.shape, examples)
            before = found.get(recorded.table.name, 0)
            found[recorded.table.name] = None if more is None or before is None else before + more
        return found

    def _count_ids(self, shape: tf.TensorShape, examples: int | None) -> int | None:
        """Counts the ids of one lookup on all devices."""
        # The examples are those of the whole batch, and a static size is that of one device.
        if shape.rank and shape[0] is None:
            return _size(shape, examples)
        size = _size(shape, None)
        return None if size is None else size * self._devices

    @property
    def shapes(self) -> list[tf.TensorShape]:
        """The static shapes of the ids of early lookups."""
        return [ids.shape for ids in self._early_ids] * self._devices

    def no_ids(self) -> list[tf.Tensor]:
        """Returns ids for a step that does not run: no ids, or zeros where the shape fixes their number."""
        return [tf.zeros([size or 0 for size in ids.shape], ids.dtype) for ids in self._early_ids * self._devices]

    def replay(self, found: Sequence[LookupResult]) -> DirectLookups:
        """Returns lookups that answer a step with `found`, the rows for its `ids`."""
        remaining = iter(found)
        if self._is_divided:
            return DeviceLookups([self._replay(remaining) for _ in range(self._devices)])
        return self._replay(remaining)

    def _replay(self, remaining: Iterator[LookupResult]) -> DirectLookups:
        # A late lookup gets None, so `Replay` serves it when the model makes it.
        answers = [next(remaining) if recorded.ids is not None else None for recorded in self._lookups]
        return self._with_wholes(Replay(answers, [recorded.table for recorded in self._lookups]))

    def lookups(self, batch: Nest) -> DirectLookups:
        """Requests the rows of all early lookups over `batch` at once; returns what serves the lookups of the step."""
        row_cache.begin_step()
        if len(self.tables) < 2 and not any(self._is_used) and not self._is_divided:
            # A single lookup needs one request a server either way, so copying operations would gain nothing.
            return self._with_wholes(DirectLookups())
        return self.replay(fetch(self.tables, self.ids(batch)) if self.tables else [])

    def _with_wholes(self, lookups: DirectLookups) -> DirectLookups:
        """Tells lookups which conversions of tables to tensors are read."""
        copies = self._wholes
        read = lookups.look_up_all if copies is None else lambda table: _read_copy(table, copies[table.key])
        lookups.expect_wholes([read if used else None for used in self._is_used])
        return lookups


def _read_copy(table: Table, rows: tf.Tensor) -> tf.Tensor:
    """Returns a copy of a whole table in a step that changes no table."""
    current = step.current()
    assert current is not None
    rows = tf.identity(rows)  # of its own, because each read gets attributes
    current.whole_reads.append((table, rows))
    return rows


def _size(shape: tf.TensorShape, examples: int | None) -> int | None:
    """Counts the elements of a tensor; an unknown first dimension is taken to be the number of examples."""
    if shape.rank and shape[0] is None and examples is not None:
        shape = shape[1:].concatenate([examples])
    return None if shape.num_elements() is None else int(shape.num_elements())


def _placeholder(tensor: Nest) -> tf.Tensor:
    """Creates a placeholder for a tensor or spec; None stays None, as in a batch without labels or weights."""
    return tf.compat.v1.placeholder(tensor.dtype, tensor.shape) if hasattr(tensor, "dtype") else None
