"""`Window`: the records of an hour, a minute, or a count, which are tested and then learned together.

Times are seconds since 1970, UTC. Windows of a length begin at its multiples: those of "1h" at full hours, of "1d" at
midnight.
"""

import dataclasses
import datetime
import re

from tfps.checks import check_integer, check_list, check_number, check_type, show_value
from tfps.errors import CheckpointError, ConfigError
from tfps.types import JSON, is_integer

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LENGTH = re.compile(r"([1-9]\d*)([smhd])")
_VALID = 'a length such as "1h", "15m", "30s" or "1d"; or a count of at least 1'


@dataclasses.dataclass(frozen=True)
class Window:
    """What is tested and then learned together.

    Args:
        number: the number of the window in this training, from 0, over all programs.
        start_s: the time at which it begins; None for a window of a count.
        end_s: the time before which it ends; None for a window of a count.
        parts: what it consists of, as its source divides it: paths, or ranges of offsets.
        count: the number of files or messages.
    """

    number: int
    start_s: float | None
    end_s: float | None
    parts: tuple[JSON, ...]
    count: int

    @property
    def start(self) -> datetime.datetime | None:
        """The time at which it begins, UTC; None for a window of a count."""
        return None if self.start_s is None else datetime.datetime.fromtimestamp(self.start_s, datetime.timezone.utc)

    def __str__(self) -> str:
        """Returns its number and start, for the log."""
        if self.start is None or self.end_s is None or self.start_s is None:
            return f"window {self.number}"
        # Seconds only where they matter.
        form = "%Y-%m-%d %H:%M" if self.start_s % 60 == 0 == self.end_s % 60 else "%Y-%m-%d %H:%M:%S"
        return f"window {self.number} from {self.start.strftime(form)} UTC"

    def to_json(self) -> dict[str, JSON]:
        """Returns the window as JSON."""
        return {**dataclasses.asdict(self), "parts": list(self.parts)}

    @classmethod
    def from_json(cls, value: JSON) -> "Window":
        """Reads a window.

        Raises:
            CheckpointError: the value is not what `to_json` returns.
        """
        fields = check_type("window", value, dict, "an object", error=CheckpointError)
        times = [fields.get(name) for name in ("start_s", "end_s")]
        start, end = (None if one is None else check_number("time", one, error=CheckpointError) for one in times)
        return cls(
            check_integer("number", fields.get("number"), at_least=0, error=CheckpointError),
            start,
            end,
            tuple(check_list("parts", fields.get("parts"), "a list of parts", error=CheckpointError)),
            check_integer("count", fields.get("count"), at_least=0, error=CheckpointError),
        )


@dataclasses.dataclass(frozen=True)
class TimeWindows:
    """Windows of a length in time.

    Args:
        length_s: the length.
    """

    length_s: float

    def start_of(self, time_s: float) -> float:
        """Returns the start of the window that contains a time, both in seconds."""
        # Example: with hours 3,700 is in the window that begins at 3,600.
        return time_s // self.length_s * self.length_s


@dataclasses.dataclass(frozen=True)
class CountWindows:
    """Windows of a number of files or messages.

    Args:
        count: the number.
    """

    count: int


Rule = TimeWindows | CountWindows
"""How a stream is divided into windows."""


def parse_window(value: object) -> Rule:
    """Returns the rule that a user's `window` stands for.

    Args:
        value: a length such as "1h", a `datetime.timedelta` of at least a second, or a count.

    Raises:
        ConfigError: it is none of these.
    """
    if is_integer(value):
        return CountWindows(check_integer("window", value, at_least=1, valid=_VALID))
    if isinstance(value, datetime.timedelta) and value.total_seconds() >= 1:
        return TimeWindows(value.total_seconds())
    if isinstance(value, str) and (match := _LENGTH.fullmatch(value)):
        return TimeWindows(float(int(match[1]) * _UNITS_S[match[2]]))
    raise ConfigError(f"`window` must be {_VALID}. Received: {show_value(value)}.")
