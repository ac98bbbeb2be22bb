"""Recordings in the form that TensorBoard's profiler reads: a file `<task>.xplane.pb` for each task."""

from typing import Any

from tfps.diagnosis import xspace
from tfps.diagnosis.attribution import Attribution

_CPU = b"/host:CPU"
_LINE = "tfps stages"
_LINE_ID = 1


def with_stages(data: bytes, one: Attribution, begin: int, clock_ahead_ns: int) -> bytes:
    """Returns a recording with one more line, which has the stages of the task, and with its times on the common clock.

    Args:
        data: the recording, a serialized `XSpace`.
        one: the stages.
        begin: the begin of the recording on the common clock, in ns.
        clock_ahead_ns: by how much the clock of the task was ahead.
    """
    space = xspace.new_space(data)
    for plane in space.planes:
        if plane.name == _CPU:
            _add_stages(plane, one, begin)
        elif clock_ahead_ns:
            _shift(plane, clock_ahead_ns)
    result: bytes = space.SerializeToString()
    return result


def _add_stages(plane: Any, one: Attribution, begin: int) -> None:
    numbers: dict[str, int] = {}
    first = max((entry.key for entry in plane.event_metadata), default=0) + 1
    line = plane.lines.add(id=_LINE_ID, name=_LINE.encode(), timestamp_ns=0)
    for segment in one.segments:
        name = "+".join(dict.fromkeys(segment.stages))
        if name not in numbers:
            numbers[name] = first + len(numbers)
            entry = plane.event_metadata.add(key=numbers[name])
            entry.value.id, entry.value.name = numbers[name], name.encode()
        line.events.add(
            metadata_id=numbers[name], offset_ps=(segment.begin - begin) * 1000, duration_ps=segment.ns * 1000
        )


def _shift(plane: Any, ns: int) -> None:
    """Brings the begin and end of a recording to the common clock; all other times are relative to the begin."""
    stat_names = xspace.names(plane.stat_metadata)
    for stat in plane.stats:
        if stat_names.get(stat.metadata_id) in ("profile_start_time", "profile_stop_time"):
            field = "uint64_value" if stat.HasField("uint64_value") else "int64_value"
            setattr(stat, field, getattr(stat, field) - ns)
