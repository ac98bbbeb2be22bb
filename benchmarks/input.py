"""Microseconds a line of each way to read a click log, without training: `python -m benchmarks.input --rounds 5`.

A line has Criteo's 40 columns; all ways give the same batches of 512: numbers, hashed words and labels. They are read
in turns in one process, each file whole. Prints one line of JSON: medians over the rounds, and how many times as long
CsvDataset takes. `--fit` compares `fit` of the CTR-DNN from files with `fit` from memory instead
(`benchmarks.input_fit`).
"""

import argparse
import json
import pathlib
import resource
import statistics
import tempfile
import time
from typing import Any

from benchmarks.input_files import READERS, write_files

_AGAINST = "CsvDataset"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=200_000, help="lines of a file (default %(default)s)")
    parser.add_argument("--passes", type=int, default=5, help="times a turn reads a file (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each reader (default %(default)s)")
    parser.add_argument("--readers", nargs="*", choices=READERS, default=list(READERS), help="default: all")
    parser.add_argument("--fit", choices=("tsv", "csv", "tfrecord", "parquet"), help="compare fit on such a file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_files(folder, options.lines)
        if options.fit:
            from benchmarks.input_fit import compare_fit

            result = compare_fit(folder, options.fit, options.lines, options.rounds)
        else:
            result = compare(folder, options.readers, options.lines * options.passes, options)
    print(json.dumps({**result, **vars(options)}))


def compare(folder: pathlib.Path, readers: list[str], lines: int, options: argparse.Namespace) -> dict[str, Any]:
    """Reads the files in turns.

    Args:
        folder: the files of `write_files`.
        readers: names of `READERS`.
        lines: the lines of a turn.
        options: the flags of the command.
    """
    # Several passes of one iterator, so that its start, which large files do not notice, counts little.
    datasets = {name: READERS[name](folder).repeat(options.passes) for name in readers}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for _ in range(options.rounds):
        for name, dataset in datasets.items():
            wall, cpu = time.perf_counter(), _cpu_s()
            # Elements stay tensors: arrays would be copied.
            count = sum(int(label.shape[0]) for _, label in dataset)
            if count != lines:
                raise RuntimeError(f"{name} must read {lines} lines. Received: {count}.")
            spent[name].append((time.perf_counter() - wall, _cpu_s() - cpu))
    medians = {name: [statistics.median(column) for column in zip(*own, strict=True)] for name, own in spent.items()}
    figures: dict[str, Any] = {}
    for name, (wall, cpu) in medians.items():
        figures[name] = {"wall_us": round(wall / lines * 1e6, 2), "cpu_us": round(cpu / lines * 1e6, 2)}
        if _AGAINST in medians and name != _AGAINST:
            other = medians[_AGAINST]
            figures[name] |= {
                "CsvDataset / wall": round(other[0] / wall, 1),
                "CsvDataset / cpu": round(other[1] / cpu, 1),
            }
    return {"a line": figures}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
