"""Every kind of table in every mode: fit, evaluate, predict and train_on_batch, with one worker and with two."""

import keras
import numpy as np
import pytest

from tests.conformance import models
from tests.conformance.matrix import scope_of
from tfps.embedding.table import Table


def test_tables_and_slots_are_of_the_kind_and_on_both_servers(case):
    model = case.build()
    model.optimizer.build(model.trainable_variables)
    values = [variable._value for variable in [*model.variables, *model.optimizer.variables]]
    tables = [value for value in values if isinstance(value, Table)]
    assert [type(table) for table in tables] == [case.kind.table] * 4  # two tables, each with one slot
    assert all(sorted(table.servers) == [0, 1] for table in tables)


def test_fit_makes_the_updates_of_one_process(run, case, mode, plain_states):
    steps = -(-models.BATCHES // case.mode.batches_a_step(case.workers))
    iterations = next(value for name, value in run.fitted.items() if name.endswith("/iteration"))
    assert iterations == steps
    expected = plain_states(mode, case)
    if case.workers == 1:
        models.assert_equal(run.fitted, expected, tolerance=2e-4)
        return
    # Two workers take the batches in any order, but they update the rows of their ids and no others.
    before = models.state(case.build())
    unseen = np.setdiff1d(np.arange(models.ROWS), models.IDS)
    for name, rows in before.items():
        if "embeddings" in name:
            np.testing.assert_array_equal(run.fitted[name][unseen], rows[unseen])
            seen = np.unique(models.IDS if "wide" in name else models.IDS[:, 1])
            assert (run.fitted[name][seen] != rows[seen]).any(1).all()


def test_evaluate_and_predict_are_those_of_one_process(run, case):
    plain = case.build_plain()
    plain.set_weights(list(run.fitted.values())[: len(plain.weights)])
    logs = plain.evaluate(models.IDS, models.LABELS, batch_size=models.SIZE, verbose=0, return_dict=True)
    assert run.logs == pytest.approx(logs, rel=1e-5)
    predicted = plain.predict(models.IDS, batch_size=models.SIZE, verbose=0)
    np.testing.assert_allclose(run.predicted, predicted, rtol=1e-5, atol=1e-6)


def test_train_on_batch_makes_the_step_of_one_process(run, case):
    plain = case.build_plain()
    plain.optimizer.build(plain.trainable_variables)
    for variable, value in zip([*plain.variables, *plain.optimizer.variables], run.fitted.values(), strict=True):
        variable.assign(value)
    plain.train_on_batch(models.NEXT_IDS, models.NEXT_LABELS)
    models.assert_equal(run.stepped, models.state(plain), tolerance=2e-4)


def test_fit_counts_every_id(case):
    """The gradient of every looked-up element is -1, so SGD at rate 1 counts how often an id was seen."""
    with scope_of(case.strategy):
        table = case.kind.layer(models.ROWS, 3, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
        model.compile(case.mode.wrap(keras.optimizers.SGD(1.0)), lambda y, rows: -keras.ops.sum(rows))
    labels = np.zeros((len(models.IDS), 2, 3), "float32")
    model.fit(models.IDS, labels, batch_size=models.SIZE, epochs=2, verbose=0)
    moved = 2 * case.mode.move(case.workers) * np.bincount(models.IDS.reshape(-1), minlength=models.ROWS)
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(moved[:, np.newaxis], 3, 1))
