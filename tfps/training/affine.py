"""Finds out how an assigned value depends on the variable that it is assigned to: `value = keep * variable + rest`.

Example: for `v.assign(0.9 * v + 0.1 * x)` keep is 0.9, for `v.assign(v + 1)` it is 1, for `v.assign(x)` it is 0. For
`v.assign(tf.where(mask, x, v))` it is a tensor with 0 where the mask is true and 1 elsewhere. For
`v.assign(tf.maximum(v, x))` there is no such number, but it is known that the greatest value remains. For
`v.assign(tf.clip_by_value(v, -1, 1))` nothing of the kind is known.
Cost: tracing time only; it visits the operations between the value and the inputs of the step.
"""

import enum
from typing import TypeAlias

import tensorflow as tf

Keep: TypeAlias = float | tf.Tensor
"""The part of a variable that an assignment keeps: a number, or float32 that the step computes, a scalar or a tensor
that broadcasts to the shape of the variable."""


class Extreme(enum.Enum):
    """Which of the old and the assigned value remains, element by element."""

    GREATEST = "greatest"
    LEAST = "least"


_EXTREMES = {
    "Maximum": Extreme.GREATEST,
    "LogicalOr": Extreme.GREATEST,
    "Minimum": Extreme.LEAST,
    "LogicalAnd": Extreme.LEAST,
}
_SCATTERS = {"TensorScatterAdd": 1.0, "TensorScatterSub": 1.0, "TensorScatterUpdate": 0.0}
"""Operations that change some elements of their first input, and what they keep of these elements."""

_SAME = ("Identity", "StopGradient", "PreventGradient", "CheckNumerics", "EnsureShape", "Snapshot")
"""Operations whose result is their first input."""


class Dependencies:
    """Which variables the tensors of a step depend on, through their handles.

    Cost: each operation is visited once, whatever the number of questions.
    """

    def __init__(self) -> None:
        # A number with a bit for each handle that is read upstream. The handles are kept, because ids of tensors that
        # are gone are given again.
        self._masks: dict[tf.Operation, int] = {}
        self._bits: dict[int, tuple[int, tf.Tensor]] = {}

    def keep_of(self, value: tf.Tensor, handle: tf.Tensor) -> Keep | None:
        """Returns the part of a variable that is kept in an assigned value; None if the value is not of that form.

        Args:
            value: the value that is assigned.
            handle: the handle of the variable, through which it is read.
        """
        return _keep(outermost(value), handle, self)

    def extreme_of(self, value: tf.Tensor, handle: tf.Tensor) -> Extreme | None:
        """Returns which value remains where the greatest or the least value so far is assigned; None elsewhere.

        Args:
            value: the value that is assigned.
            handle: the handle of the variable, through which it is read.
        """
        kinds = _extremes(outermost(value), handle, self)
        return next(iter(kinds)) if kinds is not None and len(kinds) == 1 else None

    def depends(self, value: tf.Tensor, handle: tf.Tensor) -> bool:
        """Returns whether a tensor depends on a variable."""
        return is_symbolic(value) and bool(self._mask(value.op) & self._bit(handle))

    def _bit(self, handle: tf.Tensor) -> int:
        return 1 << self._bits.setdefault(id(handle), (len(self._bits), handle))[0]

    def _mask(self, operation: tf.Operation) -> int:
        # Depth first with an explicit stack: a long chain of operations would exceed Python's recursion limit.
        waiting = [operation]
        while waiting:
            sources = [outermost(source) for source in waiting[-1].inputs]
            symbolic = [source for source in sources if is_symbolic(source) and source.dtype != tf.resource]
            missing = [source.op for source in symbolic if source.op not in self._masks]
            if missing:
                waiting += missing
                continue
            mask = 0
            for source in sources:
                if source.dtype == tf.resource:
                    mask |= self._bit(source)
            for source in symbolic:
                mask |= self._masks[source.op]
            self._masks[waiting.pop()] = mask
        return self._masks[operation]


def outermost(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor that a branch or a loop captured, where `tensor` is its placeholder there."""
    # A value may be computed in a branch, from tensors of the step around it.
    while is_symbolic(tensor) and tensor.op.type == "Placeholder":
        captured = (outer for outer, inner in getattr(tensor.graph, "captures", ()) if inner is tensor)
        outer = next(captured, None)
        if outer is None:
            return tensor
        tensor = outer
    return tensor


def is_symbolic(tensor: tf.Tensor) -> bool:
    """Returns whether a tensor belongs to a graph, and not to the user's program."""
    # A graph may capture eager tensors, such as constants and the handles of other variables: they have no operation.
    return not hasattr(tensor, "numpy") and hasattr(tensor, "graph")


def _keep(value: tf.Tensor, handle: tf.Tensor, known: Dependencies) -> Keep | None:
    if not known.depends(value, handle):
        return 0.0
    operation = value.op
    inputs = [outermost(source) for source in operation.inputs]
    if operation.type == "ReadVariableOp":
        return 1.0
    if operation.type in _SAME or (operation.type == "Cast" and inputs[0].dtype.is_floating == value.dtype.is_floating):
        return _keep(inputs[0], handle, known)
    if operation.type in ("AddV2", "Add", "AddN", "Sub", "Neg"):
        return _sum([_keep(source, handle, known) for source in inputs], operation.type)
    if operation.type in ("Mul", "RealDiv"):
        return _product(inputs, operation.type, handle, known)
    # The older `Select` may choose rows by a vector, which does not broadcast.
    rows = operation.type == "Select" and inputs[0].shape.rank not in (0, value.shape.rank)
    if operation.type in ("Select", "SelectV2") and not rows and not known.depends(inputs[0], handle):
        yes, no = (_keep(source, handle, known) for source in inputs[1:])
        return None if yes is None or no is None else _choose(inputs[0], yes, no)
    if operation.type in _SCATTERS and not any(known.depends(source, handle) for source in inputs[1:]):
        keep = _keep(inputs[0], handle, known)
        return keep if keep is None or _SCATTERS[operation.type] else keep_outside(inputs[1], value.shape, keep)
    return None


def keep_outside(indices: tf.Tensor, shape: tf.TensorShape, keep: Keep = 1.0) -> Keep:
    """Returns what is kept of a variable whose slices at some indices are replaced: 0 there, and `keep` elsewhere.

    Args:
        indices: the indices of `tf.scatter_nd`.
        shape: the shape of the variable.
        keep: what is kept elsewhere.
    """
    indices = tf.convert_to_tensor(indices)
    updates = tf.zeros(tf.concat([tf.shape(indices)[:-1], shape.as_list()[indices.shape[-1] :]], 0))
    return tf.tensor_scatter_nd_update(tf.broadcast_to(keep, shape), indices, updates)


def _choose(condition: tf.Tensor, yes: Keep, no: Keep) -> Keep:
    # A branch that both keep alike, as in a count that is conditional, needs no operation.
    if isinstance(yes, float) and isinstance(no, float) and yes == no:
        return yes
    return tf.where(tf.reshape(condition, []) if _is_scalar(condition) else condition, yes, no)


def _extremes(value: tf.Tensor, handle: tf.Tensor, known: Dependencies) -> set[Extreme] | None:
    """Returns the extremes by which a value follows from a variable; None if it follows in any other way, or not."""
    if not known.depends(value, handle):
        return None
    operation = value.op
    inputs = [outermost(source) for source in operation.inputs]
    if operation.type == "ReadVariableOp":
        return set()
    if operation.type in _SAME:
        return _extremes(inputs[0], handle, known)
    if operation.type not in _EXTREMES:
        return None
    of_variable = [source for source in inputs if known.depends(source, handle)]
    found = [_extremes(source, handle, known) for source in of_variable]
    kinds = {_EXTREMES[operation.type]}
    for one in found:
        if one is None:
            return None
        kinds |= one
    return kinds


def _sum(keeps: list[Keep | None], kind: str) -> Keep | None:
    found = [keep for keep in keeps if keep is not None]
    if len(found) < len(keeps):
        return None
    signs = {"Sub": [1.0, -1.0], "Neg": [-1.0]}.get(kind, [1.0] * len(found))
    total: Keep = 0.0
    for keep, sign in zip(found, signs, strict=True):
        # Numbers stay numbers: the graph needs no operation for what is known while it is traced.
        if not (isinstance(keep, float) and keep == 0.0):
            total = total + sign * keep
    return total


def _product(inputs: list[tf.Tensor], kind: str, handle: tf.Tensor, known: Dependencies) -> Keep | None:
    of_variable = [known.depends(source, handle) for source in inputs]
    # A product of two values of the variable, or a division by it, is no multiple of it.
    if all(of_variable) or (kind == "RealDiv" and of_variable[1]):
        return None
    at = of_variable.index(True)
    keep, factor = _keep(inputs[at], handle, known), _factor(inputs[1 - at])
    if keep is None or factor is None:
        return None
    return keep / factor if kind == "RealDiv" else keep * factor


def _factor(tensor: tf.Tensor) -> Keep | None:
    """Returns a factor as a number if it is known while the step is traced; None if its shape is not known."""
    if not tensor.shape.is_fully_defined():
        return None
    constant = tf.get_static_value(tensor)
    if not _is_scalar(tensor):
        return tf.cast(tensor, tf.float32)
    return tf.cast(tf.reshape(tensor, []), tf.float32) if constant is None else float(constant.reshape(()))


def _is_scalar(tensor: tf.Tensor) -> bool:
    return tensor.shape.num_elements() == 1
