"""Which versions bring a copy of the tables to the newest one, and whether any is missing between them.

Threading: pure functions, any thread.
"""

import dataclasses
from collections.abc import Sequence

from tfps.serving.versions import FULL, Current, Entry


@dataclasses.dataclass(frozen=True)
class Route:
    """The versions to read, in order.

    Args:
        entries: the versions; the first may be a full one, which replaces all rows. None if there is no way to the
            newest.
        gap: why the versions between the copy and the newest one cannot be followed; empty if nothing is skipped.
        missing: the first version that is missing; None if none is, or if that is not known.
    """

    entries: Sequence[Entry] | None
    gap: str = ""
    missing: int | None = None


def find_route(current: Current, number: int | None, chain_id: str | None) -> Route:
    """Finds the versions from a copy to the newest one.

    Args:
        current: the list of versions.
        number: the version of the copy; None for no copy.
        chain_id: the chain of that version.
    """
    if number is None:
        return resync_route(current)
    # Back from the newest, because each version names its parent and not its child.
    deltas, missing = _walk(current, number)
    if chain_id == current.chain_id:
        if current.number < number:
            return resync_route(
                current, f"the newest version goes back from {number} to {current.number}", current.number
            )
        if deltas is not None:
            return Route(deltas)
        return resync_route(current, f"version {missing}, which follows {number} or a later one, is missing", missing)
    if current.number <= number:
        why = f"version {current.number} is of another chain, and the copy has version {number}"
        return resync_route(current, why, current.number)
    # A full version that begins a chain takes the place of a delta: nothing is skipped.
    return resync_route(current)


def resync_route(current: Current, gap: str = "", missing: int | None = None) -> Route:
    """Returns the newest full version that leads to the newest one, and the deltas after it."""
    # The newest first: it has the fewest deltas after it.
    for full in reversed(current.entries):
        deltas = _walk(current, full.number)[0] if full.kind == FULL else None
        if deltas is not None:
            return Route([full, *deltas], gap, missing)
    return Route(None, gap, missing)


def _walk(current: Current, number: int) -> tuple[list[Entry] | None, int | None]:
    """Returns the deltas from a version to the newest one; or None, and the version that is missing."""
    found: list[Entry] = []
    deltas, at = current.deltas, current.number
    while at > number:
        entry = deltas.get(at)
        # Parents have smaller numbers, or a broken list would make a ring.
        if entry is None or entry.parent is None or entry.parent >= at:
            return None, at
        found.insert(0, entry)
        at = entry.parent
    return (found, None) if at == number else (None, found[0].number if found else current.number)
