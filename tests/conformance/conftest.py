"""Fixtures of the conformance suite. They are shared by a module, because tracing a model is what costs time here."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import keras
import pytest

import tfps
from tests.conformance import models
from tests.conformance.matrix import FORMATS, KINDS, MODES, WORKERS, Kind, Mode


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of table and a mode on a strategy with some workers."""

    strategy: tfps.ParameterServerStrategy
    kind: Kind
    mode: Mode
    workers: int

    def build(self) -> keras.Model:
        """The model under the strategy."""
        return models.build(self.strategy, self.kind, self.mode)

    def build_plain(self) -> keras.Model:
        """The same model in plain Keras."""
        return models.build(None, self.kind, self.mode)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training without a stop, with what it had saved on the way.

    Args:
        case: what trained.
        model: after the last step.
        folder: the state after `fit`, in every format.
        logs: of `evaluate` after `fit`.
        predicted: after `fit`.
        fitted: the state after `fit`.
        stepped: the state one step later.
    """

    case: Case
    folder: pathlib.Path
    logs: dict[str, float]
    predicted: models.Array
    fitted: dict[str, models.Array]
    stepped: dict[str, models.Array]


@pytest.fixture(scope="module", params=WORKERS, ids=lambda workers: f"{workers} workers")
def workers(request: pytest.FixtureRequest, strategy: tfps.ParameterServerStrategy) -> Iterator[int]:
    """How many workers the strategy has."""
    before = strategy._num_workers, strategy._pool
    # As the fixture `one_worker`: the second worker is there, but is given nothing to do.
    strategy._num_workers, strategy._pool = request.param, None
    yield request.param
    if strategy._pool is not None:
        strategy._pool.close()
    strategy._num_workers, strategy._pool = before


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Name of a mode."""
    return request.param


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name of a kind of table."""
    return request.param


@pytest.fixture(scope="module")
def case(strategy: tfps.ParameterServerStrategy, workers: int, kind: str, mode: str) -> Case:
    """One combination."""
    return Case(strategy, KINDS[kind], MODES[mode], workers)


@pytest.fixture(scope="module")
def run(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training without a stop. Everything that the tests need of it is written down before the next step."""
    folder = tmp_path_factory.mktemp("saved")
    model = models.fit(case.build())
    for form in FORMATS.values():
        form.save(model, folder)
    logs = model.evaluate(models.IDS, models.LABELS, batch_size=models.SIZE, verbose=0, return_dict=True)
    predicted = model.predict(models.IDS, batch_size=models.SIZE, verbose=0)
    fitted = models.state(model)
    # One batch is one step on one worker, in every mode, so this step has one result whatever the number of workers.
    model.train_on_batch(models.NEXT_IDS, models.NEXT_LABELS)
    return Run(case, folder, logs, predicted, fitted, models.state(model))


@pytest.fixture(scope="session")
def plain_states() -> Callable[[str, Case], dict[str, models.Array]]:
    """A function: the state after `fit` in plain Keras, by mode; each is trained once."""
    states: dict[str, dict[str, models.Array]] = {}

    def plain_state(mode: str, case: Case) -> dict[str, models.Array]:
        if mode not in states:
            states[mode] = models.state(models.fit(case.build_plain()))
        return states[mode]

    return plain_state
