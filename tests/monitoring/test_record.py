"""Counts add up, whoever counts, and losses know when they ended."""

import random
import threading

import pytest

from tfps.monitoring.record import JobRecord


def test_counts_are_those_of_a_slow_twin():
    drawn, record = random.Random(0), JobRecord()
    done = [
        (drawn.choice(["train", "test"]), drawn.randrange(4), drawn.randrange(9), drawn.randrange(999))
        for _ in range(500)
    ]
    before = record.counts()
    for number, one in enumerate(done, 1):
        record.count_closure(*one)
        counts = record.counts()
        assert counts.closures == number
        # Nothing ever goes down.
        assert (counts.steps, counts.examples) >= (before.steps, before.examples)
        before = counts
    trained = [one for one in done if one[0] == "train"]
    assert counts.steps == sum(steps for _, _, steps, _ in trained)
    assert counts.examples == sum(examples for *_, examples in trained)
    assert counts.test_steps == sum(steps for kind, _, steps, _ in done if kind == "test")
    assert counts.test_examples == sum(examples for kind, *_, examples in done if kind == "test")
    for worker in range(4):
        own = [one for one in trained if one[1] == worker]
        found = counts.workers[worker]
        assert (found.closures, found.steps) == (len(own), sum(steps for _, _, steps, _ in own))
        assert found.examples == sum(examples for *_, examples in own)


def test_threads_lose_no_count():
    record = JobRecord()

    def count(worker):
        for _ in range(2_000):
            record.count_closure("train", worker, 1, 3)

    threads = [threading.Thread(target=count, args=[worker]) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = record.counts()
    assert (counts.steps, counts.examples, counts.closures) == (8_000, 24_000, 8_000)


def test_staleness_is_what_others_did_meanwhile():
    record = JobRecord()
    record.count_closure("train", 0, 4, 0)
    assert record.counts().workers[0].staleness is None
    record.count_closure("train", 1, 4, 0)
    record.count_closure("train", 1, 4, 0)
    # While the second closure of worker 0 ran, worker 1 finished eight steps.
    record.count_closure("train", 0, 4, 0)
    assert record.counts().workers[0].staleness == 8
    # Worker 1 saw the four of worker 0, and evaluation makes nobody stale.
    record.count_closure("test", 0, 9, 0)
    record.count_closure("train", 1, 4, 0)
    assert record.counts().workers[1].staleness == 4


def test_a_loss_ends_when_its_task_is_back():
    seconds = iter(range(100))
    record = JobRecord(clock=lambda: float(next(seconds)))
    record.record_loss("worker", 1, "killed")
    record.record_loss("ps", 1, "gone")
    record.record_return("worker", 1)
    record.record_loss("worker", 1, "killed again")
    first, server, second = record.counts().losses
    assert (first.at, first.back_at, first.why) == (1.0, 3.0, "killed")
    assert server.back_at is None and second.back_at is None
    record.record_return("worker", 1)
    counts = record.counts()
    assert counts.losses[0].back_at == 3.0 and counts.losses[2].back_at == 5.0
    assert counts.losses_of == {("worker", 1): 2, ("ps", 1): 1} and counts.losses_count == 3
    assert counts.returns_of == {("worker", 1): 2}


def test_all_losses_are_counted_and_the_last_are_kept():
    record = JobRecord()
    for number in range(100):
        record.record_loss("worker", 0, str(number))
    counts = record.counts()
    assert counts.losses_count == 100 and counts.losses[-1].why == "99" and len(counts.losses) < 100


def test_phases_nest():
    record = JobRecord()
    with record.phase("train"):
        with record.phase("test"):
            assert record.counts().phase == "test"
        assert record.counts().phase == "train"
        with pytest.raises(ValueError), record.phase("predict"):  # noqa: PT011 (of this test)
            raise ValueError
        assert record.counts().phase == "train"
    assert record.counts().phase == "idle"


def test_an_epoch_counts_its_own_steps():
    record = JobRecord()
    record.begin_epoch("geo", 0, 2, 5)
    record.count_closure("train", 0, 5, 50)
    record.begin_epoch("geo", 1, 2, 5)
    record.count_closure("train", 0, 3, 30)
    counts = record.counts()
    assert (counts.epoch, counts.epochs, counts.epoch_step, counts.steps, counts.epochs_begun) == (1, 2, 3, 8, 2)


def test_counts_of_one_moment_stay_as_they_are():
    record = JobRecord()
    record.count_closure("train", 0, 1, 1)
    before = record.counts()
    record.count_closure("train", 0, 1, 1)
    record.record_loss("ps", 0, "gone")
    assert before.steps == 1 and before.workers[0].steps == 1 and before.losses == ()


def test_checkpoints_are_counted():
    record = JobRecord(clock=lambda: 7.0)
    for step in (10, 20):
        record.record_checkpoint(step, 0.5, f"/run/ckpt-{step}")
    saved = record.counts().checkpoint
    assert (saved.step, saved.at, saved.seconds, saved.url, saved.count) == (20, 7.0, 0.5, "/run/ckpt-20", 2)


def test_steps_that_a_checkpoint_took_back_are_counted_apart():
    record = JobRecord()
    record.begin_epoch("asynchronous", 0, 3, 50)
    record.count_closure("train", 0, 30, 300)
    # A server is lost at step 30, and the checkpoint is of step 20.
    record.take_back(10)
    record.begin_epoch("asynchronous", 0, 3, 50, done=20)
    assert record.counts().epoch_step == 20
    record.count_closure("train", 0, 30, 300)
    counts = record.counts()
    # What Prometheus has never goes down.
    assert (counts.steps, counts.repeated_steps, counts.kept_steps, counts.epoch_step) == (60, 10, 50, 50)
