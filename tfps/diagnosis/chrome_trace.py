"""Writes what was recorded as a trace in the Trace Event Format, which Perfetto and chrome://tracing open.

Each task is a process of the trace. Its first thread has the stages, one after the other; then come the waits, and the
threads of the task with the operations that ran. Arrows are messages between tasks. All times are on one clock.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tfps.diagnosis.clocks import match
from tfps.diagnosis.events import Span, TaskEvents
from tfps.diagnosis.timeline import Recorded

_STAGES, _WAITS, _THREADS = 0, 1, 100
"""Numbers of the threads of a task: its stages, the first of its waits, the first of its threads."""


def write_trace(recorded: Recorded) -> bytes:
    """Returns the trace, JSON compressed by gzip."""
    origin = min((events.begin for events in recorded.events), default=0)
    trace = {"displayTimeUnit": "ms", "traceEvents": list(_trace_events(recorded, origin))}
    return gzip.compress(json.dumps(trace, separators=(",", ":")).encode(), compresslevel=5)


def _trace_events(recorded: Recorded, origin: int) -> Iterator[dict[str, Any]]:
    places: dict[str, dict[int, int]] = {}
    for number, (events, one) in enumerate(zip(recorded.events, recorded.attributions, strict=True), 1):
        yield from _names(number, events)
        for segment in one.segments:
            name = "+".join(dict.fromkeys(segment.stages))
            yield _complete(number, _STAGES, name, segment.begin - origin, segment.ns, cat="stage")
        for thread, span in _stack(events.waits):
            yield _span(number, _WAITS + thread, span, origin)
        for span in (*events.spans, *events.background):
            yield _span(number, _THREADS + span.line, span, origin)
        places[events.name] = {span.begin: _THREADS + span.line for span in events.spans if span.op == "_Send"}
    yield from _arrows(recorded.events, places, origin)


def _names(number: int, events: TaskEvents) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": f"{events.name} ({events.host})"}}
    yield {"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}}
    threads = {_STAGES: "stages"}
    threads |= {_WAITS + thread: "waits" for thread, _ in _stack(events.waits)}
    # "tf_Compute/-2365" is a thread of TensorFlow's pool.
    used = {span.line for span in (*events.spans, *events.background)}
    threads |= {_THREADS + line: events.lines[line].split("/")[0] for line in sorted(used)}
    for thread, name in threads.items():
        yield {"ph": "M", "name": "thread_name", "pid": number, "tid": thread, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": number, "tid": thread, "args": {"sort_index": thread}}


def _span(number: int, thread: int, span: Span, origin: int) -> dict[str, Any]:
    args = {"name": span.name, "stage": span.stage}
    return _complete(number, thread, span.op, span.begin - origin, span.end - span.begin, cat=span.stage, args=args)


def _complete(number: int, thread: int, name: str, ns: int, length: int, **more: Any) -> dict[str, Any]:
    # The format counts in microseconds; fractions are allowed.
    return {"ph": "X", "pid": number, "tid": thread, "name": name, "ts": ns / 1e3, "dur": length / 1e3, **more}


def _stack(waits: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Yields waits with a thread of the trace for each: those of one thread must not overlap."""
    ends: list[int] = []
    for span in sorted(waits):
        thread = next((number for number, end in enumerate(ends) if end <= span.begin), len(ends))
        ends[thread : thread + 1] = [span.end]
        yield thread, span


def _arrows(tasks: Sequence[TaskEvents], places: dict[str, dict[int, int]], origin: int) -> Iterator[dict[str, Any]]:
    waits = {one.name: {span.end: _WAITS + thread for thread, span in _stack(one.waits)} for one in tasks}
    number = 0
    for at, one in enumerate(tasks, 1):
        for to, other in enumerate(tasks, 1):
            for sending, arrival in match(one.sent, other.arrived, other.name):
                number += 1
                arrow = {"name": "message", "cat": "message", "id": number}
                begins, ends = places[one.name].get(sending.at), waits[other.name].get(arrival.at)
                if begins is not None and ends is not None:
                    yield {"ph": "s", "pid": at, "tid": begins, "ts": (sending.at - origin) / 1e3, **arrow}
                    yield {"ph": "f", "bp": "e", "pid": to, "tid": ends, "ts": (arrival.at - origin) / 1e3, **arrow}
