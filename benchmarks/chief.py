"""How many steps a second one chief can drive, with steps that cost next to nothing.

    python -m benchmarks.chief --workers 2 --steps-per-closure 1 10 100

Prints one line of JSON. For each number of steps a closure it has the steps a second of all workers together, the
chief's CPU time for 1,000 steps, and the steps a second that one core of the chief could drive at that price.
"""

import argparse
import json
import time
from typing import Any

_SECONDS = 3.0
_WARM_CLOSURES = 10
"""Closures of each worker before the measurement: at its first one a worker makes the function."""
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
    from tfps.training import traced_closures

    # As in a run that has lasted for a while: the chief traces no graph again while it is measured.
    traced_closures.SHORT_STEPS = 0
    strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=args.workers))
    found = {steps: _measure(strategy, steps, args.workers) for steps in args.steps_per_closure}
    print(json.dumps({"workers": args.workers, "steps_per_closure": found}))
    strategy.close()


def _measure(strategy: Any, steps_per_closure: int, workers: int) -> dict[str, float]:
    """Figures of the cheapest model there is: one weight, one example a step, callbacks once a closure."""
    import keras
    import tensorflow as tf

    from benchmarks.file_input import read_ids_by_file

    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.compile("sgd", "mse", steps_per_execution=steps_per_closure)
        model.optimizer.iterations.assign(_TRAINED_STEPS)
    data = read_ids_by_file(workers, ids=1, rows=1, batch=1)
    data = data.map(lambda ids: (tf.cast(ids, tf.float32), tf.zeros([1, 1])))
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


if __name__ == "__main__":
    main()
