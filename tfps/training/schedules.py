"""Which stream an epoch gets."""

from tfps.inputs.worker_input import Epoch
from tfps.training.schedule import FedSchedule, Runner, Schedule, ShippedSchedule
from tfps.training.synchronous.schedule import SyncSchedule, UpdatePolicy


def make_schedule(runner: Runner, epoch: Epoch, policy: UpdatePolicy | None = None) -> Schedule:
    """The stream that fits the input and the mode.

    Args:
        runner: runs the closures.
        epoch: the input; it says how many steps there are at most.
        policy: of synchronous training; None for every other mode.
    """
    budget = epoch.source.steps_per_epoch
    if policy is not None:
        return SyncSchedule(runner, epoch, budget, policy)
    return (FedSchedule if epoch.source.fed else ShippedSchedule)(runner, epoch, budget)
