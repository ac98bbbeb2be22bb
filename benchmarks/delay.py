"""Milliseconds of a step when the network delays every packet between servers and workers. Linux, root.

    python -m benchmarks.delay --delays 0 5 20 --workers 1 --exchange-every 32

The chief and the workers run in one network namespace, the parameter server in another; `benchmarks.relay` connects the
two and delays packets. All delays are measured on one cluster, in turns. Prints one line of JSON: delay, one way, and
milliseconds a step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.ctr_run import closure_steps
from benchmarks.private_net import measure_inside
from benchmarks.relay import MTU
from benchmarks.turns import Side

NEAR, FAR = "10.203.0.1", "10.203.0.2"
_PORT = 2220


def main() -> None:
    """Runs the command. It restarts itself in its own network namespace, where the measurement runs."""
    parser = argparse.ArgumentParser(
        "benchmarks.delay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 5, 20], help="ms one way (default %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="workers (default %(default)s)")
    parser.add_argument(
        "--exchange-every", type=int, default=32, help="steps a closure or window (default %(default)s)"
    )
    parser.add_argument("--mode", choices=("async", "geo"), default="async", help="of training (default %(default)s)")
    parser.add_argument("--overlap", action="store_true", help="exchange while training")
    parser.add_argument("--prefetch", action="store_true", help="async: ask for rows a step ahead")
    parser.add_argument("--batch", type=int, default=512, help="examples a step (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn without delay (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each delay (default %(default)s)")
    measure_inside("benchmarks.delay", parser, _measure)


def _measure(args: argparse.Namespace) -> dict[str, object]:
    with ExitStack() as stack:
        far = stack.enter_context(ended(["unshare", "--net", "cat"]))
        relay = stack.enter_context(ended([sys.executable, "-m", "benchmarks.relay", "near", "far"]))
        connect_far(relay, far.pid)
        for job, index in [("ps", 0), *(("worker", index) for index in range(args.workers))]:
            inside = ["nsenter", f"--net=/proc/{far.pid}/ns/net"] if job == "ps" else []
            serve = [*inside, sys.executable, "-c", "import tfps; tfps.ParameterServerStrategy()"]
            stack.enter_context(ended(serve, _tf_config(args.workers, job, index)))
        side = Side("delayed", _chief(args), _tf_config(args.workers, "chief", 0))
        stack.callback(side.end)
        side.result()
        found: dict[float, list[float]] = {delay: [] for delay in args.delays}
        for _ in range(args.rounds):
            for delay, times in found.items():
                tell(relay, str(delay))
                times.append(1000 * args.batch / side.turn()["examples_per_s"] * args.workers)
        tell(relay, "0")
    step_ms = {str(delay): round(statistics.median(times), 2) for delay, times in found.items()}
    steps = closure_steps(side.results[0]["steps"], args.workers, args.exchange_every)
    return {"workers": args.workers, "steps_per_closure": steps, "step_ms_by_delay_ms": step_ms}


def _chief(args: argparse.Namespace) -> list[str]:
    sizes = [f"--workers={args.workers}", f"--batch={args.batch}", f"--exchange-every={args.exchange_every}"]
    sizes += [f"--mode={args.mode}", *["--overlap"] * args.overlap]
    sizes += ["--prefetch"] * args.prefetch
    return [sys.executable, "-m", "benchmarks.ctr_dnn", "--turns", *sizes, f"--seconds={args.seconds}"]


def connect_far(relay: subprocess.Popen, far_pid: int) -> None:
    """Puts the far end into the other namespace and gives both an address."""
    assert relay.stdout is not None
    if relay.stdout.readline().strip() != "ready":
        raise RuntimeError("the relay could not make TUN devices: see what it wrote.")
    _ip(f"link set far netns {far_pid}")
    for name, own, pid in (("near", NEAR, None), ("far", FAR, far_pid)):
        peer = FAR if own == NEAR else NEAR
        _ip("link set lo up", pid)
        _ip(f"addr add {own} peer {peer} dev {name}", pid)
        _ip(f"link set {name} up mtu {MTU}", pid)
    tell(relay, "go")


def _ip(words: str, pid: int | None = None) -> None:
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else []
    subprocess.run([*inside, "ip", *words.split()], check=True)


def tell(program: subprocess.Popen, line: str) -> None:
    """Writes a line to the program's standard input."""
    assert program.stdin is not None
    print(line, file=program.stdin, flush=True)


def _tf_config(workers: int, job: str, index: int) -> dict[str, str]:
    near = [f"{NEAR}:{_PORT + number}" for number in range(workers + 1)]
    cluster = {"chief": near[:1], "worker": near[1:], "ps": [f"{FAR}:{_PORT}"]}
    return os.environ | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})}


@contextmanager
def ended(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """Runs a program until the block ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    program = subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes)
    try:
        yield program
    finally:
        program.terminate()
        program.wait(20)


if __name__ == "__main__":
    main()
