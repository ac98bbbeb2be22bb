"""`Kafka` against the mock brokers of librdkafka: real connections and fetches, in this process."""

import json
import logging
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.streaming.brokers import QUIET, Brokers
from tests.streaming.counting import ROWS, counts, expected, make_model
from tfps.errors import CheckpointError, ConfigError, SourceError
from tfps.inputs.dataset_graph import strip_devices
from tfps.inputs.epoch import Epoch
from tfps.inputs.sharding import split_by_file
from tfps.streaming import CountWindows, Kafka, Planned, TimeWindows, Waiting, fit, kafka_reader
from tfps.streaming.offset_windows import OffsetPosition, divide_chunks, divide_count

kafka = pytest.importorskip("confluent_kafka")


@pytest.fixture(scope="module")
def brokers():
    return Brokers()


def parse(messages):
    return messages.map(lambda one: (tf.strings.to_number(one["value"], tf.int64), 0.0)).batch(8)


def source(brokers, topics, parse=parse, **arguments):
    return Kafka(topics, brokers.servers, parse, poll_s=0.1, config=QUIET, **arguments)


@pytest.fixture(scope="module")
def shared(strategy):
    return make_model(strategy)


@pytest.fixture
def model(shared):
    shared.set_weights([np.zeros((ROWS, 1))])
    return shared


def test_workers_read_their_ranges_and_each_message_counts_once(
    model, brokers, tmp_path, caplog, monkeypatch, no_young
):
    topic = brokers.topic()
    ids = brokers.send(topic, np.random.default_rng(0).integers(0, ROWS, 600))
    hosts, start = set(), Epoch.start
    monkeypatch.setattr(
        Epoch, "start", lambda epoch, shard, host, kind: hosts.add(host) or start(epoch, shard, host, kind)
    )
    caplog.set_level(logging.INFO, "tfps")
    logs = fit(model, source(brokers, topic), window=200, checkpoint=tmp_path / "run", windows=3)
    assert counts(model) == expected(ids)
    assert [one["examples"] for one in logs] == [200, 200, 200]
    # Read by the workers, not fed by the chief.
    assert hosts == {0, 1} and "the chief reads" not in caplog.text
    assert "window 2: 200 messages, 200 examples" in caplog.text


def test_messages_that_come_while_it_runs_and_a_second_program(model, strategy, brokers, tmp_path):
    topic, other_topic = brokers.topic(), brokers.topic()
    ids = brokers.send(topic, range(100))

    def more(window, logs):
        if window.number == 0:
            ids.extend(brokers.send(topic, range(50)))
            ids.extend(brokers.send(other_topic, range(30), partition=0))

    topics = [topic, other_topic]
    fit(model, source(brokers, topics), window=90, checkpoint=tmp_path / "run", windows=2, on_window_end=more)
    assert sum(counts(model)) == 180 == len(ids)
    assert counts(model) == expected(ids)
    ids += brokers.send(topic, range(7))
    second = make_model(strategy)
    fit(second, source(brokers, topics), window=7, checkpoint=tmp_path / "run", windows=3)
    assert counts(second) == expected(ids)


def test_offsets_are_committed_for_the_group_once_they_are_saved(model, brokers, tmp_path):
    topic = brokers.topic()
    brokers.send(topic, range(20), partition=0)
    consumer = kafka.Consumer({"bootstrap.servers": brokers.servers, "group.id": "watchers", **QUIET})
    seen = []

    def committed():
        return consumer.committed([kafka.TopicPartition(topic, 0)], timeout=30)[0].offset

    reader = source(brokers, topic, group="watchers")
    arguments = {"window": 10, "checkpoint": tmp_path / "run", "windows": 2}
    fit(model, reader, on_window_end=lambda window, logs: seen.append(committed()), **arguments)
    assert seen[1:] == [10] and seen[0] < 0 and committed() == 20
    consumer.close()


def test_fields_of_messages(brokers):
    topic = brokers.topic()
    brokers.producer.produce(topic, value=b"v", key=b"k", partition=1, timestamp=5000)
    brokers.producer.produce(topic, value=None, partition=1, timestamp=6000)
    brokers.producer.flush(30)
    fields = ["value", "key", "timestamp_ms", "partition", "offset"]
    reader = source(brokers, topic, lambda messages: messages.batch(9), fields=fields)
    (batch,) = reader.dataset([[topic, 1, 0, 2]]).as_numpy_iterator()
    assert {name: column.tolist() for name, column in batch.items()} == {
        "value": [b"v", b""],
        "key": [b"k", b""],
        "timestamp_ms": [5000, 6000],
        "partition": [1, 1],
        "offset": [0, 1],
    }


def test_a_window_is_the_same_each_time_it_is_read(brokers):
    topic = brokers.topic()
    brokers.send(topic, range(500))
    parts = [[topic, 0, 3, 160], [topic, 2, 0, 99]]
    reader = source(brokers, topic, lambda messages: messages.map(lambda one: one["value"]).batch(7))
    dataset = reader.dataset(parts)
    first, second = ([value for batch in dataset.as_numpy_iterator() for value in batch.tolist()] for _ in range(2))
    assert first == second
    # Message i is number i // 3 of partition i % 3.
    assert sorted(map(int, first)) == sorted([3 * i for i in range(3, 160)] + [3 * i + 2 for i in range(99)])


def test_windows_of_time_by_the_timestamps_of_messages(brokers, monkeypatch):
    topic = brokers.topic()
    sent = {0: [1000.0, 1001.0, 1012.0, 1009.0, 1035.0], 1: [1002.0, 1030.0]}
    for partition, times in sent.items():
        for time_s in times:
            brokers.send(topic, [time_s], partition, time_s)
    reader, rule = source(brokers, topic), TimeWindows(10.0)

    def offsets_for_times(parts, timeout):
        # The one request that the mock brokers do not answer: the first offset at or after a time, -1 for none.
        for part in parts:
            later = [offset for offset, at in enumerate(sent.get(part.partition, [])) if 1000 * at >= part.offset]
            part.offset = later[0] if later else -1
        return parts

    monkeypatch.setattr(reader, "_consumer", Answering(reader._consumer, offsets_for_times))
    waiting = reader.plan(None, rule, 1009.0)
    assert isinstance(waiting, Waiting) and "end of the window in 1 s" in waiting.reason
    first = reader.plan(None, rule, 1010.0)
    assert (first.start_s, first.end_s) == (1000.0, 1010.0)
    assert first.parts == ([topic, 0, 0, 2], [topic, 1, 0, 1])
    # The message of 1009 came after one of 1012, so it is in the next window.
    second = reader.plan(first.position, rule, 1050.0)
    assert (second.start_s, second.parts) == (1010.0, ([topic, 0, 2, 4],))
    # 1020 to 1030 has no message.
    third = reader.plan(second.position, rule, 1050.0)
    assert (third.start_s, third.parts) == (1030.0, ([topic, 0, 4, 5], [topic, 1, 1, 2]))
    assert isinstance(reader.plan(third.position, rule, 1050.0), Waiting)


class Answering:
    """A consumer that answers one request itself."""

    def __init__(self, consumer, offsets_for_times):
        self._consumer, self.offsets_for_times = consumer, offsets_for_times

    def __getattr__(self, name):
        return getattr(self._consumer, name)


def test_a_message_far_out_of_order_is_trained_all_the_same(brokers, monkeypatch):
    topic = brokers.topic()
    for time_s in (5000.0, 1000.0, 1001.0):
        brokers.send(topic, [time_s], 0, time_s)
    reader, rule = source(brokers, topic), TimeWindows(10.0)
    # The first message at or after any time up to 5000 is the first of all, which was trained.
    monkeypatch.setattr(reader, "_consumer", Answering(reader._consumer, lambda parts, timeout: _all_at(parts, 0)))
    position, seen = OffsetPosition({(topic, 0): 1}).to_json(), []
    for _ in range(2):
        planned = reader.plan(position, rule, 1020.0 + 20 * len(seen))
        seen, position = [*seen, *planned.parts], planned.position
    assert seen == [[topic, 0, 1, 2], [topic, 0, 2, 3]]


def _all_at(parts, offset):
    for part in parts:
        part.offset = offset
    return parts


def test_chunks_are_divided_between_workers_before_they_are_read(brokers):
    topic = brokers.topic()
    graph = strip_devices(source(brokers, topic).dataset([[topic, 0, 0, 100]]))
    assert split_by_file(graph, 2)


def test_messages_are_read_only_as_training_asks_for_them(brokers, monkeypatch):
    topic = brokers.topic()
    brokers.send(topic, range(3200), partition=0)
    read, stock = [], kafka_reader.read_range

    def read_range(config, topic, partition, first, end, timeout_s):
        read.append((first, end))
        return stock(config, topic, partition, first, end, timeout_s)

    monkeypatch.setattr(kafka_reader, "read_range", read_range)
    batches = iter(source(brokers, topic).dataset([[topic, 0, 0, 3200]]))
    next(batches)
    time.sleep(1)
    # One chunk of 100 that the batch is from, one ahead, and one that waits for its place.
    assert read == [(0, 100), (100, 200), (200, 300)][: len(read)] and len(read) <= 3
    assert sum(1 for _ in batches) == 399
    assert len(read) == 32


class Message:
    def __init__(self, offset, error=None):
        self._offset, self._error = offset, error

    def offset(self):
        return self._offset

    def error(self):
        return self._error


class Holes:
    """A partition that a compaction has left holes in, which mock brokers do not do."""

    def __init__(self, offsets, high):
        self.offsets, self.high, self.at, self.seeks = offsets, high, 0, []

    def assign(self, parts):
        self.at = parts[0].offset
        self.seeks.append(self.at)

    def consume(self, number, timeout):
        found = [Message(offset) for offset in self.offsets if offset >= self.at][:number]
        if not found:
            return [Message(self.high, kafka.KafkaError(kafka.KafkaError._PARTITION_EOF))]
        self.at = found[-1].offset() + 1
        return found

    def close(self):
        pass


def test_ranges_of_a_compacted_topic_have_each_message_once(monkeypatch):
    draw = np.random.default_rng(0)
    for _ in range(100):
        high = int(draw.integers(1, 60))
        offsets = [offset for offset in range(high) if draw.random() < 0.5]
        holes = Holes(offsets, high)
        monkeypatch.setattr(kafka_reader, "make_consumer", lambda config, holes=holes: holes)
        reader = kafka_reader.Reader("{}", "t", 0)
        ends = sorted({*draw.integers(0, high, 4).tolist(), 0, high})
        # Every second range is read, as by one of two workers; then the others.
        ranges = list(zip(ends, ends[1:], strict=False))
        for first, end in ranges[::2] + ranges[1::2]:
            wanted = [offset for offset in offsets if first <= offset < end]
            assert [message.offset() for message in reader.read(first, end, 5.0)] == wanted
        # Forward, gaps are read over; one seek to begin, and at most one back.
        assert len(holes.seeks) <= 2


def test_latest_begins_with_what_comes_after_the_first_look(brokers):
    topic = brokers.topic()
    brokers.send(topic, range(5), partition=0)
    reader = source(brokers, topic, start="latest")
    assert isinstance(reader.plan(None, CountWindows(2), 0.0), Waiting)
    brokers.send(topic, range(3), partition=0)
    planned = reader.plan(None, CountWindows(2), 0.0)
    assert planned.parts == ([topic, 0, 5, 7],)


def test_a_topic_that_is_not_there_is_named_with_those_that_are(brokers):
    topic = brokers.topic()
    with pytest.raises(ConfigError, match=rf"there is no topic 'missing' at .*There are: .*'{topic}'"):
        source(brokers, [topic, "missing"]).check(CountWindows(1))


def test_brokers_that_do_not_answer_are_named():
    reader = Kafka("t", "127.0.0.1:1", parse, timeout_s=1, config=QUIET)
    with pytest.raises(ConfigError, match=r"no broker at 127\.0\.0\.1:1 answers within 1 s"):
        reader.check(CountWindows(1))


def test_a_topic_that_was_made_anew_is_not_taken_for_the_old_one(brokers):
    topic = brokers.topic()
    brokers.send(topic, range(3), partition=0)
    position = OffsetPosition({(topic, 0): 9}).to_json()
    with pytest.raises(SourceError, match=rf"partition 0 of topic '{topic}' ends at offset 3, and 9 were trained"):
        source(brokers, topic).plan(position, CountWindows(1), 0.0)


@pytest.mark.parametrize("lost", ["error", "skip"])
def test_messages_that_were_removed_are_an_error_or_are_skipped(brokers, caplog, lost):
    topic = brokers.topic()
    brokers.send(topic, range(9), partition=0)
    reader = source(brokers, topic, lost=lost)
    reader._watermarks = lambda one: (
        (5, 9) if one[1] == 0 else (0, 0)
    )  # as after a retention, which mock brokers do not have
    position = OffsetPosition({(topic, 0): 2}).to_json()
    if lost == "error":
        with pytest.raises(SourceError, match="offsets 2 to 4 of partition 0 .* were removed before they were trained"):
            reader.plan(position, CountWindows(4), 0.0)
        return
    planned = reader.plan(position, CountWindows(4), 0.0)
    assert planned.parts == ([topic, 0, 5, 9],)
    assert "are skipped" in caplog.text


def test_a_range_that_the_brokers_do_not_have_ends_the_training(model, brokers, tmp_path):
    topic = brokers.topic()
    brokers.send(topic, range(9), partition=0)
    reader = source(brokers, topic, timeout_s=1)
    plan = reader.plan
    reader.plan = lambda *args: Planned(([topic, 0, 40, 60],), 20, None, None, plan(*args).position)
    # The error is of a worker; its text and its class come from there.
    with pytest.raises(SourceError, match=rf"partition 0 of topic '{topic}' no longer has offset 4\d"):
        fit(model, reader, window=9, checkpoint=tmp_path / "run", windows=1)


def test_a_silent_broker_has_a_time_limit(brokers):
    topic = brokers.topic()
    brokers.send(topic, range(9), partition=0)
    config = json.dumps({"bootstrap.servers": brokers.servers, **QUIET})
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"did not send offsets 9 to 11 within 1 s"):
        kafka_reader.read_range(config, topic, 0, 0, 12, 1.0)
    assert time.monotonic() - began < 20


def test_the_position_of_another_source_is_refused(brokers):
    reader = source(brokers, brokers.topic())
    with pytest.raises(CheckpointError, match=r"tfps\.streaming\.Kafka"):
        reader.plan({"files": {}, "next_s": None, "last": None}, CountWindows(1), 0.0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"fields": ["values"]},
        {"start": "first"},
        {"group": ""},
        {"lost": "ignore"},
        {"wait_s": -1},
        {"poll_s": 0},
        {"patience_s": -1},
        {"timeout_s": 0},
        {"config": [1]},
        {"config": {"no.such.setting": "1"}},
        {"config": {"sasl.password": None}},
    ],
)
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ConfigError, match=rf"`{next(iter(arguments))}` .*must (be|have)|`config` must"):
        Kafka("t", "127.0.0.1:1", parse, **arguments)


def test_wrong_names_are_named():
    for topics, servers in [([], "a:1"), (3, "a:1"), ([""], "a:1"), ("t", "")]:
        with pytest.raises(ConfigError, match=r"`(topics|servers)` must"):
            Kafka(topics, servers, parse)
    with pytest.raises(ConfigError, match=r"`parse` must be a function"):
        Kafka("t", "a:1", None)


# Pure functions.


def test_a_count_is_divided_by_what_partitions_have():
    draw = np.random.default_rng(0)
    for _ in range(300):
        first = {("t", i): int(draw.integers(0, 9)) for i in range(int(draw.integers(1, 5)))}
        high = {one: begin + int(draw.integers(0, 20)) for one, begin in first.items()}
        total = sum(high.values()) - sum(first.values())
        count = int(draw.integers(0, total + 1))
        ends = divide_count(first, high, count)
        assert sum(ends.values()) - sum(first.values()) == count
        assert all(first[one] <= ends[one] <= high[one] for one in first)
        if total:
            assert all(
                abs((ends[one] - first[one]) - count * (high[one] - first[one]) / total) < len(first) for one in first
            )


def test_chunks_have_each_offset_once_and_take_partitions_in_turn():
    parts = [("t", 0, 5, 12), ("t", 1, 0, 3), ("u", 0, 7, 7)]
    chunks = divide_chunks(parts, 3)
    assert chunks[:2] == [("t", 0, 5, 8), ("t", 1, 0, 3)]
    offsets = [(topic, partition, i) for topic, partition, first, end in chunks for i in range(first, end)]
    assert sorted(offsets) == [("t", 0, i) for i in range(5, 12)] + [("t", 1, i) for i in range(3)]
    assert len(offsets) == len(set(offsets))
