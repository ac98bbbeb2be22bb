"""A snapshot is the same after it was JSON, and nothing else passes for one."""

import dataclasses
import json

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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "at": 1}', "\x00", '{"format": 1'])
def test_other_texts_are_refused(text):
    with pytest.raises(ConfigError, match="`text` must"):
        Snapshot.from_json(text)


def test_a_field_of_a_later_version_is_named():
    fields = json.loads(full_snapshot().to_json()) | {"colour": 1}
    with pytest.raises(ConfigError, match="colour"):
        Snapshot.from_json(json.dumps(fields))


def test_the_tasks_of_a_job():
    snapshot = full_snapshot()
    assert [task.name for task in snapshot.tasks_of("worker")] == ["worker 0", "worker 1"]
    assert snapshot.tasks_of("evaluator") == ()
