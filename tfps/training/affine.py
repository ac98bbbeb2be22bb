"""Finds out how an assigned value depends on the variable that it is assigned to: `value = keep * variable + rest`.

Example: for `v.assign(0.9 * v + 0.1 * x)` keep is 0.9, for `v.assign(v + 1)` it is 1, for `v.assign(x)` it is 0. For
`v.assign(tf.clip_by_value(v, -1, 1))` there is no such number.
Cost: tracing time only; it visits the operations between the value and the inputs of the step.
"""

from typing import TypeAlias

import tensorflow as tf

Keep: TypeAlias = float | tf.Tensor
"""The part of a variable that an assignment keeps: a number, or a float32 scalar that the step computes."""

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
    if operation.type in ("Select", "SelectV2") and not known.depends(inputs[0], handle) and _is_scalar(inputs[0]):
        yes, no = (_keep(source, handle, known) for source in inputs[1:])
        return None if yes is None or no is None else tf.where(tf.reshape(inputs[0], []), yes, no)
    return None


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
    keep, factor = _keep(inputs[at], handle, known), _scalar(inputs[1 - at])
    if keep is None or factor is None:
        return None
    return keep / factor if kind == "RealDiv" else keep * factor


def _scalar(tensor: tf.Tensor) -> Keep | None:
    """Returns a factor as a number if it is known while the step is traced; None if it is no scalar."""
    if not _is_scalar(tensor):
        return None
    constant = tf.get_static_value(tensor)
    return tf.cast(tf.reshape(tensor, []), tf.float32) if constant is None else float(constant.reshape(()))


def _is_scalar(tensor: tf.Tensor) -> bool:
    return tensor.shape.num_elements() == 1
