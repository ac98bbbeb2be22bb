"""Brings the events of several machines to one clock.

A message arrives after it was sent. So messages in both directions bound the difference between two clocks. Let `d` be
by how much the clock of b is ahead of that of a, and `delay` the shortest time of a message:

    least(arrival on b - sending on a) = delay + d        for messages from a to b
    least(arrival on a - sending on b) = delay - d        for messages from b to a

Half of the difference of the two is `d`, if the fastest message takes as long in both directions; half of their sum
bounds the error. Tasks on one machine have one clock.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from tfps.diagnosis.events import Message, TaskEvents


@dataclasses.dataclass(frozen=True)
class Offset:
    """By how much the clock of a task is ahead of that of the first task.

    Args:
        ns: the difference.
        error_ns: the largest possible error; None if no messages showed the difference, which is then taken as 0.
    """

    ns: int = 0
    error_ns: int | None = 0


def align(tasks: Sequence[TaskEvents]) -> dict[str, Offset]:
    """Brings all events to the clock of the first task; returns by how much the clock of each task was ahead."""
    offsets = {tasks[0].name: Offset()} if tasks else {}
    # From task to task: two workers exchange no messages, but both do with a server.
    waiting = list(tasks[:1])
    while waiting:
        known = waiting.pop(0)
        for task in tasks:
            if task.name not in offsets and (found := _offset(known, task)) is not None:
                before = offsets[known.name]
                error = None if before.error_ns is None or found.error_ns is None else before.error_ns + found.error_ns
                offsets[task.name] = Offset(before.ns + found.ns, error)
                waiting.append(task)
    for task in tasks:
        offsets.setdefault(task.name, Offset(0, None))
        task.shift(-offsets[task.name].ns)
    return offsets


def match(sent: Iterable[Message], arrived: Iterable[Message], receiver: str) -> list[tuple[Message, Message]]:
    """Pairs what one task sent with what another one received: (sending, arrival).

    Args:
        sent: what the first task sent, by time.
        arrived: what the second one received, by time.
        receiver: the name of the second task.
    """
    there: dict[tuple[int, str], list[Message]] = collections.defaultdict(list)
    for one in arrived:
        there[one.step, one.edge].append(one)
    here: dict[tuple[int, str], list[Message]] = collections.defaultdict(list)
    for one in sent:
        if one.peer == receiver:
            here[one.step, one.edge].append(one)
    # An edge in a loop has a message in each turn. A call that the recording has in part has more of one end than of
    # the other, and it is not known which ones are missing.
    return [
        pair
        for key, messages in here.items()
        if len(messages) == len(there.get(key, ()))
        for pair in zip(messages, there[key], strict=True)
    ]


def _offset(one: TaskEvents, other: TaskEvents) -> Offset | None:
    """Returns by how much the clock of `other` is ahead of that of `one`; None if no messages tell."""
    if one.host == other.host:
        return Offset()
    there = [b.at - a.at for a, b in match(one.sent, other.arrived, other.name)]
    back = [b.at - a.at for a, b in match(other.sent, one.arrived, one.name)]
    if not there or not back:
        return None
    return Offset((min(there) - min(back)) // 2, max(0, (min(there) + min(back)) // 2))
