"""Patterns of file names with fields for the time."""

import datetime
import fnmatch
import random

import pytest

from tfps.errors import ConfigError
from tfps.streaming.path_patterns import PathPattern


def at(*numbers):
    return datetime.datetime(*numbers, tzinfo=datetime.timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("pattern", "path", "time_s"),
    [
        ("/in/%Y/%m/%d/%H/p-*.csv", "/in/2026/11/30/07/p-3.csv", at(2026, 11, 30, 7)),
        ("/in/%Y%m%d-%H%M%S.csv", "/in/20261130-070512.csv", at(2026, 11, 30, 7, 5, 12)),
        ("/in/%Y/log-%Y-%m.gz", "/in/2026/log-2026-11.gz", at(2026, 11, 1)),
        ("/in/%Y/x", "/in/2026/x", at(2026, 1, 1)),
    ],
)
def test_the_time_is_read_from_a_name(pattern, path, time_s):
    found = PathPattern(pattern)
    assert found.has_time and found.matches(path)
    assert found.time_of(path) == time_s


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/in/%Y/log-%Y.gz", "/in/2026/log-2025.gz"),
        ("/in/%Y/%m/x", "/in/2026/1/x"),
        ("/in/*.csv", "/in/a/b.csv"),
        ("/in/[!.]*.csv", "/in/.a.csv"),
        ("/in/?.csv", "/in/ab.csv"),
        ("/in/a+b.csv", "/in/aab.csv"),
    ],
)
def test_other_names_do_not_match(pattern, path):
    assert not PathPattern(pattern).matches(path)


def test_a_day_that_does_not_exist_is_no_time():
    assert PathPattern("/in/%Y%m%d").time_of("/in/20260231") is None


def test_names_match_as_in_a_shell():
    draw = random.Random(0)
    for _ in range(2000):
        pattern = "".join(draw.choice("ab*?.") for _ in range(draw.randrange(1, 6)))
        name = "".join(draw.choice("ab.") for _ in range(draw.randrange(1, 6)))
        if "**" not in pattern:
            assert PathPattern(pattern).matches(name) == fnmatch.fnmatchcase(name, pattern), (pattern, name)
    assert PathPattern("/in/**/x.csv").matches("/in/x.csv") and PathPattern("/in/**/x.csv").matches("/in/a/b/x.csv")


def test_the_folder_is_what_does_not_vary():
    assert PathPattern("/in/a/%Y/*.csv").folder == "/in/a"
    assert PathPattern("s3://bucket/logs-*/x").folder == "s3://bucket"
    assert PathPattern("/in/a.csv").folder == "/in"
    assert PathPattern("/100%%/x").matches("/100%/x")


@pytest.mark.parametrize("pattern", ["/in/%H/x", "/in/%Y/%d", "/in/%q", "", 3])
def test_a_wrong_pattern_is_named(pattern):
    with pytest.raises(ConfigError, match=r"`url_pattern` must"):
        PathPattern(pattern)
