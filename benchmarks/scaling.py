"""Predicts the speed of a cluster with `benchmarks.scaling_model`: measures its constants, checks it against real runs.

    python -m benchmarks.scaling constants.json --measure --check    measures constants and checks them by other runs
    python -m benchmarks.scaling constants.json --project            up to 1,000 workers, 100 servers, 1e11 rows

The file of constants is written by --measure (for which bytes and delays need root) and read by the others. With
--delays-of the delays come from another file of constants, which takes minutes less. --check ends with status 1 if
bytes a step or CPU time a step of all processes are further off than they may be: CPU time is right on a busy machine
too, steps a second are not.

Prints a line of JSON for each run or predicted cluster. CPU figures hold for the machine that measured them.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.ctr_run import closure_steps
from benchmarks.ctr_task import CtrTask, clicks
from benchmarks.private_net import private
from benchmarks.scaling_fit import Run, fit
from benchmarks.scaling_model import Costs, Hosts, Job, bytes_per_step, cpu_ms, project
from benchmarks.scaling_plot import draw
from benchmarks.turns import in_turns

_BASE_BYTES = 0.5e9
"""Memory of a server process that holds nothing, TensorFlow for the most part."""
_ROWS = CtrTask().rows
_REFERENCE = (1, 1, 512, 8)
_FIT = (_REFERENCE, (1, 1, 512, 1), (1, 1, 4096, 4), (2, 1, 512, 8))
_CHECK = (_REFERENCE, (1, 2, 512, 4), (1, 4, 512, 2), (2, 2, 512, 8), (2, 4, 1024, 2))
"""Servers, workers, batch, steps a closure. The check runs the reference too: how fast the machine is now."""
_DELAYS = ("0", "5", "10", "20")
_PROJECTED = (
    # workers, servers, rows, batch, steps a closure
    (2, 1, 1e6, 512, 16),
    (10, 2, 1e8, 512, 32),
    (100, 10, 1e9, 512, 1),
    (100, 10, 1e9, 512, 32),
    (100, 2, 1e9, 512, 32),
    (1000, 100, 1e11, 512, 1),
    (1000, 100, 1e11, 512, 32),
    (1000, 100, 1e11, 512, 100),
    (1000, 100, 1e11, 4096, 32),
    (1000, 20, 1e11, 4096, 32),
    (1000, 100, 1e12, 4096, 32),
)


def main() -> None:
    """Runs the command."""
    parser = _parser()
    args = parser.parse_args()
    if not (args.measure or args.check or args.project):
        parser.error("one of --measure, --check and --project must be given.")
    if args.measure:
        _measure(args)
    within = _check(args) if args.check else True
    if args.project:
        costs = _read(args.constants)
        for projected in _project(costs):
            print(json.dumps(projected))
        if args.plot:
            draw(costs, _ways(), args.plot)
    if not within:
        sys.exit(1)


def _measure(args: argparse.Namespace) -> None:
    runs = _runs(_FIT, args)
    chief = _chief_ms()
    if args.delays_of:
        known = _read(args.delays_of)
        delays = known.delays_per_step, known.delays_per_closure
    else:
        delays = _delays(args)
    costs = fit(runs, chief, delays, _BASE_BYTES)
    found = {"costs": dataclasses.asdict(costs), "runs": [_line(run) for run in runs], "chief_ms": chief}
    text = json.dumps(found, indent=1)
    pathlib.Path(args.constants).write_text(text + "\n")
    print(json.dumps(dataclasses.asdict(costs)))


def _check(args: argparse.Namespace) -> bool:
    """Prints of each run what was measured, and what the model says if the machine is as fast as its reference run.

    Returns:
        Whether bytes and CPU time are as near as they have to be.
    """
    costs = _read(args.constants)
    runs = _runs(_CHECK, args)
    speed = sum(cpu_ms(costs, runs[0].job).values()) / sum(runs[0].cpu_ms.values())
    worst = {"cpu": 0.0, "bytes": 0.0}
    for run in runs[1:]:
        hosts = Hosts(server_cores=args.cores, server_gbit_s=1000, delay_ms=0, speed=speed, shared_cores=args.cores)
        predicted = project(costs, run.job, hosts)
        cpu = {role: round(ms / speed, 2) for role, ms in cpu_ms(costs, run.job).items()}
        said = {"cpu_ms": cpu, "steps_per_s": round(predicted.steps_per_s, 1), "binds": predicted.binds}
        said["bytes"] = round(bytes_per_step(costs, run.job))
        off = {
            "cpu": sum(cpu.values()) / sum(run.cpu_ms.values()) - 1,
            "bytes": bytes_per_step(costs, run.job) / run.step_bytes - 1,
        }
        worst = {name: max(worst[name], abs(off[name])) for name in worst}
        shown = {name: round(value, 3) for name, value in off.items()}
        print(json.dumps({"speed": round(speed, 2), "measured": _line(run), "predicted": said, "off": shown}))
    limits = {"cpu": args.cpu_within, "bytes": args.bytes_within}
    print(json.dumps({"worst": {name: round(value, 3) for name, value in worst.items()}, "limits": limits}))
    return all(worst[name] <= limits[name] for name in worst)


def _project(costs: Costs) -> list[dict[str, Any]]:
    found = []
    for workers, servers, rows, batch, steps in _PROJECTED:
        job = Job(workers, servers, rows, batch, _unique(batch, int(rows)), steps, steps)
        projected = project(costs, job, Hosts())
        bounds = {name: round(bound) for name, bound in projected.bounds.items()}
        found.append(
            {
                "workers": workers,
                "servers": servers,
                "rows": rows,
                "batch": batch,
                "steps_per_closure": steps,
                "examples_per_s": round(projected.examples_per_s),
                "binds": projected.binds,
                "bounds_steps_per_s": bounds,
                "server_gb": round(projected.server_bytes / 1e9, 1),
            }
        )
    return found


def _ways() -> list[tuple[str, Job]]:
    """What the picture compares."""
    shapes = ((2, 512, 1), (2, 512, 32), (20, 512, 32), (100, 512, 32), (100, 4096, 32))
    labels = "{} servers, batch {}, {} steps a closure"
    return [
        (labels.format(*shape), Job(1, servers, 1e9, batch, _unique(batch, int(1e9)), steps, steps))
        for shape in shapes
        for servers, batch, steps in [shape]
    ]


def _runs(shapes: Sequence[tuple[int, int, int, int]], args: argparse.Namespace) -> list[Run]:
    """Clusters of this machine, all up at once and measured in turns; medians."""
    names = {str(shape): shape for shape in shapes}
    *_, turns = in_turns({name: private(_command(shape, args)) for name, shape in names.items()}, args.rounds)
    return [_run(shape, turns[name]) for name, shape in names.items()]


def _command(shape: tuple[int, int, int, int], args: argparse.Namespace) -> list[str]:
    options = zip(("ps", "workers", "batch", "exchange-every"), shape, strict=True)
    sizes = [f"--{name}={value}" for name, value in options]
    return [sys.executable, "-m", "benchmarks.ctr_dnn", "--turns", f"--seconds={args.seconds}", *sizes]


def _run(shape: tuple[int, int, int, int], turns: Any) -> Run:
    servers, workers, batch, most = shape
    steps = closure_steps(turns[0]["steps"], workers, most)
    job = Job(workers, servers, _ROWS, batch, _unique(batch, _ROWS), steps)
    by_role = [turn["cpu_ms_per_1000_examples"] for turn in turns]
    cpu = {role: statistics.median(turn[role] for turn in by_role) * batch / 1000 for role in by_role[0]}
    nbytes = statistics.median(turn["loopback_bytes_per_step_at_most"] for turn in turns)
    return Run(job, cpu, nbytes, statistics.median(turn["examples_per_s"] for turn in turns) / batch)


def _unique(batch: int, rows: int) -> float:
    """Rows that a step asks for, each once: the mean over some batches of the CTR-DNN's ids."""
    ids = clicks(CtrTask(batch=batch, rows=rows))[0]
    return float(np.mean([np.unique(step).size for step in ids[:8]]))


def _chief_ms() -> dict[int, float]:
    """CPU of the chief a step that costs next to nothing, by steps a closure."""
    command = [sys.executable, "-m", "benchmarks.chief", "--steps-per-closure", "10", "100"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["steps_per_closure"]
    return {int(steps): one["chief_cpu_ms_per_1000_steps"] / 1000 for steps, one in found.items()}


def _delays(args: argparse.Namespace) -> tuple[float, float]:
    """One-way delays that a step, and a closure, waits for: from how much longer steps take behind them."""
    found = []
    for steps in (1, 8):
        command = [sys.executable, "-m", "benchmarks.delay", "--delays", *_DELAYS, f"--exchange-every={steps}"]
        done = subprocess.run([*command, f"--rounds={args.rounds}"], stdout=subprocess.PIPE, text=True, check=True)
        line = json.loads(done.stdout.splitlines()[-1])
        found.append((1 / line["steps_per_closure"], _slope(line["step_ms_by_delay_ms"])))
    (often, more), (rarely, less) = found
    a_closure = max(0.0, (more - less) / (often - rarely))
    return round(max(0.0, less - a_closure * rarely), 2), round(a_closure, 2)


def _slope(took: dict[str, float]) -> float:
    """Milliseconds that a step takes longer for each millisecond of delay, over all delays."""
    return float(np.polyfit([float(delay) for delay in took], list(took.values()), 1)[0])


def _line(run: Run) -> dict[str, Any]:
    job = {name: getattr(run.job, name) for name in ("servers", "workers", "batch", "steps_per_closure")}
    cpu = {role: round(ms, 2) for role, ms in run.cpu_ms.items()}
    return {**job, "cpu_ms": cpu, "bytes": round(run.step_bytes), "steps_per_s": round(run.steps_per_s, 1)}


def _read(path: str) -> Costs:
    return Costs(**json.loads(pathlib.Path(path).read_text())["costs"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.scaling", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("constants", metavar="JSON", help="the file of constants")
    parser.add_argument("--measure", action="store_true", help="measure the constants and write them")
    parser.add_argument("--check", action="store_true", help="compare real runs with what the constants say")
    parser.add_argument("--project", action="store_true", help="print what the constants say of large clusters")
    parser.add_argument("--delays-of", metavar="JSON", help="with --measure: take the delays from these constants")
    parser.add_argument("--cpu-within", type=float, default=0.25, help="how far CPU time may be off (%(default)s)")
    parser.add_argument("--bytes-within", type=float, default=0.05, help="how far bytes may be off (%(default)s)")
    parser.add_argument("--plot", help="with --project: a picture to write, .png or .svg")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long a turn takes (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each run (default %(default)s)")
    parser.add_argument("--cores", type=float, default=2, help="of this machine, for --check (default %(default)s)")
    return parser


if __name__ == "__main__":
    main()
