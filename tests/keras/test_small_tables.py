"""Small tables are dense variables: with one worker, every optimizer gives what one process gives, repeats included."""

import contextlib
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.embedding.table import Table
from tfps.errors import IdRangeError, UnsupportedError
from tfps.placement.advice import format_start_up
from tfps.placement.small_tables import DENSE_TABLES_BYTES, SmallTables
from tfps.placement.spec import VariableSpec
from tfps.strategy.variables import SmallTable

ROWS, BATCH = 12, 16
IDS = np.random.default_rng(0).integers(0, ROWS, (10 * BATCH, 3))  # each id repeats in each batch
LABELS = (1 + IDS.sum(1, keepdims=True) % 5).astype("float32")


def build(scope, optimizer, rows=ROWS, **embedding):
    keras.utils.set_random_seed(7)
    with scope:
        ids = keras.Input((3,), dtype="int64")
        vectors = keras.layers.Embedding(rows, 4, **embedding)(ids)
        model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(vectors)))
        model.compile(optimizer, "mse")
    return model


def trained(scope, optimizer, **embedding):
    """Weights, slots and losses after two epochs."""
    model = build(scope, optimizer(), **embedding)
    history = model.fit(IDS, LABELS, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    embeddings = model.layers[1].embeddings._value
    assert isinstance(embeddings, SmallTable) or isinstance(scope, contextlib.nullcontext)
    return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables), history.history["loss"]]


def assert_as_in_one_process(strategy, optimizer, **embedding):
    ours = trained(strategy.scope(), optimizer, **embedding)
    for one, other in zip(ours, trained(contextlib.nullcontext(), optimizer, **embedding), strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-4, atol=3e-6)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    # Not centered: Keras's own update takes the root of a negative number where ids repeat.
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
    # Without a row-wise form: a table would refuse them.
    "lamb": lambda: keras.optimizers.Lamb(0.01),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "weight decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "moving average of weights": lambda: keras.optimizers.Adam(
        0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=7
    ),
    "clipped by norm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "clipped by global norm": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
    "clipped by value": lambda: keras.optimizers.Adagrad(0.1, clipvalue=0.01),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.Adam(0.01), push_every=5),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.Adam(0.01)),
    "sync, clipped": lambda: tfps.optimizers.Sync(keras.optimizers.RMSprop(0.01, global_clipnorm=0.1)),
}


OFTEN = (
    "adagrad",
    "adam",
    "weight decay",
    "moving average of weights",
    "clipped by global norm",
    "geo",
    "sync",
)
"""The rest is slow: each trains the same model in two ways."""


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_one_worker_gives_what_one_process_gives_where_ids_repeat(one_worker, small_tables, name):
    assert_as_in_one_process(one_worker, OPTIMIZERS[name])


def test_regularizer_and_constraint_see_the_whole_table(one_worker, small_tables):
    assert_as_in_one_process(
        one_worker,
        OPTIMIZERS["adam"],
        embeddings_regularizer=keras.regularizers.L2(0.1),
        embeddings_constraint=keras.constraints.MaxNorm(0.05),
    )


def test_pooled_lookups_and_several_lookups_of_one_table(one_worker, small_tables):
    def weights(scope):
        keras.utils.set_random_seed(7)
        with scope:
            ids = keras.Input((3,), dtype="int64")
            shared = keras.layers.Embedding(ROWS, 4)
            bags = tfps.layers.EmbeddingBag(ROWS, 4, combiner="mean")
            parts = [keras.layers.Flatten()(shared(ids)), shared(ids[:, 0]), bags(ids)]
            model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Concatenate()(parts)))
            model.compile(keras.optimizers.Adam(0.01), "mse")
        model.fit(IDS, LABELS, batch_size=BATCH, shuffle=False, verbose=0)
        return model.get_weights()

    for ours, theirs in zip(weights(one_worker.scope()), weights(contextlib.nullcontext()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-4, atol=3e-6)


def test_two_synchronous_workers_give_what_one_process_gives_with_joined_batches(strategy, small_tables):
    def weights(scope, optimizer, batch):
        model = build(scope, optimizer)
        model.fit(tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(batch), verbose=0)
        return model.get_weights()

    ours = weights(strategy.scope(), tfps.optimizers.Sync(keras.optimizers.Adam(0.01)), BATCH)
    theirs = weights(contextlib.nullcontext(), keras.optimizers.Adam(0.01), 2 * BATCH)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-4, atol=3e-6)


def test_no_update_of_two_workers_is_lost(strategy, small_tables):
    with strategy.scope():
        ids = keras.Input((), dtype="int64")
        model = keras.Model(ids, keras.layers.Embedding(4, 1, embeddings_initializer="zeros")(ids))
        model.compile(keras.optimizers.SGD(1.0), loss=lambda y, rows: keras.ops.sum(rows))
    model.fit(np.repeat(np.arange(3), 40), np.zeros(120), batch_size=4, verbose=0)
    assert isinstance(model.layers[1].embeddings._value, SmallTable)
    np.testing.assert_array_equal(model.get_weights()[0][:, 0], [-40, -40, -40, 0])


def test_a_wrong_id_is_named(strategy, small_tables):
    model = build(strategy.scope(), "adam")
    wrong = IDS.copy()
    wrong[37, 2] = ROWS + 5
    data = tf.data.Dataset.from_tensor_slices((wrong, LABELS)).batch(BATCH)
    for call in (lambda: model.fit(data, verbose=0), lambda: model.predict(wrong[32:40], verbose=0)):
        with pytest.raises(IdRangeError, match=rf"below {ROWS}. Received: {ROWS + 5}, at ids\[5, 2\]"):
            call()
    with pytest.raises(IdRangeError, match="Received: 17"):
        model.layers[1](np.array([1, 17]))


def test_a_model_has_as_many_small_tables_as_fit(strategy, small_tables, monkeypatch):
    monkeypatch.setattr(strategy.factory.small_tables, "limit", 1000)

    def kinds():
        with strategy.scope():
            ids = keras.Input((), dtype="int64")
            rows = [keras.layers.Embedding(count, 1)(ids) for count in (100, 200, 50)]
            model = keras.Model(ids, keras.layers.Add()(rows))
            model.compile("adam", "mse")
        return [isinstance(v._value, Table) for v in model.trainable_variables]

    # 400 bytes fit, 800 more do not, and 200 more do. A second model gets the same.
    assert kinds() == kinds() == [False, True, False]


def test_optimizers_without_a_row_wise_form_need_small_tables(strategy, small_tables):
    rows = DENSE_TABLES_BYTES // 16 + 1
    with pytest.raises(UnsupportedError, match="`optimizer` must have a row-wise form"):
        build(strategy.scope(), keras.optimizers.Lamb(), rows=rows)
    assert build(strategy.scope(), keras.optimizers.Lamb(), rows=rows - 1).layers[1].embeddings.shape[0] == rows - 1


def test_a_plan_decides_and_the_log_says_it(strategy, small_tables, caplog):
    def plain():
        return build(contextlib.nullcontext(), "adam")

    planned = tfps.plan(plain, 2)
    assert [placement.spec.is_table for placement in planned][0] is False
    assert [placement.spec.is_table for placement in tfps.plan(plain, 2, dense_tables_bytes=0)][0] is True
    model = build(strategy.scope(), "adam")
    with caplog.at_level(logging.INFO, "tfps"):
        model.fit(IDS[:BATCH], LABELS[:BATCH], verbose=0)
    assert (
        "1 small table is a dense variable, 192 B, updated whole as in one process (dense_tables_bytes)" in caplog.text
    )
    spec = VariableSpec("t", (2, 2))
    assert "2 small tables are dense variables, 32 B" in format_start_up(planned, {}, 1, small_tables=[spec, spec])


def test_the_limit_counts_bytes_of_one_model():
    small = SmallTables(100)
    table = VariableSpec("t", (5, 4), is_table=True)
    assert [small.take(table), small.take(table)] == [True, False]
    small.begin_model()
    assert small.take(table)
    assert not SmallTables(0).take(table)
