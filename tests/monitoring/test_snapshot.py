"""A snapshot is the same after it was JSON, and nothing else passes for one."""

import dataclasses
import json
import re

import pytest

from tests.monitoring.jobs_for_tests import full_snapshot
from tfps.errors import ConfigError
from tfps.monitoring.snapshot import Snapshot


def test_it_is_the_same_after_json():
    snapshot = full_snapshot()
    # Every field has another value than its default, or the test would not see that it is lost.
    for field in dataclasses.fields(Snapshot):
        if field.default is not dataclasses.MISSING:
            assert getattr(snapshot, field.name) != field.default, field.name
    text = snapshot.to_json()
    assert "\n" not in text
    assert Snapshot.from_json(text) == snapshot == Snapshot.from_json(text.encode())


def test_what_is_not_known_stays_so():
    bare = Snapshot(1.0, 0.0, "a", 1, "h", "0")
    read = Snapshot.from_json(bare.to_json())
    assert read == bare and read.checkpoint is None and read.bottleneck is None and read.tasks == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"format": 2}',
        '{"format": 1, "at": 1}',
        "\x00",
        '{"format": 1',
        b"\xff\xfe{}",
        "[" * 100_000,
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ConfigError, match="a snapshot must .*Received: |a snapshot must have the fields .* is missing"):
        Snapshot.from_json(text)


TASK = dataclasses.asdict(full_snapshot().tasks[0])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"colour": 1}, "a snapshot must have the fields of format 1: 'colour' is not known"),
        ({"tasks": [{**TASK, "colour": 1}]}, "'tasks[0].colour' is not known"),
        ({"tasks": [{"job": "ps"}]}, "'tasks[0].index' is missing"),
        ({"tasks": "x"}, "'tasks' of a snapshot must be a list. Received: 'x'."),
        ({"tasks": [3]}, "'tasks[0]' of a snapshot must be an object. Received: 3."),
        ({"tasks": [{**TASK, "status": "draining"}]}, "'tasks[0].status' of a snapshot must be 'up' or 'lost' or 'unk"),
        ({"tasks": [{**TASK, "pid": True}]}, "'tasks[0].pid' of a snapshot must be an integer. Received: True."),
        ({"phase": "resharding"}, "'phase' of a snapshot must be 'idle' or 'train' or "),
        ({"phase": ["idle"]}, "'phase' of a snapshot must be 'idle'"),
        ({"steps": "x"}, "'steps' of a snapshot must be an integer. Received: 'x'."),
        ({"steps": 10**30}, "'steps' of a snapshot must be an integer."),
        ({"at": None}, "'at' of a snapshot must be a finite number. Received: None."),
        ({"steps_per_s": float("nan")}, "'steps_per_s' of a snapshot must be a finite number. Received: nan."),
        ({"metrics": {"loss": "x"}}, "must be a finite number. Received: 'x'."),
        ({"metrics": []}, "'metrics' of a snapshot must be an object. Received: []."),
        ({"name": 5}, "'name' of a snapshot must be a string. Received: 5."),
        ({"checkpoint": 5}, "'checkpoint' of a snapshot must be an object. Received: 5."),
        (
            {"tables": [{"name": "t", "rows": 1, "row_bytes": 1, "bytes": 1, "grows": 1}]},
            "'tables[0].grows' of a snapshot",
        ),
        ({"tables": [{"name": "t", "rows": 1, "row_bytes": 1, "bytes": 1, "servers": [None]}]}, "servers[0]"),
    ],
)
def test_a_field_that_is_wrong_is_named(changed, words):
    fields = json.loads(full_snapshot().to_json()) | changed
    with pytest.raises(ConfigError, match=re.escape(words)):
        Snapshot.from_json(json.dumps(fields))


def test_the_tasks_of_a_job():
    snapshot = full_snapshot()
    assert [task.name for task in snapshot.tasks_of("worker")] == ["worker 0", "worker 1"]
    assert snapshot.tasks_of("evaluator") == ()
