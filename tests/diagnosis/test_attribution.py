"""Every moment of a task belongs to one stage: by hand for small cases, and by a slow twin for random ones."""

import collections
import random

import pytest

from tfps.diagnosis.attribution import attribute
from tfps.diagnosis.events import Message, Span, TaskEvents
from tfps.diagnosis.stage_names import STAGES, find_stage
from tfps.diagnosis.timeline import make_timeline, sort_recorded


def events(job="worker", end=100, spans=(), waits=(), calls=((0, 100),), **more):
    return TaskEvents(
        job, 0, "h", 0, end, ["a", "b"], sorted(spans), sorted(waits, key=lambda w: w.end), calls=list(calls), **more
    )


def ran(begin, end, stage, line=0):
    return Span(begin, end, stage, stage, "Op", line)


def waited(begin, end, stage, op="_Recv"):
    return Span(begin, end, stage, f"{stage}/_2", op)


def ms(task):
    return {stage: ns for stage, ns in attribute(task).ns_by_stage().items() if ns}


def test_the_example_of_the_docs():
    step = events(
        end=9,
        spans=[ran(5, 9, "compute")],
        waits=[waited(0, 2, "input", "IteratorGetNextSync"), waited(1, 5, "rows")],
    )
    # The rows were requested at 1 and came at 5: until 2 the input was waited for as well, but the rows came last.
    assert ms(step) == {"rows": 5, "compute": 4}
    asked_after = events(
        end=9,
        spans=[ran(2, 3, "ids"), ran(5, 9, "compute")],
        waits=[waited(0, 2, "input", "IteratorGetNextSync"), waited(3, 5, "rows"), waited(4, 8, "input")],
    )
    assert ms(asked_after) == {"input": 2, "ids": 1, "rows": 2, "compute": 4}


def test_threads_share_a_moment():
    assert ms(events(end=10, spans=[ran(0, 10, "compute"), ran(0, 4, "push", 1)])) == {"compute": 8, "push": 2}


def test_an_operation_within_another_does_not_count_twice():
    assert ms(events(end=10, spans=[ran(0, 10, "compute"), ran(2, 4, "push")])) == {"compute": 10}


def test_a_late_operation_pays_for_its_delay():
    assert ms(events(end=10, spans=[ran(0, 2, "ids"), ran(6, 10, "compute")])) == {"ids": 2, "compute": 8}


def test_between_closures_a_worker_is_idle():
    task = events(end=30, spans=[ran(0, 10, "compute"), ran(22, 30, "compute")], calls=[(0, 10), (20, 30)])
    assert ms(task) == {"compute": 20, "idle": 10}


def test_the_end_of_a_closure_and_what_comes_before_the_next():
    task = events(end=50, spans=[ran(0, 10, "compute"), ran(32, 50, "compute")], calls=[(0, 12), (20, 25), (30, 50)])
    assert ms(task) == {"compute": 30, "other": 7, "idle": 13}


def test_a_server_that_waits_for_messages_is_idle():
    task = events("ps", end=10, spans=[ran(4, 10, "rows")], waits=[waited(0, 3, "ids")], calls=[(0, 10)])
    assert ms(task) == {"idle": 3, "rows": 7}


def test_what_is_outside_of_the_recording_does_not_count():
    task = events(end=10, spans=[ran(-5, 4, "compute"), ran(8, 20, "push"), ran(30, 40, "ids")])
    assert ms(task) == {"compute": 4, "push": 6}


@pytest.mark.parametrize("seed", range(20))
def test_stages_add_up_to_the_recording_and_running_ones_are_those_of_a_slow_twin(seed):
    draw = random.Random(seed)
    spans = []
    for line in (0, 1):
        at = 0
        while at < 190:
            begin = at + draw.randrange(8)
            at = begin + draw.randrange(1, 12)
            spans.append(ran(begin, at, draw.choice(STAGES[:7]), line))
    waits = [waited(begin := draw.randrange(200), begin + draw.randrange(20), "rows") for _ in range(20)]
    calls = [(0, 60), (80, 200)]
    task = events(draw.choice(("ps", "worker")), 200, spans, waits, calls)
    twin = collections.Counter()
    for moment in range(200):
        running = [span.stage for span in task.spans if span.begin <= moment < span.end]
        for stage in running:
            twin[stage] += 1 / len(running)
    found = attribute(task)
    assert sum(found.ns_by_stage().values()) == pytest.approx(200)
    assert [one.begin for one in found.segments] == [0, *(one.end for one in found.segments[:-1])]
    runs = collections.Counter()
    gaps = [moment for moment in range(200) if not any(s.begin <= moment < s.end for s in task.spans)]
    for one in found.segments:
        if one.begin not in gaps:
            for stage in one.stages:
                runs[stage] += one.ns / len(one.stages)
    assert runs == pytest.approx(twin)


@pytest.mark.parametrize(
    ("name", "op", "stage"),
    [
        ("while/body/_25/adagrad/tfps_push/concat_1/_57", "_Send", "push"),
        ("while/body/_25/embedding/table_lookup/tfps_rows_3/TfpsGatherRows", "TfpsGatherRows", "rows"),
        ("tfps_ids/tfps_rows/Gather", "Gather", "rows"),
        ("cond/else/_1/cond/IteratorGetNextSync", "IteratorGetNextSync", "input"),
        ("while/LoopCond/_64/_87", "_Send", "turn"),
        ("GroupCrossDeviceControlEdges_0/while/body/_25/while/NoOp/_84", "_Send", "turn"),
        ("while/body/_25/dense/MatMul", "MatMul", None),
        ("my_tfps_pushing/MatMul", "MatMul", None),
    ],
)
def test_the_stage_of_an_operation(name, op, stage):
    assert find_stage(name, op) == stage


def pair(shift, delay=10):
    """A worker that waits for a server, whose clock is `shift` ns ahead: asked at 100, asks take `delay`."""
    worker = events(
        end=1000,
        spans=[ran(0, 100, "ids"), ran(100 + 2 * delay + 300, 1000, "compute")],
        waits=[Span(100, 400 + 2 * delay, "rows", "rows/_2", "_Recv")],
        calls=[(0, 1000)],
        sent=[Message(100, "ids/_1", 7, "ps 0")],
        arrived=[Message(400 + 2 * delay, "rows/_1", 7)],
    )
    server = events(
        "ps",
        end=1000,
        spans=[ran(100 + delay, 400 + delay, "rows")],
        waits=[Span(0, 100 + delay, "ids", "ids/_2", "_Recv")],
        calls=[(0, 1000)],
        sent=[Message(400 + delay, "rows/_1", 7, "worker 0")],
        arrived=[Message(100 + delay, "ids/_1", 7)],
    )
    server.host = "other"
    server.shift(shift)
    return worker, server


@pytest.mark.parametrize("shift", [0, 5_000_000_000, -123_456])
def test_clocks_are_brought_together(shift):
    found = make_timeline(sort_recorded(pair(shift)), {"worker 0": 1.0})
    worker, server = found.tasks
    assert server.clock_ahead_ms == pytest.approx(shift / 1e6)
    assert server.clock_error_ms == pytest.approx(10 / 1e6)
    assert worker.waited_for_ms == {"ps 0": pytest.approx(320 / 1e6)}
    assert worker.waited_on_servers_ms == {"rows": pytest.approx(300 / 1e6)}
    assert server.ms["rows"] == pytest.approx(300 / 1e6)


@pytest.mark.parametrize("delay", [10, 200])
def test_a_delay_on_the_wire_is_no_work_of_the_server(delay):
    (worker, _) = make_timeline(sort_recorded(pair(0, delay)), {"worker 0": 1.0}).tasks
    on_servers = sum(worker.waited_on_servers_ms.values())
    assert on_servers == pytest.approx(300 / 1e6)
    assert sum(worker.waited_for_ms.values()) - on_servers == pytest.approx(2 * delay / 1e6)


def test_recordings_of_other_times_are_refused():
    worker, server = pair(0)
    server.host = worker.host
    server.shift(10_000_000)
    with pytest.raises(ValueError, match="recorded at the same time"):
        sort_recorded([worker, server])
