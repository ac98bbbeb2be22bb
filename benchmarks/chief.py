"""How many steps a second one chief can drive, with steps that cost next to nothing.

    python -m benchmarks.chief --workers 2 --steps-per-closure 1 10 100

Prints one line of JSON. For each number of steps a closure it has the steps a second of all workers together, the
chief's CPU time for 1,000 steps, and the steps a second that one core of the chief could drive at that price.
"""

import argparse
import atexit
import json
import pathlib
import shutil
import tempfile
import time
from typing import Any

_SECONDS = 3.0
_WARM_CLOSURES = 10
"""Closures of each worker before the measurement: at its first one a worker makes the function."""
_EXAMPLES_A_FILE = 4096
_TRAINED_STEPS = 1_000_000  # young models are trained by fewer workers, in shorter closures


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        "benchmarks.chief", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="workers (default %(default)s)")
    parser.add_argument(
        "--steps-per-closure", type=int, nargs="+", default=[1, 10, 100], help="what to try (default %(default)s)"
    )
    args = parser.parse_args()

    import tfps

    strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=args.workers))
    found = {steps: _measure(strategy, steps, args.workers) for steps in args.steps_per_closure}
    print(json.dumps({"workers": args.workers, "steps_per_closure": found}))
    strategy.close()


def _measure(strategy: Any, steps_per_closure: int, workers: int) -> dict[str, float]:
    """Figures of the cheapest model there is: one weight, one example a step, callbacks once a closure."""
    import keras

    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.compile("sgd", "mse", steps_per_execution=steps_per_closure)
        model.optimizer.iterations.assign(_TRAINED_STEPS)
    data = _read_by_file(workers)
    model.fit(data, steps_per_epoch=_WARM_CLOSURES * workers * steps_per_closure, verbose=0)
    steps = max(50, 10 * workers) * steps_per_closure
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        model.fit(data, steps_per_epoch=steps, verbose=0)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if wall > _SECONDS:
            break
        steps *= 2
    return {
        "steps_per_s": round(steps / wall),
        "chief_cpu_ms_per_1000_steps": round(1e6 * cpu / steps, 1),
        "chief_steps_per_cpu_s": round(steps / cpu),
    }


def _read_by_file(files: int) -> Any:
    """An endless input of one file for each worker, so that no worker reads the batches of others.

    Of an input without files each worker reads all and keeps its own, so with 64 workers reading would be all they do.
    """
    import tensorflow as tf

    folder = pathlib.Path(tempfile.mkdtemp(prefix="tfps-chief-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    names = [str(folder / f"{number:04}") for number in range(files)]
    for name in names:
        pathlib.Path(name).write_bytes(bytes(4 * _EXAMPLES_A_FILE))
    data = tf.data.Dataset.from_tensor_slices(names).interleave(
        lambda name: tf.data.FixedLengthRecordDataset(name, 4).repeat(), cycle_length=files
    )
    data = data.map(lambda record: (tf.zeros([1]), tf.reshape(tf.io.decode_raw(record, tf.float32), [1]))).batch(1)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    return data.with_options(options)


if __name__ == "__main__":
    main()
