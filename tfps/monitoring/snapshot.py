"""`Snapshot`: a job at one moment, as a value that can be printed, sent as JSON and read again. No TensorFlow.

Rates are over the time since the snapshot before it. None means "not known": the reader of a snapshot never has to
guess whether a 0 was measured. Times are seconds since 1970; all machines of a job need not agree on them, because
the chief takes them all.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from tfps.checks import show_value
from tfps.errors import ConfigError
from tfps.types import JSON

FORMAT = 1
"""The version of the JSON. A reader refuses any other."""

_LARGEST = 2**63
"""Numbers of a snapshot are smaller."""

TaskStatus: TypeAlias = Literal["up", "lost", "unknown"]
"""A task works; it is lost and may come back; or whether it works is not known."""

Phase: TypeAlias = Literal["idle", "train", "test", "predict", "ended"]
"""What the program does: nothing of these, `fit`, `evaluate`, `predict`; or its strategy has ended."""


@dataclasses.dataclass(frozen=True)
class TaskState:
    """One process of the job.

    Args:
        job: "chief", "ps" or "worker".
        index: its number in the job.
        host: the machine it runs on.
        pid: its process id there; None if not known.
        status: whether it works.
        cpu_cores: cores that it kept busy.
        cores: cores that it may use.
        resident_bytes: its memory.
        steps: steps of training that it has done; 0 for tasks other than workers.
        examples: examples in these steps.
        steps_per_s: the rate of its steps.
        examples_per_s: the rate of its examples.
        staleness: steps that other workers finished while its last closure ran.
        restarts: how often it was lost and came back.
        received_bytes_per_s: bytes that came in by TCP, from all other tasks.
        sent_bytes_per_s: bytes that went out.
    """

    job: str
    index: int
    host: str = ""
    pid: int | None = None
    status: TaskStatus = "unknown"
    cpu_cores: float | None = None
    cores: int | None = None
    resident_bytes: int | None = None
    steps: int = 0
    examples: int = 0
    steps_per_s: float | None = None
    examples_per_s: float | None = None
    staleness: int | None = None
    restarts: int = 0
    received_bytes_per_s: float | None = None
    sent_bytes_per_s: float | None = None

    @property
    def name(self) -> str:
        """The name in messages: "worker 0"."""
        return f"{self.job} {self.index}"


@dataclasses.dataclass(frozen=True)
class TableState:
    """An embedding table.

    Args:
        name: the name of its variable.
        rows: its rows; those that are stored, if it grows.
        row_bytes: bytes of a row, without slots.
        bytes: its bytes: rows and slots by plan, or all memory if it grows.
        servers: the servers that hold its shards.
        ids_per_step: ids that a step looks up, repeats included; None if not known.
        row_bytes_per_s: bytes of the rows of these lookups in a second, before repeats are removed: what makes a table
            hot.
        grows: whether rows appear as ids do. The counts below are of such tables alone.
        admitted: rows that were made.
        refused: gradients that were dropped because their id had no row.
        evicted: rows that have gone.
    """

    name: str
    rows: int
    row_bytes: int
    bytes: int
    servers: tuple[int, ...] = ()
    ids_per_step: float | None = None
    row_bytes_per_s: float | None = None
    grows: bool = False
    admitted: int | None = None
    refused: int | None = None
    evicted: int | None = None


@dataclasses.dataclass(frozen=True)
class ServerState:
    """What a parameter server holds and moves.

    Args:
        index: its number.
        stored_bytes: bytes of variables there, and slots of tables: by plan, or as counted for tables that grow.
        stored_share: its part of the stored bytes of all servers, 0 to 1.
        traffic_share: its part of the bytes in and out of all servers, 0 to 1; None if not known. In a balanced job
            all shares are equal.
    """

    index: int
    stored_bytes: int
    stored_share: float
    traffic_share: float | None = None


@dataclasses.dataclass(frozen=True)
class CacheState:
    """What workers save by keeping rows (`cache_rows` of the strategy).

    Args:
        asked_rows: rows that steps asked for, each once a step.
        found_rows: those of them that the worker had, so that it requested the others alone.
        saved_bytes: bytes of the ids and rows that did not cross.
        hit_rate: the part of the rows of the last seconds that workers had, 0 to 1; None if not known.
        saved_bytes_per_s: the rate of `saved_bytes`.
    """

    asked_rows: int
    found_rows: int
    saved_bytes: int
    hit_rate: float | None = None
    saved_bytes_per_s: float | None = None


@dataclasses.dataclass(frozen=True)
class CheckpointState:
    """The last checkpoint that this program has written.

    Args:
        step: its step.
        at: when it was complete.
        seconds: how long training or a background thread wrote it.
        url: where it is.
        count: how many this program has written.
    """

    step: int
    at: float
    seconds: float
    url: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class LossEvent:
    """A task that was lost.

    Args:
        job: "ps" or "worker".
        index: its number.
        at: when the chief saw it.
        why: the reason.
        back_at: when it worked again; None if it has not come back.
    """

    job: str
    index: int
    at: float
    why: str
    back_at: float | None = None


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """What sets the pace, as `tfps.placement.bottleneck` judges it.

    Args:
        limit: "servers", "workers", "chief", "messages" or "unknown".
        advice: why, and what to change.
    """

    limit: str
    advice: str


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A job at one moment.

    Args:
        at: the moment; all that was counted before it is in the snapshot.
        began: when the strategy was made.
        name: the name of the job: the program.
        pid: the process id of the chief.
        host: its machine.
        version: the version of tfps.
        phase: what the program does.
        mode: the mode of training, such as "asynchronous"; "" before it is known.
        epoch: the epoch of `fit`, from 0; None before the first.
        epochs: the epochs of `fit`; None if not known.
        epoch_step: steps of this epoch.
        steps_per_epoch: steps of a whole epoch; None if not known.
        steps: steps that this program has trained, also those that were repeated.
        repeated_steps: steps of these that the restored checkpoint of a lost server took back.
        examples: examples in these steps.
        unique_rows: rows that these steps requested, each once a step; 0 if not known.
        test_steps: steps of `evaluate`.
        closures: closures that have ended, those of `evaluate` included.
        steps_per_s: the rate of `steps`.
        examples_per_s: the rate of `examples`.
        unique_rows_per_s: the rate of `unique_rows`.
        metrics: the loss and the metrics, as the progress bar shows them; None for a value that is not finite.
        tasks: the chief, the servers, the workers.
        tables: the tables, those with most traffic first.
        servers: what each server holds and moves.
        drift: what GEO says of its windows: `geo_delta_norm`, `geo_conflicts`. Empty in other modes.
        checkpoint: the last checkpoint; None if there is none.
        losses: the last losses of tasks, the latest last.
        losses_count: how many losses there were.
        bottleneck: what sets the pace; None before it was judged.
        cache: what workers save by keeping rows; None where they have kept none.
    """

    at: float
    began: float
    name: str
    pid: int
    host: str
    version: str
    phase: Phase = "idle"
    mode: str = ""
    epoch: int | None = None
    epochs: int | None = None
    epoch_step: int = 0
    steps_per_epoch: int | None = None
    steps: int = 0
    repeated_steps: int = 0
    examples: int = 0
    unique_rows: int = 0
    test_steps: int = 0
    closures: int = 0
    steps_per_s: float | None = None
    examples_per_s: float | None = None
    unique_rows_per_s: float | None = None
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    tasks: tuple[TaskState, ...] = ()
    tables: tuple[TableState, ...] = ()
    servers: tuple[ServerState, ...] = ()
    drift: Mapping[str, float] = dataclasses.field(default_factory=dict)
    checkpoint: CheckpointState | None = None
    losses: tuple[LossEvent, ...] = ()
    losses_count: int = 0
    bottleneck: Bottleneck | None = None
    cache: CacheState | None = None

    @property
    def kept_steps(self) -> int:
        """Steps that this program has trained, without those that were taken back."""
        return self.steps - self.repeated_steps

    def tasks_of(self, job: str) -> tuple[TaskState, ...]:
        """Returns the tasks of one job."""
        return tuple(task for task in self.tasks if task.job == job)

    def to_json(self) -> str:
        """Returns the snapshot as one line of JSON."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Snapshot":
        """Reads what `to_json` wrote.

        Raises:
            ConfigError: the text is no snapshot, or one of another format. The message names the field.
        """
        try:
            fields = json.loads(text)
        # A RecursionError: a text of ten thousand brackets.
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"a snapshot must be in JSON. Received: {show_value(text)}.") from error
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise ConfigError(f"a snapshot must be of format {FORMAT}. Received: {show_value(text)}.")
        made: Snapshot = _read(cls, fields, "")
        return made


def _read(kind: Any, value: Any, name: str) -> Any:
    """Makes a value of a type of the fields above from JSON.

    Args:
        kind: the type.
        value: the JSON. It may come from a program that is no job of ours.
        name: the name of the field, for messages, such as "tasks[0].status"; "" for the whole.

    Raises:
        ConfigError: the value is of another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        # "X | None".
        return None if value is None else _read(arguments[0], value, name)
    if origin is Literal:
        return _check(value in arguments, value, name, " or ".join(map(repr, arguments)))
    if origin is tuple:
        _check(isinstance(value, list), value, name, "a list")
        return tuple(_read(arguments[0], one, f"{name}[{place}]") for place, one in enumerate(value))
    if origin is Mapping:
        _check(isinstance(value, dict), value, name, "an object")
        return {key: _read(arguments[1], one, f"{name}[{key!r}]") for key, one in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_object(kind, value, name)
    if kind is float:
        # A JSON of Python may have NaN, and integers without end.
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
        return _check(is_number, value, name, "a finite number")
    if kind is int:
        is_integer = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
        return _check(is_integer, value, name, "an integer")
    return _check(isinstance(value, kind), value, name, {str: "a string", bool: "true or false"}[kind])


def _read_object(kind: Any, value: Any, name: str) -> Any:
    """Makes a value of a class of the fields above from JSON; see `_read`."""
    _check(isinstance(value, dict), value, name, "an object")
    hints, start = typing.get_type_hints(kind), f"{name}." if name else ""
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if wrong := sorted(value.keys() - hints.keys()) or sorted(needed - value.keys()):
        rule = "is not known" if wrong[0] in value else "is missing"
        raise ConfigError(f"a snapshot must have the fields of format {FORMAT}: {show_value(start + wrong[0])} {rule}.")
    return kind(**{field: _read(hints[field], one, start + field) for field, one in value.items()})


def _check(holds: bool, value: JSON, name: str, rule: str) -> Any:
    """Returns a value of which a rule holds.

    Raises:
        ConfigError: it does not hold.
    """
    if not holds:
        raise ConfigError(f"{show_value(name)} of a snapshot must be {rule}. Received: {show_value(value)}.")
    return value
