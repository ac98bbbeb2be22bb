"""How often a task that dies is started again, and after which pause."""

import pytest

from tfps.cluster.restarts import RestartPolicy, Restarts
from tfps.errors import ConfigError


def test_pauses_grow_until_the_budget_is_used_up():
    now = [0.0]
    restarts = Restarts(RestartPolicy(most=4, within_s=100, longest_pause_s=3), lambda: now[0])
    assert [restarts.next_start("a") for _ in range(5)] == [0, 1, 2, 3, None]
    assert restarts.next_start("b") == 0  # each task has a budget of its own
    now[0] = 101.5
    assert restarts.next_start("a") == 101.5 + 2  # two of the four no longer count


def test_the_budget_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("TFPS_MAX_RESTARTS", "0")
    restarts = Restarts()
    assert restarts.next_start("a") is None and restarts.describe() == "0 restarts in 600 s (TFPS_MAX_RESTARTS)"
    monkeypatch.setenv("TFPS_MAX_RESTARTS", "-1")
    with pytest.raises(ConfigError, match="TFPS_MAX_RESTARTS must be a number of restarts, 0 or more. Received: '-1'"):
        Restarts()
