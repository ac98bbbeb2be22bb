"""The mock brokers of librdkafka: real connections and fetches, in this process."""

import time

import pytest

kafka = pytest.importorskip("confluent_kafka")

QUIET = {"log_level": 2}


class Brokers:
    """Two mock brokers, and a producer of messages."""

    def __init__(self):
        self.producer = kafka.Producer({"test.mock.num.brokers": 2, "bootstrap.servers": "mock", **QUIET})
        brokers = self.producer.list_topics(timeout=30).brokers.values()
        self.servers = ",".join(f"{one.host}:{one.port}" for one in brokers)
        self.made = 0

    def topic(self):
        """Makes a topic of its own for a test, of four partitions."""
        self.made += 1
        name = f"topic-{self.made}"
        # The mock brokers make a topic that a client asks for.
        self.producer.list_topics(name, timeout=30)
        return name

    def send(self, topic, values, partition=None, time_s=None):
        """Sends messages; spread over three partitions unless one is given."""
        for number, value in enumerate(values):
            where = number % 3 if partition is None else partition
            at = int(1000 * (time.time() if time_s is None else time_s))
            self.producer.produce(topic, value=str(value).encode(), partition=where, timestamp=at)
        assert self.producer.flush(30) == 0
        return list(values)
