"""`ReturnedLogs`: what a step returned as logs, and how the logs of all steps of all workers follow from it.

A log that is computed from the sums of metrics alone (`metric.result()`, or `exp(a.result() / b.result())`) cannot be
averaged over workers. The chief computes it from the sums of all workers, with the operations that the step used. A
log that has nothing to do with metrics is a value of its step, and the mean over the steps is shown. Where a log mixes
both (`metric.result() + penalty`), the chief uses the sums and the means of the other values. The graph of the step
decides this and names play no part: a metric "total_loss" may be logged as "loss", and a value may have the name of a
metric.

Threading: made in the thread that traces a step, used in the main thread.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.errors import UnsupportedError
from tfps.keras.tensor_identity import identity_of
from tfps.training.copied_tensors import copy_tensor
from tfps.types import Nest

_LOG = logging.getLogger("tfps")

Values: TypeAlias = Mapping[str, "np.ndarray[Any, Any] | float"]
"""Means over steps, by the key of the value."""

_ASSIGNS = {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
_KEEPS_SUM = {"Add", "AddV2", "AddN", "Identity", "Cast", "Reshape", "Select", "SelectV2", "TensorScatterAdd"}
"""Operations whose result is still a sum that grew, if one of their inputs is the sum. `Sub` needs it first."""
_MOST_ELEMENTS = 4096
"""The most elements of a value that a worker sends to the chief with each closure."""


class MetricSum(Protocol):
    """A metric variable whose sum over all steps is known: a `SumVariable`, or one with copies on replicas."""

    @property
    def key(self) -> Any:
        """A key that no two variables of the step share."""

    @property
    def name(self) -> str:
        """The name, for messages."""

    @property
    def home_handle(self) -> tf.Tensor:
        """The handle by which the graph of the step knows the variable, unless the step has a copy."""

    @property
    def shape(self) -> tf.TensorShape:
        """The shape."""

    @property
    def dtype(self) -> tf.DType:
        """The dtype."""

    def read_value(self) -> tf.Tensor:
        """Returns the sum."""


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What the result of an operation depends on.

    Args:
        sums: whether it depends on the sums of metrics.
        others: whether it depends on anything else that is not constant.
        own: whether it depends on a metric variable as the step alone sees it.
        hidden: whether it depends on sums inside a function or by an unknown operation.
    """

    sums: bool = False
    others: bool = False
    own: bool = False
    hidden: bool = False

    def __or__(self, other: "_Kind") -> "_Kind":
        return _Kind(
            self.sums or other.sums,
            self.others or other.others,
            self.own or other.own,
            self.hidden or other.hidden,
        )


class ReturnedLogs:
    """The logs of one step, as it was traced.

    Args:
        logs: what the step returned: a dictionary of tensors and numbers, which may be nested; or None.
        sums: the metric variables whose sums the chief has.
        results: returns the results of the model's metrics by name.
        begin: the number of operations that the graph had before the step.

    Attributes:
        values: the tensors that workers send, by key; the chief gets their means over steps.

    Raises:
        UnsupportedError: the logs are no dictionary, or one of them cannot be shown for several workers.
    """

    def __init__(
        self, logs: Nest, sums: Sequence[MetricSum], results: Callable[[], Mapping[str, Any]], begin: int
    ) -> None:
        if logs is not None and not isinstance(logs, Mapping):
            raise UnsupportedError(
                "a `train_step` or `test_step` must return a dictionary of logs by name, or None. "
                f"Received: {type(logs).__name__}."
            )
        self.values: dict[str, tf.Tensor] = {}
        self._sums = list(sums)
        self._names: list[str] = []
        self._by_name: set[str] = set()
        # The tensors that the chief computes, and the tensors in the graph of the step that it has values for.
        self._computed: dict[str, tf.Tensor] = {}
        self._reads: dict[str, int] = {}
        self._cuts: dict[str, tuple[str, tf.DType]] = {}
        self._function: Any = None
        tensors = {name: _as_tensor(name, value) for name, value in flatten_logs(logs or {}).items()}
        self._graph = _StepGraph(sums, begin) if tensors else None
        for name, tensor in tensors.items():
            self._add(name, tensor, results)

    @property
    def layout(self) -> tuple[list[str], list[tuple[str, tf.TensorShape]]]:
        """The names of the logs, and the keys and shapes of the values."""
        return self._names, [(key, value.shape) for key, value in sorted(self.values.items())]

    def compute(self, means: Values, results: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the logs over all steps.

        Args:
            means: the mean over all steps of each of `values`.
            results: returns the results of the model's metrics by name.
        """
        return self.compute_from(self._sums, means, results)

    def compute_from(
        self, sums: Sequence[MetricSum], means: Values, results: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Returns the logs as `compute` does, but from the values of other variables, in the same order."""
        computed: Mapping[str, tf.Tensor] = {}
        if self._computed or self._function is not None:
            if self._function is None:
                self._function = self._make_function()
            others = [
                tf.cast(tf.convert_to_tensor(means[key], tf.float32), dtype) for key, dtype in self._cuts.values()
            ]
            computed = self._function([one.read_value() for one in sums], others)
        named = flatten_logs(results()) if self._by_name else {}
        return {
            name: named[name] if name in self._by_name else computed[name] if name in computed else means[name]
            for name in self._names
        }

    def _add(self, name: str, tensor: tf.Tensor, results: Callable[[], Mapping[str, Any]]) -> None:
        assert self._graph is not None
        self._names.append(name)
        kind = self._graph.kind(tensor)
        if kind.hidden and name in flatten_logs(results()):
            # The operations are inside a function. The name is the only hint, and most often right.
            self._by_name.add(name)
        elif kind.sums and not (kind.hidden or kind.own) and self._cut(name, tensor):
            self._computed[name] = tensor
        else:
            if kind.hidden or (kind.sums and not kind.own):
                _LOG.warning(
                    "the log %r mixes metrics with values that the chief cannot compute: the mean over the steps of "
                    "each worker's own result is shown.",
                    name,
                )
            self.values[name] = _sendable(name, tensor)

    def _cut(self, name: str, tensor: tf.Tensor) -> bool:
        """Finds what the chief needs to compute a log; returns False if a worker cannot send some of it."""
        assert self._graph is not None
        reads, cuts = self._graph.sources(tensor)
        if not all(_is_small(cut) for cut in cuts):
            return False
        self._reads.update(reads)
        for number, cut in enumerate(cuts):
            if cut.name not in self._cuts:
                # No log of a user has such a name.
                key = f"{name}\n{number}"
                self.values[key], self._cuts[cut.name] = cut, (key, cut.dtype)
        return True

    def _make_function(self) -> Any:
        """Makes the function that computes logs on the chief from the sums and the means of the values they need."""

        @tf.function(autograph=False)
        def compute(sums: list[tf.Tensor], others: list[tf.Tensor]) -> dict[str, tf.Tensor]:
            known = {read: sums[index] for read, index in self._reads.items()}
            known.update(zip(self._cuts, others, strict=True))
            return {name: copy_tensor(tensor, known) for name, tensor in self._computed.items()}

        specs = [tf.TensorSpec(one.shape, one.dtype) for one in self._sums]
        shapes = {key: value.shape for key, value in self.values.items()}
        others = [tf.TensorSpec(shapes[key], dtype) for key, dtype in self._cuts.values()]
        concrete = compute.get_concrete_function(specs, others)
        # The graph of the step is not needed any more; without this it would live as long as the model.
        self._computed, self._graph = {}, None
        return concrete


def check_sums(sums: Sequence[MetricSum]) -> None:
    """Checks that the operations of the current graph change metric variables by addition alone.

    Raises:
        UnsupportedError: they change one in another way.
    """
    _StepGraph(sums, 0)


class _StepGraph:
    """The operations of a traced step: finds what their results depend on.

    Args:
        sums: the metric variables of the step.
        begin: the number of operations that the graph had before the step.

    Raises:
        UnsupportedError: the step changes a metric variable other than by addition.
    """

    def __init__(self, sums: Sequence[MetricSum], begin: int) -> None:
        current = step.current()
        self._variables = list(sums)
        self._known: dict[tuple[int, str], int] = {}
        self._indices: dict[str, int | None] = {}
        for index, one in enumerate(sums):
            copy = current.copy_of(one.key) if current else None
            self._known[identity_of(one.home_handle if copy is None else copy)] = index
        # A graph lists its operations in the order in which they were made, so inputs come first.
        self._operations = tf.compat.v1.get_default_graph().get_operations()[begin:]
        self._places = {op.name: place for place, op in enumerate(self._operations)}
        # The variables that each operation depends on, a bit for each.
        self._masks: dict[str, int] = {}
        # The place of the last write to each variable, and the variables that the step sets to a value of its own.
        self._writes: dict[int, int] = {}
        self._own: set[int] = set()
        for place, op in enumerate(self._operations):
            self._visit(place, op)
        self._kinds: dict[str, _Kind] = {}
        for op in self._operations:
            self._kinds[op.name] = self._kind_of(op)

    def kind(self, tensor: tf.Tensor) -> _Kind:
        """Returns what a tensor depends on."""
        # What was there before the step is no part of it.
        return self._kinds.get(tensor.op.name, _Kind(others=tensor.op.type != "Const"))

    def sources(self, tensor: tf.Tensor) -> tuple[dict[str, int], list[tf.Tensor]]:
        """Returns what a tensor is computed from: the reads of sums by name, with the variable; and other tensors."""
        reads: dict[str, int] = {}
        cuts: dict[str, tf.Tensor] = {}
        waiting, seen = [tensor], set()
        while waiting:
            one = waiting.pop()
            if one.name in seen:
                continue
            seen.add(one.name)
            kind = self.kind(one)
            index = self._variable_of(one.op) if kind.sums else None
            if kind.others and not kind.sums:
                cuts[one.name] = one
            elif index is not None:
                reads[one.name] = index
            else:
                waiting += one.op.inputs
        return reads, [cuts[name] for name in sorted(cuts)]

    def _visit(self, place: int, op: tf.Operation) -> None:
        """Notes which variables an operation depends on, and whether it changes one."""
        mask = 0
        for one in op.inputs:
            index = self._variable(one)
            mask |= self._masks.get(one.op.name, 0) if index is None else 1 << index
        self._masks[op.name] = mask
        index = self._variable(op.inputs[0]) if op.type in _ASSIGNS else None
        if index is None:
            return
        self._writes[index] = place
        if op.type != "AssignVariableOp":
            return
        value = op.inputs[1]
        if not self._depends(value, index):
            self._own.add(index)
        elif not self._adds(value, index):
            raise UnsupportedError(
                f"variable {self._variables[index].name!r} of a metric must grow by addition, because each worker "
                "counts for itself and the chief adds their counts. "
                f"Received: an assignment of the result of {value.op.type}. "
                "Valid: sums, from which `result` computes the metric."
            )

    def _kind_of(self, op: tf.Operation) -> _Kind:
        if op.type == "ReadVariableOp":
            index = self._variable_of(op)
            # A sum that the step reads and then changes, or that it sets, says something about this step alone.
            last = -1 if index is None else self._writes.get(index, -1)
            total = index is not None and index not in self._own and last < self._places[op.name]
            return _Kind(sums=total, others=not total, own=index is not None and not total)
        if _is_source(op):
            kinds = [self.kind(one) for one in op.inputs]
            hidden = any(kind.sums or kind.hidden for kind in kinds)
            hidden = hidden or any(self._variable(one) is not None for one in op.inputs)
            return _Kind(others=op.type != "Const", hidden=hidden)
        kind = _Kind()
        for one in op.inputs:
            kind |= self.kind(one)
        return kind

    def _depends(self, value: tf.Tensor, index: int) -> bool:
        """Whether a value depends on a variable."""
        return bool(self._masks.get(value.op.name, 0) >> index & 1)

    def _adds(self, value: tf.Tensor, index: int) -> bool:
        """Whether a value that depends on a variable is the variable plus something."""
        op = value.op
        # The body of a function may do anything, so only plain operations are refused.
        if op.type == "ReadVariableOp" or _is_source(op):
            return True
        dependent = [place for place, one in enumerate(op.inputs) if self._depends(one, index)]
        known = op.type in _KEEPS_SUM or (op.type == "Sub" and dependent == [0])
        return known and all(self._adds(op.inputs[place], index) for place in dependent)

    def _variable_of(self, op: tf.Operation) -> int | None:
        """Returns the number of the metric variable that an operation reads; None if it reads none."""
        return self._variable(op.inputs[0]) if op.type == "ReadVariableOp" else None

    def _variable(self, handle: tf.Tensor) -> int | None:
        """Returns the number of the metric variable of a handle; None for anything else."""
        if handle.dtype != tf.resource:
            return None
        # The graph of the step refers to a handle by many operations.
        if handle.name not in self._indices:
            self._indices[handle.name] = self._known.get(identity_of(handle))
        return self._indices[handle.name]


def _is_source(op: tf.Operation) -> bool:
    """Whether the chief cannot repeat an operation: it has no inputs, or state, or a function."""
    return not op.inputs or op._is_stateful or any(value.HasField("func") for value in op.node_def.attr.values())


def _is_small(tensor: tf.Tensor) -> bool:
    size = tensor.shape.num_elements()
    return size is not None and size <= _MOST_ELEMENTS and _is_number(tensor.dtype)


def _is_number(dtype: tf.DType) -> bool:
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def _as_tensor(name: str, value: Any) -> tf.Tensor:
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise _refused(name, type(value).__name__) from error
    if not _is_number(tensor.dtype):
        raise _refused(name, f"a tensor of {tensor.dtype.name}")
    return tensor


def _sendable(name: str, tensor: tf.Tensor) -> tf.Tensor:
    """Returns a value that a worker can send: with a shape that is the same in every step."""
    # A scalar of a function in Python may have no static shape.
    if tensor.shape.rank is None:
        return tf.reshape(tensor, [])
    if not _is_small(tensor):
        raise _refused(name, f"a tensor of shape {tensor.shape}")
    return tensor


def _refused(name: str, received: str) -> UnsupportedError:
    return UnsupportedError(
        f"log {name!r} of a step must be a number, or a tensor of numbers whose shape is the same for every batch and "
        f"has at most {_MOST_ELEMENTS:,} elements, because its mean over steps and workers is shown. "
        f"Received: {received}. Valid: for example keras.ops.mean of it."
    )


def flatten_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested logs into one dictionary."""
    # Keras also does this: the result of the compiled metrics is a dictionary inside the logs.
    levels = [flatten_logs(value) if isinstance(value, Mapping) else {name: value} for name, value in logs.items()]
    return {name: value for level in levels for name, value in level.items()}
