"""MultiOptimizer: each variable is updated by the optimizer that it belongs to, as in one process."""

import contextlib

import keras
import numpy as np
import pytest

import tfps
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras.multi_optimizer import part_for, parts_of, whole_of

pytestmark = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has it from version 3.15 on"
)

ROWS = 60


def by_layer(wide, narrow, dense):
    """An optimizer for each layer of `built`."""
    parts = keras.optimizers.OptimizerMap(dense, {"wide/.*": wide, "narrow/.*": narrow})
    return keras.optimizers.MultiOptimizer(parts)


def usual():
    return by_layer(
        keras.optimizers.Adagrad(0.1), keras.optimizers.SGD(0.05, weight_decay=0.1), keras.optimizers.Adam(0.01)
    )


def built(strategy, optimizer):
    keras.utils.set_random_seed(3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        inputs = keras.Input((2,), dtype="int64")
        wide, narrow = keras.layers.Embedding(ROWS, 4, name="wide"), keras.layers.Embedding(ROWS, 1, name="narrow")
        joined = keras.layers.Concatenate()([wide(inputs[:, 0]), narrow(inputs[:, 1])])
        model = keras.Model(inputs, keras.layers.Dense(1, name="top")(joined))
        model.compile(optimizer() if callable(optimizer) else optimizer, "mse")
    return model


def examples(batches, size=ROWS):
    """Every batch has every row, each once, where Keras's sparse updates and decays are those of rows here."""
    random = np.random.default_rng(1)
    ids = np.concatenate([np.stack([random.permutation(ROWS)[:size] for _ in range(2)], 1) for _ in range(batches)])
    return ids, (1 + ids[:, :1] % 7).astype("float32")


def fit(model, batches=12, size=ROWS, epochs=2):
    ids, labels = examples(batches)
    model.fit(ids, labels, batch_size=size, epochs=epochs, shuffle=False, verbose=0)
    return model


def state(model):
    return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables)]


def assert_alike(ours, theirs):
    for left, right in zip(state(ours), state(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("mode", ["async", "geo", "sync"])
def test_one_worker_gives_what_one_process_gives(one_worker, mode):
    modes = {"async": lambda inner: inner, "sync": tfps.optimizers.Sync}
    modes["geo"] = lambda inner: tfps.optimizers.Geo(inner, push_every=5)
    model = fit(built(one_worker, lambda: modes[mode](usual())))
    assert_alike(model, fit(built(None, usual)))
    assert [int(part.iterations) for part in parts_of(model.optimizer)] == [24, 24, 24]


def test_two_workers_make_the_update_of_the_joined_batch(strategy):
    ours = fit(built(strategy, lambda: tfps.optimizers.Sync(usual())), size=ROWS // 2)
    assert_alike(ours, fit(built(None, usual)))


def test_two_workers_count_every_step_of_every_part(strategy):
    for mode in (lambda inner: inner, tfps.optimizers.Geo):
        model = fit(built(strategy, lambda mode=mode: mode(usual())))
        assert [int(part.iterations) for part in parts_of(model.optimizer)] == [24, 24, 24]
        assert all(np.isfinite(value).all() for value in state(model))


def test_slots_lie_beside_their_variables(strategy):
    model = fit(built(strategy, usual), batches=1, epochs=1)
    wide, narrow = (model.get_layer(name).embeddings for name in ("wide", "narrow"))
    adagrad, sgd, adam = parts_of(model.optimizer)
    assert [part_for(model.optimizer, variable) for variable in (wide, narrow)] == [adagrad, sgd]
    assert part_for(model.optimizer, model.get_layer("top").kernel) is adam
    assert all(whole_of(part) is model.optimizer for part in (adagrad, sgd, adam))
    (slot,) = adagrad._accumulators
    assert isinstance(slot._value, Table) and slot._value.servers == wide._value.servers
    assert len(sgd.variables) == 2  # its iterations and rate: SGD without momentum has no slots


def test_only_optimizers_of_tables_need_a_row_wise_form(one_worker):
    def dense_lamb():
        return by_layer(keras.optimizers.Adagrad(0.1), keras.optimizers.SGD(0.05), keras.optimizers.Lamb(0.01))

    assert_alike(fit(built(one_worker, dense_lamb)), fit(built(None, dense_lamb)))
    lamb_of_a_table = by_layer(keras.optimizers.Lamb(), keras.optimizers.SGD(), keras.optimizers.SGD())
    with pytest.raises(UnsupportedError, match="row-wise form .* Received: Lamb"):
        fit(built(one_worker, lamb_of_a_table))


@pytest.mark.parametrize("part", [keras.optimizers.Ftrl, keras.optimizers.Lamb])
def test_geo_refuses_a_part_by_name(part):
    with pytest.raises(UnsupportedError, match=f"Received: {part.__name__}"):
        tfps.optimizers.Geo(by_layer(keras.optimizers.Adagrad(), part(), keras.optimizers.SGD()))


def test_a_function_may_choose_the_optimizers(one_worker):
    def chosen():
        wide, others = keras.optimizers.Adagrad(0.1), keras.optimizers.SGD(0.05)
        return keras.optimizers.MultiOptimizer(lambda variable: wide if "wide" in variable.path else others)

    assert_alike(fit(built(one_worker, chosen)), fit(built(None, chosen)))


def test_made_outside_the_scope_it_is_taken_in(one_worker):
    assert_alike(fit(built(one_worker, usual())), fit(built(None, usual)))


def test_saved_and_loaded_it_goes_on_as_if_never_stopped(one_worker, tmp_path):
    model = fit(built(one_worker, lambda: tfps.optimizers.Geo(usual(), push_every=3)))
    model.save(tmp_path / "model.keras")
    with one_worker.scope():
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.tfps_mode == model.optimizer.tfps_mode
    assert_alike(fit(loaded), fit(model))


def test_the_plan_counts_the_slots_of_each_part():
    plan = tfps.plan(lambda: built(None, usual), num_ps=2)
    slots = {placement.spec.name: placement.spec.slots for placement in plan}
    assert slots == {"wide/embeddings": 1, "narrow/embeddings": 0, "top/kernel": 2, "top/bias": 2}
