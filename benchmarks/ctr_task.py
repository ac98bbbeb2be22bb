"""The work of the CTR-DNN benchmark: sizes, synthetic clicks made in memory, and the model in any Keras."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

_DENSE = 13
_LAYERS = (400, 400, 400)
_EXAMPLES = 16_384
_FEWEST_BATCHES = 4
_ZIPF = 1.2
_LEARNING_RATE = 0.05
POLICIES = ("float32", "mixed_bfloat16")
_SCATTER = 2_654_435_761  # a prime: spreads the frequent ranks over a slot's rows


@dataclasses.dataclass(frozen=True)
class CtrTask:
    """A click model: ids in `slots` categorical columns, 13 numbers, an MLP of 400-400-400.

    A slot has its own rows with any number of tables, so runs with 1 table and with 26 ask for the same rows.

    Args:
        batch: examples a step.
        slots: categorical columns.
        tables: embeddings the slots are spread over, neighbours together; a divisor of `slots`.
        rows: of all tables together.
        dim: floats a row.
        policy: the dtype policy of Keras under which the model is built.
    """

    batch: int = 512
    slots: int = 26
    tables: int = 1
    rows: int = 1_000_001
    dim: int = 10
    policy: str = "float32"

    def __post_init__(self) -> None:
        """Checks the sizes."""
        for name in ("batch", "slots", "tables", "rows", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}.")
        if self.policy not in POLICIES:
            raise ValueError(f"`policy` must be one of {POLICIES}. Received: {self.policy!r}.")
        if self.slots % self.tables:
            raise ValueError(f"`tables` must divide `slots`. Received: tables={self.tables}, slots={self.slots}.")
        if self.rows < self.slots:
            raise ValueError(f"`rows` must be at least `slots`. Received: rows={self.rows}, slots={self.slots}.")

    @property
    def slots_per_table(self) -> int:
        """Slots that share a table."""
        return self.slots // self.tables

    @property
    def rows_per_slot(self) -> int:
        """Rows that only one slot asks for."""
        return self.rows // self.slots

    @property
    def rows_per_table(self) -> int:
        """Rows of one table; one table alone has all of them."""
        return self.rows if self.tables == 1 else self.rows_per_slot * self.slots_per_table


def clicks(task: CtrTask, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole batches: ids [batches, batch, slots] int64, dense [batches, batch, 13], labels [batches, batch, 1]."""
    draw = np.random.default_rng(seed)
    shape = (max(_FEWEST_BATCHES, _EXAMPLES // task.batch), task.batch)
    ranks = draw.zipf(_ZIPF, (*shape, task.slots)).astype(np.uint64)
    within = (ranks * np.uint64(_SCATTER) % np.uint64(task.rows_per_slot)).astype(np.int64)
    ids = within + np.arange(task.slots) % task.slots_per_table * task.rows_per_slot
    labels = draw.integers(0, 2, (*shape, 1)).astype(np.float32)
    return ids, draw.random((*shape, _DENSE), np.float32), labels


def dataset(task: CtrTask) -> Any:
    """The batches as an endless `tf.data.Dataset`; its price is one copy for each batch."""
    import tensorflow as tf

    ids, dense, labels = clicks(task)
    return tf.data.Dataset.from_tensor_slices(((ids, dense), labels)).repeat().prefetch(4)


def build_model(task: CtrTask, keras: Any, growing: bool = False) -> Any:
    """Builds the model, not compiled, with the given module: Keras 3 or tf_keras; its tables may grow."""
    keras.mixed_precision.set_global_policy(task.policy)
    ids = keras.Input((task.slots,), dtype="int64")
    dense = keras.Input((_DENSE,))
    embedded = [keras.layers.Flatten()(rows) for rows in _embed(task, keras, ids, growing)]
    hidden = keras.layers.Concatenate()([*embedded, dense])
    for units in _LAYERS:
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    return keras.Model([ids, dense], keras.layers.Dense(1, activation="sigmoid")(hidden))


def mlp_widths(task: CtrTask) -> tuple[int, ...]:
    """The widths of the inputs of each layer of the MLP, and of its output."""
    return (task.slots * task.dim + _DENSE, *_LAYERS, 1)


def adagrad(optimizers: Any) -> Any:
    """Adagrad from the `optimizers` module of any Keras, always with the same hyperparameters."""
    return optimizers.Adagrad(_LEARNING_RATE, initial_accumulator_value=0.1, epsilon=1e-7)


def _embed(task: CtrTask, keras: Any, ids: Any, growing: bool) -> Iterator[Any]:
    width = task.slots_per_table
    for first in range(0, task.slots, width):
        yield _layer(task, keras, growing)(ids[:, first : first + width])


def _layer(task: CtrTask, keras: Any, growing: bool) -> Any:
    if not growing:
        return keras.layers.Embedding(task.rows_per_table, task.dim)
    import tfps

    return tfps.layers.DynamicEmbedding(task.dim, expected_rows=task.rows_per_table)
