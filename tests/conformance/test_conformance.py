"""Every kind of table in every mode through every capability, with one worker and with two.

See `matrix.py` for the kinds, modes and formats. One training without a stop (`run`) is compared with plain Keras, and
with models that were restored from what it saved on its way.
"""

import itertools

import keras
import numpy as np
import pytest

from tests.conformance import models
from tests.conformance.matrix import FORMATS, scope_of
from tfps.embedding.table import Table
from tfps.keras.modes import settings_of


def tables_of(model):
    values = [variable._value for variable in [*model.variables, *model.optimizer.variables]]
    return [value for value in values if isinstance(value, Table)]


def only(number):
    """Marks a test that says something for this number of workers alone."""
    return pytest.mark.parametrize("workers", [number], indirect=True, scope="module", ids="{} workers".format)


def test_fit_makes_every_step(run, case):
    iterations = next(value for name, value in run.fitted.items() if name.endswith("/iteration"))
    assert iterations == models.BATCHES / case.mode.batches_a_step(case.workers)


@only(1)
def test_fit_of_one_worker_makes_the_updates_of_one_process(run, case, mode, plain_of):
    models.assert_equal(run.fitted, plain_of(mode).fitted, tolerance=max(2e-4, case.kind.tolerance))


@only(2)
def test_fit_of_two_workers_updates_the_rows_of_their_ids_and_no_others(run, case):
    before = case.build()
    for number, (layer, ids) in enumerate([("wide", models.IDS), ("narrow", models.IDS[:, 1])]):
        moved = (list(run.fitted.values())[number] != models.rows(before.get_layer(layer))).any(1)
        np.testing.assert_array_equal(np.flatnonzero(moved), np.unique(ids))


@only(2)
def test_fit_of_two_workers_counts_every_id(case):
    """The gradient of every looked-up element is -1, so SGD at rate 1 counts how often an id was seen."""
    with scope_of(case.strategy):
        table = case.kind.layer(models.ROWS, 3, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
        model.compile(case.mode.wrap(keras.optimizers.SGD(1.0)), lambda y, rows: -keras.ops.sum(rows))
    labels = np.zeros((len(models.IDS), 2, 3), "float32")
    model.fit(models.IDS, labels, batch_size=models.SIZE, epochs=2, verbose=0)
    moved = 2 * case.mode.move(case.workers) * np.bincount(models.IDS.reshape(-1), minlength=models.ROWS)
    np.testing.assert_array_equal(models.rows(table), np.repeat(moved[:, np.newaxis], 3, 1))


def test_evaluate_and_predict_are_those_of_one_process(run, mode, plain_of):
    plain = plain_of(mode).model
    models.set_state(plain, run.fitted)
    assert run.logs == pytest.approx(models.evaluate(plain), rel=1e-5)
    np.testing.assert_allclose(run.predicted, models.predict(plain), rtol=1e-5, atol=1e-6)


def test_train_on_batch_makes_the_step_of_one_process(run, case, mode, plain_of):
    plain = plain_of(mode).model
    models.set_state(plain, run.fitted)
    models.assert_equal(
        run.stepped, models.state(models.one_more_step(plain)), tolerance=max(2e-4, case.kind.tolerance)
    )


@pytest.mark.parametrize("form", FORMATS)
def test_one_more_step_equals_never_having_stopped(run, case, other, form):
    with scope_of(case.strategy):
        model = FORMATS[form].load(run.folder, lambda: other)
    models.assert_equal(models.state(model), run.fitted)
    assert [type(table) for table in tables_of(model)] == [case.kind.table] * 4  # two tables, each with a slot
    assert all(sorted(table.servers) == [0, 1] for table in tables_of(model))
    assert settings_of(model.optimizer) == settings_of(other.optimizer)
    # Bit for bit, with two workers too: the step begins with the same state, and one of them makes it.
    models.assert_equal(models.state(models.one_more_step(model)), run.stepped, tolerance=case.kind.tolerance)


@pytest.mark.parametrize("form", FORMATS)
def test_plain_keras_restores_it(run, case, form):
    if case.kind.table.grows:
        pytest.skip("a table that grows needs parameter servers")
    model = FORMATS[form].load(run.folder, case.build_plain)
    models.assert_equal(models.state(model), run.fitted)


# The files of one worker are the same but for the numbers in them, and no format knows how many servers wrote it.
@only(2)
@pytest.mark.parametrize("servers, form", list(zip(itertools.cycle([1, 3]), FORMATS)))
def test_another_number_of_servers_restores_it(run, case, kind, mode, elsewhere, servers, form):
    loaded, stepped = elsewhere[servers].load(run.folder, kind, mode, form)
    models.assert_equal(loaded, run.fitted)
    models.assert_equal(stepped, run.stepped, tolerance=max(1e-6, case.kind.tolerance))
