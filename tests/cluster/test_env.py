"""Environment variables: defaults, read at call time, bad values refused by name."""

import inspect
import re

import pytest

from tfps import env
from tfps.errors import ConfigError

SECONDS = {
    "TFPS_START_TIMEOUT_S": (env.start_timeout_s, 60.0),
    "TFPS_JOIN_TIMEOUT_S": (env.join_timeout_s, 120.0),
    "TFPS_CHIEF_GRACE_S": (env.chief_grace_s, None),
}


@pytest.mark.parametrize("name", SECONDS)
def test_seconds(monkeypatch, name):
    read, default = SECONDS[name]
    monkeypatch.delenv(name, raising=False)
    assert read() == default
    monkeypatch.setenv(name, "2.5")
    assert read() == 2.5


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_bad_seconds_are_refused(monkeypatch, value):
    monkeypatch.setenv("TFPS_START_TIMEOUT_S", value)
    with pytest.raises(ConfigError, match=f"TFPS_START_TIMEOUT_S must be .* Received: '{value}'"):
        env.start_timeout_s()


def test_server_log_level_follows_the_user(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    assert env.server_log_level() == "1"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert env.server_log_level() == "0"


def test_a_name_that_is_none_of_ours_is_refused(monkeypatch):
    for name in ("TFPS_SERVICE_HOST", "TFPS_PORT_2222_TCP", "TFPS_WORKER_SERVICE_PORT_GRPC", "TFPS_JOIN_TIMEOUT_S"):
        monkeypatch.setenv(name, "1")
    env.refuse_unknown()
    monkeypatch.setenv("TFPS_JOIN_TIMEOUT", "5")
    with pytest.raises(ConfigError, match="must be one of .*TFPS_JOIN_TIMEOUT_S.*Received: TFPS_JOIN_TIMEOUT='5'"):
        env.refuse_unknown()


def test_every_variable_that_is_read_is_known():
    read = set(re.findall(r'"(TFPS_[A-Z_]+[A-Z])"', inspect.getsource(env)))
    assert read == set(env._KNOWN)
