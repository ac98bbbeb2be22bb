"""The first steps of a fit are watched on a real cluster, and one line says what limits them."""

import itertools
import logging
import os
import time

import keras
import numpy as np
import pytest

from tfps.placement.bottleneck import Measurement, Task, judge, merge
from tfps.training import cpu_times, first_steps
from tfps.training.cpu_times import CpuTime, parse_times

STATUS = "Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,7\nMems_allowed:\t1\n"
HOST = "cpu  9 9 9 300 100 0 2 5 0 0\ncpu0 1 2 3\ncpu1 4 5 6\nintr 7 cpu2\n"


def numbers(utime, stime, name="python"):
    fields = [4, 4, 4, 0, -1, 41, 9, 9, 0, 0, utime, stime, 0, 0, 39, 19]
    return f"17 ({name}) S {' '.join(map(str, fields))}\n"


@pytest.mark.parametrize("name", ["python", "a b", "x) S 1 2 (y"])
@pytest.mark.parametrize("start", ["", "\n"])
def test_what_proc_says_is_read(name, start):
    tick = 1 / os.sysconf("SC_CLK_TCK")
    read = parse_times("ps", 1, "h", start + numbers(250, 50, name) + STATUS + HOST)
    assert read == CpuTime("ps", 1, "h", 300 * tick, 5, 5, 200 * tick)


@pytest.mark.parametrize("text", ["", "17 (python) S 1 2\n" + STATUS + HOST, numbers(1, 2) + STATUS, "no such file"])
def test_what_is_no_such_text_is_left_out(text):
    assert parse_times("ps", 1, "h", text) is None


def by_task(times):
    return {(time.job, time.index): time for time in times}


def test_a_graph_reads_what_this_machine_reads(strategy, monkeypatch):
    here = by_task(cpu_times.cpu_times(strategy))
    assert set(here) == {("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)}
    assert {time.host for time in here.values()} == {"this machine"}
    monkeypatch.setattr(strategy, "cluster", None)
    there = by_task(cpu_times.cpu_times(strategy))
    assert set(there) == set(here)
    for task, time_there in there.items():
        assert here[task].seconds <= time_there.seconds < here[task].seconds + 5
        assert time_there.host_cores == here[task].host_cores >= here[task].cores


def test_a_cluster_that_does_not_answer_is_not_waited_for(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "cluster", None)
    monkeypatch.setattr(cpu_times, "_LIMIT_S", 0.1)
    monkeypatch.setattr(cpu_times, "_read_remote", lambda devices: time.sleep(2))
    assert [read.job for read in cpu_times.cpu_times(strategy)] == ["chief"]


def fitted(strategy, epochs=1):
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding(1000, 8), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
    x, y = np.arange(64 * 200 * 4).reshape(-1, 4) % 1000, np.ones(64 * 200)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def lines(caplog):
    return [record.getMessage() for record in caplog.records if "bottleneck" in record.getMessage()]


def test_a_fit_says_once_what_limits_it(strategy, monkeypatch, no_young, caplog):
    monkeypatch.setattr(first_steps, "_SECONDS", 0.01)
    with caplog.at_level(logging.INFO, "tfps"):
        model = fitted(strategy, epochs=2)
        assert len(lines(caplog)) == 1
        model.fit(np.zeros((6400, 4)), np.zeros(6400), batch_size=64, verbose=0)
        model.evaluate(np.zeros((6400, 4)), np.zeros(6400), batch_size=64, verbose=0)
        model.train_on_batch(np.zeros((64, 4)), np.zeros(64))
    (line,) = lines(caplog)
    assert all(noun in line for noun in ("servers ", "workers ", "chief ", " steps in "))


@pytest.mark.slow
def test_short_epochs_are_seen_together(strategy, monkeypatch, no_young, caplog):
    """An epoch has six closures a worker, and twenty are asked for; also with evaluations in between."""
    monkeypatch.setattr(first_steps, "_SECONDS", 0.0)
    monkeypatch.setattr(first_steps, "_CLOSURES", 20)
    parts = []
    monkeypatch.setattr(first_steps, "judge", lambda seen: (parts.append(seen), judge(seen))[1])
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding(1000, 8), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
    x, y = np.arange(64 * 24 * 4).reshape(-1, 4) % 1000, np.ones(64 * 24)
    with caplog.at_level(logging.INFO, "tfps"):
        model.fit(x, y, batch_size=64, epochs=8, verbose=0, validation_data=(x, y))
    assert len(lines(caplog)) == len(parts) == 1
    assert parts[0].steps > 24, "of more than one epoch"


def test_several_watches_are_one():
    one = Measurement(10, 1.0, (Task("ps", 0, "h", 0.5, 2, 2, 0.2), Task("worker", 0, "h", 1.0, 1, 2)), 0.1, False)
    other = Measurement(30, 3.0, (Task("ps", 0, "h", 0.9, 2, 2, 0.6),), 0.5, False)
    found = merge([one, other])
    assert (found.steps, found.seconds, found.waiting) == (40, 4.0, pytest.approx(0.4))
    assert [(task.job, task.used, task.host_idle) for task in found.tasks] == [
        ("ps", pytest.approx(0.8), pytest.approx(0.5))
    ]


def test_the_short_closures_of_a_young_model_are_not_judged(strategy, monkeypatch, caplog):
    monkeypatch.setattr(first_steps, "_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "tfps"):
        model = fitted(strategy)
        assert not lines(caplog)
        (told,) = [record.getMessage() for record in caplog.records if "a young model" in record.getMessage()]
        assert "an epoch of 200 batches is too short for 2 workers" in told
        model.optimizer.iterations.assign(1_000_000)
        # Inputs of the same types, so that nothing is traced again.
        model.fit(np.zeros((64 * 200, 4), np.int64), np.zeros(64 * 200), batch_size=64, verbose=0)
    assert len(lines(caplog)) == 1
    assert sum("a young model" in record.getMessage() for record in caplog.records) == 1


def test_epochs_that_are_too_short_say_nothing(strategy, monkeypatch, caplog):
    moments = itertools.count()
    monkeypatch.setattr(first_steps.time, "monotonic", lambda: next(moments) * 1e-6)
    with caplog.at_level(logging.INFO, "tfps"):
        fitted(strategy, epochs=2)
    assert not lines(caplog)
