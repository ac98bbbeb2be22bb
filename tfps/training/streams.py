"""Which stream an epoch gets."""

from tfps.inputs.worker_input import Epoch
from tfps.training.schedule import FedStream, Runner, ShippedStream, Stream
from tfps.training.synchronous.schedule import Rules, SyncStream


def stream(runner: Runner, epoch: Epoch, rules: Rules | None = None) -> Stream:
    """The stream that fits the input and the mode.

    Args:
        runner: runs the closures.
        epoch: the input; it says how many steps there are at most.
        rules: of synchronous training; None for every other mode.
    """
    budget = epoch.source.steps_per_epoch
    if rules is not None:
        return SyncStream(runner, epoch, budget, rules)
    return (FedStream if epoch.source.fed else ShippedStream)(runner, epoch, budget)
