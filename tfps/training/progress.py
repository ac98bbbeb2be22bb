"""Progress of the shards of the input: the closures under way, and what each of them can have seen of the others."""


class Progress:
    """Counts the closures of each shard. A worker runs the closures of a shard one after the other.

    Args:
        shards: the number of shards.

    Attributes:
        under_way: for each shard, the number of closures that have begun and not ended.
        ended: for each shard, the number of closures that have ended.
        ended_before: for each shard, the value of `ended` when its running closure began; empty before the first one.
            The running closure does not see the results of closures that ended later.
    """

    def __init__(self, shards: int) -> None:
        self.under_way = [0] * shards
        self.ended = [0] * shards
        self.ended_before: list[list[int]] = [[] for _ in range(shards)]

    def __len__(self) -> int:
        """The number of shards."""
        return len(self.ended)

    def begin(self, shard: int) -> None:
        """Counts a closure that was sent to a worker, where another closure of the shard may still run."""
        # A closure behind another one does not run yet; `end` of the first one marks its start.
        if not self.under_way[shard]:
            self.ended_before[shard] = list(self.ended)
        self.under_way[shard] += 1

    def end(self, shard: int) -> None:
        """Counts a closure that has ended; the next closure of the shard runs from now on."""
        # Lost closures are counted too: `begin` is called again when they are repeated.
        self.under_way[shard] -= 1
        self.ended[shard] += 1
        self.ended_before[shard] = list(self.ended)
