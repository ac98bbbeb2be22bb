"""What the conformance suite goes over: kinds of tables, modes of training and formats of saved models.

A new kind, mode or format is one more entry here; every test of this folder then runs with it.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfps
from tests.embedding.dict_table import DictEmbedding, DictTable
from tfps.embedding.dynamic_table import DynamicTable
from tfps.embedding.sharded_table import ShardedTable
from tfps.embedding.table import Table
from tfps.placement.spec import TableDtypes


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of table.

    Args:
        layer: the embedding layer that makes its tables.
        table: class of these tables.
        stored: the types in which servers keep rows and slots.
        tolerance: how far numbers may be from those of another run, because updates are rounded at random.
    """

    layer: type[keras.layers.Embedding]
    table: type[Table]
    stored: TableDtypes = TableDtypes()
    tolerance: float = 0.0


@dataclasses.dataclass(frozen=True)
class Mode:
    """A mode of training.

    Args:
        wrap: puts a Keras optimizer into the mode. In plain Keras the result must be an optimizer that makes the
            same updates, because the tests compare the two.
        move: how far SGD at rate 1 moves a row for one occurrence of its id, given the number of workers.
        batches_a_step: batches that make one step of the optimizer, given the number of workers.
        dense: of the strategy.
    """

    wrap: Callable[[keras.Optimizer], keras.Optimizer]
    move: Callable[[int], float] = lambda workers: 1.0
    batches_a_step: Callable[[int], int] = lambda workers: 1
    dense: str = "exchange"


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to save a model with its optimizer.

    Args:
        save: writes a model into a folder; None for what a callback of `callbacks` writes during `fit`.
        load: gives a model with the state in a folder, from the folder and a function that makes the same model anew.
    """

    save: Callable[[keras.Model, pathlib.Path], object] | None
    load: Callable[[pathlib.Path, Callable[[], keras.Model]], keras.Model]


def _load_file(folder: pathlib.Path, build: Callable[[], keras.Model]) -> keras.Model:
    # The file alone must do: it has the layers, the optimizer and its mode.
    return keras.saving.load_model(folder / "model.keras", custom_objects={"DictEmbedding": DictEmbedding})


def _load_weights(folder: pathlib.Path, build: Callable[[], keras.Model]) -> keras.Model:
    model = _with_slots(build())
    model.load_weights(folder / "model.weights.h5")
    return model


def _checkpoint(model: keras.Model) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def _load_checkpoint(folder: pathlib.Path, build: Callable[[], keras.Model]) -> keras.Model:
    model = _with_slots(build())
    _checkpoint(model).read(str(folder / "checkpoint")).assert_existing_objects_matched()
    return model


def backup(folder: pathlib.Path) -> keras.callbacks.Callback:
    """The callback that writes the format "backup" after each epoch of a `fit`, and reads it where one begins."""
    return keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)


def _load_backup(folder: pathlib.Path, build: Callable[[], keras.Model]) -> keras.Model:
    model, nothing = build(), np.zeros((1, 2), "int64")
    # The one epoch is in the backup, so the callback restores the model and nothing is left to train.
    model.fit(nothing, np.zeros((1, 1)), epochs=1, verbose=0, callbacks=[backup(folder)])
    return model


def _restore(folder: pathlib.Path, build: Callable[[], keras.Model]) -> keras.Model:
    model = build()
    tfps.checkpoint.restore(model, folder / "by-servers")
    return model


def _with_slots(model: keras.Model) -> keras.Model:
    # Keras makes slots at the first step, and both ways of loading fill only variables that exist.
    model.optimizer.build(model.trainable_variables)
    return model


@keras.saving.register_keras_serializable("tests")
class GrowingEmbedding(tfps.layers.DynamicEmbedding):
    """An embedding that grows, made as one with numbered rows is."""

    def __init__(self, rows: int, dim: int, **kwargs: Any) -> None:
        super().__init__(dim, expected_rows=rows, **kwargs)
        self._rows = rows

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["output_dim"], config["expected_rows"]
        return {**config, "rows": self._rows, "dim": self.output_dim}


KINDS = {
    "sharded": Kind(keras.layers.Embedding, ShardedTable),
    "dict": Kind(DictEmbedding, DictTable),
    "growing": Kind(GrowingEmbedding, DynamicTable),
    "bfloat16": Kind(keras.layers.Embedding, ShardedTable, TableDtypes("bfloat16", "bfloat16"), tolerance=0.1),
}

MODES = {
    "asynchronous": Mode(lambda optimizer: optimizer),
    "geo": Mode(lambda optimizer: tfps.optimizers.Geo(optimizer, push_every=3, merge="sum")),
    "allreduce": Mode(lambda optimizer: optimizer, batches_a_step=lambda workers: workers, dense="allreduce"),
    "sync": Mode(tfps.optimizers.Sync, lambda workers: 1 / workers, lambda workers: workers),
}

FORMATS = {
    "keras file": Format(lambda model, folder: model.save(folder / "model.keras"), _load_file),
    "weights": Format(lambda model, folder: model.save_weights(folder / "model.weights.h5"), _load_weights),
    "checkpoint": Format(lambda model, folder: _checkpoint(model).write(str(folder / "checkpoint")), _load_checkpoint),
    "backup": Format(None, _load_backup),
    "by servers": Format(lambda model, folder: tfps.checkpoint.save(model, folder / "by-servers"), _restore),
}

WORKERS = (1, 2)


def scope_of(strategy: tfps.ParameterServerStrategy | None) -> contextlib.AbstractContextManager[object]:
    """The scope of a strategy; None is plain Keras."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()
