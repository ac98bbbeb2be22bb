"""`PathPattern`: a pattern of file names with fields for the time, such as "/logs/%Y/%m/%d/%H/part-*.csv".

Pure functions of strings: nothing here looks at a disk.
"""

import datetime
import re

from tfps.checks import check_string, show_value
from tfps.errors import ConfigError

_DIGITS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
"""The fields of a time, from the longest, and how many digits each has."""
_PARTS = re.compile(
    r"%(?P<field>.)|(?P<deep>\*\*/?)|(?P<star>\*)|(?P<one>\?)|(?P<set>\[[^\]/]+\])|(?P<text>.)", re.DOTALL
)


class PathPattern:
    """A pattern of file names: `*`, `**`, `?` and `[...]` as in a shell, and the fields %Y %m %d %H %M %S.

    Args:
        pattern: the pattern.

    Attributes:
        glob: the pattern for a file system, which has no fields.
        folder: the folder before the first part that varies; empty if the first part does.
        has_time: whether a name tells a time.

    Raises:
        ConfigError: a field is unknown, or one is missing between others.
    """

    def __init__(self, pattern: str) -> None:
        text = check_string("url_pattern", pattern)
        fields, expression, glob = [], "", ""
        # Up to here the names of all files are equal.
        fixed = len(text)
        for part in _PARTS.finditer(text):
            kind, found = str(part.lastgroup), part[0]
            if kind == "field":
                name, found = part["field"], ""
                if name == "%":
                    kind, found = "text", "%"
                elif name not in _DIGITS:
                    raise ConfigError(_field_error(pattern))
                else:
                    # A field that comes again must have the digits of the first time: %Y/%Y%m is 2026/202601.
                    expression += f"(?P={name})" if name in fields else rf"(?P<{name}>\d{{{_DIGITS[name]}}})"
                    found = "[0-9]" * _DIGITS[name]
                    fields.append(name)
            expression += {
                "deep": r"(?:.*/)?" if found.endswith("/") else ".*",
                "star": "[^/]*",
                "one": "[^/]",
                "set": found.replace("[!", "[^"),
                "text": re.escape(found),
            }.get(kind, "")
            if kind != "text":
                fixed = min(fixed, part.start())
            glob += found
        # The largest fields without a gap: %H without %d says no time.
        wanted = set(list(_DIGITS)[: len(set(fields))])
        if set(fields) != wanted:
            raise ConfigError(_field_error(pattern))
        self.pattern, self.glob, self.has_time = text, glob, bool(fields)
        self.folder = text[:fixed].replace("%%", "%").rpartition("/")[0]
        self._expression = re.compile(expression)

    def matches(self, path: str) -> bool:
        """Whether a name is one of the pattern."""
        return self._expression.fullmatch(path) is not None

    def time_of(self, path: str) -> float | None:
        """Returns the time in a name, in seconds since 1970, UTC; None if it has none, or no such day exists."""
        match = self._expression.fullmatch(path)
        if match is None or not self.has_time:
            return None
        given = match.groupdict()
        # "%Y" alone is the first of January.
        numbers = [int(given.get(name, low)) for name, low in zip(_DIGITS, (1970, 1, 1, 0, 0, 0), strict=True)]
        try:
            return datetime.datetime(*numbers, tzinfo=datetime.timezone.utc).timestamp()  # type: ignore[misc,arg-type]
        except ValueError:
            return None


def _field_error(pattern: str) -> str:
    return (
        "`url_pattern` must have none of the fields %Y %m %d %H %M %S, or the first ones in any order, such as "
        f"%Y, %m, %d and %H; a percent sign is %%. Received: {show_value(pattern)}."
    )
