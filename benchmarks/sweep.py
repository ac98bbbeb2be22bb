"""The click model of benchmarks.ctr_dnn over a range of table sizes, tables, servers or modes, run in turns.

    python -m benchmarks.sweep rows 10000 100000 1000000 10000000
    python -m benchmarks.sweep tables 1 5 26 100 --plot tables.png
    python -m benchmarks.sweep ps 1 2 4 --plot servers.png
    python -m benchmarks.sweep mode async sync geo

Prints one line of JSON: for each value the examples a second and the CPU time, and both relative to the first value.
All clusters are up at once, so that each turn finds the machine in the same state; this needs memory for all of them.
"""

import argparse
import json
import sys
from typing import Any

from benchmarks.turns import in_turns

_SETTINGS = {
    "rows": ("rows of the table", []),
    "tables": ("tables", ["--slots=100"]),
    "ps": ("parameter servers", []),
    "mode": ("mode", []),
}


def main() -> None:
    """Runs the command."""
    args = _parser().parse_args()
    name, extra = _SETTINGS[args.over]
    base = [sys.executable, "-m", "benchmarks.ctr_dnn", "--turns", f"--seconds={args.seconds}", f"--batch={args.batch}"]
    base.append(f"--workers={args.workers}")
    commands = {value: [*base, *extra, f"--{args.over}={value}"] for value in args.values}
    speeds, cpu, turns = in_turns(commands, args.rounds)
    first = args.values[0]
    result = {
        "over": name,
        "batch": args.batch,
        "examples_per_s": speeds,
        "cpu_ms_per_1000_examples": cpu,
        "cpu_ms_by_role": {value: results[-1]["cpu_ms_per_1000_examples"] for value, results in turns.items()},
        "remote_tensors_per_step": {value: r[-1].get("remote_tensors_per_step") for value, r in turns.items()},
        "speed_relative": {value: round(speed / speeds[first], 2) for value, speed in speeds.items()},
        "cpu_relative": {value: round(ms / cpu[first], 2) for value, ms in cpu.items()},
    }
    print(json.dumps(result))
    if args.plot:
        draw(result, args.plot)


def draw(result: dict[str, Any], path: str) -> None:
    """Speed and CPU time relative to the first value, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    values = list(result["speed_relative"])
    axes.plot(values, result["speed_relative"].values(), "o-", label="examples a second")
    axes.plot(values, result["cpu_relative"].values(), "s--", label="CPU time an example")
    axes.set(xlabel=result["over"], ylabel=f"relative to {values[0]}", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.sweep", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("over", choices=_SETTINGS, help="what changes")
    parser.add_argument("values", nargs="+", help="its values; tables must divide 100")
    parser.add_argument("--workers", type=int, default=2, help="workers (default %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="examples a step (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long a turn takes (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each value (default %(default)s)")
    parser.add_argument("--plot", help="a picture to write, .png or .svg")
    return parser


if __name__ == "__main__":
    main()
