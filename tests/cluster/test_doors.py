"""Where tasks can be reached: their listening sockets, as other hosts and this one see them."""

import logging
import socket
import subprocess
import sys
import threading

import pytest

from tests.cluster.namespaces import network
from tfps.cluster import tf_server
from tfps.cluster.doors import hooks, listen_host, listeners, listening
from tfps.cluster.endpoints import split_address
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig
from tfps.errors import ClusterError, ConfigError

KNOCK = """
import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print(address, "open")
    except OSError:
        print(address, "closed")
"""


def knock(network, name, addresses):
    """Which of the addresses accept a connection from a host."""
    command = network.inside(name, sys.executable, "-S", "-c", KNOCK, *addresses)
    lines = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout.split("\n")
    return [line.split()[0] for line in lines if line.endswith("open")]


def chief_port():
    from tensorflow.python.eager import context

    definition = context.context().get_server_def()
    return split_address(next(job for job in definition.cluster.job if job.name == "chief").tasks[0])[1]


def listen_everywhere():
    made = socket.socket()
    made.bind(("", 0))
    made.listen()
    return made


def test_no_other_host_reaches_the_cluster_of_this_machine(strategy):
    tasks = [int(task.endpoint.dial.rpartition(":")[2]) for task in strategy.cluster.tasks]
    assert len(tasks) == 4
    with network("other") as net, listen_everywhere() as open_door:
        net.connect("here")
        ports = [*tasks, chief_port(), open_door.getsockname()[1]]
        addresses = [f"{net.address('here')}:{port}" for port in ports]
        # The last one shows that the network itself works.
        assert knock(net, "other", addresses) == addresses[-1:]


def test_the_chief_binds_loopback_from_the_start(strategy):
    found = listeners.own_listeners(chief_port())
    assert found and all(one.host.ipv4_mapped.is_loopback for one in found)


def test_a_server_that_the_program_starts_itself_is_left_alone(strategy):
    import tensorflow as tf

    # In another thread, at the same time as one of ours would start.
    made = []
    with hooks.find().listen_at("127.0.0.1"):
        thread = threading.Thread(target=lambda: made.append(tf.distribute.Server.create_local_server()))
        thread.start()
        thread.join()
    port = split_address(made[0].target.removeprefix("grpc://"))[1]
    assert any(one.is_open_to_all for one in listeners.own_listeners(port))


@pytest.mark.parametrize("host", ["127.0.0.3", "::1"])
def test_a_server_listens_at_its_address_alone(strategy, host):
    address = tf_server.start_server("worker", 7, f"[{host}]:0" if ":" in host else f"{host}:0")
    found = listeners.own_listeners(split_address(address)[1])
    assert found and {str(getattr(one.host, "ipv4_mapped", None) or one.host) for one in found} == {host}


def start_without_hooks(monkeypatch, host):
    monkeypatch.setattr(hooks, "find", lambda: None)
    listener = listen_everywhere()
    listening.start_listening("ps 0", host, lambda: listener.getsockname()[1])
    return listener


def test_without_the_library_a_door_on_loopback_is_closed_afterwards(monkeypatch):
    with network("other") as net, start_without_hooks(monkeypatch, "127.0.0.1") as listener:
        net.connect("here")
        port = listener.getsockname()[1]
        assert knock(net, "other", [f"{net.address('here')}:{port}"]) == []
        socket.create_connection(("127.0.0.1", port), timeout=20).close()


def test_without_the_library_another_address_is_a_warning(monkeypatch, caplog):
    with caplog.at_level(logging.WARNING, "tfps"), start_without_hooks(monkeypatch, "10.0.0.5"):
        assert "ps 0 listens on every interface, and not at 10.0.0.5 alone" in caplog.text


def test_a_door_that_cannot_be_closed_is_refused(monkeypatch):
    def refuse(self):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(listeners.Listener, "keep_to_loopback", refuse)
    with pytest.raises(ClusterError, match="ps 0 must listen on loopback alone.*Operation not permitted"):
        start_without_hooks(monkeypatch, "127.0.0.1")


NAMES = {
    "localhost": ["::1", "127.0.0.1"],
    "debian": ["127.0.1.1"],
    "both": ["203.0.113.9", "127.0.0.1"],
    "elsewhere": ["203.0.113.9"],
    "twin": ["127.0.1.1"],
}


@pytest.fixture
def names(monkeypatch):
    """A name server of our own, on a host with 127.0.0.0/8 and 192.0.2.7, which is its address towards others."""

    def lookup(host, port, **kind):
        if host not in NAMES:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, None, None, "", (address, port)) for address in NAMES[host]]

    monkeypatch.setattr(listen_host.socket, "getaddrinfo", lookup)
    monkeypatch.setattr(
        listen_host, "_is_own", lambda host: host.startswith("127.") or host in ("192.0.2.7", "0.0.0.0")
    )
    monkeypatch.setattr(listen_host, "_addresses_towards", lambda hosts: ["192.0.2.7"] * ("elsewhere" in hosts))
    monkeypatch.setenv("TFPS_JOIN_TIMEOUT_S", "0.01")
    monkeypatch.setattr(listen_host, "_RETRY_S", 0.01)


@pytest.mark.parametrize(
    ("host", "peer", "wanted"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "elsewhere", "192.0.2.7"),
        ("localhost", "elsewhere", "127.0.0.1"),
        ("both", "elsewhere", "192.0.2.7"),
        # Its own /etc/hosts calls this host 127.0.1.1. Others cannot reach it there, unless it is the only host.
        ("debian", "elsewhere", "192.0.2.7"),
        ("debian", "twin", "127.0.1.1"),
        ("0.0.0.0", "elsewhere", "0.0.0.0"),
    ],
)
def test_a_task_listens_at_the_address_that_the_cluster_gives_it(names, host, peer, wanted):
    assert listen_host.choose_listen_address(config_at(host, peer)) == f"{wanted}:2222"


def config_at(host, peer="elsewhere"):
    return TaskConfig(ClusterSpec(chief=(f"{peer}:1",), worker=(f"{host}:2222",), ps=(f"{peer}:2",)), "worker", 0)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (
            "203.0.113.9",
            r"`cluster.worker\[0\]` must be an address of this host. Received: '203.0.113.9'. Valid.*TFPS_LISTEN",
        ),
        ("elsewhere", r"`cluster.worker\[0\]` must be at an address of this host. Received: 'elsewhere'"),
        ("nowhere", r"`cluster.worker\[0\]` must have a host name that this host can resolve. Received: 'nowhere'"),
    ],
)
def test_an_address_that_this_host_has_not_is_refused(names, host, message):
    with pytest.raises(ConfigError, match=message):
        listen_host.choose_listen_address(config_at(host, peer="elsewhere" if host != "elsewhere" else "both"))


def test_a_variable_names_another_address(names, monkeypatch):
    for text, wanted in (("0.0.0.0", "0.0.0.0"), ("127.0.0.9", "127.0.0.9")):
        monkeypatch.setenv("TFPS_LISTEN", text)
        assert listen_host.choose_listen_address(config_at("elsewhere")) == f"{wanted}:2222"
    for text in ("203.0.113.9", "eth0"):
        monkeypatch.setenv("TFPS_LISTEN", text)
        with pytest.raises(ConfigError, match=f"TFPS_LISTEN must be an.* address of this host.*{text}"):
            listen_host.choose_listen_address(config_at("elsewhere"))
