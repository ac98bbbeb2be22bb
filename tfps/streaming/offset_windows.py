"""Which offsets are the next window of a stream of messages. Pure functions; a *partition* is (topic, number)."""

import dataclasses
from collections.abc import Mapping

from tfps.checks import check_integer, check_number, check_type
from tfps.errors import CheckpointError
from tfps.types import JSON

Partition = tuple[str, int]
Offsets = Mapping[Partition, int]


@dataclasses.dataclass(frozen=True)
class OffsetPosition:
    """What was trained of topics.

    Args:
        offsets: for each partition, the offset after the last message.
        next_s: the end of the last window of a length; None before the first one.
    """

    offsets: Offsets
    next_s: float | None = None

    def to_json(self) -> JSON:
        """Returns the position as JSON."""
        topics: dict[str, dict[str, int]] = {}
        for (topic, partition), offset in self.offsets.items():
            topics.setdefault(topic, {})[str(partition)] = offset
        return {"topics": topics, "next_s": self.next_s}

    @classmethod
    def from_json(cls, value: JSON) -> "OffsetPosition":
        """Reads a position.

        Raises:
            CheckpointError: the value is not what `to_json` returns.
        """
        fields = check_type("position", value, dict, "an object", error=CheckpointError)
        topics = check_type(
            "topics of the position",
            fields.get("topics"),
            dict,
            "those of a tfps.streaming.Kafka",
            error=CheckpointError,
        )
        offsets = {
            (topic, int(partition)): check_integer("offset", offset, at_least=0, error=CheckpointError)
            for topic, partitions in topics.items()
            for partition, offset in check_type("topic", partitions, dict, "an object", error=CheckpointError).items()
            if str(partition).isdigit()
        }
        next_s = fields.get("next_s")
        return cls(offsets, None if next_s is None else check_number("next_s", next_s, error=CheckpointError))


def divide_count(first: Offsets, high: Offsets, count: int) -> dict[Partition, int]:
    """Returns the ends of a window of a number of messages: each partition gives by what it has.

    Args:
        first: for each partition, the offset of its next message.
        high: the offset after its last one.
        count: the number of messages, at most as many as there are.
    """
    waiting = {one: high[one] - first[one] for one in first}
    total = sum(waiting.values())
    # Rounded down; example: 3 of 2 + 2 are 1 + 1, and one more of the partition with the most left.
    taken = {one: count * number // total for one, number in waiting.items()} if total else dict.fromkeys(waiting, 0)
    for _ in range(count - sum(taken.values())):
        most = max(waiting, key=lambda one: (waiting[one] - taken[one], one))
        taken[most] += 1
    return {one: first[one] + taken[one] for one in first}


def divide_chunks(parts: list[tuple[str, int, int, int]], most: int) -> list[tuple[str, int, int, int]]:
    """Divides ranges of offsets into chunks, which workers read one at a time.

    Args:
        parts: topic, partition, first offset and the offset after the last one.
        most: the number of offsets in a chunk.

    Returns:
        The chunks: the first ones of all partitions, then the second ones, so that partitions are trained side by side.
    """
    # Example: ranges A 0-3 and B 0-2 in chunks of 2 give A 0-2, B 0-2, A 2-3.
    rounds: list[tuple[int, int, tuple[str, int, int, int]]] = []
    for index, (topic, partition, first, end) in enumerate(parts):
        for number, begin in enumerate(range(first, end, most)):
            rounds.append((number, index, (topic, partition, begin, min(begin + most, end))))
    return [chunk for _, _, chunk in sorted(rounds)]
