"""What is found on a machine: files of the system are made up, the rest is this machine's."""

import os
import types

import pytest

from tfps.choice import constants, found
from tfps.choice.hardware import Hardware
from tfps.choice.tasks import Tasks
from tfps.errors import ConfigError

TASKS = Tasks("TF_CONFIG", 2, 4, 0, 0, "worker", 0)


@pytest.fixture
def files(monkeypatch):
    """The files of the system, by name."""
    made = {}
    monkeypatch.setattr(found, "_read", lambda name: made.get(name, ""))
    return made


@pytest.fixture
def two_cards(monkeypatch):
    """Two cards that TensorFlow would find."""
    cards = ["card 0", "card 1"]
    monkeypatch.setattr(found.tf.config, "list_physical_devices", lambda kind: cards if kind == "GPU" else ["cpu"])
    monkeypatch.setattr(found.tf.config, "get_logical_device_configuration", lambda device: None)
    return cards


def test_this_machine(files):
    site = found.find_site(Hardware(), None)
    assert (site.hosts, site.workers, site.fixed) == (1, 1, "")
    assert 1e8 < site.host_bytes < 1e14
    assert 1 <= site.cores <= os.cpu_count()
    assert site.bandwidth == constants.BANDWIDTH_BYTES_S and site.bandwidth_source == "assumed"


def test_what_the_user_says_wins():
    hardware = Hardware(hosts=3, cards=2, card_bytes=8e9, host_bytes=1e9, cores=5, bandwidth=7.0)
    site = found.find_site(hardware, None)
    assert (site.hosts, site.workers, site.cards, site.card_bytes, site.host_bytes) == (3, 3, 2, 8e9, 1e9)
    assert (site.cores, site.bandwidth, site.bandwidth_source) == (5, 7.0, "given")


def test_the_tasks_of_tf_config_win_over_nothing_and_contradict_the_user():
    site = found.find_site(Hardware(cards=0), TASKS)
    assert (site.hosts, site.workers, site.workers_per_host, site.fixed) == (2, 4, 2, "TF_CONFIG")
    with pytest.raises(ConfigError, match="`hosts` must be None or 2, as many as TF_CONFIG has. Received: 3"):
        found.find_site(Hardware(hosts=3), TASKS)


@pytest.mark.parametrize("name", ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"])
def test_a_container_has_its_limits(files, name):
    whole = found.memory_bytes()
    files[name] = "max"
    assert found.memory_bytes() == whole
    files[name] = "1000000"
    assert found.memory_bytes() == 1_000_000
    files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert found.cores() == len(os.sched_getaffinity(0))
    files["/sys/fs/cgroup/cpu.max"] = "50000 100000"
    assert found.cores() == 1


def test_the_speed_of_the_network_of_the_default_route(files):
    files["/proc/net/route"] = "Iface Destination\nlo 0000007F\neth1 00000000 01 0003"
    files["/sys/class/net/lo/speed"] = "1"
    assert found.find_site(Hardware(cards=0), None).bandwidth_source == "assumed"
    files["/sys/class/net/eth1/speed"] = "25000"
    site = found.find_site(Hardware(cards=0), None)
    assert site.bandwidth == 25e9 / 8 and site.bandwidth_source == "the speed of eth1"
    # A network that is down.
    files["/sys/class/net/eth1/speed"] = "-1"
    assert found.find_site(Hardware(cards=0), None).bandwidth_source == "assumed"


def test_cards_and_the_memory_of_the_smallest(two_cards, monkeypatch):
    ran = types.SimpleNamespace(stdout="16384\n8192\n")
    monkeypatch.setattr(found.subprocess, "run", lambda *_, **__: ran)
    site = found.find_site(Hardware(), None)
    assert (site.cards, site.card_bytes, site.device) == (2, 8192 * 2**20, "card")
    # Logical devices of a card have limits of their own.
    logical = [types.SimpleNamespace(memory_limit=1024)] * 3
    monkeypatch.setattr(found.tf.config, "get_logical_device_configuration", lambda device: logical)
    site = found.find_site(Hardware(), None)
    assert (site.cards, site.card_bytes) == (6, 2**30)


def test_a_card_of_unknown_memory_is_asked_for(two_cards, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(found.subprocess, "run", missing)
    with pytest.raises(ConfigError, match="`card_bytes` must be given, because nvidia-smi does not say"):
        found.find_site(Hardware(), None)
    assert found.find_site(Hardware(card_bytes=4e9), None).card_bytes == 4e9
    assert found.find_site(Hardware(cards=0), None).card_bytes == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("hosts", 0), ("cards", -1), ("cores", 1.5), ("card_bytes", 0), ("host_bytes", "x"), ("bandwidth", float("nan"))],
)
def test_fields_are_checked(field, value):
    with pytest.raises(ConfigError, match=f"`{field}` must be .*or None for what is found. Received: {value!r}"):
        Hardware(**{field: value})


def test_no_cards_have_no_memory():
    with pytest.raises(ConfigError, match="`card_bytes` must be None without cards"):
        Hardware(cards=0, card_bytes=1e9)
