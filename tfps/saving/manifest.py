"""`Manifest`: what a checkpoint holds. A JSON file that is parsed as data only, and checked field by field.

The manifest lists the variables, the tables with the parts of their rows, and each file with its bytes and checksum. It
ends with a checksum of itself, so one flipped bit is seen in every file of a checkpoint.

Threading: pure functions and frozen values, any thread.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tfps.checks import check_bool, check_choice, check_integer, check_string, show_value
from tfps.errors import CheckpointError, PlanError
from tfps.placement.routing import Routing
from tfps.types import JSON, Shape

FORMAT = "tfps-checkpoint"
VERSION = 1
"""The version of the format that this version of tfps writes. It reads this version and all earlier ones."""
NAME = "manifest.json"

_DTYPES = ("bfloat16", "bool", "float16", "float32", "float64", "string") + tuple(
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
)
_CHECKSUM = re.compile(r"[0-9a-f]{16}")
# Names such as "rows-0-of-2/part-00003": no absolute path, and no way out of the folder.
_FILE = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")

_SUFFIXES = (".index", ".data-00000-of-00001")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SavedVariable:
    """A variable of the model, an optimizer or a metric; a table and each of its slots are variables too.

    Args:
        name: its name, unique in the checkpoint.
        shape: its shape.
        dtype: the name of its dtype.
        bundle: the prefix of the TensorFlow tensor bundle that has its value, under its name; None for the rows of a
            table or of a slot.
    """

    name: str
    shape: Shape
    dtype: str
    bundle: str | None


@dataclasses.dataclass(frozen=True)
class SavedPart:
    """Some rows of a table with their slots, in one tensor bundle.

    Tensor "0" of the bundle has the rows and tensor "1" the first slot. If the rows do not follow one another, the
    tensor "ids" has their ids, int64.

    Args:
        bundle: the prefix of the tensor bundle.
        shard: the shard that the rows belong to.
        first: the local row of the first one; 0 where the bundle has ids.
        rows: the number of rows.
        has_ids: whether the bundle has ids.
    """

    bundle: str
    shard: int
    first: int
    rows: int
    has_ids: bool


@dataclasses.dataclass(frozen=True)
class SavedTable:
    """The rows of a table with its slots.

    Args:
        routing: how the rows were split over shards.
        columns: the names of the variables: the table, then its slots.
        parts: the rows, in any order.
    """

    routing: Routing
    columns: tuple[str, ...]
    parts: tuple[SavedPart, ...]


@dataclasses.dataclass(frozen=True)
class SavedFile:
    """A file of a checkpoint.

    Args:
        bytes: its length.
        farmhash64: the 64-bit FarmHash fingerprint of its content (`tf.fingerprint`), 16 hexadecimal digits.
    """

    bytes: int
    farmhash64: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Args:
        step: the number of training steps before it.
        created: the time of writing, UTC, as ISO 8601.
        writer: the versions of tfps, TensorFlow and Keras that wrote it, and the mode of training.
        base: the name of the checkpoint that this one is a delta of; None if it is complete by itself.
        base_checksum: the checksum of the manifest of that checkpoint.
        progress: where training was: the place in the data, random states, metrics. Empty if none was saved.
        variables: the variables, in the order of the model.
        tables: the tables among them.
        files: the files, by their path in the checkpoint.
    """

    step: int
    created: str
    writer: Mapping[str, str]
    base: str | None
    base_checksum: str | None
    progress: Mapping[str, Any]
    variables: tuple[SavedVariable, ...]
    tables: tuple[SavedTable, ...]
    files: Mapping[str, SavedFile]

    @property
    def bytes(self) -> int:
        """The bytes of all files."""
        return sum(file.bytes for file in self.files.values())

    def variable(self, name: str) -> SavedVariable:
        """Returns a variable by its name."""
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> Mapping[str, SavedVariable]:
        return {one.name: one for one in self.variables}

    @property
    def checksum(self) -> str:
        """The checksum of the manifest: 64 hexadecimal digits."""
        return _digest(self._body())

    def to_json(self) -> str:
        """Returns the text of the file."""
        return json.dumps({**self._body(), "checksum": self.checksum}, indent=1)

    def _body(self) -> dict[str, JSON]:
        return {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}


def parse(text: bytes, path: str) -> Manifest:
    """Reads a manifest.

    Args:
        text: the content of the file.
        path: the path of the file, for messages.

    Raises:
        CheckpointError: the file is broken, of another program, or of a newer version of tfps.
    """
    try:
        # Newer versions of the format may have other fields, so its name and version come first.
        fields = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is broken: it is not JSON ({error}).") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not the manifest of a tfps checkpoint.")
    version = fields.get("version")
    # `True` is an integer in Python.
    if type(version) is int and version > VERSION:
        raise CheckpointError(
            f"{path} has version {version} of the format, and this tfps reads versions up to {VERSION}. "
            "Valid: a newer tfps."
        )
    checksum = fields.pop("checksum", None)
    try:
        is_whole = version == VERSION and checksum == _digest(fields)
    except RecursionError as error:
        raise CheckpointError(f"{path} is broken: it is nested too deeply ({error}).") from None
    if not is_whole:
        raise CheckpointError(f"{path} is broken: its content does not match its checksum.")
    del fields["format"], fields["version"]
    return _parse_fields(fields, path)


def _parse_fields(fields: dict[str, JSON], path: str) -> Manifest:
    """Checks each field. The checksum shows accidents, but not a file that somebody made or edited."""
    top = _Fields(fields, path, "")
    base = top.get("base")
    manifest = Manifest(
        step=top.integer("step"),
        created=top.string("created"),
        writer={name: str(value) for name, value in top.mapping("writer").items()},
        base=None if base is None else _check_file(base, path),
        base_checksum=None if base is None else top.string("base_checksum"),
        progress=top.mapping("progress"),
        variables=tuple(top.each("variables", _parse_variable)),
        tables=tuple(top.each("tables", _parse_table)),
        files={_check_file(name, path): _parse_file(value, path) for name, value in top.mapping("files").items()},
    )
    _check_references(manifest, path)
    return manifest


def _parse_variable(one: "_Fields") -> SavedVariable:
    shape = tuple(one.integers("shape"))
    bundle = one.get("bundle")
    dtype = check_choice(one.label("dtype"), one.get("dtype"), _DTYPES, error=CheckpointError)
    return SavedVariable(one.string("name"), shape, dtype, None if bundle is None else _check_file(bundle, one.path))


def _parse_table(one: "_Fields") -> SavedTable:
    routing = one.mapping("routing")
    try:
        rule = Routing(**{name: routing.get(name) for name in ("kind", "rows", "shards")})  # type: ignore[arg-type]
    except PlanError as error:
        raise CheckpointError(f"{one.path} is broken: {error}") from None
    columns = one.get("columns")
    if not isinstance(columns, list) or not columns or not all(isinstance(name, str) for name in columns):
        raise CheckpointError(f"{one.path} is broken: `columns` must be names. Received: {show_value(columns)}.")
    parts = tuple(one.each("parts", _parse_part))
    # The ids of a table that grows are no row numbers, and there may be more of them than were expected.
    for part in () if rule.takes_any_id else parts:
        end = 0 if part.shard >= rule.shards else rule.shard_rows(part.shard)
        if part.first + (0 if part.has_ids else part.rows) > end or part.rows > rule.rows:
            raise CheckpointError(f"{one.path} is broken: part {show_value(part.bundle)} is outside its table.")
    return SavedTable(rule, tuple(columns), parts)


def _parse_part(one: "_Fields") -> SavedPart:
    return SavedPart(
        _check_file(one.get("bundle"), one.path),
        one.integer("shard"),
        one.integer("first"),
        one.integer("rows"),
        check_bool(one.label("has_ids"), one.get("has_ids"), error=CheckpointError),
    )


def _parse_file(value: JSON, path: str) -> SavedFile:
    one = _Fields(value, path, "files")
    checksum = one.string("farmhash64")
    if not _CHECKSUM.fullmatch(checksum):
        raise CheckpointError(
            f"{path} is broken: a checksum has 16 hexadecimal digits. Received: {show_value(checksum)}."
        )
    return SavedFile(one.integer("bytes"), checksum)


def _check_file(name: object, path: str) -> str:
    # A name such as "../../.bashrc" must not get to any file that is not a part of the checkpoint.
    if isinstance(name, str) and _FILE.fullmatch(name):
        return name
    raise CheckpointError(f"{path} is broken: a file must have a plain name. Received: {show_value(name)}.")


def _check_references(manifest: Manifest, path: str) -> None:
    """Checks that what the fields refer to is there."""
    names = [variable.name for variable in manifest.variables]
    columns = [name for table in manifest.tables for name in table.columns]
    of_tables = {variable.name for variable in manifest.variables if variable.bundle is None}
    if len(set(names)) < len(names) or len(set(columns)) < len(columns) or set(columns) != of_tables:
        raise CheckpointError(f"{path} is broken: its variables and the columns of its tables do not agree.")
    for table in manifest.tables:
        shapes = [manifest.variable(name).shape for name in table.columns]
        if any(len(shape) != 2 or shape[0] != table.routing.rows for shape in shapes):
            name = show_value(table.columns[0])
            raise CheckpointError(f"{path} is broken: the columns of table {name} differ in their rows.")
        if table.routing.takes_any_id:
            if not all(part.has_ids and part.shard < table.routing.shards for part in table.parts):
                raise CheckpointError(f"{path} is broken: a part of table {show_value(table.columns[0])} has no ids.")
        elif manifest.base is None and not any(part.has_ids for part in table.parts) and not _covers(table):
            name = show_value(table.columns[0])
            raise CheckpointError(f"{path} is broken: its parts do not have each row of table {name} once.")
    bundles = {variable.bundle for variable in manifest.variables if variable.bundle is not None}
    bundles |= {part.bundle for table in manifest.tables for part in table.parts}
    missing = [bundle for bundle in sorted(bundles) if not set(files_of(bundle)) <= manifest.files.keys()]
    if missing:
        raise CheckpointError(f"{path} is broken: it lists no files for {show_value(missing[0])}.")


def _covers(table: SavedTable) -> bool:
    """Whether the parts of a table without gaps have each of its rows once."""
    ends = [0] * table.routing.shards
    for part in sorted(table.parts, key=lambda one: (one.shard, one.first)):
        if part.first != ends[part.shard]:
            return False
        ends[part.shard] += part.rows
    return all(end == table.routing.shard_rows(shard) for shard, end in enumerate(ends))


def files_of(bundle: str) -> tuple[str, str]:
    """Returns the two files of a tensor bundle."""
    return f"{bundle}{_SUFFIXES[0]}", f"{bundle}{_SUFFIXES[1]}"


def bundle_of(file: str) -> str:
    """Returns the bundle that a file belongs to."""
    for suffix in _SUFFIXES:
        file = file.removesuffix(suffix)
    return file


@dataclasses.dataclass(frozen=True)
class _Fields:
    """The fields of one JSON object; each method checks the type of one.

    Args:
        value: the parsed object.
        path: the path of the manifest, for messages.
        owner: the name of the object in the manifest, for messages.
    """

    value: JSON
    path: str
    owner: str

    def label(self, name: str) -> str:
        return f"{name} of {self.owner or 'the manifest'} in {self.path}"

    def get(self, name: str) -> JSON:
        if not isinstance(self.value, dict):
            raise CheckpointError(f"{self.path} is broken: {self.owner} must be an object.")
        return self.value.get(name)

    def integer(self, name: str) -> int:
        return check_integer(self.label(name), self.get(name), at_least=0, error=CheckpointError)

    def integers(self, name: str) -> list[int]:
        value = self.get(name)
        if not isinstance(value, list):
            raise CheckpointError(f"{self.path} is broken: `{name}` must be a list. Received: {show_value(value)}.")
        return [check_integer(self.label(name), one, at_least=0, error=CheckpointError) for one in value]

    def string(self, name: str) -> str:
        return check_string(self.label(name), self.get(name), error=CheckpointError)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.get(name)
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path} is broken: `{name}` must be an object. Received: {show_value(value)}.")
        return value

    def each(self, name: str, parse_one: "Callable[[_Fields], T]") -> list[T]:
        value = self.get(name)
        if not isinstance(value, list):
            raise CheckpointError(f"{self.path} is broken: `{name}` must be a list. Received: {show_value(value)}.")
        return [parse_one(_Fields(one, self.path, f"{name}[{index}]")) for index, one in enumerate(value)]


def _digest(body: Mapping[str, JSON]) -> str:
    """Returns the checksum of the fields, whatever the layout of the file."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def shape_of(rows: Sequence[int] | np.ndarray[Any, Any]) -> Shape:
    """Returns a shape as a tuple of Python's integers."""
    return tuple(int(size) for size in rows)
