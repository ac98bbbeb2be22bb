"""Gives every moment of a task to one stage, so that the stages of a task add up to the time of its recording.

The rules:

1. While operations run, the moment belongs to their stages: if several threads run, each has an equal part of it.
2. A moment in which nothing runs belongs to what the task waits for. That is the wait whose end let the next operation
   begin: the last one that ended before it. What lies between that end and the operation belongs to the operation: a
   thread had to wake up, or had no core.
3. A moment outside of all closures is idle. So is a moment of a server in which it waits for a message.

Reading a batch is a wait, although a thread does it: while others compute it costs nothing.

Example: a step reads its batch until 2 ms, waits for rows until 5 ms and computes until 9 ms. Then input has 2 ms, rows
3 ms and compute 4 ms. If it were to read the next batch from 4 ms to 8 ms, that would change nothing.
"""

import bisect
import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tfps import jobs
from tfps.diagnosis.events import Span, TaskEvents
from tfps.diagnosis.stage_names import IDLE, OTHER


class Segment(NamedTuple):
    """A time that belongs to one stage, or to several in equal parts.

    Args:
        begin: its begin in ns.
        end: its end.
        stages: the stages; more than one if several threads ran.
        wait: the wait that the task waited for; None where something ran, or the task was idle.
    """

    begin: int
    end: int
    stages: tuple[str, ...]
    wait: Span | None = None

    @property
    def ns(self) -> int:
        """Its length."""
        return self.end - self.begin


@dataclasses.dataclass(frozen=True)
class Attribution:
    """The time of a task by stage.

    Args:
        segments: the segments, one after the other, from the begin of the recording to its end.
    """

    segments: tuple[Segment, ...]

    def ns_by_stage(self) -> dict[str, float]:
        """Returns the time of each stage in ns."""
        found: collections.Counter[str] = collections.Counter()
        for one in self.segments:
            for stage in one.stages:
                found[stage] += one.ns / len(one.stages)  # type: ignore[assignment]  # a Counter takes floats, too
        return dict(found)

    def waits(self) -> Iterator[Segment]:
        """Yields the segments in which the task waited within a closure."""
        return (one for one in self.segments if one.wait is not None)

    def running(self) -> list[tuple[int, int]]:
        """Returns when operations ran: (begin, end) of times that do not touch."""
        times: list[tuple[int, int]] = []
        for one in self.segments:
            if one.wait is None and one.stages != (IDLE,):
                if times and times[-1][1] == one.begin:
                    times[-1] = (times[-1][0], one.end)
                else:
                    times.append((one.begin, one.end))
        return times


def attribute(events: TaskEvents) -> Attribution:
    """Gives every moment of a recording to a stage."""
    segments: list[Segment] = []
    gaps = _Gaps(events)
    at = events.begin
    for begin, end, stages in _runs(events):
        # Operations may lie in part or wholly outside of the time that is asked for.
        begin, end = (min(max(time, events.begin), events.end) for time in (begin, end))
        if begin > at:
            segments += gaps.divide(at, begin, stages[0])
        if end > max(begin, at):
            segments.append(Segment(max(begin, at), end, stages))
        at = max(at, end)
    if at < events.end:
        segments += gaps.divide(at, events.end, None)
    return Attribution(tuple(segments))


def _runs(events: TaskEvents) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Yields the times in which the same stages run: begin, end and the stage of each thread."""
    edges: list[tuple[int, int, str]] = []
    for span in _outer(events.spans):
        edges += [(span.begin, 1, span.stage), (span.end, -1, span.stage)]
    running: collections.Counter[str] = collections.Counter()
    since = 0
    # At one moment ends come first: an operation that follows another does not run beside it.
    for at, change, stage in sorted(edges):
        if at > since and running:
            yield since, at, tuple(sorted(running.elements()))
        since = at
        running[stage] += change
        running = +running


def _outer(spans: Sequence[Span]) -> Iterator[Span]:
    """Yields the operations that run in no other operation of their thread."""
    ends: dict[int, int] = {}
    for span in spans:
        if span.end > span.begin and span.begin >= ends.get(span.line, span.begin):
            ends[span.line] = span.end
            yield span


class _Gaps:
    """Divides the times in which nothing runs."""

    def __init__(self, events: TaskEvents) -> None:
        self._events = events
        self._waits, self._wait_ends = events.waits, [one.end for one in events.waits]
        self._calls = _union(events.calls)
        self._unknown = IDLE if events.job == jobs.PS else OTHER

    def divide(self, begin: int, end: int, following: str | None) -> list[Segment]:
        """Returns the segments of a gap.

        Args:
            begin: its begin.
            end: its end.
            following: the stage of the operation that begins at its end; None at the end of the recording.
        """
        segments: list[Segment] = []
        at = begin
        # Closures that were under way in the gap, at least in part.
        for number in range(max(0, bisect.bisect_right(self._calls, (begin, begin)) - 1), len(self._calls)):
            call_begin, call_end = (min(max(time, at), end) for time in self._calls[number])
            if call_begin == end:
                break
            segments += [Segment(at, call_begin, (IDLE,))] * (call_begin > at)
            # The end of a closure, when all of its operations are done, belongs to none of them.
            last = following if call_end == end else OTHER
            segments += self._in_call(call_begin, call_end, last)
            at = call_end
        segments += [Segment(at, end, (IDLE,))] * (end > at)
        return segments

    def _in_call(self, begin: int, end: int, following: str | None) -> list[Segment]:
        """Divides a gap within a closure."""
        if begin >= end:
            return []
        last = bisect.bisect_right(self._wait_ends, end) - 1
        wait = self._waits[last] if last >= 0 and self._wait_ends[last] > begin else None
        if wait is None:
            # Nothing ended, so the next operation was late. At both ends of the recording something may have been
            # waited for that it does not have.
            is_edge = begin == self._events.begin
            return [Segment(begin, end, (self._unknown if is_edge or following is None else following,))]
        waited = self._segment_of(wait, begin)
        rest = [Segment(wait.end, end, (following or self._unknown,))] if end > wait.end else []
        return [waited, *rest]

    def _segment_of(self, wait: Span, begin: int) -> Segment:
        # A server has nothing else to do than to wait for messages.
        if self._events.job == jobs.PS:
            return Segment(begin, wait.end, (IDLE,))
        return Segment(begin, wait.end, (wait.stage,), wait)


def _union(times: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns times in order that do not touch and cover the given ones."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(times):
        if found and found[-1][1] >= begin:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found
