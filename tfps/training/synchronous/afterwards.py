"""Assignments that a step makes after it has applied its optimizer: the servers make them, after their update.

A worker contributes its gradients and does not see the weights after the update. So `w.assign(clip(w))` or
`teacher.assign(0.9 * teacher + 0.1 * w)` after `apply` would use old weights there. Where the assigned value follows
from variables alone, its operations are copied into the update of the servers.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.cluster import devices
from tfps.errors import UnsupportedError
from tfps.strategy.variables import DenseVariable
from tfps.training.affine import is_symbolic, outermost
from tfps.training.copied_tensors import copy_tensor
from tfps.training.merge_kinds import MergeKinds
from tfps.training.merges import Merge
from tfps.types import VariableKey


@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """One assignment of a traced step.

    Args:
        variable: the variable.
        value: the assigned or added value; None for one that overwrites a part of the variable.
        added: 0 for an assignment; 1 if the value is added to the variable, -1 if it is subtracted.
        after: whether the step had handed over gradients before.
        known: what the value follows from, by the names of tensors in the step: eager tensors, and the handles of
            variables that are read; None if it depends on anything else.
    """

    variable: DenseVariable
    value: tf.Tensor | None
    added: float
    after: bool
    known: Mapping[str, tf.Tensor] | None

    def replay(self) -> None:
        """Makes the assignment on the server of the variable; called while the update is traced."""
        assert self.value is not None and self.known is not None
        graph, home = self.value.graph, self.variable.home_handle
        known: dict[str, tf.Tensor] = {}
        for name, source in self.known.items():
            if source.dtype == tf.resource:
                source = _read(source, graph.get_tensor_by_name(name).dtype, home.device)
            known[name] = source
        with tf.device(home.device):
            value = copy_tensor(self.value, known)
            if self.added:
                tf.raw_ops.AssignAddVariableOp(resource=home, value=self.added * value)
            else:
                tf.raw_ops.AssignVariableOp(resource=home, value=value)


class StepAssignments:
    """The assignments of one step; implements `tfps.step.Assignments`.

    Args:
        copies: the handles of the worker's copies, by variable key.
        variables: the variables of these copies.
        workers: the number of workers that make such steps.
    """

    def __init__(
        self, copies: Mapping[VariableKey, tf.Tensor], variables: Sequence[DenseVariable], workers: int = 1
    ) -> None:
        self._homes = {id(copies[variable.key]): variable for variable in variables}
        self._graph = tf.compat.v1.get_default_graph()
        self._found: list[Assignment] = []
        self._kinds = MergeKinds(workers)

    def note(self, variable: DenseVariable, value: tf.Tensor | None, added: float, indices: Any = None) -> None:
        """Records an assignment."""
        self._kinds.note(variable, value, added, indices)
        if indices is not None:
            # Servers assign whole values only.
            value = None
        current = step.current()
        contributions = None if current is None else current.contributions
        known = self._sources(value, contributions) if contributions and value is not None else None
        self._found.append(Assignment(variable, value, added, bool(contributions), known))

    def skipped(self, variables: Sequence[DenseVariable] | None) -> contextlib.AbstractContextManager[None]:
        """Skips nothing: in such a step optimizers hand over their gradients and assign nothing."""
        return contextlib.nullcontext()

    def divide(self, has_gradient: set[VariableKey]) -> tuple[set[VariableKey], list[Assignment]]:
        """Returns the keys of the variables that workers move by themselves, and the assignments that servers make.

        Args:
            has_gradient: the keys of the variables with a gradient.

        Raises:
            UnsupportedError: a variable with a gradient is assigned a value that servers cannot compute.
        """
        by_key: dict[VariableKey, list[Assignment]] = {}
        for one in self._found:
            by_key.setdefault(one.variable.key, []).append(one)
        moved = {key for key, found in by_key.items() if not all(one.known is not None for one in found)}
        for key in moved & has_gradient:
            if any(one.after for one in by_key[key]):
                raise UnsupportedError(
                    f"a synchronous step must not assign {by_key[key][0].variable.name!r} a value that depends on its "
                    "batch after it has applied gradients, because the servers apply the mean gradient later. "
                    "Received: such an assignment. Valid: a value that follows from variables alone, an assignment "
                    "before the gradients are applied, or another mode of training."
                )
        return moved, [one for one in self._found if one.variable.key not in moved]

    def merge(self, key: VariableKey) -> Merge:
        """Returns how the values of a variable that workers move by themselves are merged."""
        return self._kinds.of(key)

    def _sources(self, value: tf.Tensor, contributions: Sequence[step.Contribution]) -> dict[str, tf.Tensor] | None:
        """Returns what an assigned value follows from; None if servers cannot compute it after their update."""
        # Whether a value in a branch or a loop is assigned at all depends on more than variables.
        if value.graph is not self._graph:
            return None
        place = {operation.name: number for number, operation in enumerate(self._graph.get_operations())}
        gradients = tf.nest.flatten([list(one.gradients) for one in contributions], expand_composites=True)
        applied = max(place.get(gradient.op.name, 0) for gradient in gradients)
        found, waiting, seen = dict[str, tf.Tensor](), [value], set[str]()
        while waiting:
            tensor = waiting.pop()
            operation, outer = tensor.op, outermost(tensor)
            if tensor.name in seen:
                continue
            seen.add(tensor.name)
            if operation.type == "ReadVariableOp" and place[operation.name] > applied:
                handle = outermost(operation.inputs[0])
                if is_symbolic(handle) and id(handle) not in self._homes:
                    return None
                found[tensor.name] = self._homes[id(handle)].home_handle if id(handle) in self._homes else handle
            elif operation.type == "Placeholder" and not is_symbolic(outer):
                # A tensor of the user's program, such as a constant.
                found[tensor.name] = outer
            elif operation.type == "Const" or (operation.inputs and not operation.op_def.is_stateful):
                waiting += operation.inputs
            else:
                return None
        return found


def _read(handle: tf.Tensor, dtype: tf.DType, device: str) -> tf.Tensor:
    """Reads a variable for a computation on `device`."""
    with tf.device(handle.device):
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
    if handle.device == device:
        return value
    # Servers do not know each other, so the value passes through the chief.
    with tf.device(devices.CHIEF):
        return tf.identity(value)
