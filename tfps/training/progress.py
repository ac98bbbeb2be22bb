"""What each shard of the input has under way, and what it cannot have seen of the others."""


class Progress:
    """Counts closures by shard. A worker runs the closures of a shard one after the other.

    Args:
        shards: how many there are.

    Attributes:
        under_way: closures of each shard that were begun and have not ended.
        ended: closures of each shard that have ended.
        ended_before: for each shard, `ended` of all shards at the time its running closure began; empty before the
            first. What ended after that the running closure does not see.
    """

    def __init__(self, shards: int) -> None:
        self.under_way = [0] * shards
        self.ended = [0] * shards
        self.ended_before: list[list[int]] = [[] for _ in range(shards)]

    def __len__(self) -> int:
        """The number of shards."""
        return len(self.ended)

    def begin(self, shard: int) -> None:
        """Counts a closure that was given to a worker, behind the one that runs there, if any."""
        # Behind another closure it does not run yet; `end` of that one says when it does.
        if not self.under_way[shard]:
            self.ended_before[shard] = list(self.ended)
        self.under_way[shard] += 1

    def end(self, shard: int) -> None:
        """Counts a closure that has ended; the next one of the shard runs from now on."""
        # Whether its result counts does not matter here: a lost closure is begun again.
        self.under_way[shard] -= 1
        self.ended[shard] += 1
        self.ended_before[shard] = list(self.ended)
