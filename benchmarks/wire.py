"""Examples a second and bytes a step of the click model when the network is slow, for each `wire`. Linux, root.

    python -m benchmarks.wire --rates 100 1000 10000 --delays 0.2 5

The chief and the workers run in one network namespace, the parameter server in another. `benchmarks.relay` connects the
two and delays packets; `tc tbf` limits the rate of each direction. Each wire has a cluster of its own on the same
network; they take turns, and all links are measured with the same clusters. Prints one line of JSON: for each link the
medians of examples a second and of the bytes of a step, both directions together, and the speed relative to float32.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.ctr_setup import WIRES
from benchmarks.delay import FAR, NEAR, connect_far, ended, tell
from benchmarks.private_net import measure_inside
from benchmarks.turns import Side

_PORT, _PORTS_A_CLUSTER = 2300, 10
_DEVICES = ("near", "far")
_QUEUE = "burst 512kb latency 500ms"
"""Room for several of the largest packets, and for what a message leaves in the queue of a slow link."""


def main() -> None:
    """Runs the command. It restarts itself in its own network namespace, where the measurement runs."""
    parser = argparse.ArgumentParser(
        "benchmarks.wire", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--rates", type=int, nargs="+", default=[100, 1000, 10_000], help="Mbit/s each way (default %(default)s)"
    )
    parser.add_argument("--delays", type=float, nargs="+", default=[0.2, 5], help="ms one way (default %(default)s)")
    parser.add_argument("--wires", choices=WIRES, nargs="+", default=WIRES, help="what is compared (default all)")
    parser.add_argument("--workers", type=int, default=1, help="workers (default %(default)s)")
    parser.add_argument("--mode", choices=("async", "geo", "sync"), default="async", help="(default %(default)s)")
    parser.add_argument("--prefetch", action="store_true", help="async: ask for rows a step ahead")
    parser.add_argument("--batch", type=int, default=512, help="examples a step (default %(default)s)")
    parser.add_argument("--dim", type=int, default=16, help="floats a row (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn on a fast link (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each wire on each link (default %(default)s)")
    measure_inside("benchmarks.wire", parser, _measure)


def _measure(args: argparse.Namespace) -> dict[str, object]:
    with ExitStack() as stack:
        far = stack.enter_context(ended(["unshare", "--net", "cat"]))
        relay = stack.enter_context(ended([sys.executable, "-m", "benchmarks.relay", *_DEVICES]))
        connect_far(relay, far.pid)
        sides = {wire: _begin(stack, args, wire, far.pid) for wire in args.wires}
        for side in sides.values():
            side.result()
        links = [_measure_link(args, sides, relay, far.pid, rate, d) for rate in args.rates for d in args.delays]
        tell(relay, "0")
    return {"mode": args.mode, "workers": args.workers, "batch": args.batch, "dim": args.dim, "links": links}


def _begin(stack: ExitStack, args: argparse.Namespace, wire: str, far_pid: int) -> Side:
    """Starts the cluster of one wire, and its chief."""
    for job, index in [("ps", 0), *(("worker", index) for index in range(args.workers))]:
        inside = ["nsenter", f"--net=/proc/{far_pid}/ns/net"] if job == "ps" else []
        serve = [*inside, sys.executable, "-c", "import tfps; tfps.ParameterServerStrategy()"]
        stack.enter_context(ended(serve, _environment(args, wire, job, index)))
    sizes = [f"--workers={args.workers}", f"--batch={args.batch}", f"--dim={args.dim}", f"--seconds={args.seconds}"]
    chief = [
        sys.executable,
        "-m",
        "benchmarks.ctr_dnn",
        "--turns",
        f"--wire={wire}",
        f"--mode={args.mode}",
        *sizes,
    ]
    side = Side(wire, [*chief, *["--prefetch"] * args.prefetch], _environment(args, wire, "chief", 0))
    stack.callback(side.end)
    return side


def _measure_link(
    args: argparse.Namespace, sides: dict[str, Side], relay: subprocess.Popen, far_pid: int, rate: int, delay: float
) -> dict[str, Any]:
    """Has all sides train on one link, in turns."""
    _limit(rate, far_pid)
    tell(relay, str(delay))
    speeds: dict[str, list[float]] = {wire: [] for wire in sides}
    sizes: dict[str, list[float]] = {wire: [] for wire in sides}
    for _ in range(args.rounds):
        for wire, side in sides.items():
            before = _crossed()
            found = side.turn()
            speeds[wire].append(found["examples_per_s"])
            sizes[wire].append((_crossed() - before) / found["steps"])
    speed = {wire: statistics.median(found) for wire, found in speeds.items()}
    link: dict[str, Any] = {"mbit_per_s": rate, "delay_ms": delay, "examples_per_s": speed}
    link["bytes_per_step"] = {wire: round(statistics.median(found)) for wire, found in sizes.items()}
    if "float32" in speed:
        link["speed_of_float32"] = {wire: round(one / speed["float32"], 2) for wire, one in speed.items()}
    return link


def _limit(rate: int, far_pid: int) -> None:
    """Limits what each of the two devices sends, in Mbit/s."""
    for device, pid in zip(_DEVICES, (None, far_pid), strict=True):
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else []
        words = f"tc qdisc replace dev {device} root tbf rate {rate}mbit {_QUEUE}".split()
        subprocess.run([*inside, *words], check=True)


def _crossed() -> int:
    """Returns the bytes that have crossed the near device, in both directions."""
    # Not /sys, which shows the namespace in which it was mounted.
    line = next(one for one in Path("/proc/net/dev").read_text().splitlines() if one.strip().startswith("near:"))
    fields = line.split(":")[1].split()
    return int(fields[0]) + int(fields[8])


def _environment(args: argparse.Namespace, wire: str, job: str, index: int) -> dict[str, str]:
    first = _PORT + _PORTS_A_CLUSTER * WIRES.index(wire)
    near = [f"{NEAR}:{first + number}" for number in range(args.workers + 1)]
    cluster = {"chief": near[:1], "worker": near[1:], "ps": [f"{FAR}:{first}"]}
    return os.environ | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})}


if __name__ == "__main__":
    main()
