"""The JSON files of an export: the manifest of each version, and `current.json`, which lists the versions.

A version is *full*, with all rows, or a *delta*, with the rows that changed since its parent. A chain begins with a
full version; each later version of it is there as a delta, and some are there in full too.

Both files are parsed as data only, checked field by field, and end with a checksum of themselves.

Threading: pure functions and frozen values, any thread.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from tfps.checks import show_value
from tfps.errors import ExportError
from tfps.types import JSON

CURRENT = "current.json"
MANIFEST = "manifest.json"
FORMAT = 1
"""The version of the file format that this version of tfps writes. It reads this one and all earlier ones."""

FULL, DELTA = "full", "delta"
ROWS, EVICTED, DENSE = "rows", "evicted", "dense"
"""What a file of a version holds."""

# Names such as "rows-0-of-2/part-00003.parquet": no absolute path, and no way out of the folder.
_FILE = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")
_NAME = re.compile(rf"({FULL}|{DELTA})-(\d+)")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ExportedTable:
    """A table in a version.

    Args:
        name: its path in the model.
        dim: the width of a row.
        rows: the number of its rows in this version: all of them, or those that changed.
        evicted: the number of its rows that were evicted or erased since the parent.
    """

    name: str
    dim: int
    rows: int
    evicted: int


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """A file of a version.

    Args:
        path: its path in the folder of the version.
        holds: "rows", "evicted" or "dense".
        bytes: its length.
        crc32: the CRC-32 of its content, as of `zlib.crc32`.
    """

    path: str
    holds: str
    bytes: int
    crc32: int


@dataclasses.dataclass(frozen=True)
class Version:
    """The manifest of a version.

    Args:
        kind: "full" or "delta".
        number: its number; later versions have larger ones.
        parent: the number of the version before it; None for the first one.
        chain_id: the chain that it belongs to.
        step: the number of training steps before it.
        as_of: the moment that it is of, in seconds since 1970: it has every update of before.
        writer: the versions of what wrote it.
        tables: the tables.
        files: the files.
    """

    kind: str
    number: int
    parent: int | None
    chain_id: str
    step: int
    as_of: float
    writer: str
    tables: tuple[ExportedTable, ...]
    files: tuple[ExportedFile, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return name_of(self.kind, self.number)

    def to_json(self) -> bytes:
        """Returns the content of its manifest."""
        return _sign(dataclasses.asdict(self))

    @property
    def checksum(self) -> str:
        """The checksum of the manifest, 64 hexadecimal digits."""
        return _digest({"format": FORMAT, **dataclasses.asdict(self)})


@dataclasses.dataclass(frozen=True)
class Entry:
    """A version in the list of `current.json`.

    Args:
        kind: "full" or "delta".
        number: its number.
        parent: the number of the version before it; None for the first one.
        chain_id: the chain that it belongs to.
        checksum: the checksum of its manifest.
    """

    kind: str
    number: int
    parent: int | None
    chain_id: str
    checksum: str

    @property
    def name(self) -> str:
        """The name of its folder."""
        return name_of(self.kind, self.number)


@dataclasses.dataclass(frozen=True)
class Current:
    """What `current.json` says.

    Args:
        number: the newest version.
        chain_id: the chain that it belongs to.
        entries: the versions that can be read, the oldest first; where there are two of one number, the delta comes
            first.
    """

    number: int
    chain_id: str
    entries: tuple[Entry, ...]

    def to_json(self) -> bytes:
        """Returns the content of the file."""
        return _sign(dataclasses.asdict(self))

    @property
    def deltas(self) -> Mapping[int, Entry]:
        """The deltas by number."""
        return {one.number: one for one in self.entries if one.kind == DELTA}

    def without(self, names: Collection[str]) -> "Current":
        """Returns the list without some versions, by the names of their folders."""
        return dataclasses.replace(self, entries=tuple(one for one in self.entries if one.name not in names))


def name_of(kind: str, number: int) -> str:
    """Returns the name of the folder of a version, such as "delta-1260"."""
    return f"{kind}-{number}"


def number_of(name: str) -> int | None:
    """Returns the number of the version that a folder of this name has; None if it has none."""
    # Unfinished versions count: a new writer must not give their number to another version.
    match = _NAME.fullmatch(name.removesuffix(".partial"))
    return None if match is None else int(match[2])


def parse_version(data: bytes, path: str) -> Version:
    """Reads a manifest.

    Args:
        data: the content of the file.
        path: its path, for messages.

    Raises:
        ExportError: the file is broken, of another program, or of a newer version of tfps.
    """
    fields = _verify(data, path)
    tables = tuple(_parse(ExportedTable, one, path) for one in _list(fields, "tables", path))
    files = tuple(_parse(ExportedFile, one, path) for one in _list(fields, "files", path))
    for file in files:
        # A name such as "../../.bashrc" must not lead to a file that is not a part of the version.
        if not _FILE.fullmatch(file.path):
            raise ExportError(f"{path} is broken: a file must have a plain name. Received: {show_value(file.path)}.")
    return _parse(Version, {**fields, "tables": tables, "files": files}, path)


def parse_current(data: bytes, path: str) -> Current:
    """Reads `current.json`; see `parse_version`."""
    fields = _verify(data, path)
    entries = tuple(_parse(Entry, one, path) for one in _list(fields, "entries", path))
    if any(one.kind not in (FULL, DELTA) for one in entries):
        raise ExportError(f"{path} is broken: a version is {FULL!r} or {DELTA!r}.")
    return _parse(Current, {**fields, "entries": entries}, path)


def _verify(data: bytes, path: str) -> dict[str, Any]:
    """Returns the fields of a file whose checksum is right."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is broken: it is not JSON ({error}).") from None
    if not isinstance(fields, dict) or type(fields.get("format")) is not int:
        raise ExportError(f"{path} is not of an export of tfps.")
    # Newer formats may have other fields, so the number comes before the checksum.
    if fields["format"] > FORMAT:
        raise ExportError(
            f"{path} has version {fields['format']} of the format, and this tfps reads versions up to {FORMAT}. "
            "Valid: a newer tfps."
        )
    checksum = fields.pop("checksum", None)
    if checksum != _digest(fields):
        raise ExportError(f"{path} is broken: its content does not match its checksum.")
    del fields["format"]
    return fields


def _parse(kind: type[T], value: object, path: str) -> T:
    """Makes a dataclass from the object of a JSON file. A checksum shows accidents, but not a file that was edited."""
    wanted = {field.name: field.type for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(value, dict) or set(value) != set(wanted):
        raise ExportError(f"{path} is broken: {kind.__name__} has the fields {', '.join(wanted)}.")
    for name, one in value.items():
        if not _fits(one, wanted[name]):
            raise ExportError(f"{path} is broken: `{name}` is {show_value(one)}.")
    return kind(**value)


def _fits(value: object, kind: object) -> bool:
    """Whether a value of a JSON file has the type of a field."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, tuple):
        return True
    # What is left are counts and numbers of versions. In Python bool is a subclass of int.
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return is_count or (value is None and kind is not int)


def _list(fields: Mapping[str, JSON], name: str, path: str) -> Sequence[JSON]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise ExportError(f"{path} is broken: `{name}` must be a list. Received: {show_value(value)}.")
    return value


def _sign(fields: Mapping[str, JSON]) -> bytes:
    """Returns the text of a file with its checksum."""
    body = {"format": FORMAT, **fields}
    return json.dumps({**body, "checksum": _digest(body)}, indent=1).encode()


def _digest(body: Mapping[str, JSON]) -> str:
    """Returns the checksum of the fields, whatever the layout of the file."""
    # In one form, so that an editor that sorts or indents the file does not break it.
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
