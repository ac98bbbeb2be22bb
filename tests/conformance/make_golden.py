"""Makes the golden files of the saved formats. Run it only to add a format: files of old versions must stay readable.

    python -m tests.conformance.make_golden FOLDER

It trains the golden model on two servers and writes into the folder: the model in every format, a plan, optimizer
configurations, and `expected.json` with the exact numbers that whoever reads the files must find.
"""

import json
import pathlib
import sys

import keras
import numpy as np

import tfps
from tests.conformance import golden_model
from tests.conformance.matrix import FORMATS, backup
from tests.conformance.models import state
from tfps.types import JSON


def optimizers() -> dict[str, keras.Optimizer]:
    """An optimizer of every form of configuration that tfps adds, with settings that are not the defaults."""
    return {
        "geo": tfps.optimizers.Geo(keras.optimizers.Adagrad(0.05), push_every=7, merge="sum"),
        "sync": tfps.optimizers.Sync(keras.optimizers.Adam(0.002), max_staleness=2),
        "rowwise_adagrad": tfps.optimizers.RowwiseAdagrad(0.03, initial_accumulator_value=0.2, epsilon=1e-4),
        "geo_rowwise_adagrad": tfps.optimizers.Geo(tfps.optimizers.RowwiseAdagrad(0.03), push_every=5),
    }


def make(folder: pathlib.Path) -> None:
    """Writes all golden files into a folder."""
    cluster, partitioner = tfps.LocalCluster(num_ps=2, num_workers=1), tfps.placement.FixedShards(2)
    with tfps.ParameterServerStrategy(cluster, variable_partitioner=partitioner, dense_tables_bytes=0) as strategy:
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = golden_model.build()
        examples = golden_model.IDS, golden_model.LABELS
        model.fit(*examples, batch_size=8, shuffle=False, verbose=0, callbacks=[backup(folder)])
        expected = save(model, folder)
    plan = tfps.plan(golden_model.build, 2, partitioner)
    plan.save(folder / "plan.json")
    shards, local = plan.find("wide/embeddings").routing.locate(np.arange(golden_model.ROWS))
    expected["routed"] = {"shards": shards.tolist(), "local": local.tolist()}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    configs = {name: keras.optimizers.serialize(optimizer) for name, optimizer in optimizers().items()}
    (folder / "optimizers.json").write_text(json.dumps(configs, indent=1) + "\n")


def save(model: keras.Model, folder: pathlib.Path) -> dict[str, JSON]:
    """Writes a model in every format; returns the exact values of its variables, and predictions."""
    for form in FORMATS.values():
        # One without `save` was written by its callback.
        if form.save is not None:
            form.save(model, folder)
    # A float32 goes through the decimal text of a float64 and back without a loss.
    return {
        "state": [[name.partition(" ")[2], value.tolist()] for name, value in state(model).items()],
        "predicted": model.predict(golden_model.IDS, verbose=0).tolist(),
    }


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
