"""How a stream is divided into windows."""

import datetime
import json

import pytest

from tfps.errors import CheckpointError, ConfigError
from tfps.streaming.windows import CountWindows, TimeWindows, Window, parse_window


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("1h", TimeWindows(3600)),
        ("15m", TimeWindows(900)),
        ("30s", TimeWindows(30)),
        ("2d", TimeWindows(172800)),
        (datetime.timedelta(minutes=90), TimeWindows(5400)),
        (7, CountWindows(7)),
    ],
)
def test_lengths_and_counts_are_windows(value, rule):
    assert parse_window(value) == rule


@pytest.mark.parametrize("value", ["", "h", "0h", "1.5h", "1 h", "1w", 0, -1, True, 1.5, None, datetime.timedelta(0)])
def test_anything_else_is_named_with_what_is_valid(value):
    with pytest.raises(ConfigError, match=r'`window` must be .*"1h".*Received') as caught:
        parse_window(value)
    assert repr(value) in str(caught.value)


def test_windows_begin_at_multiples_of_their_length():
    hour = TimeWindows(3600)
    assert [hour.start_of(time_s) for time_s in (0, 3599.9, 3600, 3700)] == [0, 0, 3600, 3600]


def test_a_window_comes_back_from_json():
    window = Window(3, 3600.0, 7200.0, (["t", 0, 5, 9], "a/b.csv"), 2)
    assert Window.from_json(json.loads(json.dumps(window.to_json()))) == window
    assert str(window) == "window 3 from 1970-01-01 01:00 UTC"
    assert str(Window(4, None, None, ("a",), 1)) == "window 4"


@pytest.mark.parametrize("broken", [None, [], {}, {"number": -1}, {"number": 0, "parts": "a", "count": 1}])
def test_a_broken_window_is_no_window(broken):
    with pytest.raises(CheckpointError):
        Window.from_json(broken)
