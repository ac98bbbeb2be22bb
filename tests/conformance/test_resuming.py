"""Every kind of table in every mode: save, restore, and one more step, which equals never having stopped."""

import keras
import pytest

from tests.conformance import models
from tests.conformance.matrix import FORMATS, scope_of
from tfps.embedding.table import Table
from tfps.keras.modes import settings_of


@pytest.mark.parametrize("form", FORMATS)
def test_one_more_step_equals_never_having_stopped(run, case, form):
    with scope_of(case.strategy):
        model = FORMATS[form].load(run.folder, case.build)
    models.assert_equal(models.state(model), run.fitted)
    tables = [v._value for v in [*model.variables, *model.optimizer.variables] if isinstance(v._value, Table)]
    assert [type(table) for table in tables] == [case.kind.table] * 4
    assert settings_of(model.optimizer) == settings_of(case.build().optimizer)
    model.train_on_batch(models.NEXT_IDS, models.NEXT_LABELS)
    # Bit for bit, with two workers too: the step starts from the same state and is made by one of them.
    models.assert_equal(models.state(model), run.stepped)


@pytest.mark.parametrize("form", FORMATS)
def test_plain_keras_restores_it(run, case, form):
    model = FORMATS[form].load(run.folder, case.build_plain)
    models.assert_equal(models.state(model), run.fitted)


def test_a_backup_resumes_as_if_never_stopped(case, tmp_path):
    def fit(model, epochs):
        return models.fit(
            model, epochs, callbacks=[keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)]
        )

    stopped = fit(case.build(), epochs=2)
    # Both epochs are in the backup, so the callback restores the model and nothing is left to train.
    resumed = fit(case.build(), epochs=2)
    models.assert_equal(models.state(resumed), models.state(stopped))
    fit(resumed, epochs=3)
    models.fit(stopped)
    assert int(resumed.optimizer.iterations) == 3 * -(-models.BATCHES // case.mode.batches_a_step(case.workers))
    if case.workers == 1:
        models.assert_equal(models.state(resumed), models.state(stopped))
