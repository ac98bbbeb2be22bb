"""What limits a cluster, by a table of what was seen."""

import dataclasses

import pytest

from tfps.placement.bottleneck import Measurement, Task, judge


def tasks(ps=(0.2,), workers=(0.3, 0.3), chief=0.1, cores=2, host_cores=16):
    """Servers and workers on machines of their own, which is where each says it is."""
    seen = [("ps", ps), ("worker", workers), ("chief", [chief])]
    return tuple(
        Task(job, index, f"{job}{index}", used, cores, host_cores)
        for job, uses in seen
        for index, used in enumerate(uses)
    )


def together(*seen, cores=2, host_cores=2, idle=0.5):
    """The same on one machine."""
    return tuple(Task(job, index, "this machine", used, cores, host_cores, idle) for job, index, used in seen)


def watched(tasks, waiting=0.0, fed=False):
    return Measurement(400, 4.0, tasks, waiting, fed)


TABLE = [
    # (seen, limit, words)
    (watched(tasks(ps=(1.7,))), "servers", ["Add servers", "dense_exchange_every"]),
    (watched(tasks(ps=(1.6, 0.2, 0.2))), "servers", ["Server 0 does 2.4 times the mean"]),
    (watched(tasks(ps=(1.6, 1.5))), "servers", ["Add servers"]),
    (watched(tasks(workers=(1.9, 1.8), ps=(0.35,))), "workers", ["Add workers", "about 4 times as many"]),
    (watched(tasks(workers=(1.9, 1.8), ps=())), "workers", ["Add workers", "could not be read"]),
    (watched(tasks(chief=0.95)), "chief", ["More workers will not help", "steps_per_execution"]),
    (watched(tasks(chief=0.95, ps=(1.9,))), "chief", []),
    (watched(tasks(), waiting=0.4), "chief", ["nothing to run for 40% of the time", "callbacks"]),
    (watched(tasks(), waiting=0.4, fed=True), "chief", ["reads the batches", "dataset that workers can read"]),
    (watched(tasks(ps=(1.7,)), waiting=0.4), "servers", []),
    (watched(tasks()), "messages", ["larger batches"]),
    (dataclasses.replace(watched(tasks()), shrinks=True), "messages", ['wire="bfloat16"', "or add workers"]),
    (watched(tasks(ps=(), workers=())), "unknown", ["not known", "add servers", "add workers"]),
    (watched(tasks(ps=(), workers=()), waiting=0.5), "chief", []),
    (
        watched(together(("ps", 0, 0.4), ("worker", 0, 0.6), ("worker", 1, 0.7), ("chief", 0, 0.2))),
        "workers",
        ["The 2 cores of this machine are full", "servers 21%, workers 68%, chief 11%", "on other machines"],
    ),
    (watched(together(("ps", 0, 1.2), ("worker", 0, 0.6), ("chief", 0, 0.1))), "servers", ["Put servers on other"]),
    (watched(together(("worker", 0, 0.3), ("chief", 0, 1.5))), "chief", ["Give it less to do a step"]),
    (watched(together(("ps", 0, 0.4), ("worker", 0, 0.6), host_cores=16)), "messages", []),
    (
        watched(together(("ps", 0, 0.2), ("worker", 0, 0.4), ("chief", 0, 0.1), idle=0.02)),
        "workers",
        ["full, 1.3 of them with other programs", "servers 29%, workers 57%, chief 14%"],
    ),
    (watched(together(("worker", 0, 0.4), idle=0.1)), "workers", ["1.4 of them with other programs"]),
    (watched(together(("worker", 0, 1.8), idle=0.1)), "workers", ["Add workers"]),
    (watched(together(("worker", 0, 0.0), ("ps", 0, 0.0), idle=0.1)), "messages", []),
]


@pytest.mark.parametrize(("seen", "limit", "words"), TABLE)
def test_the_limit_is_named_with_what_to_change(seen, limit, words):
    verdict = judge(seen)
    assert verdict.limit == limit
    assert "\n" not in verdict.advice
    assert "400 steps in 4.0 s" in verdict.advice
    assert all(word in verdict.advice for word in words), verdict.advice


def test_the_line_has_the_figures_it_follows_from():
    line = judge(watched(tasks(ps=(0.5, 0.3), workers=(1.9, 1.7), chief=0.12))).advice
    assert line.startswith("The workers are the bottleneck. ")
    assert "servers 0.40 of 2 each, workers 1.80 of 2 each, chief 0.12" in line
