"""What small jobs learn: models that are trained for 50 to 500 batches in all, by 1 to 4 workers, against one process.

    python -m benchmarks.small_jobs --tasks dense text --optimizers adam momentum --workers 2 4 --batches 60 200 500

Each task is a planted rule with noise. A figure is the area under the ROC curve on held-out examples: the mean over
the seeds, and its difference to a plain `fit` in this process, with the same first values and the same batches in the
same order. The plain `fit` runs once for each seed and all numbers of workers. The tables are small, so they are dense
variables (docs/optimizers.md). All runs share a cluster of one server and as many workers as needed.

Up to 512 batches one worker trains, so that 2 and 4 workers give the same but for rounding.
"""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfps
from benchmarks.convergence_tasks import area_under_curve

BATCH, HELD_OUT, WORDS, LENGTH = 32, 2_000, 2_000, 24
Examples = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Job:
    """A model and its data.

    Args:
        build: makes the layers; not compiled.
        draw: draws the inputs and labels of some examples. The rule that gives the labels is the same for all draws.
        rates: the learning rate of each optimizer, by name.
    """

    build: Callable[[], keras.Model]
    draw: Callable[[np.random.Generator, int], Examples]
    rates: dict[str, float]


def dense(random: np.random.Generator, count: int) -> Examples:
    """20 numbers; the label is the sign of a sum of eight squashed projections."""
    rule = np.random.default_rng(0)
    first, second = rule.normal(size=(20, 8)), rule.normal(size=8)
    x = random.normal(size=(count, 20))
    return x.astype("float32"), (np.tanh(x @ first * 0.5) @ second + 0.3 * random.normal(size=count) > 0).astype("f4")


def images(random: np.random.Generator, count: int) -> Examples:
    """12 x 12 numbers with one of two shapes somewhere in the noise."""
    shapes = np.array([[[1, 1, 1], [0, 1, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1], [0, 0, 1]]])
    x, y = random.normal(size=(count, 12, 12, 1)), random.integers(0, 2, count)
    for image, label, (row, column) in zip(x, y, random.integers(0, 10, (count, 2)), strict=True):
        image[row : row + 3, column : column + 3, 0] += 2.0 * shapes[label]
    return x.astype("float32"), y.astype("float32")


def series(random: np.random.Generator, count: int) -> Examples:
    """12 steps of 4 numbers; the label is whether a random walk along one direction strays far."""
    direction = np.random.default_rng(0).normal(size=4)
    x = random.normal(size=(count, 12, 4))
    walk = (x @ direction / np.linalg.norm(direction)).cumsum(1)
    return x.astype("float32"), (walk.max(1) - walk.min(1) > 4.2).astype("float32")


def bags(random: np.random.Generator, count: int) -> Examples:
    """24 words of a vocabulary in which few are frequent; each word speaks for or against."""
    weights = np.random.default_rng(0).normal(size=WORDS)
    x = (WORDS * random.random((count, LENGTH)) ** 3).astype(int)
    return x, (weights[x].sum(1) + random.normal(size=count) > 0).astype("float32")


def text(random: np.random.Generator, count: int) -> Examples:
    """24 words; in half of the texts two of 20 pairs of words stand side by side, in the others they stand apart."""
    pairs = np.random.default_rng(0).integers(0, WORDS, (20, 2))
    x, y = (WORDS * random.random((count, LENGTH)) ** 2).astype(int), random.integers(0, 2, count)
    for line, label in zip(x, y, strict=True):
        for pair in pairs[random.integers(0, 20, 2)]:
            at = random.integers(0, LENGTH - 8)
            line[at], line[at + (1 if label else random.integers(2, 8))] = pair
    return x, y.astype("float32")


def _model(shape: tuple[int, ...], *layers: Callable[[], keras.layers.Layer], dtype: str = "float32") -> keras.Model:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *(layer() for layer in layers), keras.layers.Dense(1)])


_L = keras.layers
JOBS = {
    "dense": Job(
        lambda: _model((20,), lambda: _L.Dense(64, "relu"), lambda: _L.Dense(64, "relu")),
        dense,
        {"adam": 0.001, "momentum": 0.05},
    ),
    "images": Job(
        lambda: _model((12, 12, 1), lambda: _L.Conv2D(16, 3, activation="relu"), _L.GlobalMaxPooling2D),
        images,
        {"adam": 0.003, "momentum": 0.05},
    ),
    "series": Job(lambda: _model((12, 4), lambda: _L.GRU(16)), series, {"adam": 0.005, "momentum": 0.1}),
    "bags": Job(
        lambda: _model(
            (LENGTH,),
            lambda: _L.Embedding(WORDS, 8),
            _L.GlobalAveragePooling1D,
            # The sum of the words: their mean is so small at first that SGD needs thousands of steps.
            lambda: _L.Rescaling(LENGTH),
            lambda: _L.Dense(16, "relu"),
            dtype="int64",
        ),
        bags,
        {"adam": 0.003, "momentum": 0.05},
    ),
    "text": Job(
        lambda: _model(
            (LENGTH,),
            lambda: _L.Embedding(WORDS, 16),
            lambda: _L.Conv1D(32, 3, activation="relu"),
            _L.GlobalMaxPooling1D,
            dtype="int64",
        ),
        text,
        {"adam": 0.003, "momentum": 0.2},
    ),
}


class SmallJob:
    """One model in one place. It traces once; each `train` begins from other first values and has other data.

    Args:
        name: the name of the job in `JOBS`.
        optimizer: "adam" or "momentum", which is SGD with a momentum of 0.9.
        strategy: where it is trained; None for one process.
    """

    def __init__(self, name: str, optimizer: str, strategy: Any = None) -> None:
        self._job = job = JOBS[name]
        rate = job.rates[optimizer]
        self._twin = job.build()
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            self._model = job.build()
            self._model.compile(
                keras.optimizers.Adam(rate) if optimizer == "adam" else keras.optimizers.SGD(rate, momentum=0.9),
                loss=keras.losses.BinaryCrossentropy(from_logits=True),
            )
        self._held_out = job.draw(np.random.default_rng(1), HELD_OUT)

    def train(self, seed: int, batches: int, epochs: int = 1) -> float:
        """Trains for `batches` in all, in some passes; returns the area under the curve on held-out examples."""
        keras.utils.set_random_seed(seed)
        self._model.set_weights(self._job.build().get_weights())
        optimizer = self._model.optimizer
        if optimizer.built:
            for variable in optimizer.variables:
                if variable is not optimizer._learning_rate:
                    variable.assign(np.zeros(variable.shape, variable.dtype))
        examples = self._job.draw(np.random.default_rng(1_000 + seed), batches // epochs * BATCH)
        data = tf.data.Dataset.from_tensor_slices(examples).batch(BATCH, drop_remainder=True)
        self._model.fit(data, epochs=epochs, verbose=0)
        self._twin.set_weights(self._model.get_weights())
        x, y = self._held_out
        return area_under_curve(y, self._twin.predict_on_batch(x)[:, 0])


@contextlib.contextmanager
def with_workers(strategy: Any, workers: int) -> Iterator[Any]:
    """A strategy that uses only the first workers of its cluster."""
    before = strategy._num_workers, strategy._pool
    strategy._num_workers, strategy._pool = workers, None
    every, strategy.dense_exchange_every = strategy.dense_exchange_every, max(1, 32 // workers)
    try:
        yield strategy
    finally:
        if strategy._pool is not None:
            strategy._pool.close()
        strategy._num_workers, strategy._pool = before
        strategy.dense_exchange_every = every


def compare(
    strategy: Any, name: str, optimizer: str, workers: Sequence[int], batches: Sequence[int], seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yields a line for each number of workers and of batches, in the columns of the table of docs/convergence.md."""
    plain = SmallJob(name, optimizer)
    one_process = {steps: np.array([plain.train(seed, steps) for seed in seeds]) for steps in batches}
    for count in workers:
        with with_workers(strategy, count) as where:
            job = SmallJob(name, optimizer, where)
            for steps, wanted in one_process.items():
                differences = np.array([job.train(seed, steps) for seed in seeds]) - wanted
                yield {
                    "job": name,
                    "optimizer": optimizer,
                    "workers": count,
                    "batches": steps,
                    "one_process": round(float(wanted.mean()), 4),
                    "difference": round(float(differences.mean()), 4) + 0.0,
                    "largest": round(float(np.abs(differences).max()), 4),
                    "seeds": len(seeds),
                }


def main() -> None:
    """Runs the command: prints a JSON line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--optimizers", nargs="+", choices=["adam", "momentum"], default=["adam", "momentum"])
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--batches", nargs="+", type=int, default=[60, 200, 500])
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--dense", choices=("exchange", "allreduce"), default="exchange", help="of the strategy")
    args = parser.parse_args()
    cluster = tfps.LocalCluster(num_ps=1, num_workers=max(args.workers))
    with tfps.ParameterServerStrategy(cluster, dense=args.dense) as strategy:
        for task in args.tasks:
            for optimizer in args.optimizers:
                for line in compare(strategy, task, optimizer, args.workers, args.batches, range(args.seeds)):
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
