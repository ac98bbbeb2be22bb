"""A second kind of table, to hold the seam to its word: the rows of each server are a dictionary, not a matrix.

A layer chooses its kind of table by the attribute `tfps_table_type`; see `DictEmbedding`.
"""

import itertools

import keras
import numpy as np
import tensorflow as tf

from tfps.embedding.initialization import fill
from tfps.embedding.row_store import RowStore
from tfps.embedding.table import Table
from tfps.ops.apply_rows import split_measures, unpack_update, update_deltas
from tfps.ops.row_request import split_request

_NUMBERS = itertools.count()
_CLOCK = -1
"""The key under which `_touches` counts updates; rows have keys of at least 0."""


class Dictionary:
    """Vectors of one width by int64 key, on the device that is current when it is made; missing ones are zeros."""

    def __init__(self, dtype, dim):
        self._none, self._dim = tf.zeros([dim], dtype), dim
        self._handle = tf.raw_ops.AnonymousMutableHashTableOfTensors(
            key_dtype=tf.int64, value_dtype=dtype, value_shape=[dim]
        )
        self._dtype = dtype

    def find(self, keys):
        found = tf.raw_ops.LookupTableFindV2(table_handle=self._handle, keys=keys, default_value=self._none)
        return tf.ensure_shape(found, [None, self._dim])

    def insert(self, keys, values):
        return tf.raw_ops.LookupTableInsertV2(table_handle=self._handle, keys=keys, values=values)

    def export(self):
        return tf.raw_ops.LookupTableExportV2(table_handle=self._handle, Tkeys=tf.int64, Tvalues=self._dtype)


class DictStore(RowStore):
    """Rows in a dictionary by local row. A mutex makes an update, which finds and then inserts, atomic."""

    def __init__(self, device, dtype, dim, rows):
        super().__init__(device, dtype, dim, rows)
        with tf.device(device):
            self._rows, self._touches = Dictionary(dtype, dim), Dictionary(tf.int64, 1)
            self._mutex = tf.raw_ops.MutexV2(shared_name=f"dict_store_{next(_NUMBERS)}")

    @classmethod
    def gather(cls, stores, request):
        with tf.device(stores[0].device):
            _, local = split_request(request, len(stores))
            return tf.concat([store._rows.find(wanted) for store, wanted in zip(stores, local, strict=True)], 0)

    @classmethod
    def apply(cls, rule, stores, message):
        with tf.device(stores[0][0].device):
            hypers = len(rule.hyperparameters) + 1
            update = unpack_update(message, hypers, len(stores), stores[0][0].dim, rule.measure)
            counts, local = split_request(update.request, len(stores))
            gradients = tf.split(update.gradients, counts, num=len(stores))
            measures = split_measures(update, counts, len(stores))
            parts = zip(stores, local, gradients, measures, strict=True)
            return tf.group(*(piece[0]._update(rule, piece, update.hyper, *part) for piece, *part in parts))

    def _update(self, rule, stores, hyper, local, gradient, measure):
        lock = tf.raw_ops.MutexLock(mutex=self._mutex)
        with tf.control_dependencies([lock]):
            before = [store._rows.find(local) for store in stores]
            deltas = update_deltas(rule, before, hyper, gradient, measure)
            clock = self._touches.find(tf.constant([_CLOCK], tf.int64)) + 1
            keys = tf.concat([local, [_CLOCK]], 0)
        updates = zip(stores, before, deltas, strict=True)
        with tf.control_dependencies([clock, *before]):
            done = [store._rows.insert(local, rows + delta) for store, rows, delta in updates]
            done.append(self._touches.insert(keys, tf.broadcast_to(clock, [tf.size(keys), 1])))
        with tf.control_dependencies([one for one in done if one is not None]):
            return tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)

    def assign(self, local, rows):
        with tf.device(self.device):
            self._rows.insert(tf.cast(local, tf.int64), rows)

    def scan(self, slots, chunk_rows):
        keys = np.sort(self._rows.export()[0].numpy())
        for start in range(0, len(keys), chunk_rows):
            local = keys[start : start + chunk_rows]
            with tf.device(self.device):
                rows = [store._rows.find(local) for store in (self, *slots)]
            yield local, rows

    def touched_since(self, cursor):
        keys, touched = (tensor.numpy() for tensor in self._touches.export())
        now = int(touched[keys == _CLOCK].sum())
        since = now if cursor is None else cursor
        return np.sort(keys[(keys != _CLOCK) & (touched[:, 0] > since)]), now


class DictTable(Table):
    """A table of `DictStore`s."""

    @classmethod
    def create(cls, placement, initial, devices, trainable):
        spec, routing = placement.spec, placement.table_routing
        stores = [
            DictStore(device, tf.as_dtype(spec.dtype), spec.shape[1], routing.shard_rows(shard))
            for shard, device in enumerate(devices)
        ]
        fill(stores, routing, initial, spec)
        return cls(placement, stores, trainable)


class DictEmbedding(keras.layers.Embedding):
    """An embedding whose rows are in dictionaries."""

    tfps_table_type = DictTable
