"""Recordings as bytes: what is kept of them, and what they are read as."""

import time

import pytest

from tfps.diagnosis import xspace
from tfps.diagnosis.attribution import attribute
from tfps.diagnosis.reading import edge_of, read_events
from tfps.diagnosis.recording import start, stop, trim
from tfps.diagnosis.tensorboard_profile import with_stages
from tfps.errors import SourceError

BEGIN = 1_700_000_000_000_000_000


class Recording:
    """Makes an `XSpace` as TensorFlow does."""

    def __init__(self):
        self.space = xspace.new_space()
        self.plane = self.space.planes.add(name=b"/host:CPU")
        self.numbers, self.stats = {}, {}
        environment = self.space.planes.add(name=b"Task Environment")
        for number, (name, value) in enumerate((("profile_start_time", BEGIN), ("profile_stop_time", BEGIN + 10_000))):
            entry = environment.stat_metadata.add(key=number)
            entry.value.id, entry.value.name = number, name.encode()
            environment.stats.add(metadata_id=number, uint64_value=value)

    def line(self, name):
        return self.plane.lines.add(id=len(self.plane.lines), name=name.encode(), timestamp_ns=0)

    def _number(self, name, numbers, entries):
        if name not in numbers:
            numbers[name] = len(numbers) + 1
            entry = entries.add(key=numbers[name])
            entry.value.id, entry.value.name = numbers[name], name.encode()
        return numbers[name]

    def add(self, line, name, begin, end, /, **stats):
        event = line.events.add(
            metadata_id=self._number(name, self.numbers, self.plane.event_metadata),
            offset_ps=begin * 1000,
            duration_ps=(end - begin) * 1000,
        )
        for key, value in stats.items():
            number = self._number(key, self.stats, self.plane.stat_metadata)
            if isinstance(value, int):
                event.stats.add(metadata_id=number, int64_value=value)
            else:
                event.stats.add(metadata_id=number, str_value=value.encode())

    def data(self):
        return self.space.SerializeToString()


@pytest.fixture
def recording():
    made = Recording()
    thread, grpc = made.line("tf_Compute/1"), made.line("grpc/2")
    made.add(thread, "FunctionRun", 100, 120, id=7)
    made.add(thread, "ExecutorState::Process", 150, 900, id=7)
    made.add(thread, "while/IteratorGetNextSync:IteratorGetNextSync", 200, 300)
    made.add(thread, "tfps_ids/Route:TfpsRouteUnique", 300, 400)
    made.add(
        thread,
        "tfps_ids/Route/_1:_Send",
        400,
        410,
        key="/job:worker/replica:0/task:1/device:CPU:0;a;/job:ps/replica:0/task:2/device:CPU:0;edge;0:0",
    )
    made.add(
        thread,
        "ExecutorState::ProcessAsync::Start",
        410,
        411,
        name="tfps_rows/Gather/_4",
        kernel_type="_Recv",
        step_id=7,
        _p=55,
    )
    made.add(
        grpc,
        "ExecutorState::ProcessAsync::Done",
        600,
        601,
        name="tfps_rows/Gather/_4",
        kernel_type="_Recv",
        step_id=7,
        _c=55,
    )
    made.add(thread, "dense/MatMul:MatMul", 620, 900)
    made.add(thread, "ExecutorDoneCallback", 950, 960, id=7)
    made.add(grpc, "ExecutorState::Process", 1000, 1500, id=8)
    made.add(grpc, "my_map/Add:AddV2", 1100, 1200)
    made.add(grpc, "EagerService:Enqueue", 90, 970)
    made.add(grpc, "Iterator::Root::Prefetch", 1300, 1400)
    return made


def test_a_recording_is_read(recording):
    events = read_events(recording.data(), "worker", 1, "h")
    assert (events.begin, events.end, events.calls) == (BEGIN, BEGIN + 10_000, [(BEGIN + 100, BEGIN + 950)])
    assert [(span.name, span.stage, span.begin - BEGIN) for span in events.spans] == [
        ("tfps_ids/Route", "ids", 300),
        ("tfps_ids/Route/_1", "ids", 400),
        ("dense/MatMul", "compute", 620),
    ]
    assert [(span.stage, span.begin - BEGIN, span.end - BEGIN) for span in events.waits] == [
        ("input", 200, 300),
        ("rows", 410, 600),
    ]
    assert [span.name for span in events.background] == ["my_map/Add"]
    assert [(one.peer, one.edge, one.step) for one in events.sent] == [("ps 2", "tfps_ids/Route/_1", 7)]
    assert [(one.edge, one.step) for one in events.arrived] == [("tfps_rows/Gather/_3", 7)]
    assert events.batches == 1
    stages = attribute(events).ns_by_stage()
    # The operation that uses the rows begins 20 ns after they came. The closure ends 50 ns after the last operation.
    assert {stage: ns for stage, ns in stages.items() if stage != "idle"} == {
        "input": 200,
        "ids": 110,
        "rows": 190,
        "compute": 300,
        "other": 50,
    }


def test_what_is_no_recording_is_refused():
    with pytest.raises(ValueError, match="Task Environment"):
        read_events(xspace.new_space().SerializeToString(), "ps", 0, "h")


def test_the_names_of_both_ends_of_an_edge():
    assert edge_of("a/b/_42") == "a/b/_41"
    assert edge_of("a/b") == "a/b"


def test_kinds_of_which_there_are_too_many_are_dropped(recording):
    line = recording.line("tf_data/3")
    for number in range(20):
        recording.add(line, "Iterator::Root::Map", number, number + 1)
    recording.add(line, "ThreadpoolListener::Record", 1, 1)
    before = read_events(recording.data(), "worker", 1, "h")
    space = xspace.new_space(trim(recording.data(), most=10))
    assert [len(line.events) for line in space.planes[0].lines] == [8, 5, 0]
    after = read_events(space.SerializeToString(), "worker", 1, "h")
    assert after.spans == before.spans and after.waits == before.waits


def test_stages_are_added_for_tensorboard(recording):
    events = read_events(recording.data(), "worker", 1, "h")
    space = xspace.new_space(with_stages(recording.data(), attribute(events), events.begin, 0))
    names = xspace.names(space.planes[0].event_metadata)
    (line,) = [one for one in space.planes[0].lines if one.name == b"tfps stages"]
    shown = [(names[one.metadata_id], one.offset_ps // 1000, one.duration_ps // 1000) for one in line.events]
    assert ("rows", 410, 190) in shown and ("input", 100, 200) in shown
    assert sum(length for _, _, length in shown) == 10_000


def test_the_messages_are_those_of_tensorflow(recording):
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    theirs = xplane_pb2.XSpace.FromString(recording.data())
    plane = theirs.planes[0]
    found = [plane.event_metadata[event.metadata_id].name for line in plane.lines for event in line.events]
    assert "dense/MatMul:MatMul" in found and len(found) == 13
    assert theirs.SerializeToString(deterministic=True) == xplane_pb2.XSpace.FromString(
        xspace.new_space(theirs.SerializeToString()).SerializeToString()
    ).SerializeToString(deterministic=True)


def test_a_process_that_is_profiled_already_says_so(tmp_path):
    import numpy as np
    import tensorflow as tf

    tf.profiler.experimental.start(str(tmp_path))
    try:
        with pytest.raises(SourceError, match="the process cannot be profiled: .*"):
            start(np.float32(10.0))
    finally:
        tf.profiler.experimental.stop(save=False)


def test_a_recording_that_nobody_ends_ends_by_itself():
    import numpy as np

    start(np.float32(0.01))
    deadline = time.monotonic() + 20
    with pytest.raises(SourceError, match="has ended after its time limit"):
        while time.monotonic() < deadline:
            time.sleep(0.2)
            stop()
            start(np.float32(0.01))
