"""Which files are the next window, against a plain simulation of files that come at random times."""

import random

from tfps.streaming.file_windows import FilePosition, FileWindow, find_by_count, find_by_time
from tfps.streaming.listing import FoundFile
from tfps.streaming.windows import TimeWindows

RULE = TimeWindows(10.0)


def file(name, modified_s=0.0):
    return FoundFile(name, modified_s, None)


def test_each_file_is_in_one_window_whenever_it_comes():
    for seed in range(50):
        draw = random.Random(seed)
        # Its time, and when it is seen: some are late.
        files = {file(f"f{i}"): draw.uniform(0, 100) for i in range(40)}
        seen_at = {one: time_s + draw.choice([0, 1, 5, 40]) for one, time_s in files.items()}
        trained, next_s, starts = [], None, []
        for now_s in range(200):
            new = {one: files[one] for one in files if seen_at[one] <= now_s and one not in trained}
            found = find_by_time(new, {}, next_s, RULE, now_s)
            if isinstance(found, FileWindow):
                assert all(found.start_s <= files[one] < found.start_s + 10 for one in found.files)
                assert all(files[one] < (next_s or 0) for one in found.late)
                # Nothing of the window that is there is left.
                assert {one for one in new if files[one] < found.start_s + 10} == {*found.files, *found.late}
                trained += [*found.files, *found.late]
                next_s = found.start_s + 10
                starts.append(found.start_s)
        late_at_last = {one for one in files if one not in trained}
        assert len(trained) == len(set(trained))
        # What came after the last window waits for the next one.
        assert all(files[one] < next_s for one in late_at_last)
        assert starts == sorted(set(starts))


def test_a_window_waits_for_its_end_and_for_its_files():
    one, two = file("a"), file("b")
    assert "end of the window in 4 s" in find_by_time({one: 12.0}, {}, None, RULE, 16.0)
    assert "not complete, such as b" in find_by_time({one: 12.0}, {two: 13.0}, None, RULE, 25.0)
    # One of the next window does not keep it.
    assert find_by_time({one: 12.0}, {two: 23.0}, None, RULE, 25.0) == FileWindow((one,), (), 10.0)
    assert find_by_time({}, {}, None, RULE, 25.0) == "the files of the next window"


def test_hours_without_files_are_no_windows():
    one = file("a")
    assert find_by_time({one: 72.0}, {}, 20.0, RULE, 90.0) == FileWindow((one,), (), 70.0)


def test_a_count_takes_late_files_first():
    ordered = {file(name): (0.0, name) for name in "abcde"}
    a, b, c, _, _ = ordered
    assert find_by_count(ordered, None, 2) == FileWindow((a, b), (), None)
    found = find_by_count(ordered, (0.0, "b"), 3)
    assert (found.late, found.files) == ((a,), (b, c))
    assert find_by_count(ordered, None, 6) == "1 more files"


def test_a_file_that_is_there_is_known_for_good():
    position = FilePosition({}).with_trained(["a", "b"], {"a", "b"}, 0.0)
    later = position.with_trained(["c"], {"a", "c"}, 8 * 86400.0)
    assert set(later.trained) == {"a", "c"}
    soon = position.with_trained(["c"], {"a", "c"}, 6 * 86400.0)
    assert set(soon.trained) == {"a", "b", "c"}
    assert FilePosition.from_json(later.to_json()) == later
