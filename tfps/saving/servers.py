"""Runs the parts of saving and restoring beside the rows: one part at a time on each server, all servers at once.

Threading: the caller's thread waits; each server has a thread of the strategy's pool.
"""

from collections.abc import Callable, Iterator, Mapping

from tfps.runtime.calls import Calls
from tfps.strategy.strategy import ParameterServerStrategy


def run_on_servers(
    strategy: ParameterServerStrategy, units: Mapping[int, Iterator[Callable[[], None]]], what: str
) -> None:
    """Runs the units of work of each server, one after the other on a server.

    Args:
        strategy: the strategy of the servers.
        units: for each server, its units. The iterator advances in the thread of its server, with it as the device.
        what: a description of the units, for messages.

    Raises:
        ClusterTimeoutError: no server has ended a unit for `closure_timeout_s`.
        TaskDiedError: a server has died.
    """
    calls = Calls(strategy.each_server_pool, what, strategy.closure_timeout_s)
    try:
        for server, one in units.items():
            calls.submit(server, server, _next_of(one))
        while calls:
            server, more = calls.take()
            if more:
                calls.submit(server, server, _next_of(units[server]))
    except BaseException:
        # Units that run may still write to files that are given up, which does no harm.
        calls.abandon(0)
        raise


def _next_of(units: Iterator[Callable[[], None]]) -> Callable[[], object]:
    """Returns a call that runs the next unit; its result is empty after the last one."""

    def run() -> object:
        unit = next(units, None)
        if unit is None:
            return ()
        unit()
        return (_MORE,)

    return run


class _More:
    """Says that a server may have more to do. Results of calls are tensors, and this stands for one."""

    def numpy(self) -> bool:
        return True


_MORE = _More()
