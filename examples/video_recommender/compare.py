"""Compares a cluster with one process: trains and evaluates with several seeds each, and prints means and deviations.

python -m examples.video_recommender.compare --data ml-latest-small --seeds 3
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from examples.video_recommender.evaluate import Table, text


def run(data: list[str], seed: int, options: list[str]) -> Table:
    """Trains and evaluates in programs of their own; returns the figures."""
    command = [sys.executable, "-m", "examples.video_recommender"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "train", *data, *options, "--seed", str(seed), "--out", folder], check=True)
        report = pathlib.Path(folder) / "report.json"
        subprocess.run([*command, "evaluate", *data, "--out", folder, "--json", str(report)], check=True)
        return json.loads(report.read_text())


def over_seeds(tables: list[Table]) -> tuple[Table, Table]:
    """Returns the mean of each figure, and its standard deviation over the seeds."""
    figures = {row: list(tables[0][row]) for row in tables[0]}

    def reduce(function) -> Table:
        return {
            row: {name: float(function([table[row][name] for table in tables])) for name in names}
            for row, names in figures.items()
        }

    return reduce(np.mean), reduce(lambda values: np.std(values, ddof=1))


def main() -> None:
    """Runs both and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", help="with ratings.csv and movies.csv (default: made ratings)")
    parser.add_argument("--seeds", type=int, default=3, help="2 or more (default %(default)s)")
    args = parser.parse_args()
    if args.seeds < 2:
        raise SystemExit(f"--seeds must be 2 or more, to see how figures vary. Received: {args.seeds}.")
    data = ["--data", args.data] if args.data else []
    for name, options in (("a cluster", []), ("one process", ["--alone"])):
        mean, deviation = over_seeds([run(data, seed, options) for seed in range(1, args.seeds + 1)])
        print(
            f"\n{name}, mean of {args.seeds} seeds\n{text(mean)}\n\nstandard deviation\n{text(deviation)}", flush=True
        )


if __name__ == "__main__":
    main()
