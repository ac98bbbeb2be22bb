"""Seconds from an update on a server to its sight in a follower, and what an export costs training.

    python -m benchmarks.freshness --rows 2000000 --every 4 --seconds 20 --rounds 3

Each example has eight ids of a small part of a table. Of some examples one is drawn from all of it, so often that the
versions of a minute have a million rows. Each example also counts in a row that all share. A program without
TensorFlow follows the export, and the count that it sees is compared with the count on the server. Then `fit` runs with
`Export`, and without it with another model, in turns. Prints one line of JSON.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

import keras
import numpy as np

import tfps
from benchmarks.meter import Meter
from tfps import jobs
from tfps.callbacks import Export
from tfps.serving.stores import open_store
from tfps.serving.versions import CURRENT, parse_current, parse_version

_DIM, _BATCH, _HOT, _EACH = 16, 512, 20_000, 8
_PROBE_S = 0.02
"""Seconds between two looks at the count, on the server and in the follower: the error of a measurement."""

_FOLLOW = """
import sys, time
from tfps.serving import Follower
with Follower(sys.argv[1], poll_s=float(sys.argv[2])) as follower:
    seen = None
    while True:
        if follower.version is not None:
            count = float(follower.lookup("count", [0])[0][0, 0])
            if count != seen:
                print(time.time(), count, follower.bytes, flush=True)
                seen = count
        time.sleep(float(sys.argv[3]))
"""


def main() -> None:
    """Runs the command."""
    args = _parser().parse_args()
    folder = tempfile.mkdtemp(prefix="tfps-benchmark-", dir=args.folder)
    try:
        cluster = tfps.LocalCluster(num_ps=args.servers, num_workers=args.workers)
        with tfps.ParameterServerStrategy(cluster, dense_tables_bytes=0) as strategy:
            print(json.dumps(_measure(strategy, cluster, args, folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(
    strategy: tfps.ParameterServerStrategy, cluster: tfps.LocalCluster, args: argparse.Namespace, folder: str
) -> dict[str, object]:
    # Another model without it, because updates stay recorded once they are.
    model, plain = _build(strategy, args.rows), _build(strategy, args.rows)
    processes = {"chief": [os.getpid()]}
    for job in (jobs.PS, jobs.WORKER):
        processes[job] = [task.pid for task in cluster.tasks if task.order.job == job]
    pace = _Pace(steps_per_s=50.0, drawn=0.1)
    # Traced and warm, and at its full pace.
    for one in (plain, model, plain, model):
        steps, seconds = _fit(one, args, pace, args.seconds / 4)
        pace.adjust(steps / seconds, args)
    export = Export(folder, every_s=args.every, full_every=1000)
    _fit(model, args, pace, 1, export)
    delays = _delays(model, args, pace, folder, export)
    speeds: dict[str, list[float]] = {"without": [], "with": []}
    cpu: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(2 * args.rounds):
        # A B B A, so that neither is always the first.
        side = "with" if number % 4 in (1, 2) else "without"
        meter = Meter(processes)
        trained = (model, export) if side == "with" else (plain,)
        steps, seconds = _fit(trained[0], args, pace, args.seconds, *trained[1:], meter=meter)
        assert meter.reading is not None
        speeds[side].append(_BATCH * steps / seconds)
        cpu[side].append(sum(meter.reading.cpu_ms.values()) / (_BATCH * steps / 1000))
    pairs = [one / other for one, other in zip(speeds["with"], speeds["without"], strict=True)]
    return {
        "rows": args.rows,
        "every_s": args.every,
        **delays,
        "examples_per_s": {side: round(statistics.median(found)) for side, found in speeds.items()},
        "cpu_ms_per_1000_examples": {side: round(statistics.median(found), 2) for side, found in cpu.items()},
        "speed_with_to_without": [round(ratio, 3) for ratio in pairs],
        "speed_ratio": round(statistics.median(pairs), 3),
    }


def _build(strategy: tfps.ParameterServerStrategy, rows: int) -> keras.Model:
    with strategy.scope():
        ids, one = keras.Input((_EACH,), dtype="int64"), keras.Input((1,), dtype="int64")
        found = keras.layers.Flatten()(keras.layers.Embedding(rows, _DIM, name="items")(ids))
        for width in (400, 400, 400):
            found = keras.layers.Dense(width, activation="relu")(found)
        # The gradient of this weight is the batch size, so its value counts the examples of all batches.
        count = keras.layers.Embedding(2, 1, embeddings_initializer="zeros", name="count")(one)
        both = keras.layers.Concatenate()([keras.layers.Dense(1)(found), keras.layers.Flatten()(count)])
        model = keras.Model([ids, one], both)
        model.compile(keras.optimizers.SGD(1e-3), _loss)
    return model


def _loss(y: object, found: object) -> object:
    return keras.ops.mean((found[:, :1] - y) ** 2) - keras.ops.sum(found[:, 1:])  # type: ignore[index]


@dataclasses.dataclass
class _Pace:
    """What the input is made for.

    Args:
        steps_per_s: the steps that `fit` makes in a second.
        drawn: the part of the examples that have an id of the whole table.
    """

    steps_per_s: float
    drawn: float

    def adjust(self, steps_per_s: float, args: argparse.Namespace) -> None:
        """Sets both for a speed."""
        self.steps_per_s = steps_per_s
        # Each version has the small part as well.
        wanted = args.touched / 60 - _HOT / args.every
        self.drawn = min(1.0, max(0.0, wanted / (_BATCH * steps_per_s)))


class _Clock(keras.callbacks.Callback):
    """Counts the steps of a `fit`, from the first to the last, and measures that time.

    The version at the end of `fit` comes after it: a training that goes on has none.
    """

    def __init__(self, meter: Meter | None) -> None:
        super().__init__()
        self._meter, self._began, self.steps, self.seconds = meter, 0.0, -1, 0.0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Looks at the clock."""
        if not self._began:
            self._began = time.monotonic()
            if self._meter is not None:
                self._meter.start()
        self.steps, self.seconds = self.steps + 1, time.monotonic() - self._began

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Stops the meter."""
        if self._meter is not None:
            self._meter.stop()


def _fit(
    model: keras.Model,
    args: argparse.Namespace,
    pace: _Pace,
    seconds: float,
    *callbacks: keras.callbacks.Callback,
    meter: Meter | None = None,
) -> tuple[int, float]:
    """Trains for about some seconds; returns the steps and seconds between the first and the last batch."""
    rng = np.random.default_rng()
    examples = _BATCH * int(max(8, seconds * pace.steps_per_s))
    ids = rng.integers(0, _HOT, (examples, _EACH))
    drawn = rng.random(examples) < pace.drawn
    ids[drawn, 0] = rng.integers(0, args.rows, int(drawn.sum()))
    clock = _Clock(meter)
    x = [ids, np.zeros((examples, 1), np.int64)]
    model.fit(x, np.ones((examples, 1), np.float32), batch_size=_BATCH, verbose=0, callbacks=[clock, *callbacks])
    return clock.steps, clock.seconds


def _delays(
    model: keras.Model, args: argparse.Namespace, pace: _Pace, folder: str, export: Export
) -> dict[str, object]:
    """Trains with a follower; returns how late it sees updates, and how many rows were touched in a minute."""
    before = _touched(folder)
    command = [sys.executable, "-c", _FOLLOW, folder, str(args.poll), str(_PROBE_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        seen: list[str] = []
        reader = threading.Thread(target=lambda: seen.extend(follower.stdout or ()))
        reader.start()
        on_server, done = _watch_server(model)
        try:
            began = time.time()
            _fit(model, args, pace, 2 * args.seconds, export)
            minutes = (time.time() - began) / 60
            time.sleep(2 * args.poll + 1)
        finally:
            done.set()
            follower.terminate()
            follower.wait(60)
            reader.join(60)
    in_follower = [tuple(map(float, line.split())) for line in seen]
    late = sorted(_late(on_server, [(one[0], one[1]) for one in in_follower], began))
    touched = {number: rows for number, rows in _touched(folder).items() if number not in before}
    return {
        "touched_rows_per_minute": round(sum(touched.values()) / minutes),
        "versions": len(touched),
        "freshness_s": {
            "median": round(statistics.median(late), 2),
            "p95": round(late[int(0.95 * (len(late) - 1))], 2),
            "max": round(late[-1], 2),
        },
        "follower_bytes_to_rows": round(in_follower[-1][2] / (4 * (_DIM * args.rows + 2)), 3),
    }


def _watch_server(model: keras.Model) -> tuple[list[tuple[float, float]], threading.Event]:
    """Reads the count on the server all the time: (moment, count) for each new count."""
    found: list[tuple[float, float]] = []
    done, table = threading.Event(), model.get_layer("count").embeddings

    def watch() -> None:
        while not done.wait(_PROBE_S):
            # The moment after the read: an update is never taken to be older than it is.
            count = float(keras.ops.convert_to_numpy(keras.ops.take(table, np.array([0]), axis=0))[0, 0])
            if not found or count != found[-1][1]:
                found.append((time.time(), count))

    threading.Thread(target=watch, daemon=True).start()
    return found, done


def _late(
    on_server: Sequence[tuple[float, float]], in_follower: Sequence[tuple[float, float]], began: float
) -> list[float]:
    """Returns for each count seen on the server how many seconds later the follower had it."""
    moments, counts = zip(*in_follower, strict=True)
    late = []
    for moment, count in on_server:
        place = int(np.searchsorted(counts, count - 1e-3))
        if moment >= began and place < len(moments):
            late.append(moments[place] - moment)
    return late


def _touched(folder: str) -> dict[int, int]:
    """Returns the rows of each delta, by its number."""
    store = open_store(folder)
    entries = parse_current(store.read(CURRENT), CURRENT).entries
    found = [parse_version(store.read(f"{one.name}/manifest.json"), one.name) for one in entries if one.kind == "delta"]
    return {one.number: sum(table.rows for table in one.tables) for one in found}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the table (default %(default)s)")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two versions (default %(default)s)")
    parser.add_argument("--poll", type=float, default=0.5, help="seconds between two looks (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default %(default)s)")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--touched", type=float, default=1e6, help="rows of all versions of a minute, about (default 1e6)"
    )
    parser.add_argument("--folder", help="where to write (default the folder for temporary files)")
    return parser


if __name__ == "__main__":
    main()
