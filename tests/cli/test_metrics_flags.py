"""`tfps-launch --metrics-port`: what it passes on, and what it refuses before anything is started."""

import os
import socket
import types

import pytest

pytest.importorskip("prometheus_client", reason="needs prometheus-client")

from tfps.cli import launch
from tfps.cluster import launcher, server, tf_config
from tfps.cluster.launcher import LaunchPlan
from tfps.cluster.local import LocalCluster
from tfps.errors import ConfigError
from tfps.monitoring import metric_families

CLUSTER = '{"cluster": {"ps": ["127.0.0.1:1"], "worker": ["127.0.0.1:2"], "chief": ["127.0.0.1:3"]}, "task": %s}'


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("TFPS_METRICS_PORT", "TFPS_METRICS_HOST", "TF_CONFIG"):
        # Set and then deleted, so that what a test sets is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def launched(monkeypatch):
    """What would run, instead of running it."""
    found = types.SimpleNamespace(plan=None, orders=None)

    class Job:
        chief = None

        def __init__(self, plan, config, log_dir, terminal):
            found.plan, found.orders = plan, launcher._make_orders(config.cluster, log_dir)

        def run(self, timeout_s):
            return 0

        def end(self):
            pass

    monkeypatch.setattr(launcher, "_Job", Job)
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_each_task_of_this_machine_gets_a_port(launched, monkeypatch):
    monkeypatch.setattr(launcher, "check_free", lambda host, ports: found.append((host, list(ports))))
    found = []
    arguments = ["--ps", "2", "--workers", "2", "--metrics-port", "9100", "--metrics-host", "0.0.0.0", "python3"]
    assert launch.main(arguments) == 0
    assert os.environ["TFPS_METRICS_PORT"] == "9100" and os.environ["TFPS_METRICS_HOST"] == "0.0.0.0"
    ports = [((order.job, order.index), order.metrics_port) for order in launched.orders]
    assert ports == [(("ps", 0), 9101), (("ps", 1), 9102), (("worker", 0), 9103), (("worker", 1), 9104)]
    names = ["chief 0", "ps 0", "ps 1", "worker 0", "worker 1"]
    assert found == [("0.0.0.0", list(zip(names, range(9100, 9105), strict=True)))]


def test_without_the_flag_there_are_no_ports(launched):
    assert launch.main(["python3"]) == 0
    assert {order.metrics_port for order in launched.orders} == {0}


def test_an_embedded_cluster_takes_the_ports_after_the_chief(monkeypatch):
    def ports():
        orders = LocalCluster(num_ps=1, num_workers=2, log_dir="/tmp")._make_group().orders
        return [order.metrics_port for order in orders]

    assert ports() == [0, 0, 0]
    monkeypatch.setenv("TFPS_METRICS_PORT", "9100")
    assert ports() == [9101, 9102, 9103]


def test_a_port_in_use_stops_the_launcher(launched, capsys):
    first = free_port()
    with socket.create_server(("127.0.0.1", first + 2)):
        assert launch.main(["--metrics-port", str(first), "--ps", "1", "--workers", "1", "python3"]) == 1
    said = capsys.readouterr().err
    assert f"the metrics port {first + 2} of worker 0 cannot be used at 127.0.0.1" in said and "--metrics-port" in said
    assert launched.plan is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics-port", "0", "python3"], "must be an integer of at least 1"),
        (["--metrics-port", "x", "python3"], "must be an integer of at least 1"),
        (["--metrics-port", "70000", "python3"], "`--metrics-port` must be a port from 1 to 65535. Received: 70000"),
        (["--metrics-host", "::1", "python3"], "`--metrics-host` must be given with --metrics-port only"),
        (
            ["--metrics-port", "9100", "--metrics-host", "node-1", "python3"],
            "`--metrics-host` must be an IP address of this host. Received: 'node-1'. Valid: 127.0.0.1 for",
        ),
        (
            ["--metrics-port", "9100", "--metrics-host", "", "python3"],
            "`--metrics-host` must be an IP address of this host. Received: ''.",
        ),
        (
            ["--metrics-port", "65534", "--ps", "1", "--workers", "1", "missing.py"],
            "`--metrics-port` must leave a port for each of 3 tasks. Received: 65534. Valid: at most 65533.",
        ),
        (
            ["--kubernetes", "--image", "i", "--metrics-port", "2222", "train.py"],
            "`--metrics-port` must be a port from 1 to 65535, and not 2222",
        ),
        (
            ["--kubernetes", "--image", "i", "--metrics-port", "1", "--metrics-host", "::", "train.py"],
            "`--metrics-host` must be left out with --kubernetes",
        ),
    ],
)
def test_wrong_flags(launched, capsys, arguments, words):
    try:
        assert launch.main(arguments) == 2
    except SystemExit as end:
        assert end.code == 2
    assert words in capsys.readouterr().err and launched.plan is None


def test_a_missing_package_stops_everything(launched, monkeypatch, capsys):
    import tfps

    monkeypatch.setattr(metric_families.importlib.util, "find_spec", lambda name: None)
    assert launch.main(["--metrics-port", "9100", "python3"]) == 2
    assert 'pip install "tfps[monitoring]"' in capsys.readouterr().err and launched.plan is None
    # The same variable in a program, before its cluster starts.
    cluster = LocalCluster(1, 1)
    with pytest.raises(ConfigError, match=r"tfps\[monitoring\]"):
        tfps.ParameterServerStrategy(cluster)
    assert cluster.tasks == ()


@pytest.mark.parametrize("task", ["ps", "worker"])
def test_a_task_of_a_larger_cluster_serves_its_own_port(monkeypatch, task):
    done = []
    monkeypatch.setenv("TF_CONFIG", CLUSTER % f'{{"type": "{task}", "index": 0}}')
    config = tf_config.from_environment()
    monkeypatch.setattr(server, "open_door", lambda config: (config, "127.0.0.1:1"))
    monkeypatch.setattr(server, "start_server", lambda *args, **kwargs: done.append("server"))
    monkeypatch.setattr(server, "serve_task", lambda *args: done.append(args))
    monkeypatch.setattr(server.chief_watch, "wait_for_chief", lambda *args: done.append("chief"))
    monkeypatch.setattr(server.chief_watch, "wait_until_done", lambda *args: None)
    server.serve_until_done(config)
    assert done == ["server", "chief"]
    done.clear()
    monkeypatch.setenv("TFPS_METRICS_PORT", "9107")
    server.serve_until_done(config)
    assert done == ["server", (task, 0, 9107), "chief"]


def test_plans_say_what_is_in_the_way():
    os.environ["TFPS_METRICS_PORT"] = "65534"
    # The ports of four tasks do not fit below 65536.
    with pytest.raises(launcher.ClusterError, match="the metrics port 65536 of worker 0"):
        launcher.run_local(LaunchPlan(("python3",), 1, 2))
