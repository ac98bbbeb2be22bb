"""A pytest plugin: runs every test inside a tfps scope with one worker, and writes the outcome of each to a file.

Only `run.py` uses it, for tests that were not written for tfps. `UPSTREAM_SCOPE` says whether to enter a scope, and
`UPSTREAM_OUTCOMES` is the file, which gets a JSON object a line: "started" when a test starts, and its outcome. Tests
that are in the file already do not run again.
"""

import contextlib
import inspect
import json
import os
import pathlib
import re
import sys
import types
from collections.abc import Generator

# Before the tests are collected: pytest would make empty packages of the names of those that are not imported yet.
import keras
import pytest
from chosen import is_chosen
from keras.src import testing

# Some tests import this from the root of Keras's repository, which no distribution of Keras has.
sys.modules["conftest"] = types.ModuleType("conftest")
sys.modules["conftest"].skip_if_backend = lambda backend, reason: pytest.mark.skipif(
    keras.config.backend() == backend, reason=reason
)

_IN_SCOPE = os.environ["UPSTREAM_SCOPE"] == "1"
_OUTCOMES = pathlib.Path(os.environ["UPSTREAM_OUTCOMES"])


class Cluster:
    """The strategy of all tests of this process. It starts with the first of them."""

    strategy = None

    @classmethod
    def scope(cls) -> contextlib.AbstractContextManager:
        if not _IN_SCOPE:
            return contextlib.nullcontext()
        if cls.strategy is None:
            import tfps

            cls.strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=1))
        return cls.strategy.scope()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out tests that have nothing to do with tfps, in files that are run for others, and tests that have run."""
    root = pathlib.Path(os.environ["UPSTREAM_SOURCE"])
    have_run = {json.loads(line)["test"] for line in _OUTCOMES.read_text().splitlines()}
    # Parameters of a test are in its decorators, which belong to its source.
    chosen = [item for item in items if is_chosen(item.path.relative_to(root), inspect.getsource(item.function))]
    items[:] = [item for item in chosen if name_of(item.nodeid) not in have_run]


_stock_set_up = testing.TestCase.setUp


def _set_up(test: testing.TestCase) -> None:
    # Keras's setUp clears its session, and with it every scope that was entered before.
    _stock_set_up(test)
    scope = Cluster.scope()
    scope.__enter__()

    def leave() -> None:
        # A test that clears the session leaves the scope, too.
        with contextlib.suppress(IndexError):
            scope.__exit__(None, None, None)

    test.addCleanup(leave)


testing.TestCase.setUp = _set_up


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    is_ours = isinstance(getattr(item, "instance", None), testing.TestCase)
    with contextlib.nullcontext() if is_ours else Cluster.scope():
        return (yield)


def pytest_runtest_logstart(nodeid: str) -> None:
    write(nodeid, "started")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A test passes if its call does. A failed setup or teardown counts, a passed one does not.
    if report.when != "call" and report.passed:
        return
    reason = report.longrepr.reprcrash.message if report.failed and hasattr(report.longrepr, "reprcrash") else ""
    write(report.nodeid, report.outcome, report.duration, reason)


def write(nodeid: str, outcome: str, seconds: float = 0, reason: str = "") -> None:
    with _OUTCOMES.open("a") as outcomes:
        line = {"test": name_of(nodeid), "outcome": outcome, "seconds": seconds, "reason": reason[:2000]}
        outcomes.write(json.dumps(line) + "\n")


def name_of(nodeid: str) -> str:
    """Returns the name of a test, which is the same in each process: parameters may have addresses in their names."""
    return re.sub("0x[0-9a-f]+", "0x", nodeid)


def pytest_unconfigure(config: pytest.Config) -> None:
    if Cluster.strategy is not None:
        Cluster.strategy.close()
