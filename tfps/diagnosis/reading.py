"""Reads the recording of a task into its events: which operations ran when, in which stage, and what they waited for.

TensorFlow's executor leaves these events in a recording (TensorFlow 2.18 to 2.21):

- "name:Type": an operation that ran in a thread. It lies within an event `ExecutorState::Process` of this thread, which
  has the number of the call. That event is missing if it was under way at the begin or the end of the recording.
- `ExecutorState::ProcessAsync::Start` and `::Done`: the begin and end of an operation that waits without a thread, such
  as `_Recv`. Both have the same number of the operation, and the number of the call.
- `FunctionRun` and `ExecutorDoneCallback`: the begin and end of a call of a function on this task. All tasks that take
  part in a call know it by the same number.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tfps.cluster import devices
from tfps.diagnosis import xspace
from tfps.diagnosis.events import Message, Span, TaskEvents
from tfps.diagnosis.stage_names import BATCH_READERS, default_stage, find_stage

_PROCESS = "ExecutorState::Process"
_START, _DONE = "ExecutorState::ProcessAsync::Start", "ExecutorState::ProcessAsync::Done"
_CALL, _CALL_DONE = "FunctionRun", "ExecutorDoneCallback"
_ENVIRONMENT = "Task Environment"
_UNKNOWN = 0
"""The number of a call that is not known; the numbers of TensorFlow are random."""
_OTHER = -1
"""The same, of what is no part of a closure."""
_DATASETS = b"tf_data"
# "while/body/_25/dense/MatMul:MatMul", but not "Iterator::Root::Prefetch", "EagerLocalExecute: __inference_trace"
# or "EagerService:Enqueue", a call of the chief that lasts as long as the closure.
_OPERATION = re.compile(r"^(?!EagerService:)(?P<name>[^:\s]+):(?P<op>\w+)$")
_NUMBERED = re.compile(r"^(?P<base>.*)/_(?P<number>\d+)$")


def read_events(data: bytes, job: str, index: int, host: str) -> TaskEvents:
    """Reads the recording of a task.

    Args:
        data: the serialized `XSpace`.
        job: "ps" or "worker".
        index: the number of the task.
        host: the machine it runs on.

    Raises:
        ValueError: the bytes are no recording of a task.
    """
    space = xspace.new_space(data)
    begin, end = _recorded(space)
    events = TaskEvents(job, index, host, begin, end)
    for plane in space.planes:
        if plane.name != _ENVIRONMENT.encode():
            _PlaneReader(plane, events).read()
    return events


def _recorded(space: Any) -> tuple[int, int]:
    """Returns the begin and end of a recording."""
    for plane in space.planes:
        if plane.name == _ENVIRONMENT.encode():
            stat_names = xspace.names(plane.stat_metadata)
            stats = {stat_names.get(stat.metadata_id, ""): xspace.value(stat, stat_names) for stat in plane.stats}
            return int(stats["profile_start_time"]), int(stats["profile_stop_time"])
    raise ValueError("a recording must have the plane 'Task Environment'. Received: one without it.")


class _Operation(NamedTuple):
    """An operation as a line has it: its name, type and event, its begin and end in ns, and the number of the line."""

    name: str
    op: str
    event: Any
    begin: int
    end: int
    line: int


class _PlaneReader:
    """Reads the lines of one plane into the events of its task."""

    def __init__(self, plane: Any, events: TaskEvents) -> None:
        self._plane, self._events = plane, events
        self._names, self._stat_names = xspace.names(plane.event_metadata), xspace.names(plane.stat_metadata)
        self._operations = {number: _OPERATION.match(name) for number, name in self._names.items()}
        # (call, span) of all operations: which calls are closures is known at the end.
        self._found: list[tuple[int, Span]] = []
        self._waits: list[tuple[int, Span]] = []
        self._starts: dict[int, int] = {}
        self._dones: list[tuple[int, int, dict[str, int | float | str]]] = []
        # Operations at the begin or end of a line whose call is not known.
        self._unknown: list[tuple[int, int]] = []
        self._begun: dict[int, int] = {}
        self._ended: dict[int, int] = {}

    def read(self) -> None:
        for line in self._plane.lines:
            self._events.lines.append((line.display_name or line.name).decode(errors="replace"))
            self._read_line(line, len(self._events.lines) - 1)
        self._pair_waits()
        self._sort_out()

    def _read_line(self, line: Any, number: int) -> None:
        # Events of a thread by begin, the outer one first: an operation comes after the `Process` around it.
        base = self._events.begin + line.timestamp_ns
        call, call_ends = _OTHER, -1
        outside: list[_Operation] = []
        is_first = True
        for event in sorted(line.events, key=lambda one: (one.offset_ps, -one.duration_ps)):
            begin = base + event.offset_ps // 1000
            end = begin + event.duration_ps // 1000
            name = self._names.get(event.metadata_id, "")
            found = self._operations.get(event.metadata_id)
            if found is not None:
                operation = _Operation(found["name"], found["op"], event, begin, end, number)
                if begin < call_ends:
                    self._add_operation(operation, call)
                else:
                    outside.append(operation)
            elif name == _PROCESS:
                self._add_outside(line, outside, is_first, False)
                call, call_ends, outside, is_first = int(self._stats(event).get("id", _OTHER)), end, [], False
            elif name in (_START, _DONE, _CALL, _CALL_DONE):
                self._add_mark(name, begin, self._stats(event))
        self._add_outside(line, outside, is_first, True)

    def _add_outside(self, line: Any, operations: Sequence["_Operation"], is_first: bool, is_last: bool) -> None:
        """Adds operations that are in no `Process`.

        Args:
            line: their line.
            operations: operations between two `Process` of the line.
            is_first: whether they come before the first one.
            is_last: whether they come after the last one.
        """
        is_closure = any(find_stage(one.name, one.op) is not None for one in operations)
        # In the middle of a line such operations are single ones that the chief has sent.
        is_closure = is_closure and (is_first or is_last) and not line.name.startswith(_DATASETS)
        for one in operations:
            self._add_operation(one, _UNKNOWN if is_closure else _OTHER)
        if is_closure:
            begin = self._events.begin if is_first else operations[0].begin
            self._unknown.append((begin, self._events.end if is_last else operations[-1].end))

    def _add_operation(self, one: "_Operation", call: int) -> None:
        stage = find_stage(one.name, one.op) or default_stage(self._events.job)
        span = Span(one.begin, one.end, stage, one.name, one.op, one.line)
        if one.op in BATCH_READERS:
            self._waits.append((call, span))
        else:
            self._found.append((call, span))
        if one.op == "_Send":
            self._add_sent(one.name, str(self._stats(one.event).get("key", "")), one.begin, call)

    def _add_sent(self, name: str, key: str, at: int, call: int) -> None:
        # A rendezvous key: sender; incarnation; receiver; tensor; frame. The chief is not recorded.
        _, _, receiver, *_ = [*key.split(";"), "", "", ""]
        task = devices.find_task(receiver)
        if task is not None:
            self._events.sent.append(Message(at, name, call, f"{task[0]} {task[1]}"))

    def _add_mark(self, name: str, at: int, stats: dict[str, int | float | str]) -> None:
        if name == _START:
            self._starts[int(stats.get("_p", 0))] = at
        elif name == _DONE:
            self._dones.append((int(stats.get("_c", 0)), at, stats))
        else:
            times = self._begun if name == _CALL else self._ended
            times[int(stats.get("id", 0))] = at

    def _pair_waits(self) -> None:
        for number, at, stats in self._dones:
            name, op, call = str(stats.get("name", "")), str(stats.get("kernel_type", "")), int(stats.get("step_id", 0))
            stage = find_stage(name, op) or default_stage(self._events.job)
            # A wait that began before the recording began with it.
            self._waits.append((call, Span(self._starts.get(number, self._events.begin), at, stage, name, op)))
            if op == "_Recv":
                self._events.arrived.append(Message(at, edge_of(name), call))

    def _sort_out(self) -> None:
        """Tells the calls of closures from other work, such as the functions of a dataset."""
        events = self._events
        operations = (*self._found, *self._waits)
        closures = {call for call, span in operations if find_stage(span.name, span.op) is not None} - {_OTHER}
        events.spans += sorted(span for call, span in self._found if call in closures)
        events.background += sorted(span for call, span in self._found if call not in closures)
        events.waits += sorted((span for call, span in self._waits if call in closures), key=lambda one: one.end)
        known = closures - {_UNKNOWN}
        calls = [(self._begun.get(call, events.begin), self._ended.get(call, events.end)) for call in known]
        events.calls += sorted([*calls, *(self._unknown if _UNKNOWN in closures else [])])
        # A send is in the call of its thread; outside of closures it is a value for the chief.
        events.sent[:] = sorted(one for one in events.sent if one.step in closures)
        events.arrived[:] = sorted(one for one in events.arrived if one.step in closures)

    def _stats(self, event: Any) -> dict[str, int | float | str]:
        names = self._stat_names
        return {names.get(stat.metadata_id, ""): xspace.value(stat, names) for stat in event.stats}


def edge_of(name: str) -> str:
    """Returns the name of the operation that sends what `_Recv` receives.

    TensorFlow numbers both ends of an edge one after the other: "x/MatMul/_41" sends what "x/MatMul/_42" receives.
    """
    found = _NUMBERED.match(name)
    return name if found is None else f"{found['base']}/_{int(found['number']) - 1}"
