"""What the models of the examples reach on held-out data, on a cluster and in one process by plain Keras.

    python -m benchmarks.examples --data DATA --seeds 1 2 3

DATA is a folder with adult_census, criteo_1tb_day0_10k and ml-latest-small. Each example runs as a program of its own,
with its default settings but for the size of its table, and so does the same program with --alone. One JSON line is
printed for each run, with the figures of its last line, and one for each example with the means and the standard
deviations over the seeds. benchmarks/example_baselines.py has what simple models reach.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
ADULT = ("adult_census/adult.data", "--format", "adult", "--rows", "50000", "--rate", "0.2")
FILMS = ("ml-latest-small",)
COMMANDS = {
    "wide_deep": ADULT,
    "dlrm": ADULT,
    "xdeepfm": ADULT,
    "fibinet": ADULT,
    "mmoe": ADULT,
    "din": FILMS,
    "sasrec": FILMS,
    "two_towers": FILMS,
}
FIGURE = re.compile(r"([A-Za-z@\d][\w@ ]*?) (\d\.\d{4})")  # "AUC 0.9137", "AUC of income 0.9137"


def run(name: str, data: pathlib.Path, seed: int, *options: str) -> dict[str, float]:
    """Runs an example, and returns the figures that it prints by name.

    Args:
        name: of the example.
        data: the folder of all data.
        seed: of the example's first values.
        options: further options of its command.
    """
    path, *settings = COMMANDS[name]
    command = [
        sys.executable,
        f"examples/{name}.py",
        "--data",
        str(data / path),
        *settings,
        "--seed",
        str(seed),
        *options,
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("on ")]
    if ended.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} ended with status {ended.returncode}:\n{ended.stderr[-3000:]}")
    return {figure: float(value) for figure, value in FIGURE.findall(lines[-1].partition(":")[2])}


def main() -> None:
    """Runs the examples and prints their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--examples", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=2, help="of the cluster (default %(default)s)")
    args = parser.parse_args()
    for name in args.examples:
        ways = {"cluster": ("--ps", "1", "--workers", str(args.workers)), "alone": ("--alone",)}
        means = {}
        for way, options in ways.items():
            runs = []
            for seed in args.seeds:
                runs.append(run(name, args.data.resolve(), seed, *options))
                print(json.dumps({"example": name, "trained": way, "seed": seed} | runs[-1]), flush=True)
            means[way] = {figure: _mean([one[figure] for one in runs]) for figure in runs[0]}
        print(json.dumps({"example": name, "seeds": len(args.seeds)} | means), flush=True)


def _mean(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} +- {deviation:.4f}"


if __name__ == "__main__":
    main()
