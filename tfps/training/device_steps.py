"""A step of a worker that computes on several devices, or on a card: each device has a part of the batch.

The path of a step: (1) the rows of the whole batch are requested at once, on the worker's CPU, its *host*; (2) every
device runs the step on its part of the batch, with copies of the dense variables that it uses and with the rows of all
devices; (3) where the step applies an optimizer, the gradients of all devices are joined, and the optimizer is applied
once, on the copies of the host: rows are pushed once; (4) what the devices assigned to their copies, and what they
added to metrics, is merged into the copies of the host.

So a step gives what one device gives for the whole batch, except in layers that look at a batch, such as
BatchNormalization. Each device traces the step by itself, and all of them take turns (`tfps.training.taking_turns`).
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps import step
from tfps.cluster.devices import CPU
from tfps.embedding.table_gradient import TableGradient
from tfps.errors import UnsupportedError
from tfps.step import Gradient
from tfps.strategy.variables import DenseVariable, SeedVariable, StepVariable, SumVariable
from tfps.training.device_batches import Shares, divide
from tfps.training.device_gradients import host_copy, join_gradients
from tfps.training.exchange import local_copy
from tfps.training.merge_kinds import MergeKinds
from tfps.training.merges import EXTREMES, Merge, merge_exact, merge_weighted
from tfps.training.taking_turns import TurnTaker
from tfps.types import Nest, VariableKey

HOST = CPU
"""The CPU of the worker that runs a graph. TensorFlow prefers the devices of the task that is the default device."""

_KEY_STEP = 15_485_863
"""Distance between the random generator keys of two devices; the first device draws what a single one draws."""

ThreadState: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]
"""Called in one thread, returns a context manager with which another thread gets the same state."""


class DeviceCopies:
    """The copies of variables on the devices of a worker, for one closure.

    A device gets the value of a variable from the host when a step first uses it, and again after the optimizer.

    Args:
        devices: the name of each device, such as "/device:GPU:0".
        homes: the handles of the copies on the host, by variable key.
        variables: the variables of these copies.
    """

    def __init__(
        self, devices: Sequence[str], homes: Mapping[VariableKey, tf.Tensor], variables: Iterable[StepVariable]
    ) -> None:
        self.devices, self.homes = devices, homes
        self.variables: dict[VariableKey, StepVariable] = {variable.key: variable for variable in variables}
        self.sums = {key for key, variable in self.variables.items() if isinstance(variable, SumVariable)}
        self.handles: list[dict[VariableKey, tf.Tensor]] = []
        # Made once for all steps of the closure: TensorFlow orders reads and writes by handle.
        for number in range(len(devices)):
            handles: dict[VariableKey, tf.Tensor] = {}
            for key, variable in self.variables.items():
                with tf.device(self._place(number, key)):
                    handles[key] = local_copy(variable, number)
            self.handles.append(handles)
            for key in self.sums:
                self.clear(number, key)
            # The lists of examples are on the host, one for all devices, which take turns to add to them.
            handles.update((key, handle) for key, handle in homes.items() if key not in self.variables)

    def _place(self, number: int, key: VariableKey) -> str:
        """Returns the device of a copy: cards have no integers of 32 bits, and draws want their seeds on the CPU."""
        return self.devices[number] if self.variables[key].dtype.is_floating else HOST

    def home_value(self, key: VariableKey) -> tf.Tensor:
        """Reads the copy on the host."""
        with tf.device(HOST):
            return _read(self.homes[key], self.variables[key])

    def device_value(self, number: int, key: VariableKey) -> tf.Tensor:
        """Reads the copy on a device."""
        with tf.device(self._place(number, key)):
            return _read(self.handles[number][key], self.variables[key])

    def clear(self, number: int, key: VariableKey) -> None:
        """Sets the copy of a sum on a device to zero, as it is at the begin of each step."""
        variable = self.variables[key]
        with tf.device(self._place(number, key)):
            zero = tf.zeros(variable.shape, variable.dtype)
            tf.raw_ops.AssignVariableOp(resource=self.handles[number][key], value=zero)

    def refresh(self, number: int, key: VariableKey) -> None:
        """Assigns the value of the host to the copy on a device."""
        variable, value = self.variables[key], self.home_value(key)
        if isinstance(variable, SeedVariable):
            value += tf.constant([number * _KEY_STEP, 0], variable.dtype)
        with tf.device(self._place(number, key)):
            tf.raw_ops.AssignVariableOp(resource=self.handles[number][key], value=value)


class DeviceStep(step.Step):
    """The step of one device.

    Args:
        home: the step of the worker, which makes updates on the host.
        number: the number of the device.
        lookups: answers the lookups of the device.
        copies: the copies of all devices.
        assignments: takes note of what the device assigns.
    """

    def __init__(
        self,
        home: step.Step,
        number: int,
        lookups: step.Lookups,
        copies: DeviceCopies,
        assignments: "_DeviceAssignments",
    ) -> None:
        super().__init__(lookups, copies.handles[number], home.stand_ins, assignments=assignments)
        self.devices, self.device_number, self.host = len(copies.devices), number, HOST
        self.numbering, self.by_hand = home.numbering, home.by_hand
        # What the steps of all devices find out together.
        self.uncopied, self.drawn, self.summed = home.uncopied, home.drawn, home.summed
        self.contributions = home.contributions
        self._device_copies = copies
        # The keys of the copies that have the value of the host.
        self.fresh: set[VariableKey] = set()
        self.used_sums: set[VariableKey] = set()

    def handles_of(self, key: VariableKey) -> list[tf.Tensor]:
        """Returns the handles of the device's copy, and of the copy on the host, which the optimizer updates."""
        return [*super().handles_of(key), *([self._device_copies.homes[key]] if key in self.copies else [])]

    def handle_of(self, key: VariableKey) -> tf.Tensor | None:
        """Returns the handle of the device's copy, which has the value of the host from the first use on."""
        handle = self.copy_of(key)
        if handle is not None and key in self._device_copies.sums:
            self.used_sums.add(key)
        elif handle is not None and key not in self.fresh:
            self.fresh.add(key)
            # Also from within a branch or a loop: later uses need the value as well.
            with self.outside(), tf.control_dependencies(None), tf.device(HOST):
                self._device_copies.refresh(self.device_number, key)
        return handle


class _DeviceAssignments:
    """Takes note of what the devices assign; implements `tfps.step.Assignments`.

    Args:
        home: takes note for the worker; None if it pushes nothing back. It sees the assignments of the first device.
        devices: the number of devices.
    """

    def __init__(self, home: step.Assignments | None, devices: int) -> None:
        self._home = home
        self.kinds = MergeKinds(devices, "devices")
        self.assigned: dict[VariableKey, DenseVariable] = {}

    def note(self, variable: DenseVariable, value: tf.Tensor | None, added: float, indices: Any = None) -> None:
        """Takes note of one assignment."""
        current = step.current()
        # All devices run the same code.
        if current is not None and current.device_number:
            return
        self.assigned[variable.key] = variable
        self.kinds.note(variable, value, added, indices)
        if self._home is not None:
            with tf.device(HOST):
                self._home.note(variable, value, added, indices)

    def skipped(self, variables: Sequence[Any] | None) -> contextlib.AbstractContextManager[None]:
        """Skips nothing: the optimizer runs in the step of the worker."""
        return contextlib.nullcontext()


class _Devices:
    """The steps of all devices on one batch, while they are traced."""

    def __init__(self, home: step.Step, lookups: Sequence[step.Lookups], copies: DeviceCopies, shares: Shares) -> None:
        self._home, self._copies, self._shares = home, copies, shares
        self._assignments = _DeviceAssignments(home.assignments, len(copies.devices))
        self.steps = [
            DeviceStep(home, number, answers, copies, self._assignments) for number, answers in enumerate(lookups)
        ]
        for one, weight in zip(self.steps, shares.weights, strict=True):
            one.gather, one.weight = self.gather, weight
        self._others: list[TurnTaker] = []
        # The gradients that each device waits with.
        self._gathered: dict[int, list[Gradient | None]] = {}

    def run(self, trace: Callable[[Nest], Nest], thread_state: ThreadState) -> list[Nest]:
        """Traces the step of each device; returns their results."""

        def run_on(number: int) -> Nest:
            with step.tracing(self.steps[number]), tf.device(self._copies.devices[number]):
                return trace(self._shares.batches[number])

        def other(number: int) -> Callable[[], Nest]:
            return lambda: run_on(number)

        self._others = [TurnTaker(other(number), thread_state()) for number in range(1, len(self.steps))]
        try:
            # The first device runs in this thread, and lets the others have their turn when it waits for them.
            results = [run_on(0)]
            self._resume_others()
            if self._gathered:
                raise _uneven()
            self._merge_assigned()
            self._add_sums()
        finally:
            for one in self._others:
                one.cancel()
        return [*results, *(one.result for one in self._others)]

    def gather(
        self,
        gradients: Sequence[Gradient | None],
        update: Callable[[Sequence[Gradient | None]], None],
        is_weighted: bool = False,
    ) -> None:
        """Waits for the gradients of all devices; then the first device makes the update. See `tfps.step.Gather`."""
        current = step.current()
        assert isinstance(current, DeviceStep)
        if current.is_inside and len(self.steps) > 1:
            raise UnsupportedError(
                "a step must not apply an optimizer in a branch or a loop of its own where a worker has several "
                "devices. Received: `apply` in one. Valid: devices_per_worker=1."
            )
        number = current.device_number
        self._gathered[number] = list(gradients)
        if number:
            self._others[number - 1].pause()
            return
        self._resume_others()
        if len(self._gathered) < len(self.steps) or len({len(one) for one in self._gathered.values()}) > 1:
            raise _uneven()
        of_devices = [self._gathered[d] for d in range(len(self.steps))]
        self._gathered = {}
        with step.tracing(self._home), tf.device(HOST):
            # The optimizer may read what the step has assigned, such as its learning rate.
            self._merge_assigned()
            known: list[list[TableGradient]] = [one.gradients for one in self.steps]
            weights = [tf.ones([])] * len(of_devices) if is_weighted else self._shares.weights
            joined, of_tables = join_gradients(of_devices, weights, self._copies.devices, known)
            self._home.gradients += of_tables
            update([host_copy(gradient) for gradient in joined])
        # The copies of the devices no longer have the values of the host. Those that are used again get them. In a
        # branch or a loop they get them now: a later use in it would only find what they had before it.
        for one in self.steps:
            stale = sorted(one.fresh, key=str)
            one.fresh.clear()
            if current.is_inside:
                for key in stale:
                    self._copies.refresh(one.device_number, key)
                one.fresh.update(stale)

    def _resume_others(self) -> None:
        for one in self._others:
            if not one.is_done:
                one.resume()

    def _merge_assigned(self) -> None:
        """Merges what the devices have assigned so far into the copies of the host."""
        assigned = self._assignments.assigned
        with tf.device(HOST):
            for key, variable in assigned.items():
                merged = self._merged(key, variable)
                tf.raw_ops.AssignVariableOp(resource=self._copies.homes[key], value=merged)
        for one in self.steps:
            one.fresh -= assigned.keys()
        assigned.clear()

    def _add_sums(self) -> None:
        """Adds what the devices have added to the sums of metrics to the sums of the host."""
        # At the end of the step only: the logs of a step are computed from sums that nothing has set.
        with tf.device(HOST):
            for key in sorted(set().union(*(one.used_sums for one in self.steps)), key=str):
                added = [self._counted(number, key) for number, one in enumerate(self.steps) if key in one.used_sums]
                total = tf.add_n(added) if len(added) > 1 else added[0]
                tf.raw_ops.AssignAddVariableOp(resource=self._copies.homes[key], value=total)
                for number in range(len(self.steps)):
                    self._copies.clear(number, key)

    def _counted(self, number: int, key: VariableKey) -> tf.Tensor:
        """Returns what a device has added to the sums of a metric, or zeros if its examples do not count."""
        added = self._copies.device_value(number, key)
        return added if len(self.steps) == 1 else tf.where(self._shares.counts[number], added, tf.zeros_like(added))

    def _merged(self, key: VariableKey, variable: DenseVariable) -> tf.Tensor:
        """Returns the value of a variable that devices have assigned."""
        # A device that has not come to the assignment has nothing to merge: its copy may be old.
        numbers = [number for number, one in enumerate(self.steps) if key in one.fresh]
        values = [self._copies.device_value(number, key) for number in numbers]
        kind = self._assignments.kinds.of(key)
        # The first device draws what a single one draws, and always has examples if there are any.
        if len(values) == 1 or isinstance(variable, SeedVariable):
            return values[0]
        examples = [self._shares.examples[number] for number in numbers]
        if kind in EXTREMES:
            return merge_exact(kind, examples, values)
        if variable.dtype == tf.bool:
            return values[0]
        before = self._copies.home_value(key)
        deltas = [value - before for value in values]
        if kind is Merge.SUM:
            counts = [self._shares.counts[number] for number in numbers]
            return before + tf.add_n([tf.where(c, d, tf.zeros_like(d)) for c, d in zip(counts, deltas, strict=True)])
        # Integers that all devices change alike, such as a count of steps, have no mean.
        if kind.is_exact or not variable.dtype.is_floating:
            return before + merge_exact(kind if kind.is_exact else Merge.FIRST, examples, deltas)
        # As between workers: times the examples, which the merge divides by.
        weighted = [
            tf.math.multiply_no_nan(tf.cast(delta, tf.float32), count)
            for delta, count in zip(deltas, examples, strict=True)
        ]
        mean = tf.math.divide_no_nan(tf.add_n(weighted), tf.add_n(examples))
        return before + tf.cast(merge_weighted(kind, examples, weighted, mean), variable.dtype)


def run_on_devices(
    home: step.Step,
    lookups: Sequence[step.Lookups],
    copies: DeviceCopies,
    batch: Nest,
    trace: Callable[[Nest], Nest],
    thread_state: ThreadState,
) -> tuple[list[Nest], Shares]:
    """Traces one step on the devices of a worker.

    Args:
        home: the step of the worker, whose copies are those of the host.
        lookups: answers the lookups of each device.
        copies: the copies of the devices.
        batch: the batch of the worker.
        trace: traces the step over a part of the batch.
        thread_state: hands the state of this thread to others.

    Returns:
        What the step returns on each device, and how the batch is divided.
    """
    shares = divide(batch, len(copies.devices))
    return _Devices(home, lookups, copies, shares).run(trace, thread_state), shares


def _uneven() -> UnsupportedError:
    return UnsupportedError(
        "a step must apply the same optimizers in the same order on each device of a worker. "
        "Received: a step that does so on some of them. Valid: devices_per_worker=1."
    )


def _read(handle: tf.Tensor, variable: StepVariable) -> tf.Tensor:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)
