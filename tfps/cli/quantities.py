"""Writes quantities for people: counts, bytes, rates, times. None is "-": not known."""

import time

_NOT_KNOWN = "-"
_STEP = 1000


def format_count(count: int) -> str:
    """Returns a count with commas: "96,000"."""
    return f"{count:,}"


def format_bytes(count: float | None) -> str:
    """Returns bytes with three digits: "12.9 MB", for 1 MB = 1000 kB."""
    if count is None:
        return _NOT_KNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < _STEP:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
        count /= _STEP
    return f"{count:.3g} TB"


def format_rate(rate: float | None, unit: str = "/s") -> str:
    """Returns a rate: "7,900/s", and with digits after the point where it is small: "0.25/s"."""
    if rate is None:
        return _NOT_KNOWN
    return (f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}") + unit


def format_seconds(seconds: float) -> str:
    """Returns a time: "8.2 s", or hours, minutes and seconds: "1:02:03"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def format_clock(at: float) -> str:
    """Returns the time of day of a moment, in seconds since 1970: "12:09:07"; "-" if no calendar has it."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return _NOT_KNOWN


def format_share(share: float | None) -> str:
    """Returns a part of a whole: "50 %"."""
    return _NOT_KNOWN if share is None else f"{share:.0%}".replace("%", " %")


def printable(text: str) -> str:
    """Returns a text as one line, without what could control a terminal: each such character is a "?".

    The text may come from another machine. Escape sequences could change the title of a window, or what was printed
    before; marks of writing direction could change the order of what is read.
    """
    return "".join(" " if one.isspace() else one if one.isprintable() else "?" for one in text)
