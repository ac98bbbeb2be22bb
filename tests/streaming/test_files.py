"""`Files` on a disk and in a store: each file once, late ones by the rule, marks, and folders that go away."""

import datetime
import logging
import os
import pathlib
import shutil
import time

import fsspec
import pytest

from tests.streaming.counting import LONG_AGO, parse, write
from tfps.errors import CheckpointError, ConfigError, SourceError
from tfps.streaming.files import Files
from tfps.streaming.interface import Planned, Waiting
from tfps.streaming.windows import CountWindows, TimeWindows

HOUR = TimeWindows(3600.0)
SIX = datetime.datetime(2026, 11, 30, 6, tzinfo=datetime.timezone.utc).timestamp()


def hourly(folder, **arguments):
    return Files(folder / "%Y%m%d%H" / "*.csv", parse, **arguments)


def put(folder, hour, name, ids=(1,), **arguments):
    return write(folder / f"20261130{hour:02}" / name, ids, **arguments)


def names(planned):
    assert isinstance(planned, Planned), planned
    return [part.rpartition("/")[2] for part in planned.parts]


def test_files_are_planned_by_the_hour_in_their_names(tmp_path):
    source = hourly(tmp_path)
    assert isinstance(source.plan(None, HOUR, SIX), Waiting)
    for hour, name in [(6, "b.csv"), (6, "a.csv"), (8, "c.csv"), (6, "a.txt")]:
        put(tmp_path, hour, name)
    assert isinstance(source.plan(None, HOUR, SIX + 3599), Waiting)
    first = source.plan(None, HOUR, SIX + 3600)
    assert names(first) == ["a.csv", "b.csv"]
    assert (first.start_s, first.end_s, first.count) == (SIX, SIX + 3600, 2)
    # The same position gives the same window, as after a kill.
    assert source.plan(None, HOUR, SIX + 3600) == first
    second = source.plan(first.position, HOUR, SIX + 3 * 3600)
    assert names(second) == ["c.csv"]
    assert isinstance(source.plan(second.position, HOUR, SIX + 9 * 3600), Waiting)


@pytest.mark.parametrize("late", ["next", "drop", "error"])
def test_late_files_follow_the_rule(tmp_path, late, caplog):
    source = hourly(tmp_path, late=late)
    put(tmp_path, 6, "a.csv")
    first = source.plan(None, HOUR, SIX + 3600)
    put(tmp_path, 6, "late.csv")
    put(tmp_path, 7, "b.csv")
    now = SIX + 2 * 3600
    if late == "error":
        with pytest.raises(SourceError, match=r"1 files, such as .*late\.csv, came after their window.*wait_s"):
            source.plan(first.position, HOUR, now)
        return
    caplog.set_level(logging.INFO, "tfps")
    second = source.plan(first.position, HOUR, now)
    assert names(second) == (["late.csv", "b.csv"] if late == "next" else ["b.csv"])
    assert "late.csv, came after their window" in caplog.text
    put(tmp_path, 8, "c.csv")
    # Dropped for good.
    assert names(source.plan(second.position, HOUR, now + 3600)) == ["c.csv"]


def test_dropped_files_leave_a_count_its_number(tmp_path):
    source = Files(tmp_path / "*.csv", parse, late="drop")
    for name in ("b.csv", "c.csv"):
        write(tmp_path / name, [1])
    first = source.plan(None, CountWindows(2), LONG_AGO + 99)
    for name in ("a.csv", "d.csv"):
        write(tmp_path / name, [1])
    assert isinstance(source.plan(first.position, CountWindows(2), LONG_AGO + 99), Waiting)
    write(tmp_path / "e.csv", [1])
    assert names(source.plan(first.position, CountWindows(2), LONG_AGO + 99)) == ["d.csv", "e.csv"]


def test_a_folder_counts_once_its_mark_is_there(tmp_path):
    source = hourly(tmp_path, done="_SUCCESS")
    put(tmp_path, 6, "a.csv", modified=SIX + 7200)
    waiting = source.plan(None, HOUR, SIX + 7200)
    assert isinstance(waiting, Waiting) and "not complete" in waiting.reason
    (tmp_path / "2026113006" / "_SUCCESS").touch()
    assert names(source.plan(None, HOUR, SIX + 7200)) == ["a.csv"]


def test_a_file_may_have_a_mark_of_its_own(tmp_path):
    source = Files(tmp_path / "*.csv", parse, done="{name}.done")
    for name in ("a.csv", "b.csv", "b.csv.done"):
        (tmp_path / name).touch()
    assert names(source.plan(None, CountWindows(1), time.time())) == ["b.csv"]


def test_a_file_that_still_changes_waits(tmp_path):
    source = Files(tmp_path / "*.csv", parse, settle_s=10)
    write(tmp_path / "a.csv", [1], modified=LONG_AGO)
    assert isinstance(source.plan(None, CountWindows(1), LONG_AGO + 9), Waiting)
    assert names(source.plan(None, CountWindows(1), LONG_AGO + 10)) == ["a.csv"]


def test_without_a_time_in_names_the_last_change_decides(tmp_path):
    source = Files(tmp_path / "*.csv", parse, order="modified", wait_s=60)
    for name, after in [("z.csv", 10), ("a.csv", 20), ("n.csv", 3700)]:
        write(tmp_path / name, [1], modified=SIX + after)
    assert isinstance(source.plan(None, HOUR, SIX + 3659), Waiting)
    assert names(source.plan(None, HOUR, SIX + 3660)) == ["z.csv", "a.csv"]


def test_start_leaves_older_files_out(tmp_path):
    start = datetime.datetime.fromtimestamp(SIX + 3600, datetime.timezone.utc)
    for hour in (6, 7):
        put(tmp_path, hour, f"{hour}.csv")
    assert names(hourly(tmp_path, start=start).plan(None, HOUR, SIX + 9e9)) == ["7.csv"]


def test_a_folder_that_vanishes_is_named_and_may_come_back(tmp_path):
    source = hourly(tmp_path / "in")
    put(tmp_path / "in", 6, "a.csv")
    first = source.plan(None, HOUR, SIX + 3600)
    (tmp_path / "in").rename(tmp_path / "away")
    with pytest.raises(
        SourceError, match=rf"folder '{tmp_path}/in' of the stream cannot be read: No such file"
    ) as error:
        source.plan(first.position, HOUR, SIX + 3600)
    assert error.value.may_pass
    (tmp_path / "away").rename(tmp_path / "in")
    put(tmp_path / "in", 7, "b.csv")
    # Nothing was forgotten meanwhile.
    assert names(source.plan(first.position, HOUR, SIX + 7200)) == ["b.csv"]


def test_a_folder_that_was_never_there_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"`url_pattern` must name a folder that is there: .*nowhere"):
        Files(tmp_path / "nowhere" / "*.csv", parse).check(HOUR)
    with pytest.raises(ConfigError, match=r"`url_pattern` must name a folder that is there: .*memory://nowhere"):
        Files("memory://nowhere/*.csv", parse).check(HOUR)


def test_the_position_of_another_source_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"tfps\.streaming\.Files"):
        hourly(tmp_path).plan({"topics": {}, "next_s": None}, HOUR, SIX)


@pytest.mark.parametrize(
    "arguments",
    [
        {"order": "size"},
        {"late": "never"},
        {"done": ""},
        {"settle_s": -1},
        {"wait_s": None},
        {"start": "2026"},
        {"poll_s": 0},
        {"patience_s": "long"},
        {"options": [1]},
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments):
    with pytest.raises(ConfigError, match=rf"`{next(iter(arguments))}` must be .*Received"):
        hourly(tmp_path, **arguments)
    with pytest.raises(ConfigError, match=r"`parse` must be a function"):
        Files(tmp_path / "*.csv", None)


# Object stores.


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/stream", recursive=True)


def test_files_of_a_store_are_planned_and_read(memory):
    for name, ids in [("a.csv", "1\n2\n"), ("b.csv", "3\n")]:
        memory.pipe_file(f"/stream/2026113006/{name}", ids.encode())
    source = Files("memory://stream/%Y%m%d%H/*.csv", parse, settle_s=0)
    source.check(HOUR)
    planned = source.plan(None, HOUR, SIX + 3600)
    assert names(planned) == ["a.csv", "b.csv"]
    batches = list(source.dataset(planned.parts).as_numpy_iterator())
    assert [number for ids, _ in batches for number in ids] == [1, 2, 3]
    memory.pipe_file("/stream/2026113007/c.csv", b"4\n")
    assert names(source.plan(planned.position, HOUR, SIX + 7200)) == ["c.csv"]


def test_copies_of_old_windows_are_removed(tmp_path):
    archive = tmp_path / "in.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", root_dir=_made(tmp_path / "in", 4))
    source = Files(f"zip://*.csv::{archive}", lambda paths: paths.batch(1), settle_s=0)
    found = []
    for number in range(4):
        part = f"zip://{number}.csv::{archive}"
        found += [path[0].decode() for path in source.dataset([part]).as_numpy_iterator()]
        assert pathlib.Path(found[-1]).read_text() == f"{number}\n"
    assert [os.path.exists(path) for path in found] == [False, False, True, True]


def _made(folder, files):
    for number in range(files):
        write(folder / f"{number}.csv", [number])
    return folder


def test_a_file_that_vanishes_is_named(memory):
    source = Files("memory://stream/*.csv", parse, settle_s=0)
    memory.pipe_file("/stream/a.csv", b"1\n")
    planned = source.plan(None, CountWindows(1), time.time())
    memory.rm("/stream/a.csv")
    with pytest.raises(Exception, match=r"the file 'memory:///?/?stream/a\.csv' of the stream cannot be read"):
        list(source.dataset(planned.parts))
    memory.pipe_file("/stream/a.csv", b"1\n")
