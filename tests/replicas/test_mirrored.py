"""Two logical devices give what one device gives: weights, slots, logs, predictions; one run of a program for all."""

import json
import os

import pytest

from tests import programs
from tests.replicas.small_model import has_reduction

CASES = (
    *("momentum", "adamw", "eager", "accumulation", "own step"),
    *("metric from outside", "own loss, two optimizers", "masked"),
    *(["mean by weight"] if has_reduction("mean_with_sample_weight") else []),
    *("each", "small tables", "weights, validation", "reading"),
)


def run(*options):
    program = ["-m", "tests.replicas.mirrored_program", *options]
    done = programs.run(program, env=dict(os.environ), timeout=900, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("result: ")]
    return json.loads(lines[0].removeprefix("result: "))


@pytest.fixture(scope="module")
def results():
    return run()


@pytest.mark.parametrize("case", CASES)
def test_two_devices_give_what_one_gives(results, case):
    found = results[case]
    assert max(found["state"], found.get("logs", 0.0)) < 2e-6, found
    assert "loss" in found["names"]


@pytest.mark.slow
def test_two_devices_give_what_one_gives_in_more_cases():
    for case, found in run("--more").items():
        assert max(found["state"], found.get("logs", 0.0)) < 2e-6, (case, found)


def test_every_case_is_looked_at(results):
    assert set(results) == {*CASES, "two devices", "refused"}


def test_what_several_devices_cannot_compute_is_refused(results):
    stateful, unreduced, foreign = results["refused"]
    assert "must not be stateful" in stateful
    assert "reduction=None" in unreduced
    assert "must be made and compiled in" in foreign


@pytest.mark.slow
def test_saved_on_servers_and_loaded_on_devices_and_back():
    for found in run("--served"):
        assert found["read"] == 0
        assert found["state"] < 2e-6


def test_logs_of_an_own_step(results):
    assert results["own step"]["names"] == ["loss", "mixed", "own", "renamed"]


def test_an_epoch_of_unknown_length_is_one_epoch(results):
    # Seven batches, twice. What needs no batch must not run when there is none any more.
    assert results["two devices"]["iterations"] == 14


def test_an_input_that_ends_too_early_has_its_logs(results):
    assert results["two devices"]["short"] == [["auc", "loss"], 7]


def test_a_replica_without_examples_changes_nothing(results):
    assert results["two devices"]["finite"]


def test_copies_stay_equal(results):
    assert results["two devices"]["copies"] == 0
    assert results["two devices"]["moved"] > 0


def test_replicas_draw_different_numbers(results):
    assert results["two devices"]["masks"] > 0.3
