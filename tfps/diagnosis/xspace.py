"""The messages of TensorFlow's profiler (`xplane.proto`), without TensorFlow.

Reading a profile takes seconds of CPU, so a process of its own does it. That process starts much faster if it need not
import TensorFlow. So the messages are declared here, as far as they are used; fields that are not declared are kept
when a message is read and written again.

Times in a profile: the plane "Task Environment" has the begin and the end of the recording, in ns since 1970. A line
begins `timestamp_ns` after the begin of the recording, and an event `offset_ps` after the begin of its line.
"""

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "tfps.profiler"
_FIELD = descriptor_pb2.FieldDescriptorProto
# (name, number, type) of each field. "*" stands for repeated. The maps of `xplane.proto` are repeated entries here: on
# the wire they are the same.
_MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "Stat": [
        ("metadata_id", 1, "int64"),
        ("double_value", 2, "double"),
        ("uint64_value", 3, "uint64"),
        ("int64_value", 4, "int64"),
        ("str_value", 5, "bytes"),
        ("bytes_value", 6, "bytes"),
        ("ref_value", 7, "uint64"),
    ],
    "Event": [
        ("metadata_id", 1, "int64"),
        ("offset_ps", 2, "int64"),
        ("duration_ps", 3, "int64"),
        ("stats", 4, "*Stat"),
    ],
    "Line": [
        ("id", 1, "int64"),
        ("name", 2, "bytes"),
        ("timestamp_ns", 3, "int64"),
        ("events", 4, "*Event"),
        ("display_name", 11, "bytes"),
    ],
    "Metadata": [("id", 1, "int64"), ("name", 2, "bytes")],
    "MetadataEntry": [("key", 1, "int64"), ("value", 2, "Metadata")],
    "Plane": [
        ("id", 1, "int64"),
        ("name", 2, "bytes"),
        ("lines", 3, "*Line"),
        ("event_metadata", 4, "*MetadataEntry"),
        ("stat_metadata", 5, "*MetadataEntry"),
        ("stats", 6, "*Stat"),
    ],
    "Space": [("planes", 1, "*Plane"), ("hostnames", 4, "*bytes")],
}
_TYPES = {"int64": _FIELD.TYPE_INT64, "uint64": _FIELD.TYPE_UINT64, "double": _FIELD.TYPE_DOUBLE}


def new_space(data: bytes = b"") -> Any:
    """Returns the message `XSpace`, the profile of one task, parsed from its bytes.

    Raises:
        google.protobuf.message.DecodeError: the bytes are something else.
    """
    space = _space_class()()
    space.ParseFromString(data)
    return space


def names(entries: Any) -> dict[int, str]:
    """Returns the names of events or stats of a plane by their number."""
    return {entry.key: entry.value.name.decode(errors="replace") for entry in entries}


def value(stat: Any, stat_names: dict[int, str]) -> int | float | str:
    """Returns the value of a stat; text that is stored as a reference is looked up.

    Args:
        stat: the stat.
        stat_names: the names of the stats of the plane, which are also the texts.
    """
    for field in ("int64_value", "uint64_value", "double_value"):
        if stat.HasField(field):
            number: int | float = getattr(stat, field)
            return number
    if stat.HasField("ref_value"):
        return stat_names.get(stat.ref_value, "")
    text: bytes = stat.str_value if stat.HasField("str_value") else stat.bytes_value
    return text.decode(errors="replace")


@functools.cache
def _space_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="tfps_xspace.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
            kind = kind.lstrip("*")
            added = message.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                # Text is read as bytes: names that are no UTF-8 must not make a profile unreadable.
                added.type = _TYPES.get(kind, _FIELD.TYPE_BYTES)
    # A pool of its own: that of the process may have TensorFlow's declaration.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Space"))
