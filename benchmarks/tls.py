"""What mutual TLS costs: the CTR-DNN on two clusters, plain and by TLS, in turns, with delays. Linux, root.

    python -m benchmarks.tls --delays 0 1 5 --workers 1

The chief and the workers run in one network namespace, the parameter server in another; `benchmarks.relay` connects the
two and delays packets, as `tc netem` does where the kernel has it. Needs stunnel, and cryptography for the
certificates. Prints one line of JSON: for each delay, one way, examples a second of both and their ratio; and the CPU
time of all processes of each cluster, tunnels included.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.delay import FAR, NEAR, connect_far, ended, tell
from benchmarks.private_net import measure_inside
from benchmarks.turns import Side

_PLAIN, _TLS = "plain", "tls"
_FIRST_PORTS = {_PLAIN: 2220, _TLS: 2320}


def main() -> None:
    """Runs the command. It restarts itself in its own network namespace, where the measurement runs."""
    measure_inside("benchmarks.tls", _parser(), _measure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.tls", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 1, 5], help="ms one way (default %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="workers (default %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="examples a step (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn without delay (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default %(default)s)")
    return parser


def _measure(args: argparse.Namespace) -> dict[str, object]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _make_certificates(directory)
        far = stack.enter_context(ended(["unshare", "--net", "cat"]))
        relay = stack.enter_context(ended([sys.executable, "-m", "benchmarks.relay", "near", "far"]))
        connect_far(relay, far.pid)
        clusters = [_Cluster(kind, args, directory, far.pid, stack) for kind in (_PLAIN, _TLS)]
        for cluster in clusters:
            cluster.side.result()
        for _ in range(args.rounds):
            for delay in args.delays:
                for cluster in clusters:
                    tell(relay, str(delay))
                    cluster.take_turn(delay)
                    tell(relay, "0")
        plain, tls = clusters
        return {
            "workers": args.workers,
            "batch": args.batch,
            "by_delay_ms": {f"{delay:g}": _compare(plain, tls, delay) for delay in args.delays},
        }


def _make_certificates(directory: Path) -> None:
    # Here, so that `--help` works without the package.
    from tfps.cluster.tls.authority import write_certificates

    write_certificates(directory, [NEAR, FAR], days=1)


def _compare(plain: "_Cluster", tls: "_Cluster", delay: float) -> dict[str, object]:
    speeds = {cluster.kind: statistics.median(cluster.speeds[delay]) for cluster in (plain, tls)}
    cpu = {cluster.kind: statistics.median(cluster.cpu_ms[delay]) for cluster in (plain, tls)}
    return {
        "examples_per_s": speeds,
        "ratio": round(speeds[_TLS] / speeds[_PLAIN], 3),
        "cpu_ms_per_1000_examples": {kind: round(ms, 2) for kind, ms in cpu.items()},
        "cpu_ratio": round(cpu[_TLS] / cpu[_PLAIN], 3),
    }


class _Cluster:
    """One cluster, plain or by TLS, and what its turns found.

    Args:
        kind: "plain" or "tls".
        args: the command's.
        directory: has the certificates of each host.
        far_pid: a process in the namespace of the server.
        stack: ends the processes.
    """

    def __init__(self, kind: str, args: argparse.Namespace, directory: Path, far_pid: int, stack: ExitStack) -> None:
        self.kind = kind
        self._args, self._directory = args, directory
        self.speeds: dict[float, list[float]] = {delay: [] for delay in args.delays}
        self.cpu_ms: dict[float, list[float]] = {delay: [] for delay in args.delays}
        self._roots = []
        for job, index in [("ps", 0), *(("worker", index) for index in range(args.workers))]:
            inside = ["nsenter", f"--net=/proc/{far_pid}/ns/net"] if job == "ps" else []
            serve = [*inside, sys.executable, "-c", "import tfps; tfps.ParameterServerStrategy()"]
            self._roots.append(stack.enter_context(ended(serve, self._environment(job, index))).pid)
        self.side = Side(kind, self._chief(), self._environment("chief", 0))
        stack.callback(self.side.end)
        self._roots.append(self.side.pid)

    def take_turn(self, delay: float) -> None:
        """Trains once, while the network has a delay in milliseconds."""
        before = _cpu_ms(self._roots)
        result = self.side.turn()
        spent = _cpu_ms(self._roots) - before
        self.speeds[delay].append(result["examples_per_s"])
        self.cpu_ms[delay].append(1000 * spent / (result["steps"] * self._args.batch))

    def _chief(self) -> list[str]:
        sizes = [f"--workers={self._args.workers}", f"--batch={self._args.batch}", f"--seconds={self._args.seconds}"]
        return [sys.executable, "-m", "benchmarks.ctr_dnn", "--turns", *sizes]

    def _environment(self, job: str, index: int) -> dict[str, str]:
        first = _FIRST_PORTS[self.kind]
        near = [f"{NEAR}:{first + number}" for number in range(self._args.workers + 1)]
        cluster = {"chief": near[:1], "worker": near[1:], "ps": [f"{FAR}:{first}"]}
        config = json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})
        host = FAR if job == "ps" else NEAR
        tls = {"TFPS_TLS_DIR": str(self._directory / host)} if self.kind == _TLS else {}
        return os.environ | {"TF_CONFIG": config} | tls


def _cpu_ms(roots: Sequence[int]) -> float:
    """The CPU time of processes and of all below them."""
    everyone = [process for root in map(psutil.Process, roots) for process in (root, *root.children(recursive=True))]
    return 1000 * sum(sum(process.cpu_times()[:2]) for process in everyone)


if __name__ == "__main__":
    main()
