"""Lookups asked for before the forward pass: one request a server for all tables of a step, whatever the model.

What ids a step asks for depends, in almost all models, on its inputs alone. So they can be had first:
(1) record: trace the step in a graph that is thrown away, and take down the table and ids of each lookup;
(2) lift: copy just the operations between the inputs and the ids into the real graph;
(3) fetch all rows at once;
(4) replay: trace the step for real, and answer each lookup with its rows, in the same order.
A lookup whose ids depend on anything else (the rows of another lookup, a random number, a variable, a branch or loop of
the model) is served where the model asks for it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.embedding.lookup import fetch
from tfps.embedding.lookup_group import LookupResult
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.types import Nest

_PURE_THOUGH_STATEFUL = {"LookupTableFindV2"}
"""Operations that TensorFlow calls stateful, and whose result follows from their inputs all the same."""

Trace: TypeAlias = Callable[["Recorder", Nest], Nest]
"""Traces a step over a batch, with a recorder as its lookups."""


class DirectLookups:
    """Serves each lookup where the model asks for it: a request and an answer a server for each."""

    def look_up(self, table: Table, ids: tf.Tensor) -> LookupResult:
        """Rows of `table` for `ids`."""
        return fetch([table], [ids])[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """One lookup of the recording.

    Args:
        table: that is looked up.
        ids: its ids in the graph of the recording; None where they cannot be had before the forward pass.
    """

    table: Table
    ids: Any


class Recorder(DirectLookups):
    """Takes down the lookups of a step that is traced for nothing else.

    Args:
        graph: the graph of the recording.

    Attributes:
        lookups: those so far, in order.
    """

    def __init__(self, graph: tf.Graph) -> None:
        self.lookups: list[Recorded] = []
        self._graph = graph

    def look_up(self, table: Table, ids: tf.Tensor) -> LookupResult:
        """Rows of `table` for `ids`, which nobody will evaluate."""
        # Ids of another graph, such as the body of a loop of the model, cannot be had in the outer one.
        ids = tf.convert_to_tensor(ids)
        self.lookups.append(Recorded(table, ids if ids.graph is self._graph and _is_pure(ids) else None))
        return super().look_up(table, ids)


class Replay(DirectLookups):
    """Answers lookups with rows that were asked for beforehand.

    Args:
        found: for each lookup of the step its rows, or None where it is served on the spot.
        tables: the table of each.
    """

    def __init__(self, found: Sequence[LookupResult | None], tables: Sequence[Table]) -> None:
        self._remaining = list(zip(found, tables, strict=True))

    def look_up(self, table: Table, ids: tf.Tensor) -> LookupResult:
        """Rows of `table` for `ids`."""
        # The answers are matched to lookups by their order alone, so the order must be that of the recording.
        if not self._remaining or self._remaining[0][1] is not table:
            raise UnsupportedError(
                "a step must look up the same tables in the same order whenever it is traced. "
                f"Received: table {table.name!r}. Recorded: {self._next_name()!r}."
            )
        found, _ = self._remaining.pop(0)
        return super().look_up(table, ids) if found is None else found

    def _next_name(self) -> str | None:
        return self._remaining[0][1].name if self._remaining else None


class Recording:
    """A step traced over a stand-in for its batch, in a graph that is thrown away.

    Args:
        trace: traces the step over a batch, with this recorder as its lookups.
        batch_spec: structure of tensors, or of their specs, like the batches to come.

    Attributes:
        result: what `trace` returned, tensors that nobody can evaluate.
        tables: the tables of lookups whose rows can be asked for before the step, in order; "early" lookups.
        late_tables: the tables of the others.
    """

    def __init__(self, trace: Trace, batch_spec: Nest) -> None:
        self._graph = tf.__internal__.FuncGraph("tfps_recorded_step")
        with self._graph.as_default():
            self._stand_in = tf.nest.map_structure(_placeholder, batch_spec, expand_composites=True)
            recorder = Recorder(self._graph)
            self.result = trace(recorder, self._stand_in)
        self._lookups = recorder.lookups
        self._early = [recorded for recorded in recorder.lookups if recorded.ids is not None]
        self.tables = [recorded.table for recorded in self._early]
        self.late_tables = [recorded.table for recorded in recorder.lookups if recorded.ids is None]

    def ids(self, batch: Nest) -> list[tf.Tensor]:
        """Traces just the operations that lead to the ids of early lookups of a step over `batch`; returns the ids."""
        # By name of the tensor in the recording: what stands for it in the current graph.
        known = {internal.name: external for external, internal in self._graph.captures}
        # What differs between workers, such as the hash table of a lookup layer, is captured when the graph is called.
        late = zip(self._graph.deferred_external_captures, self._graph.deferred_internal_captures, strict=True)
        known.update({internal.name: capture()[0] for capture, internal in late if isinstance(internal, tf.Tensor)})
        sources = tf.nest.flatten(self._stand_in, expand_composites=True)
        given = zip(sources, tf.nest.flatten(batch, expand_composites=True), strict=True)
        known.update({internal.name: external for internal, external in given if internal is not None})
        return [_copy(recorded.ids, known) for recorded in self._early]

    @property
    def operations(self) -> int:
        """Operations of the step."""
        return len(self._graph.get_operations())

    def ids_per_step(self, examples: int | None) -> dict[str, int | None]:
        """Ids that one step looks up, by table, repeats counted; None where batches differ in their number.

        Args:
            examples: examples of a batch, where that is known and no part of its shape; the last one may have fewer.
        """
        found: dict[str, int | None] = {}
        for recorded in self._lookups:
            more = None if recorded.ids is None else _size(recorded.ids.shape, examples)
            before = found.get(recorded.table.name, 0)
            found[recorded.table.name] = None if more is None or before is None else before + more
        return found

    @property
    def shapes(self) -> list[tf.TensorShape]:
        """Static shapes of the ids of early lookups."""
        return [recorded.ids.shape for recorded in self._early]

    def no_ids(self) -> list[tf.Tensor]:
        """Ids of these shapes for a step that is not run: none, or zeros where the shape has a fixed number."""
        shapes = [[size or 0 for size in recorded.ids.shape] for recorded in self._early]
        return [tf.zeros(shape, recorded.ids.dtype) for shape, recorded in zip(shapes, self._early, strict=True)]

    def replay(self, found: Sequence[LookupResult]) -> DirectLookups:
        """Answers the lookups of a step with what was `found` for its `ids`."""
        remaining = iter(found)
        # None for late lookups: `Replay` serves these where the model asks for them.
        answers = [next(remaining) if recorded.ids is not None else None for recorded in self._lookups]
        return Replay(answers, [recorded.table for recorded in self._lookups])

    def lookups(self, batch: Nest) -> DirectLookups:
        """Asks for the rows of all early lookups of a step over `batch` at once; returns what answers its lookups."""
        if len(self.tables) < 2:
            # One request a server either way: the copied operations would be traced for nothing.
            return DirectLookups()
        return self.replay(fetch(self.tables, self.ids(batch)))


def _copy(tensor: tf.Tensor, known: dict[str, tf.Tensor]) -> tf.Tensor:
    """Copies a tensor of the recording, and what it follows from, into the current graph.

    Args:
        tensor: of the recording.
        known: copies by name of their originals, to begin with those of the inputs; grows.
    """
    # Depth first, by a stack of its own: a long chain of operations would be too deep for Python's.
    waiting = [tensor]
    while waiting:
        inputs = [source for source in waiting[-1].op.inputs if source.name not in known]
        if waiting[-1].name in known:
            waiting.pop()
        elif inputs:
            waiting += inputs
        else:
            op = waiting.pop().op
            copied = tf.compat.v1.get_default_graph().create_op(
                op.type,
                [known[source.name] for source in op.inputs],
                [output.dtype for output in op.outputs],
                attrs={key: op.node_def.attr[key] for key in op.node_def.attr if not key.startswith("_")},
                name=op.name,
            )
            for old, new in zip(op.outputs, copied.outputs, strict=True):
                # Not every operation can infer it again; that of a lookup layer cannot.
                new.set_shape(old.shape)
                known[old.name] = new
    return known[tensor.name]


def _size(shape: tf.TensorShape, examples: int | None) -> int | None:
    """Elements of a tensor whose first dimension, where it is not known, is that of the examples."""
    if shape.rank and shape[0] is None and examples is not None:
        shape = shape[1:].concatenate([examples])
    return None if shape.num_elements() is None else int(shape.num_elements())


def _placeholder(tensor: Nest) -> tf.Tensor:
    """A stand-in for one tensor or spec; a batch without labels or weights has None in their place."""
    return tf.compat.v1.placeholder(tensor.dtype, tensor.shape) if hasattr(tensor, "dtype") else None


def _is_pure(tensor: tf.Tensor) -> bool:
    """Whether a tensor follows from placeholders and constants by operations without state."""
    waiting, seen = [tensor.op], set()
    while waiting:
        op = waiting.pop()
        if op in seen:
            continue
        seen.add(op)
        if op._is_stateful and op.type not in _PURE_THOUGH_STATEFUL:
            return False
        # A branch or a loop: its body may have anything in it, and `_copy` does not copy functions.
        if any(value.HasField("func") for value in op.node_def.attr.values()):
            return False
        waiting += [source.op for source in op.inputs]
    return True
