"""`Files`: a stream of files that appear in a folder or an object store, each trained once."""

import dataclasses
import datetime
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps.checks import check_callable, check_choice, check_number, check_string, check_type
from tfps.errors import ConfigError, SourceError
from tfps.streaming.fetching import fetched
from tfps.streaming.file_windows import FilePosition, FileWindow, find_by_count, find_by_time
from tfps.streaming.interface import Planned, Waiting
from tfps.streaming.listing import FoundFile, Listing, LocalListing, StoreListing
from tfps.streaming.path_patterns import PathPattern
from tfps.streaming.windows import CountWindows, Rule, TimeWindows
from tfps.types import JSON

_LOG = logging.getLogger("tfps")

_LATE = ("next", "drop", "error")
_ORDERS = ("name", "modified")


class Files:
    """Files that appear while the training runs.

    A file is trained once, by its name. It belongs to the window of the time in its name, if the pattern has fields for
    that, or else of its last change. Windows of a count take files in their order.

    Args:
        url_pattern: the names of the files, a path or an fsspec URL, with `*`, `**`, `?` and `[...]` as in a shell, and
            %Y %m %d %H %M %S where a name has its time (UTC): "s3://logs/%Y/%m/%d/%H/part-*.tfrecord".
        parse: a function that makes the batches of a window, as `model.fit` takes them, from a `tf.data.Dataset` of
            file names. Workers divide the files if it opens them in an `interleave` or `flat_map`.
        order: the order of the files in a window and, for a count, of all files: "name", or "modified", by the last
            change.
        late: what happens to a file of a window that is over: "next" trains it with the next window, "drop" leaves it
            out and says so, "error" ends the training.
        done: the name of a mark. Files of a folder count once the mark is in it ("_SUCCESS"); with "{name}" each file
            has a mark of its own ("{name}.done"). None: a file counts once it has not changed for `settle_s`.
        settle_s: the seconds without a change after which a file without a mark is complete; 0 if files appear when
            they are whole, by a rename or in an object store.
        wait_s: the seconds after the end of a window in which its files may still come.
        start: the time before which files are left out; None for all files.
        poll_s: the seconds between two looks.
        patience_s: the seconds in which a folder may be away before the training ends with an error.
        options: what fsspec needs to open the file system, such as keys. Workers get it too.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    unit = "files"

    def __init__(
        self,
        url_pattern: str | os.PathLike[str],
        parse: Callable[[tf.data.Dataset], tf.data.Dataset],
        *,
        order: str = "name",
        late: str = "next",
        done: str | None = None,
        settle_s: float = 10.0,
        wait_s: float = 0.0,
        start: datetime.datetime | None = None,
        poll_s: float = 10.0,
        patience_s: float = 60.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_type("url_pattern", url_pattern, (str, os.PathLike), "a path or a URL with a pattern")
        text = os.fspath(url_pattern).removeprefix("file://")
        self._is_store = "://" in text
        # Workers may have another current folder.
        self._pattern = PathPattern(text if self._is_store else os.path.abspath(os.path.expanduser(text)))
        self._parse = check_callable("parse", parse, "a function of a dataset of file names")
        self._order = check_choice("order", order, _ORDERS)
        self._late = check_choice("late", late, _LATE)
        self._done = None if done is None else check_string("done", done, valid="None for no mark")
        self._settle_s = check_number("settle_s", settle_s, at_least=0)
        self._wait_s = check_number("wait_s", wait_s, at_least=0)
        self._start_s = None if start is None else check_type("start", start, datetime.datetime, "a time").timestamp()
        self.poll_s = check_number("poll_s", poll_s, above=0)
        self.patience_s = check_number("patience_s", patience_s, at_least=0)
        self._options = dict(check_type("options", {} if options is None else options, Mapping, "a mapping"))
        self._listing: Listing = (
            StoreListing(self._pattern, self._options) if self._is_store else LocalListing(self._pattern)
        )

    def check(self, rule: Rule) -> None:
        """See `Source`."""
        try:
            self._listing.check()
        except SourceError as error:
            raise ConfigError(f"`url_pattern` must name a folder that is there: {error}") from None

    def plan(self, position: JSON, rule: Rule, now_s: float) -> Planned | Waiting:
        """See `Source`."""
        before = FilePosition.from_json(position)
        files = self._listing.files()
        new = [file for file in files if file.path not in before.trained and self._is_wanted(file)]
        ready = [file for file, is_ready in zip(new, self._complete(new, now_s), strict=True) if is_ready]
        found = self._find(before, new, sorted(ready, key=self._key), rule, now_s)
        if isinstance(found, str):
            return Waiting(found)
        # All files and not only the new ones: a trained file is remembered for as long as it is there.
        present = {file.path for file in files}
        if found.late and not self._trains_late(found.late):
            dropped = before.with_trained([file.path for file in found.late], present, now_s)
            # At most once: the files are in the position now, so they are not new any more.
            return self.plan(dropped.to_json(), rule, now_s)
        chosen = sorted((*found.late, *found.files), key=self._key)
        after = before.with_trained([file.path for file in chosen], present, now_s)
        end_s = None
        if isinstance(rule, TimeWindows) and found.start_s is not None:
            end_s = found.start_s + rule.length_s
            after = dataclasses.replace(after, next_s=end_s)
        else:
            last = self._key(chosen[-1])
            # A window of late files alone must not move the mark back.
            after = dataclasses.replace(after, last=max(last, before.last or last))
        return Planned(tuple(file.path for file in chosen), len(chosen), found.start_s, end_s, after.to_json())

    def _find(
        self, before: FilePosition, new: Sequence[FoundFile], ready: Sequence[FoundFile], rule: Rule, now_s: float
    ) -> FileWindow | str:
        """Returns the files of the next window, or what it waits for."""
        if isinstance(rule, CountWindows):
            return find_by_count({file: self._key(file) for file in ready}, before.last, rule.count)
        times = {file: self._time_of(file) for file in (*ready, *new)}
        unfinished = {file: times[file] for file in new if file not in set(ready)}
        return find_by_time(
            {file: times[file] for file in ready}, unfinished, before.next_s, rule, now_s - self._wait_s
        )

    def dataset(self, parts: Sequence[JSON]) -> tf.data.Dataset:
        """See `Source`."""
        paths = [str(part) for part in parts]
        names = tf.data.Dataset.from_tensor_slices(paths)
        if isinstance(self._listing, StoreListing):
            # Two readings of one window have one key, so each file is copied once.
            window = hashlib.blake2b("\n".join(paths).encode(), digest_size=8).hexdigest()
            on_chief = self._listing.is_of_one_process
            names = fetched(names, self._pattern.pattern, window, self._options, on_chief)
        return check_type("what `parse` returns", self._parse(names), tf.data.Dataset, "a tf.data.Dataset of batches")

    def commit(self, position: JSON) -> None:
        """Does nothing: the names of trained files are in the checkpoint."""

    def _is_wanted(self, file: FoundFile) -> bool:
        return self._start_s is None or self._time_of(file) >= self._start_s

    def _complete(self, files: Sequence[FoundFile], now_s: float) -> list[bool]:
        """Returns for each file whether nothing is written to it any more."""
        if self._done is None and self._settle_s == 0:
            # Whatever the clock of the file system says.
            return [True] * len(files)
        if self._done is None:
            return [file.modified_s is None or now_s - file.modified_s >= self._settle_s for file in files]
        # Once for each folder: an object store takes a request for each.
        names: dict[str, set[str]] = {}
        found = []
        for file in files:
            # A path of an object store has no `pathlib` form.
            folder, _, name = file.path.rpartition("/")
            if folder not in names:
                names[folder] = set(self._listing.names_in(folder))
            found.append(self._done.replace("{name}", name) in names[folder])
        return found

    def _trains_late(self, late: Sequence[FoundFile]) -> bool:
        """Whether late files are trained after all, by the rule."""
        some = f"{len(late)} files, such as {late[0].path}, came after their window"
        if self._late == "error":
            raise SourceError(f'{some}. Valid: late="next" or "drop", or a longer `wait_s`.')
        if self._late == "drop":
            _LOG.warning("%s, and are left out (late='drop').", some)
            return False
        _LOG.info("%s, and are trained with the next one (late='next').", some)
        return True

    def _key(self, file: FoundFile) -> tuple[float, str]:
        """Returns what a file is ordered by."""
        return (0.0 if self._order == "name" else self._modified_of(file)), file.path

    def _time_of(self, file: FoundFile) -> float:
        """Returns the time that decides on the window of a file."""
        return self._modified_of(file) if file.time_s is None else file.time_s

    def _modified_of(self, file: FoundFile) -> float:
        if file.modified_s is None:
            raise SourceError(
                f"the file system does not tell when {file.path} was changed. Valid: a `url_pattern` with %Y, %m, %d "
                'and %H, and order="name"; or windows of a count.'
            )
        return file.modified_s
