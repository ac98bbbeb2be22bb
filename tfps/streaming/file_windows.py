"""Which files are the next window. Pure functions of a listing, a position and the time."""

import dataclasses
from collections.abc import Collection, Mapping

from tfps.checks import check_number, check_type
from tfps.errors import CheckpointError
from tfps.streaming.listing import FoundFile
from tfps.streaming.windows import TimeWindows
from tfps.types import JSON

_REMEMBERED_S = 7 * 86400.0
"""The seconds for which the name of a trained file is remembered once the file is removed. The name of a file that is
still there is remembered for good."""


@dataclasses.dataclass(frozen=True)
class FilePosition:
    """What was trained of a stream of files.

    Args:
        trained: the files that are trained, or left out for good, by path: the time of that.
        next_s: the end of the last window of a length; None before the first one.
        last: what the last file of a count is ordered by; None before the first one.
    """

    trained: Mapping[str, float]
    next_s: float | None = None
    last: tuple[float, str] | None = None

    def to_json(self) -> JSON:
        """Returns the position as JSON."""
        return {"files": dict(self.trained), "next_s": self.next_s, "last": None if self.last is None else [*self.last]}

    @classmethod
    def from_json(cls, value: JSON) -> "FilePosition":
        """Reads a position; None is the start.

        Raises:
            CheckpointError: the value is not what `to_json` returns.
        """
        if value is None:
            return cls({})
        fields = check_type("position", value, dict, "an object", error=CheckpointError)
        trained = check_type(
            "files of the position", fields.get("files"), dict, "those of a tfps.streaming.Files", error=CheckpointError
        )
        times = {str(path): check_number("time", one, error=CheckpointError) for path, one in trained.items()}
        next_s, last = fields.get("next_s"), fields.get("last")
        if last is not None and not (isinstance(last, list) and len(last) == 2):
            raise CheckpointError(f"`last` of the position must be a pair. Received: {last!r}.")
        return cls(
            times,
            None if next_s is None else check_number("next_s", next_s, error=CheckpointError),
            None if last is None else (check_number("last", last[0], error=CheckpointError), str(last[1])),
        )

    def with_trained(self, paths: Collection[str], present: Collection[str], now_s: float) -> "FilePosition":
        """Returns the position after more files.

        Args:
            paths: the files that are trained, or left out for good.
            present: all files that are there.
            now_s: the time.
        """
        # A file that stays for good costs some bytes in each checkpoint; one that was removed is forgotten.
        kept = {path: then for path, then in self.trained.items() if path in present or now_s - then < _REMEMBERED_S}
        return dataclasses.replace(self, trained={**kept, **dict.fromkeys(paths, now_s)})


@dataclasses.dataclass(frozen=True)
class FileWindow:
    """The files of the next window.

    Args:
        files: its own files.
        late: files of windows that are over.
        start_s: the time at which it begins; None for a count.
    """

    files: tuple[FoundFile, ...]
    late: tuple[FoundFile, ...]
    start_s: float | None


def find_by_time(
    ready: Mapping[FoundFile, float],
    unfinished: Mapping[FoundFile, float],
    next_s: float | None,
    rule: TimeWindows,
    now_s: float,
) -> FileWindow | str:
    """Returns the next window of a length that has files and is over.

    Args:
        ready: the new files that are complete, with their times.
        unfinished: the new files that are not.
        next_s: the end of the last window; None before the first one.
        rule: the length.
        now_s: the time, less what a window waits for its files.

    Returns:
        The window; or what it waits for.
    """
    # Without a window before, no file is late.
    before = float("-inf") if next_s is None else next_s
    late = tuple(file for file, time_s in ready.items() if time_s < before)
    times = [time_s for time_s in (*ready.values(), *unfinished.values()) if time_s >= before]
    if not times:
        return "the files of the next window"
    start_s = rule.start_of(min(times))
    end_s = start_s + rule.length_s
    if now_s < end_s:
        return f"the end of the window in {end_s - now_s:.0f} s"
    # A file that is still written would be late if the window began now.
    if open_files := [file.path for file, time_s in unfinished.items() if start_s <= time_s < end_s]:
        return f"{len(open_files)} files of the window that are not complete, such as {open_files[0]}"
    return FileWindow(tuple(file for file, time_s in ready.items() if start_s <= time_s < end_s), late, start_s)


def find_by_count(
    ordered: Mapping[FoundFile, tuple[float, str]], last: tuple[float, str] | None, count: int
) -> FileWindow | str:
    """Returns the next window of a number of files.

    Args:
        ordered: the new files that are complete in their order, and what they are ordered by.
        last: that of the last file of the window before; None before the first one.
        count: the number of files.

    Returns:
        The window; or what it waits for.
    """
    late = tuple(file for file, key in ordered.items() if last is not None and key < last)
    files = [file for file in ordered if file not in late]
    # Late files count: a window that trains them has as many files as any other.
    if len(ordered) < count:
        return f"{count - len(ordered)} more files"
    return FileWindow(tuple(files[: max(0, count - len(late))]), late[:count], None)
