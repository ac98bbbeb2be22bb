"""Runs the parts of saving and restoring beside the rows: one part at a time on each server, all servers at once.

Threading: the caller's thread waits; each server has a thread of the strategy's pool.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tfps.cluster import devices
from tfps.progress import Progress
from tfps.runtime.calls import Calls
from tfps.saving import bundles
from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")

_END_S = 30.0
"""Seconds for the units under way to end after one has failed."""


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
    # The limit is for one unit, not for all: a large table may take hours.
    calls = Calls(strategy.pools.each_server, what, strategy.closure_timeout_s)
    try:
        for server, one in units.items():
            calls.submit(server, server, _next_of(one))
        # A server gets its next unit when the last one is done, so that a failure elsewhere stops all soon.
        while calls:
            server, more = calls.take()
            if more:
                calls.submit(server, server, _next_of(units[server]))
    except BaseException:
        # Units that run may still write, and their files are removed next.
        calls.abandon(_END_S)
        raise


def counting(units: Iterable[Callable[[], None]], bar: Progress) -> Iterator[Callable[[], None]]:
    """Yields units of work that tell a progress bar when they are done."""
    for unit in units:
        yield functools.partial(_count, unit, bar)


def _count(unit: Callable[[], None], bar: Progress) -> None:
    unit()
    bar.add()


def find_places(strategy: ParameterServerStrategy, servers: Sequence[int], path: str, token: str) -> dict[int, str]:
    """Returns the device that has the files of each server: itself, or the chief if it does not see the chief's folder.

    Args:
        strategy: the strategy of the servers.
        servers: the servers.
        path: the path of a file that the chief has written.
        token: the text in it.
    """
    places: dict[int, str] = {}

    def look(server: int) -> None:
        sees = bundles.sees(devices.server(server), path, token)
        places[server] = devices.server(server) if sees else devices.CHIEF

    units = {server: iter([functools.partial(look, server)]) for server in servers}
    run_on_servers(strategy, units, f"a server to look for {path}")
    apart = [str(server) for server, place in sorted(places.items()) if place == devices.CHIEF]
    if apart:
        _LOG.info("servers %s do not share the folder of %s, so their rows pass through the chief.", apart, path)
    return places


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
