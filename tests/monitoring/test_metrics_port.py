"""The metrics port: HTTP, and what happens if it cannot be had."""

import http.client
import logging
import socket
import time
import urllib.error
import urllib.request

import pytest

from tests.monitoring.jobs_for_tests import TASKS, full_record, full_snapshot

pytest.importorskip("prometheus_client", reason="needs prometheus-client")

from prometheus_client.parser import text_string_to_metric_families as parse

from tfps.errors import ClusterError, ClusterTimeoutError
from tfps.monitoring import metrics_port
from tfps.monitoring.feeds import HttpFeed
from tfps.monitoring.metric_families import JobMetrics, TaskMetrics
from tfps.monitoring.metrics_port import MetricsPort, check_free, open_port, serve_task, task_ports


@pytest.fixture
def chief():
    job = JobMetrics(full_record().counts, full_snapshot, TASKS)
    port = MetricsPort("127.0.0.1", 0, [TaskMetrics("chief", 0), job], lambda timeout_s: full_snapshot())
    yield port
    port.close()


def url_of(port, path=""):
    host, number = port.address
    return f"http://{host}:{number}{path}"


def get(port, path, **headers):
    request = urllib.request.Request(url_of(port, path), headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_prometheus_gets_its_text(chief):
    kind, text = get(chief, "/metrics")
    assert kind.startswith("text/plain; version=")
    names = {family.name for family in parse(text)}
    assert {"tfps_steps", "tfps_process_cpu_seconds", "tfps_task_up"} <= names
    kind, text = get(chief, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text") and text.endswith("# EOF\n")


def test_a_board_reads_the_snapshot(chief):
    with HttpFeed(url_of(chief)) as feed:
        assert next(feed.snapshots()) == full_snapshot()
    with HttpFeed(url_of(chief, "/")) as feed:
        assert next(feed.snapshots()) == full_snapshot()


def test_other_paths_and_methods(chief):
    for path in ("/", "/favicon.ico", "/metrics/../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(chief, path)
    connection = http.client.HTTPConnection(*chief.address, timeout=10)
    connection.request("POST", "/metrics", b"x")
    assert connection.getresponse().status == 501


def test_a_server_has_no_snapshot():
    port = MetricsPort("127.0.0.1", 0, [TaskMetrics("ps", 1)])
    try:
        assert 'task="ps"' in get(port, "/metrics")[1]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/snapshot.json")
    finally:
        port.close()


def test_a_job_that_says_nothing():
    def wait(timeout_s):
        raise ClusterTimeoutError("there is no new snapshot of the job")

    port = MetricsPort("127.0.0.1", 0, [], wait)
    try:
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            get(port, "/snapshot.json")
        assert b"no new snapshot" in refused.value.read()
    finally:
        port.close()


def test_the_number_of_requests_is_limited(chief, monkeypatch):
    silent = []
    try:
        for _ in range(metrics_port._MOST_REQUESTS):
            silent.append(socket.create_connection(chief.address, timeout=10))
        deadline = time.monotonic() + 10
        # Connections are taken one after the other; the next one is closed without an answer.
        with pytest.raises((OSError, http.client.HTTPException)):
            while time.monotonic() < deadline:
                get(chief, "/metrics")
    finally:
        for one in silent:
            one.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert "tfps_steps_total" in get(chief, "/metrics")[1]
            return
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
    raise AssertionError("the port does not answer again")


def test_an_address_of_ipv6():
    try:
        port = MetricsPort("::1", 0, [TaskMetrics("ps", 0)])
    except ClusterError:
        pytest.skip("needs IPv6")
    host, number = port.address
    try:
        with urllib.request.urlopen(f"http://[{host}]:{number}/metrics", timeout=10) as answer:
            assert b"tfps_task_info" in answer.read()
    finally:
        port.close()


def test_a_port_that_closes_can_be_taken_again(chief):
    get(chief, "/metrics")
    address = chief.address
    chief.close()
    again = MetricsPort(*address, [TaskMetrics("chief", 0)])
    assert "tfps_task_info" in get(again, "/metrics")[1]
    again.close()


def test_a_port_in_use_is_a_warning_for_a_task(chief, monkeypatch, caplog):
    monkeypatch.delenv("TFPS_METRICS_HOST", raising=False)
    number = chief.address[1]
    with caplog.at_level(logging.WARNING, logger="tfps"):
        assert serve_task("worker", 3, number) is None
    assert f"worker 3 has no metrics: the metrics port 127.0.0.1:{number} cannot be used" in caplog.text
    assert "Training goes on" in caplog.text


def test_a_port_in_use_is_an_error_for_the_launcher(chief):
    number = chief.address[1]
    with pytest.raises(ClusterError, match=rf"the metrics port {number} of ps 0 cannot be used .*--metrics-port"):
        check_free("127.0.0.1", [("ps 0", number)])
    with pytest.raises(ClusterError, match="the metrics port 65536 of worker 1"):
        check_free("127.0.0.1", [("worker 1", 65536)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    check_free("127.0.0.1", [("ps 0", number)])


def test_an_address_of_another_host(caplog, monkeypatch):
    monkeypatch.setenv("TFPS_METRICS_HOST", "192.0.2.1")
    assert open_port(0, "chief 0", []) is None
    assert "chief 0 has no metrics" in caplog.text


def test_tasks_of_one_machine_take_the_ports_after_the_chief(monkeypatch):
    monkeypatch.delenv("TFPS_METRICS_PORT", raising=False)
    assert task_ports(3) == [0, 0, 0]
    monkeypatch.setenv("TFPS_METRICS_PORT", "9100")
    assert task_ports(3) == [9101, 9102, 9103]
