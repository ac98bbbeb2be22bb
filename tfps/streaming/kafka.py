"""`Kafka`: a stream of messages of Kafka's topics, read by the workers as ranges of offsets."""

import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import tensorflow as tf

from tfps.checks import check_callable, check_choice, check_list, check_number, check_string, check_type, show_value
from tfps.cluster import worker_functions
from tfps.errors import ConfigError, SourceError
from tfps.streaming import kafka_reader
from tfps.streaming.interface import Planned, Waiting
from tfps.streaming.kafka_reader import FIELDS, describe
from tfps.streaming.offset_windows import OffsetPosition, Partition, divide_chunks, divide_count
from tfps.streaming.windows import CountWindows, Rule, TimeWindows
from tfps.types import JSON

_LOG = logging.getLogger("tfps")

_MOST_IN_CHUNK = 1000
"""The largest number of messages that a worker reads at a time: it holds a few such chunks, whatever the window has."""
_CHUNKS = 32
"""The number of chunks that a small window has at least, so that all workers get some."""


class Kafka:
    """Messages of topics. A window is a range of offsets of each partition.

    Each worker reads its part of the ranges from the brokers itself, a chunk at a time, when its training asks for it.
    A window of a length has the messages by their timestamps; one that comes later than its window is in the next.

    Args:
        topics: the name of a topic, or several.
        servers: the addresses of brokers, "host:port,host:port".
        parse: a function that makes the batches of a window, as `model.fit` takes them, from a `tf.data.Dataset` of
            messages: dictionaries of the `fields`, scalars.
        fields: what a message has: "value", "key" (strings), "timestamp_ms", "offset" (int64), "partition" (int32).
        start: where a training begins that has no checkpoint: "earliest" or "latest".
        group: the consumer group for which the offsets of checkpoints are committed, for monitoring; None for none.
        lost: what happens when messages were removed before they were trained: "error" ends the training, "skip" goes
            on with the first ones that are there, and says so.
        wait_s: the seconds after the end of a window in which its messages may still come.
        poll_s: the seconds between two looks.
        patience_s: the seconds in which brokers or a topic may be away before the training ends with an error.
        timeout_s: the seconds without an answer after which a read or a request fails.
        config: settings of librdkafka, such as "security.protocol". Workers get them too.

    Raises:
        ConfigError: an argument breaks its rule, or confluent-kafka is not installed.
    """

    unit = "messages"

    def __init__(
        self,
        topics: str | Sequence[str],
        servers: str,
        parse: Callable[[tf.data.Dataset], tf.data.Dataset],
        *,
        fields: Sequence[str] = ("value",),
        start: str = "earliest",
        group: str | None = None,
        lost: str = "error",
        wait_s: float = 0.0,
        poll_s: float = 5.0,
        patience_s: float = 60.0,
        timeout_s: float = 30.0,
        config: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        given = [topics] if isinstance(topics, str) else check_list("topics", topics, "names of topics")
        self._topics = sorted({check_string("topics", topic) for topic in given})
        if not self._topics:
            raise ConfigError(f"`topics` must have at least one name. Received: {show_value(topics)}.")
        self._servers = check_string("servers", servers)
        self._parse = check_callable("parse", parse, "a function of a dataset of messages")
        self._fields = [check_choice("fields", one, tuple(FIELDS)) for one in check_list("fields", fields, "names")]
        self._start = check_choice("start", start, ("earliest", "latest"))
        self._group = None if group is None else check_string("group", group, valid="None for none")
        self._lost = check_choice("lost", lost, ("error", "skip"))
        self._wait_s = check_number("wait_s", wait_s, at_least=0)
        self.poll_s = check_number("poll_s", poll_s, above=0)
        self.patience_s = check_number("patience_s", patience_s, at_least=0)
        self._timeout_s = check_number("timeout_s", timeout_s, above=0)
        self._config = json.dumps(self._settings(config))
        self._consumer = kafka_reader.make_consumer(json.loads(self._config))
        # Where a training without a checkpoint begins: "latest" is that of the first look.
        self._first: dict[Partition, int] | None = None
        # Partitions whose losses the log has named, each once a program.
        self._told: set[Partition] = set()

    def _settings(self, config: object) -> dict[str, JSON]:
        """Returns the settings of the consumers, checked."""
        settings = dict(check_type("config", {} if config is None else config, Mapping, "a mapping"))
        for name, value in settings.items():
            # Workers get them as JSON.
            check_type(f"config of {name!r}", value, (str, int, float, bool), "a string, a number, True or False")
        group = {} if self._group is None else {"group.id": self._group}
        return {**settings, "bootstrap.servers": self._servers, **group}

    def check(self, rule: Rule) -> None:
        """See `Source`."""
        try:
            self._partitions()
        except SourceError as error:
            raise ConfigError(f"`topics` must be topics that are there: {error}") from None

    def plan(self, position: JSON, rule: Rule, now_s: float) -> Planned | Waiting:
        """See `Source`."""
        before = None if position is None else OffsetPosition.from_json(position)
        marks = {one: self._watermarks(one) for one in self._partitions()}
        first = {one: self._first_offset(one, low, high, before) for one, (low, high) in marks.items()}
        if before is None:
            # The first look decides: "latest" asked again would skip the messages that came while the window filled.
            self._first = {**first, **(self._first or {})}
        high = {one: high for one, (_, high) in marks.items()}
        next_s = None if before is None else before.next_s
        if isinstance(rule, CountWindows):
            return self._plan_count(first, high, rule, next_s)
        return self._plan_time(first, high, rule, next_s, now_s)

    def _plan_count(
        self, first: dict[Partition, int], high: dict[Partition, int], rule: CountWindows, next_s: float | None
    ) -> Planned | Waiting:
        waiting = sum(high[one] - first[one] for one in first)
        if waiting < rule.count:
            return Waiting(f"{rule.count - waiting} more messages")
        return _planned(first, divide_count(first, high, rule.count), None, next_s)

    def _plan_time(
        self,
        first: dict[Partition, int],
        high: dict[Partition, int],
        rule: TimeWindows,
        next_s: float | None,
        now_s: float,
    ) -> Planned | Waiting:
        times = {one: self._time_of(one, first[one], high[one]) for one in first if first[one] < high[one]}
        known = [time_s for time_s in times.values() if time_s is not None]
        if not known:
            return Waiting("messages")
        # Hours without a message are no windows. Messages of windows that are over are in this one.
        start_s = rule.start_of(min(known))
        if next_s is not None:
            start_s = max(start_s, next_s)
        end_s = start_s + rule.length_s
        if (left_s := end_s + self._wait_s - now_s) > 0:
            return Waiting(f"the end of the window in {left_s:.0f} s")
        # Offsets and not times are in the plan: a window that is read again must have the same messages.
        ends = self._offsets_at(end_s, first, high)
        for one, time_s in times.items():
            # Timestamps may be far out of order; at least the next message is of this window.
            if time_s is not None and time_s < end_s:
                ends[one] = max(ends[one], first[one] + 1)
        return _planned(first, ends, start_s, end_s)

    def dataset(self, parts: Sequence[JSON]) -> tf.data.Dataset:
        """See `Source`."""
        ranges = [_parse_part(part) for part in parts]
        count = sum(end - first for _, _, first, end in ranges)
        most = max(1, min(_MOST_IN_CHUNK, math.ceil(count / _CHUNKS)))
        chunks = tf.data.Dataset.from_tensor_slices([json.dumps(chunk) for chunk in divide_chunks(ranges, most)])
        fields, dtypes = self._fields, [tf.as_dtype(FIELDS[name]) for name in self._fields]
        constants = [self._config, json.dumps(fields), self._timeout_s]

        def read(chunk: tf.Tensor) -> dict[str, tf.Tensor]:
            inputs = [chunk, *map(tf.constant, constants[:2]), tf.constant(constants[2], tf.float64)]
            columns = worker_functions.call(kafka_reader.__name__, "read_messages", inputs, dtypes)
            return {name: tf.ensure_shape(column, [None]) for name, column in zip(fields, columns, strict=True)}

        # A chunk is read while the one before is trained, and no more: a slow worker holds its broker back.
        messages = chunks.map(read).prefetch(1).flat_map(tf.data.Dataset.from_tensor_slices)
        return check_type(
            "what `parse` returns", self._parse(messages), tf.data.Dataset, "a tf.data.Dataset of batches"
        )

    def commit(self, position: JSON) -> None:
        """Commits the offsets of a checkpoint for the group, so that tools show the lag."""
        if self._group is None:
            return
        kafka = kafka_reader.library()
        offsets = OffsetPosition.from_json(position).offsets
        parts = [kafka.TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        try:
            self._consumer.commit(offsets=parts, asynchronous=False)
        except kafka.KafkaException as error:
            _LOG.warning(
                "offsets were not committed for group %r: %s. Training does not need them.",
                self._group,
                describe(error),
            )

    def _partitions(self) -> Collection[Partition]:
        """Returns the partitions of the topics.

        Raises:
            SourceError: no broker answers, or a topic is not there.
        """
        kafka = kafka_reader.library()
        try:
            # All topics: a question for one may make it.
            found = self._consumer.list_topics(timeout=self._timeout_s).topics
        except kafka.KafkaException as error:
            raise SourceError(
                f"no broker at {self._servers} answers within {self._timeout_s:g} s: {describe(error)}.", may_pass=True
            ) from None
        for topic in self._topics:
            if topic not in found or found[topic].error is not None:
                there = show_value(sorted(name for name in found if not name.startswith("__")))
                raise SourceError(f"there is no topic {topic!r} at {self._servers}. There are: {there}.", may_pass=True)
        return [(topic, partition) for topic in self._topics for partition in sorted(found[topic].partitions)]

    def _watermarks(self, one: Partition) -> tuple[int, int]:
        """Returns the first offset of a partition and the one after its last."""
        kafka = kafka_reader.library()
        try:
            low, high = self._consumer.get_watermark_offsets(kafka.TopicPartition(*one), timeout=self._timeout_s)
        except kafka.KafkaException as error:
            raise SourceError(
                f"partition {one[1]} of topic {one[0]!r} cannot be read: {describe(error)}.", may_pass=True
            ) from None
        return int(low), int(high)

    def _first_offset(self, one: Partition, low: int, high: int, before: OffsetPosition | None) -> int:
        """Returns the offset of the next message of a partition."""
        if before is None:
            begin = high if self._start == "latest" else low
            known = (self._first or {}).get(one, begin)
        else:
            # A partition that was added since has its first messages in the next window.
            known = before.offsets.get(one, low)
        topic, partition = one
        if known > high:
            raise SourceError(
                f"partition {partition} of topic {topic!r} ends at offset {high}, and {known} were trained: the topic "
                "was made anew, or is another one. Valid: another `checkpoint`, to begin anew."
            )
        if known < low:
            gone = f"offsets {known} to {low - 1} of partition {partition} of topic {topic!r}"
            lost = f"{gone} were removed before they were trained"
            if self._lost == "error":
                raise SourceError(f'{lost}. Valid: a longer retention; or lost="skip".')
            if one not in self._told:
                _LOG.warning("%s, and are skipped (lost='skip').", lost)
                self._told.add(one)
        return max(known, low)

    def _time_of(self, one: Partition, first: int, end: int) -> float | None:
        """Returns the time of the next message of a partition, in seconds; None if the offsets hold none."""
        found = kafka_reader.first_timestamp_ms(self._config, *one, first, end, self._timeout_s)
        return None if found is None else found / 1000.0

    def _offsets_at(
        self, time_s: float, first: dict[Partition, int], high: dict[Partition, int]
    ) -> dict[Partition, int]:
        """Returns for each partition the offset of its first message at or after a time."""
        kafka = kafka_reader.library()
        wanted = [kafka.TopicPartition(*one, math.ceil(time_s * 1000)) for one in first]
        try:
            found = self._consumer.offsets_for_times(wanted, timeout=self._timeout_s)
        except kafka.KafkaException as error:
            raise SourceError(f"the brokers do not tell offsets by time: {describe(error)}.", may_pass=True) from None
        offsets = {(part.topic, part.partition): part.offset for part in found}
        # A negative number says that there is no such message yet.
        return {one: high[one] if offsets[one] < 0 else min(max(offsets[one], first[one]), high[one]) for one in first}


def _planned(
    first: dict[Partition, int], ends: dict[Partition, int], start_s: float | None, end_s: float | None
) -> Planned:
    parts = tuple([*one, first[one], ends[one]] for one in sorted(first) if first[one] < ends[one])
    count = sum(ends[one] - first[one] for one in first)
    return Planned(parts, count, start_s, end_s if start_s is not None else None, OffsetPosition(ends, end_s).to_json())


def _parse_part(part: JSON) -> tuple[str, int, int, int]:
    topic, partition, first, end = check_list("part", part, "a topic, a partition and two offsets")
    return str(topic), int(partition), int(first), int(end)
