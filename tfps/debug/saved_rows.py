"""Embedding layers with no more rows than a saved step has read, so that a replay needs no memory for their tables.

Threading: one replay at a time in a process.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfps.debug.layer_names import without_numbers
from tfps.debug.step_file import ROWS, Array, Value
from tfps.errors import DumpError
from tfps.keras.describing import describing
from tfps.keras.embedding_bag import EmbeddingBag
from tfps.keras.growing_ids import as_ids
from tfps.keras.growing_layer import GrowingLayer

_IDS = "_tfps_saved_ids"
"""The attribute of a layer with the id of each of its rows."""
_KNOWN = "_tfps_known_ids"
"""The attribute of a layer with the ids that were saved."""


class SavedRows:
    """The rows that a step has read.

    Args:
        values: the values of the step.
    """

    def __init__(self, values: Sequence[Value]) -> None:
        # The name of a layer is known before its path is.
        self._left = [(value.entry.layer, value) for value in values if value.entry.kind == ROWS]

    def take(self, name: str) -> Value | None:
        """Returns the rows of the layer of this name, once; None if the step has read none."""
        for same in (lambda path: path == name, lambda path: without_numbers(path) == without_numbers(name)):
            for one in self._left:
                if same(one[0].rpartition("/")[2]):
                    self._left.remove(one)
                    return one[1]
        return None


@contextlib.contextmanager
def built_of(rows: SavedRows) -> Iterator[None]:
    """Within, embedding layers are built with the rows that were saved of them."""
    stock = keras.layers.Embedding.build

    def build(layer: keras.layers.Embedding, input_shape: Any = None) -> None:
        _build(stock, layer, rows.take(layer.name), input_shape)

    keras.layers.Embedding.build = build
    try:
        # A layer whose table grows is then built without servers, as for a plan.
        with describing():
            yield
    finally:
        keras.layers.Embedding.build = stock


def known_ids(layer: keras.layers.Layer) -> Array | None:
    """Returns the ids of the rows that a step has read of a layer, int64 [m]; None for a layer without saved rows."""
    return getattr(layer, _KNOWN, None)


def ids_of(layer: keras.layers.Layer, indices: Array) -> Array:
    """Returns the ids of some rows of a layer, int64 [m], by their numbers in it."""
    ids = getattr(layer, _IDS, None)
    return np.asarray(indices, np.int64) if ids is None else ids[indices]


def _build(stock: Any, layer: keras.layers.Embedding, saved: Value | None, input_shape: Any) -> None:
    if saved is not None and saved.values.shape[1:] != (layer.output_dim,):
        raise DumpError(
            f"the model must be the one that was trained. Received: output_dim={layer.output_dim} for layer "
            f"{layer.name!r}, whose saved rows have {int(np.prod(saved.values.shape[1:]))} elements."
        )
    known = np.zeros(0, np.int64) if saved is None or saved.ids is None else saved.ids
    others = known[known != 0]
    # Row 0 is that of id 0, which may be padding. The last row is for ids that the step has not read.
    ids = np.concatenate([[0], others, [-1]]).astype(np.int64)
    rows = np.zeros((len(ids), layer.output_dim), np.float32)
    if saved is not None:
        rows[1:-1] = saved.values[known != 0]
        rows[:1] = saved.values[known == 0] if (known == 0).any() else rows[:1]
    whole, first = layer.input_dim, layer.embeddings_initializer
    # The initializer may be of all rows: a matrix that was trained elsewhere.
    layer.input_dim, layer.embeddings_initializer = len(ids), keras.initializers.Zeros()
    try:
        stock(layer, input_shape)
    finally:
        layer.input_dim, layer.embeddings_initializer = whole, first
    # The layer may be built while a step is traced, and the rows are no part of the step.
    with tf.init_scope():
        layer.embeddings.assign(rows)
    object.__setattr__(layer, _IDS, ids)
    object.__setattr__(layer, _KNOWN, known)
    grows = isinstance(layer, GrowingLayer)
    # `call` of a layer whose table grows asks for the table; that of its base reads the matrix.
    kind: Any = (
        type(layer) if not grows else EmbeddingBag if isinstance(layer, EmbeddingBag) else keras.layers.Embedding
    )
    base = kind.call
    object.__setattr__(layer, "call", functools.partial(_call, base, layer, None if grows else whole))


def _call(base: Any, layer: keras.layers.Embedding, whole: int | None, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer with the numbers of rows in place of ids."""
    ids = as_ids(inputs) if whole is None else tf.cast(inputs, tf.int64)
    if isinstance(ids, tf.SparseTensor):
        numbers = tf.SparseTensor(ids.indices, _numbers(layer, ids.values, whole), ids.dense_shape)
    elif isinstance(ids, tf.RaggedTensor):
        numbers = ids.with_flat_values(_numbers(layer, ids.flat_values, whole))
    else:
        numbers = _numbers(layer, ids, whole)
    return base(layer, numbers, *args, **kwargs)


def _numbers(layer: keras.layers.Embedding, ids: tf.Tensor, whole: int | None) -> tf.Tensor:
    if whole is not None:
        # Keras counts negative ids from the end.
        ids = tf.where(ids < 0, ids + whole, ids)
    known = getattr(layer, _IDS)[1:-1]
    flat = tf.reshape(ids, [-1])
    if not len(known):
        return tf.where(ids == 0, tf.zeros_like(ids), tf.ones_like(ids))
    found = tf.searchsorted(tf.constant(known), flat, out_type=tf.int64)
    place = tf.minimum(found, len(known) - 1)
    is_known = tf.gather(tf.constant(known), place) == flat
    number = tf.where(is_known, place + 1, len(known) + 1)
    return tf.reshape(tf.where(flat == 0, tf.zeros_like(number), number), tf.shape(ids))
