"""`MetricsPort`: serves /metrics to Prometheus, and on a chief /snapshot.json to boards, by HTTP.

It authenticates nobody, so it listens on loopback unless it is told another address. It only reads: there is nothing
that a request changes.

Threading: a thread for the port and one for each request, all daemons. Ownership: `close` ends it.
"""

import http.server
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tfps import env
from tfps.errors import ClusterError, ConfigError
from tfps.monitoring import metric_families
from tfps.monitoring.metric_families import TaskMetrics
from tfps.monitoring.snapshot import Snapshot

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

_LOG = logging.getLogger("tfps")
_REQUEST_S = 10.0
"""Seconds for a request to arrive and to be answered."""
_MOST_REQUESTS = 16
"""Requests at one time. A port that other hosts reach must not fill the process with threads."""
_SNAPSHOT_S = 8.0
"""Seconds that a request waits for a snapshot."""


class MetricsPort:
    """Serves the metrics of one task.

    Args:
        host: the address to listen at.
        port: the port; 0 for any.
        collectors: what has metrics.
        snapshot: waits for a new snapshot, for so many seconds; None on tasks other than the chief.

    Raises:
        ConfigError: prometheus-client is not installed.
        ClusterError: the port cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        collectors: "Iterable[Collector]",
        snapshot: Callable[[float], Snapshot] | None = None,
    ) -> None:
        metric_families.require_client()
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        for collector in collectors:
            registry.register(collector)
        try:
            self._server = _Server((host, port), _make_handler(registry, snapshot))
        except (OSError, OverflowError) as error:
            raise ClusterError(f"the metrics port {host}:{port} cannot be used: {error}.") from error
        threading.Thread(target=self._server.serve_forever, daemon=True, name="tfps-metrics").start()

    @property
    def address(self) -> tuple[str, int]:
        """The address and the port."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """A server with a thread for each request, up to a limit.

    Not `http.server.ThreadingHTTPServer`: that asks the DNS for the name of its host, which may take seconds.
    """

    daemon_threads = True
    # Connections of a task that was here before, and has ended, do not keep its port.
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self.address_family = _family(address[0])
        self._requests = threading.Semaphore(_MOST_REQUESTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers a request in a thread, or closes its connection if there are too many."""
        if self._requests.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a request, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._requests.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what failed: a client that has gone is no news, and training must not show tracebacks of it."""
        _LOG.debug("a request of %s to the metrics port failed.", client_address, exc_info=True)


def check_settings() -> None:
    """Checks what a metrics port needs, before anything is started.

    Raises:
        ConfigError: TFPS_METRICS_HOST is no address, or prometheus-client is not installed.
    """
    env.metrics_host()
    metric_families.require_client()


def task_ports(count: int) -> list[int]:
    """Returns the metrics ports of the servers and workers of this machine: those after that of the chief.

    Args:
        count: the number of servers and workers.

    Returns:
        The port of each; 0 for each if this process has none.
    """
    first = env.metrics_port()
    return [0] * count if first is None else [first + 1 + number for number in range(count)]


def serve_task(job: str, index: int, port: int) -> MetricsPort | None:
    """Serves the metrics of a server or worker, whose process this is; returns None, and warns, if that fails.

    Args:
        job: its job.
        index: its number in the job.
        port: the port.
    """
    return open_port(port, f"{job} {index}", [TaskMetrics(job, index)])


def open_port(
    port: int, name: str, collectors: "Iterable[Collector]", snapshot: Callable[[float], Snapshot] | None = None
) -> MetricsPort | None:
    """Opens the metrics port of a task at the address that TFPS_METRICS_HOST names.

    Returns:
        The port; None, after a warning, if it cannot be used: a task trains all the same.
    """
    try:
        opened = MetricsPort(env.metrics_host(), port, collectors, snapshot)
    except (ClusterError, ConfigError) as error:
        _LOG.warning("%s has no metrics: %s Training goes on.", name, error)
        return None
    _LOG.info("%s serves metrics at http://%s:%d/metrics.", name, *opened.address)
    return opened


def check_free(host: str, ports: Iterable[tuple[str, int]]) -> None:
    """Checks that ports can be bound, before tasks are started that want them.

    Args:
        host: the address.
        ports: the name of the task and the port of each.

    Raises:
        ClusterError: one cannot.
    """
    for name, port in ports:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
            # As the port itself does: a connection that ended a moment ago does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except (OSError, OverflowError) as error:
                raise ClusterError(
                    f"the metrics port {port} of {name} cannot be used at {host}: {error}. Valid: another "
                    "--metrics-port. Each task takes one more: the chief first, then the servers, then the workers."
                ) from error


def _family(host: str) -> socket.AddressFamily:
    """Returns the family of an IP address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _make_handler(
    registry: Any, snapshot: Callable[[float], Snapshot] | None
) -> type[http.server.BaseHTTPRequestHandler]:
    """Makes the class that answers requests."""
    from prometheus_client.exposition import choose_encoder

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers one connection."""

        timeout = _REQUEST_S
        server_version = "tfps"

        def do_GET(self) -> None:
            """Answers a request by its path."""
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, kind, encode(registry))
            elif path == "/snapshot.json" and snapshot is not None:
                self._answer_snapshot(snapshot)
            else:
                self._answer(404, "text/plain; charset=utf-8", b"Valid: /metrics; on a chief also /snapshot.json.\n")

        def _answer_snapshot(self, wait: Callable[[float], Snapshot]) -> None:
            try:
                body = wait(_SNAPSHOT_S).to_json().encode()
            except ClusterError as error:
                self._answer(503, "text/plain; charset=utf-8", f"{error}\n".encode())
            else:
                self._answer(200, "application/json", body)

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Logs a request where somebody looks for it: training shows no line for each scrape."""
            _LOG.debug("metrics port: " + format, *args)

    return Handler
