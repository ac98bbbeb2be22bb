"""Calls on workers, without a cluster: what is waited for, what ends a wait, what is dropped."""

import functools
import gc
import threading
import weakref

import pytest
import tensorflow as tf

from tfps.errors import ClusterTimeoutError, TaskDiedError
from tfps.runtime.calls import Calls
from tfps.runtime.pool import WorkerPool

LONG_S = 240.0


class Cluster:
    """Stands for the servers: `dead` makes `check` raise."""

    dead = False

    def check(self):
        if self.dead:
            raise TaskDiedError("worker 1 ended")


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def pool(cluster):
    made = WorkerPool(
        ["/device:CPU:0"] * 2, lambda worker, error: ValueError(f"translated {error.message}"), cluster.check
    )
    yield made
    made.close()


@pytest.fixture
def gate():
    """What a call waits for; opened at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def waiting(gate, value=1.0):
    def call():
        assert gate.wait(LONG_S)
        return tf.constant(value)

    return call


def test_calls_are_taken_as_they_end(pool, gate):
    calls = Calls(pool, "numbers", LONG_S)
    calls.submit(0, "slow", waiting(gate))
    calls.submit(1, "quick", lambda: {"a": tf.constant(2.0)})
    assert calls.take() == ("quick", {"a": 2.0}) and len(calls) == 1
    gate.set()
    assert calls.take() == ("slow", 1.0) and len(calls) == 0


def test_a_worker_does_one_after_the_other(pool):
    order = []

    def run(number):
        order.append(number)
        return tf.constant(number)

    calls = Calls(pool, "numbers", LONG_S)
    for number in range(20):
        calls.submit(0, number, functools.partial(run, number))
    assert [calls.take()[0] for _ in range(20)] == order == list(range(20))


def test_a_wait_ends_when_a_server_is_dead(pool, cluster, gate):
    """TensorFlow does not always say so: what a dead server held back may just never come."""
    calls = Calls(pool, "numbers", LONG_S)
    calls.submit(0, None, waiting(gate))
    cluster.dead = True
    with pytest.raises(TaskDiedError, match="worker 1"):
        calls.take()


def test_a_wait_has_a_limit_and_says_for_what(pool, gate):
    calls = Calls(pool, "closures of 3 steps", 0.1)
    calls.submit(0, None, waiting(gate))
    with pytest.raises(ClusterTimeoutError, match="for closures of 3 steps"):
        calls.take()


def test_errors_of_the_runtime_are_translated_and_others_are_not(pool):
    def fails():
        raise tf.errors.UnavailableError(None, None, "gone")

    calls = Calls(pool, "numbers", LONG_S)
    calls.submit(0, None, fails)
    with pytest.raises(ValueError, match="translated gone"):
        calls.take()
    calls.submit(0, None, lambda: [][0])
    with pytest.raises(IndexError):
        calls.take()


def test_what_is_abandoned_does_not_begin(pool, gate):
    begun = []
    calls = Calls(pool, "numbers", LONG_S)
    calls.submit(0, None, waiting(gate))
    for number in range(5):
        calls.submit(0, None, lambda number=number: begun.append(number))
    threading.Timer(0.2, gate.set).start()
    calls.abandon(LONG_S)
    assert len(calls) == 0 and begun == []


def test_a_handle_is_dropped_by_the_thread_of_its_task(pool, gate):
    """Not by whoever collects its owner: dropping a handle waits for a task that hangs."""

    class Owner:
        pass

    owner, handle = Owner(), Owner()
    dropped_in = []
    weakref.finalize(handle, lambda: dropped_in.append(threading.current_thread().name))
    pool.threads[1].drop_after(owner, handle)
    calls = Calls(pool, "numbers", LONG_S)
    calls.submit(1, None, waiting(gate))
    del owner, handle
    gc.collect()
    assert dropped_in == []
    gate.set()
    calls.take()
    calls.submit(1, None, lambda: tf.constant(1.0))
    calls.take()
    assert dropped_in == ["tfps-worker-1"]


def test_an_interrupt_between_a_result_and_its_count_leaves_nothing_to_wait_for(pool, monkeypatch):
    """The interrupt comes wherever the caller is; the next `fit` waited ten minutes for a call that had ended."""
    from tfps.runtime import calls as module

    wait_for = module.wait_for

    def take_and_interrupt(results, wait):
        wait_for(results, wait)
        raise KeyboardInterrupt

    calls = Calls(pool, "closures", LONG_S)
    calls.submit(0, "a", lambda: tf.constant(1.0))
    monkeypatch.setattr(module, "wait_for", take_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        calls.take()
    calls.abandon(LONG_S)
    pool.wait_for_abandoned(LONG_S)


def test_a_call_that_runs_is_waited_for_when_it_was_abandoned(pool, gate):
    began = threading.Event()

    def call():
        began.set()
        return waiting(gate)()

    calls = Calls(pool, "closures", LONG_S)
    calls.submit(0, "a", call)
    assert began.wait(LONG_S)
    calls.abandon(0.05)
    assert not calls.wait_until_ended(0.05)
    gate.set()
    pool.wait_for_abandoned(LONG_S)
    assert calls.wait_until_ended(0.0)
