"""What a row, its slot, a worker and the chief take, measured as resident memory of real processes.

    python -m benchmarks.memory
    python -m benchmarks.memory --rows 8_000_000 --dim 32 --optimizers adagrad

Prints one line of JSON. Each case is a cluster of its own with one server and one worker: a table with fixed rows or
one that grows, an optimizer, and the type of rows and slots. Steps train every row once. Each case is measured with
all rows and with a quarter of them, so that memory which does not depend on rows cancels out:

- `row_bytes`: the difference of the server's memory, divided by the difference in rows: a row with its slots;
- `slot_bytes`: `row_bytes` less that of SGD, which has no slot;
- `planned_bytes`: what a plan counts for a row with its slots;
- the memory of the worker and the chief in the last case.

With a million rows or fewer, a table that grows takes more a row than planned.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from benchmarks.meter import resident_bytes

_BATCH = 16_384
KINDS = ("fixed", "growing")
DTYPES = ("float32", "bfloat16")
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "adam")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        kind: one of `KINDS`.
        dtype: the type of rows and slots.
        optimizer: one of `OPTIMIZERS`.
        rows: rows of the table.
        dim: numbers of a row.
    """

    kind: str
    dtype: str
    optimizer: str
    rows: int
    dim: int


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        "benchmarks.memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4_000_000, help="rows of the table (default %(default)s)")
    parser.add_argument("--dim", type=int, default=16, help="numbers of a row (default %(default)s)")
    parser.add_argument(
        "--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS, help="beside sgd (default all)"
    )
    args = parser.parse_args()
    print(json.dumps(measure_all(args.rows, args.dim, args.optimizers)))


def measure_all(rows: int, dim: int, optimizers: Sequence[str]) -> dict[str, Any]:
    """Measures every case, and returns the bytes of a row and a slot by kind, type and optimizer.

    Args:
        rows: rows of the table.
        dim: numbers of a row.
        optimizers: some of `OPTIMIZERS`; SGD is always measured, because slots are what the others take beyond it.
    """
    found: dict[str, Any] = {"rows": rows, "dim": dim}
    for kind in KINDS:
        found[kind] = {}
        for dtype in DTYPES:
            names = dict.fromkeys(("sgd", *optimizers))
            cases = {optimizer: measure(Case(kind, dtype, optimizer, rows, dim)) for optimizer in names}
            without = cases["sgd"]["row_bytes"]
            found[kind][dtype] = {
                optimizer: {
                    "row_bytes": case["row_bytes"],
                    "slot_bytes": round(case["row_bytes"] - without, 1),
                    "planned_bytes": case["planned_bytes"],
                }
                for optimizer, case in cases.items()
            }
            last = list(cases.values())[-1]
    return {**found, "worker_bytes": last["worker_bytes"], "chief_bytes": last["chief_bytes"]}


def measure(case: Case) -> dict[str, Any]:
    """Measures a case: the bytes that a row takes on the server, and the memory of the worker and the chief."""
    few, many = (_resident(dataclasses.replace(case, rows=rows)) for rows in (case.rows // 4, case.rows))
    more = case.rows - case.rows // 4
    return {
        "row_bytes": round((many["ps"] - few["ps"]) / more, 1),
        "planned_bytes": round((many["planned"] - few["planned"]) / more, 1),
        **{f"{job}_bytes": {"few_rows": few[job], "all_rows": many[job]} for job in ("worker", "chief")},
    }


def _resident(case: Case) -> dict[str, int]:
    """Trains a table on a cluster of its own, and returns the resident bytes of each task and those of the plan."""
    import tfps

    cluster = tfps.LocalCluster(1, 1)
    with tfps.ParameterServerStrategy(
        cluster, dense_tables_bytes=0, embeddings_dtype=case.dtype, slots_dtype=case.dtype
    ) as strategy:
        pids = {task.order.job: task.pid for task in cluster.tasks} | {"chief": os.getpid()}
        model = _train(strategy, case)
        resident = {job: resident_bytes(pid) for job, pid in pids.items()}
        planned = sum(load.bytes_with_slots for load in strategy.plan.loads())
        del model
    return {**resident, "planned": planned}


def _train(strategy: Any, case: Case) -> Any:
    """Makes a model of one table, and trains each of its rows once."""
    import keras
    import tensorflow as tf

    import tfps

    with strategy.scope():
        inputs = keras.Input((), dtype="int64")
        # A constant: drawing first values takes memory that malloc keeps and later tables reuse, which hides their own.
        first = keras.initializers.Constant(0.01)
        if case.kind == "fixed":
            layer = keras.layers.Embedding(case.rows, case.dim, embeddings_initializer=first)
        else:
            layer = tfps.layers.DynamicEmbedding(case.dim, embeddings_initializer=first, expected_rows=case.rows)
        model = keras.Model(inputs, layer(inputs))
        rowwise = case.optimizer == "rowwise_adagrad"
        optimizer = tfps.optimizers.RowwiseAdagrad() if rowwise else case.optimizer
        model.compile(optimizer, loss=lambda _, y: keras.ops.sum(y))
    data = tf.data.Dataset.range(0, case.rows, _BATCH).map(
        lambda start: (tf.range(start, tf.minimum(start + _BATCH, case.rows)), tf.zeros([1]))
    )
    data = data.map(lambda ids, y: (ids, tf.broadcast_to(y, [tf.size(ids)])))
    model.fit(data, verbose=0)
    return model


if __name__ == "__main__":
    main()
