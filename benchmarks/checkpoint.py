"""Speed of checkpoints, beside `dd` on the same disk, and the memory of the chief while it saves and restores.

    python -m benchmarks.checkpoint --gigabytes 10 --servers 2 --rounds 2 --folder /mnt/disk

A table with one slot (Adagrad) of the given size is saved, dropped from the page cache, and restored. `dd` writes as
many bytes to the same folder in turns with it, both to the disk (fsync). Prints one line of JSON: megabytes a second of
each, their ratio, the peak memory of the chief, and how long training waits for a checkpoint in the foreground and in
the background.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator

import keras
import numpy as np

import tfps
from tfps.callbacks import Checkpoint

_DIM = 16


def main() -> None:
    """Runs the command."""
    args = _parser().parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tfps-benchmark-", dir=args.folder))
    # A row and its slot.
    rows = int(args.gigabytes * 1e9 / (2 * 4 * _DIM))
    try:
        with tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=args.servers, num_workers=1)) as strategy:
            print(json.dumps(_measure(strategy, rows, folder, args.rounds, args.pauses)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(
    strategy: tfps.ParameterServerStrategy, rows: int, folder: pathlib.Path, rounds: int, with_pauses: bool
) -> dict[str, object]:
    with strategy.scope():
        table = keras.layers.Embedding(rows, _DIM, name="table")
        model = keras.Sequential([keras.Input((8,), dtype="int64"), table, keras.layers.Flatten()])
        model.compile(keras.optimizers.Adagrad(0.1), lambda y, found: keras.ops.mean(found))
    ids = np.random.default_rng(0).integers(0, rows, (512 * 64, 8))
    labels = np.zeros(len(ids))
    model.fit(ids, labels, batch_size=512, verbose=0)
    size = 2 * 4 * _DIM * rows
    found: dict[str, list[float]] = {"dd": [], "save": [], "restore": []}
    peak = {"save": 0.0, "restore": 0.0}
    for number in range(rounds):
        path, plain = folder / f"ckpt-{number}", folder / "dd"
        found["dd"].append(_run_dd("if=/dev/zero", f"of={plain}", "conv=fsync", size=size))
        with _peak() as memory:
            began = time.monotonic()
            tfps.checkpoint.save(model, path)
            found["save"].append(size / 1e6 / (time.monotonic() - began))
        peak["save"] = max(peak["save"], memory[0])
        plain.unlink()
        _forget(path)
        with _peak() as memory:
            began = time.monotonic()
            tfps.checkpoint.restore(model, path)
            found["restore"].append(size / 1e6 / (time.monotonic() - began))
        peak["restore"] = max(peak["restore"], memory[0])
        shutil.rmtree(path)
    pauses = {}
    # In the background a checkpoint takes the memory of the table once more.
    for background in (False, True) if with_pauses else ():
        run = folder / f"run-{background}"
        timed = _Timed(run, every_steps=32, keep=1, background=background)
        model.fit(ids, labels, batch_size=512, epochs=1, verbose=0, callbacks=[timed])
        pauses["background" if background else "foreground"] = round(timed.pause_s, 2)
        shutil.rmtree(run)
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        "bytes": size,
        "servers": strategy.num_servers,
        "rounds": rounds,
        "mb_per_s": {name: round(value, 1) for name, value in middle.items()},
        "save_to_dd": round(middle["save"] / middle["dd"], 2),
        "restore_to_dd": round(middle["restore"] / middle["dd"], 2),
        "chief_peak_mb": {name: round(value / 1e6) for name, value in peak.items()},
        "pause_s": pauses,
    }


class _Timed(Checkpoint):
    """Measures how long the first checkpoint makes training wait."""

    pause_s = 0.0

    def _save(self, in_epoch: bool, background: bool = False) -> None:
        began = time.monotonic()
        super()._save(in_epoch, background)
        self.pause_s = self.pause_s or time.monotonic() - began


def _forget(path: pathlib.Path) -> None:
    """Drops the files of a folder from the page cache, so that they are read from the disk."""
    for file in path.rglob("*.*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _run_dd(source: str, target: str, *extra: str, size: int) -> float:
    """Runs dd and returns its megabytes a second, by our clock."""
    began = time.monotonic()
    command = ["dd", source, target, *extra, "bs=4M", f"count={-(-size // (4 << 20))}"]
    subprocess.run(command, check=True, capture_output=True)
    return size / 1e6 / (time.monotonic() - began)


@contextlib.contextmanager
def _peak() -> Iterator[list[float]]:
    """Yields a list whose number is the largest resident size of this process in the block, in bytes."""
    found, done = [0.0], threading.Event()

    def look() -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not done.wait(0.02):
            found[0] = max(found[0], page * float(pathlib.Path("/proc/self/statm").read_text().split()[1]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="bytes of the table with its slot, in 10^9")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--pauses", action=argparse.BooleanOptionalAction, default=True, help="whether to measure pauses"
    )
    parser.add_argument("--folder", help="where to write (default the folder for temporary files)")
    return parser


if __name__ == "__main__":
    main()
