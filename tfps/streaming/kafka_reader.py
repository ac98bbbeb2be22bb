"""Reads ranges of messages from Kafka, on the task that trains them.

A range of offsets always gives the same messages, so it can be read again: by the test and the training of a window,
and by another worker after a loss. Nobody joins a consumer group: who reads what is in the parts of the window.

Threading: TensorFlow's threads, several at once; each read has a reader of its own.
"""

import collections
import functools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfps.errors import ConfigError, SourceError
from tfps.types import JSON

_MAX_IDLE = 8
"""The number of readers that stay connected between two ranges."""
_POLL_S = 0.5

_OWN_CONFIG = {"enable.auto.commit": False, "enable.partition.eof": True, "auto.offset.reset": "error"}
"""What a reader relies on: offsets are not moved behind its back, and the end of a partition is reported."""
# A reader fetches ahead of what is asked for; four megabytes each are enough. A fetch that waits for new messages at
# the end of a partition delays the next seek, so it is short.
_DEFAULTS = {"queued.max.messages.kbytes": 4096, "fetch.wait.max.ms": 50, "group.id": "tfps"}

_MAX_DROPPED = 10_000
"""The largest number of messages of other workers that a reader drops to get to its next ones. Most of them have been
fetched already, and a seek would throw away all that was fetched."""

FIELDS: dict[str, str] = {
    "value": "string",
    "key": "string",
    "timestamp_ms": "int64",
    "partition": "int32",
    "offset": "int64",
}
"""What a message has, with the types."""

_lock = threading.Lock()
_idle: list["Reader"] = []
"""Readers that nobody uses, the oldest first; `_lock` guards the list."""


@functools.cache
def library() -> Any:
    """Returns the module confluent_kafka.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import confluent_kafka
    except ImportError:
        raise ConfigError(
            "tfps.streaming.Kafka needs confluent-kafka on the chief and on every worker. Valid: pip install "
            "tfps[kafka]."
        ) from None
    return confluent_kafka


def make_consumer(config: Mapping[str, JSON]) -> Any:
    """Returns a consumer of librdkafka.

    Args:
        config: its settings, as users give them.

    Raises:
        ConfigError: a setting is wrong.
    """
    kafka = library()
    try:
        return kafka.Consumer({**_DEFAULTS, **config, **_OWN_CONFIG})
    except (kafka.KafkaException, TypeError, ValueError) as error:
        raise ConfigError(f"`config` must have settings of librdkafka: {describe(error)}.") from None


def describe(error: BaseException) -> str:
    """Returns the text of an error of the library, which wraps it."""
    inner = error.args[0] if error.args else error
    text = getattr(inner, "str", None)
    return str(text() if callable(text) else error)


class Reader:
    """Reads one partition forward.

    Args:
        config: the settings of the consumer, as JSON.
        topic: the topic.
        partition: the number of the partition.

    Attributes:
        key: what the reader is of; a reader of the same key can be used again.
        next: the offset of the next message that it gives.
    """

    def __init__(self, config: str, topic: str, partition: int) -> None:
        self.key = (config, topic, partition)
        self.next = -1
        self._wanted = -1
        self._consumer = make_consumer(json.loads(config))
        self._topic, self._partition = topic, partition
        # Messages that came with those of the range before.
        self._ahead: collections.deque[Any] = collections.deque()
        self._end_of_partition = -1
        self._last_error = ""

    def read(self, first: int, end: int, timeout_s: float, most: int | None = None) -> list[Any]:
        """Returns the messages of a range; offsets that hold no message, as after a compaction, are left out.

        Args:
            first: the first offset.
            end: the offset after the last one.
            timeout_s: the seconds without any message after which the read fails.
            most: the number of messages after which it returns; None for all.

        Raises:
            SourceError: the broker does not send the range, or does not have it any more.
        """
        if self.next < 0 or not 0 <= first - self.next <= _MAX_DROPPED:
            self._seek(first)
        self._wanted = first
        found: list[Any] = []
        deadline = time.monotonic() + timeout_s
        while self.next < end and (most is None or len(found) < most):
            if not self._ahead:
                if self._end_of_partition >= end:
                    # What is left of the range holds no message.
                    self.next = end
                elif self._fetch(min(1000, end - self.next)):
                    deadline = time.monotonic() + timeout_s
                elif time.monotonic() > deadline:
                    raise SourceError(self._describe_silence(end, timeout_s), may_pass=True)
                continue
            if self._ahead[0].offset() >= end:
                self.next = end
                continue
            message = self._ahead.popleft()
            self.next = message.offset() + 1
            if message.offset() >= first:
                found.append(message)
        return found

    def close(self) -> None:
        """Disconnects."""
        self._consumer.close()

    def _seek(self, first: int) -> None:
        self._ahead.clear()
        self._end_of_partition = -1
        self._consumer.assign([library().TopicPartition(self._topic, self._partition, first)])
        self.next = first

    def _fetch(self, number: int) -> bool:
        """Waits shortly for messages; returns whether anything came."""
        kafka = library()
        came = False
        for message in self._consumer.consume(number, _POLL_S):
            error = message.error()
            if error is None:
                self._ahead.append(message)
                came = True
            elif error.code() == kafka.KafkaError._PARTITION_EOF:
                self._end_of_partition = message.offset()
            elif error.code() in (kafka.KafkaError._AUTO_OFFSET_RESET, kafka.KafkaError.OFFSET_OUT_OF_RANGE):
                if self.next < self._wanted:
                    # Only messages that it would have dropped were removed.
                    self._seek(self._wanted)
                    return True
                raise SourceError(
                    f"{self._name} no longer has offset {self.next}: its messages were removed before they were "
                    'trained. Valid: a longer retention; or lost="skip".'
                )
            else:
                # The library goes on by itself after most errors; the time limit decides.
                self._last_error = f" The last error: {error.str()}."
        return came

    @property
    def _name(self) -> str:
        return f"partition {self._partition} of topic {self._topic!r}"

    def _describe_silence(self, end: int, timeout_s: float) -> str:
        return f"{self._name} did not send offsets {self.next} to {end - 1} within {timeout_s:g} s.{self._last_error}"


def read_range(config: str, topic: str, partition: int, first: int, end: int, timeout_s: float) -> list[Any]:
    """Returns the messages of a range, by a reader that may have been connected before. See `Reader.read`."""
    reader = _take(config, topic, partition, first)
    try:
        messages = reader.read(first, end, timeout_s)
    except BaseException:
        # Its state is not known.
        reader.close()
        raise
    _give_back(reader)
    return messages


def first_timestamp_ms(config: str, topic: str, partition: int, first: int, end: int, timeout_s: float) -> int | None:
    """Returns the time of the first message of a range, in ms since 1970; None if no offset of it holds one."""
    reader = _take(config, topic, partition, first)
    try:
        messages = reader.read(first, end, timeout_s, most=1)
    except BaseException:
        reader.close()
        raise
    _give_back(reader)
    return int(messages[0].timestamp()[1]) if messages else None


def _take(config: str, topic: str, partition: int, first: int) -> Reader:
    key = (config, topic, partition)
    with _lock:
        same = [reader for reader in _idle if reader.key == key]
        # The one that stands at the first offset, or nearest before it, needs no seek.
        chosen = min(same, key=lambda one: (one.next > first, abs(first - one.next)), default=None)
        if chosen is not None:
            _idle.remove(chosen)
            return chosen
    return Reader(config, topic, partition)


def _give_back(reader: Reader) -> None:
    with _lock:
        _idle.append(reader)
        old = [_idle.pop(0)] if len(_idle) > _MAX_IDLE else []
    for one in old:
        one.close()


def _read_messages(part: bytes, config: bytes, fields: bytes, timeout_s: np.float64) -> Sequence[np.ndarray[Any, Any]]:
    """Returns the fields of the messages of a part, each an array [messages]."""
    topic, partition, first, end = json.loads(part)
    messages = read_range(config.decode(), topic, partition, first, end, float(timeout_s))
    return [_column(name, messages) for name in json.loads(fields)]


def _column(name: str, messages: Sequence[Any]) -> np.ndarray[Any, Any]:
    if name == "timestamp_ms":
        return np.array([message.timestamp()[1] for message in messages], np.int64)
    values = [getattr(message, name)() for message in messages]
    if FIELDS[name] == "string":
        # A tombstone has no value, and most messages have no key.
        return np.array([b"" if value is None else value for value in values], object)
    return np.array(values, FIELDS[name])


WORKER_FUNCTIONS = {"read_messages": _read_messages}
