"""A click model that learns a click log by the minute, beside one that is retrained daily on the same log.

    python examples/online_ctr.py                                       made clicks, whose items and tastes change
    python examples/online_ctr.py --data day_0.tsv --records 500        rows of Criteo, in their order

Time is compressed: a minute of the log takes a second, and a day has few minutes. Three programs run: click_log.py
writes the log, this one trains, and follow.py serves the rows.

- `tfps.streaming.fit` tests each minute, then learns it, then saves model and position.
- `tfps.layers.DynamicEmbedding` makes a row for an id that comes a second time, and evicts rows that are not used for a
  day.
- `tfps.callbacks.Export` writes what has changed every few seconds, and the follower reads it.
- The second model has the same form. At the end of each day it learns the files of that day, so it has seen each
  record once, too; but its weights are those of yesterday.

The result is the AUC of both models on each minute before the online model learned it, as a table and a plot.
"""

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator

import click_log
import clicks
import cluster
import keras
import numpy as np
import tensorflow as tf

import tfps

MADE = clicks.Format("\t", 0, (1,), (2, 3, 4, 5))
IDS = 2**62  # the cells are hashed to so many ids that no two of them meet
EXAMPLES = pathlib.Path(__file__).parent

Read = Callable[[tf.data.Dataset], tf.data.Dataset]  # makes batches of a dataset of file names


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, metavar="FILE", help="rows of Criteo (default: made clicks)")
    parser.add_argument("--out", type=pathlib.Path, help="a new folder for all files (default: a temporary one)")
    cluster.add_arguments(parser)
    parser.add_argument("--days", type=int, default=3, help="default %(default)s")
    parser.add_argument("--minutes", type=int, default=24, help="minutes in a day (default %(default)s)")
    parser.add_argument("--records", type=int, default=2000, help="lines in a minute (default %(default)s)")
    parser.add_argument("--minute-s", type=float, default=1.0, help="seconds that a minute lasts (default %(default)s)")
    parser.add_argument("--batch", type=int, default=100, help="lines per step (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.3, help="learning rate of Adagrad (default %(default)s)")
    args = parser.parse_args()
    args.form = clicks.FORMATS["criteo"] if args.data else MADE
    return args


def build_model(args: argparse.Namespace) -> keras.Model:
    """Builds a table that grows, with dense layers over it. The scope of the caller decides where they live."""
    ids, numbers = clicks.inputs(args.form)
    # The steps of a day.
    unseen = tfps.eviction.Unseen(steps=max(1, args.minutes * args.records // args.batch))
    rows = tfps.layers.DynamicEmbedding(8, admission=tfps.admission.Count(2), eviction=unseen, name="features")
    features = keras.layers.Concatenate()([keras.layers.Flatten()(rows(ids)), numbers])
    features = clicks.tower(features, [32])
    model = keras.Model([ids, numbers], keras.layers.Dense(1, activation="sigmoid")(features))
    model.compile(keras.optimizers.Adagrad(args.rate), loss="binary_crossentropy", metrics=["auc"])
    return model


def check(args: argparse.Namespace) -> int:
    """Refuses arguments that cannot be run, before a cluster is started; returns the number of minutes of the log."""
    minutes = args.days * args.minutes
    if args.data and not args.data.is_file():
        raise SystemExit(f"--data must be a file. Received: {args.data}.")
    if args.data:
        minutes = min(minutes, sum(1 for _ in click_log.minutes_of_file(args.data, args.records)))
    if minutes < 1:
        raise SystemExit("There must be a minute at least. Valid: --days and --minutes from 1, --records of the file.")
    # A worker or server of TF_CONFIG may be started again while the folder is in use.
    if args.out and "TF_CONFIG" not in os.environ and args.out.exists() and any(args.out.iterdir()):
        raise SystemExit(f"--out must be a new or empty folder, for one run. Received: {args.out}.")
    return minutes


@contextlib.contextmanager
def program(*arguments: object) -> Iterator[None]:
    """Runs another example beside this one. It is told to end by the end of its standard input."""
    with subprocess.Popen([sys.executable, *map(str, arguments)], stdin=subprocess.PIPE) as process:
        try:
            yield
            process.communicate(timeout=60)
        finally:
            process.kill()
    if process.returncode:
        raise SystemExit(f"{arguments[0]} ended with status {process.returncode}.")


def train_online(model: keras.Model, args: argparse.Namespace, read: Read, minutes: int) -> tuple[list[float], list]:
    """Learns the log as it is written; returns the AUC of each minute, and the counts of the table after it."""
    counts = []
    log = args.out / "log"
    log.mkdir(parents=True)
    source = tfps.streaming.Files(log / "%Y%m%d%H%M" / "part-*.tsv", read, done="_SUCCESS", poll_s=0.1)
    flags = ["--minutes", minutes, "--records", args.records, "--minute-s", args.minute_s]
    flags += ["--data", args.data] if args.data else []
    with program(EXAMPLES / "click_log.py", log, *flags), program(EXAMPLES / "follow.py", args.out / "export"):
        logs = tfps.streaming.fit(
            model,
            source,
            window="1m",
            checkpoint=args.out / "checkpoints",
            windows=minutes,
            on_window_end=lambda window, logs: counts.append(model.get_layer("features").counts()),
            callbacks=[tfps.callbacks.Export(args.out / "export", every_s=2)],
        )
    return [one["test_auc"] for one in logs], counts


def train_daily(model: keras.Model, args: argparse.Namespace, read: Read) -> list[float]:
    """Tests each minute of the log, and learns each day at its end; returns the AUC of each minute."""
    minutes = [sorted(map(str, folder.glob("*.tsv"))) for folder in sorted((args.out / "log").iterdir())]
    aucs = []
    for first in range(0, len(minutes), args.minutes):
        day = minutes[first : first + args.minutes]
        for files in day:
            tested = model.evaluate(read(tf.data.Dataset.from_tensor_slices(files)), verbose=0, return_dict=True)
            aucs.append(tested["auc"])
        model.fit(read(tf.data.Dataset.from_tensor_slices(sum(day, []))), verbose=0)
    return aucs


def report(online: list[float], daily: list[float], counts: list, args: argparse.Namespace) -> None:
    """Prints both curves as means of a quarter of a day, and what the table did; draws the curves."""
    print("minutes      AUC online  AUC daily      rows  admitted   evicted")
    step = max(1, args.minutes // 4)
    for first in range(0, len(online), step):
        last = min(first + step, len(online)) - 1
        means = f"{np.mean(online[first : last + 1]):10.4f} {np.mean(daily[first : last + 1]):10.4f}"
        table = counts[last]
        print(f"{first:4} to {last:4} {means} {table.rows:9,} {table.admitted:9,} {table.evicted:9,}")
    print(f"{counts[-1].refused:,} updates of ids that had no row yet were dropped")
    # On the first day the daily model has learned nothing.
    after = args.minutes if len(online) > args.minutes else 0
    print(f"from minute {after} on: mean AUC online {np.mean(online[after:]):.4f}, daily {np.mean(daily[after:]):.4f}")
    draw(online, daily, args)


def draw(online: list[float], daily: list[float], args: argparse.Namespace) -> None:
    """Draws the curves, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: pip install 'tfps[plot]'")
        return
    figure = Figure((8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(online, label="online, learned by the minute")
    axes.plot(daily, label="retrained daily")
    for day in range(args.minutes, len(online), args.minutes):
        axes.axvline(day, color="0.8", zorder=0)
    axes.set(xlabel="minute", ylabel="AUC of the minute, before it is learned")
    axes.legend()
    figure.savefig(args.out / "auc.png")
    print(f"plot: {args.out / 'auc.png'}")


def main() -> None:
    """Trains both models and reports."""
    args = parse_arguments()
    minutes = check(args)
    # The end of a file is what ends each test and training here.
    warnings.filterwarnings("ignore", message="Your input ran out of data")
    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    strategy = cluster.make_strategy(args)
    args.out = args.out or pathlib.Path(tempfile.mkdtemp(prefix="online_ctr-"))

    def read(files: tf.data.Dataset) -> tf.data.Dataset:
        lines = files.interleave(tf.data.TextLineDataset, cycle_length=click_log.PARTS).batch(args.batch)
        return lines.map(lambda lines: clicks.parse(lines, args.form, IDS))

    with strategy.scope():
        online, daily = build_model(args), build_model(args)
    print(
        f"{minutes} minutes of {args.records:,} lines are written and learned; all files: {args.out}",
        flush=True,
    )
    aucs, counts = train_online(online, args, read, minutes)
    print("now the same log is learned by a model that is retrained daily", flush=True)
    report(aucs, train_daily(daily, args, read), counts, args)


if __name__ == "__main__":
    main()
