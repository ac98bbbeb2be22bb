"""Fixtures of the conformance suite. They are shared by a module, because tracing a model is what costs time here."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator

import keras
import pytest

import tfps
from tests.conformance import models
from tests.conformance.elsewhere import Elsewhere
from tests.conformance.matrix import FORMATS, KINDS, MODES, WORKERS, Kind, Mode, backup
from tests.conftest import all_train, limited_workers

# Where `make test` goes with one worker. With two it goes over all modes of sharded tables and two of growing ones.
ALONE = {("sharded", "asynchronous"), ("sharded", "geo"), ("growing", "asynchronous"), ("dict", "asynchronous")}
TOGETHER = {("sharded", mode) for mode in MODES} | {("growing", "asynchronous"), ("growing", "geo")}
TOGETHER |= {("bfloat16", "asynchronous")}
# The formats of all of these; the other formats are for asynchronous mode alone.
OFTEN = ("keras file", "by servers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves the other combinations to the slow tests: each is a model that is traced four times."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if not {"kind", "mode"} <= set(parameters):
            continue
        kind, mode = parameters["kind"], parameters["mode"]
        often = (kind, mode) in (TOGETHER if parameters.get("workers", 2) == 2 else ALONE)
        if not often or (mode != "asynchronous" and parameters.get("form", OFTEN[0]) not in OFTEN):
            item.add_marker(pytest.mark.slow)


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
        folder: the state after `fit`, in every format.
        fitted: the state after `fit`.
        logs: of `evaluate` after `fit`.
        predicted: after `fit`.
        stepped: the state one step later.
    """

    folder: pathlib.Path
    fitted: models.State
    logs: dict[str, float]
    predicted: models.Array
    stepped: models.State


@pytest.fixture(scope="module", params=WORKERS, ids=lambda workers: f"{workers} workers")
def workers(request: pytest.FixtureRequest, strategy: tfps.ParameterServerStrategy) -> Iterator[int]:
    """How many workers the strategy has."""
    # As the fixture `one_worker`: the second worker is there, but is given nothing to do.
    with limited_workers(strategy, request.param):
        yield request.param


@pytest.fixture(scope="module", autouse=True)
def no_young_models() -> Iterator[None]:
    """With two workers both train, although the models here are trained for few steps."""
    with pytest.MonkeyPatch.context() as patch:
        all_train(patch)
        yield


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Name of a mode."""
    return request.param


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name of a kind of table."""
    return request.param


@pytest.fixture(scope="module")
def case(strategy: tfps.ParameterServerStrategy, workers: int, kind: str, mode: str) -> Iterator[Case]:
    """One combination."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy, "dense", MODES[mode].dense)
        patch.setattr(strategy.factory, "stored", KINDS[kind].stored)
        yield Case(strategy, KINDS[kind], MODES[mode], workers)


@pytest.fixture(scope="module")
def run(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training without a stop. Everything that the tests need of it is written down before the next step."""
    folder = tmp_path_factory.mktemp("saved")
    model = models.fit(case.build(), backup(folder))
    for form in FORMATS.values():
        if form.save is not None:
            form.save(model, folder)
    fitted, logs, predicted = models.state(model), models.evaluate(model), models.predict(model)
    return Run(folder, fitted, logs, predicted, models.state(models.one_more_step(model)))


@pytest.fixture(scope="module")
def other(case: Case) -> keras.Model:
    """A model that formats are restored into one after the other, so that it is traced once."""
    return case.build()


@dataclasses.dataclass(frozen=True)
class Plain:
    """The model in plain Keras, with its state after `fit`."""

    model: keras.Model
    fitted: models.State


@pytest.fixture(scope="session")
def plain_of() -> Callable[[str], Plain]:
    """A function: the same training in plain Keras, by mode. Each is made once: there all kinds of tables are one."""

    @functools.cache
    def plain(mode: str) -> Plain:
        model = models.fit(models.build(None, KINDS["sharded"], MODES[mode]))
        return Plain(model, models.state(model))

    return plain


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Elsewhere]]:
    """Programs with clusters of 1 and of 3 servers, by the number of servers."""
    folder = tmp_path_factory.mktemp("elsewhere")
    programs = {servers: Elsewhere(servers, folder) for servers in (1, 3)}
    yield programs
    for program in programs.values():
        program.close()
