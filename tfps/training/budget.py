"""The steps that an epoch may still begin, in all and for each shard of the input.

An epoch of `steps_per_epoch` steps trains the batches that one process would train: the next ones of the input. Where
batch i of the input belongs to shard i % N, each shard therefore has a share of the steps, and the shards that have one
step more change from epoch to epoch. A shard whose share is used up waits for the others, as it does at the end of an
input without `steps_per_epoch`.

Example: with 2 shards and 5 steps an epoch, the shares are 3 and 2 in the first epoch (batches 0, 2, 4 and 1, 3), and 2
and 3 in the second (batches 6, 8 and 5, 7, 9).
"""

from collections.abc import Sequence


class Budget:
    """The steps of one epoch that may still begin.

    Args:
        steps: the number of steps of the epoch; None for all that the input has.
        taken: for each shard, the number of its batches that were trained before this epoch.
        in_turn: whether batch i of the input belongs to shard i % N. If not, any shard may take any step.

    Attributes:
        left: the number of steps that may still begin; None for all that the input has.
    """

    def __init__(self, steps: int | None, taken: Sequence[int], in_turn: bool) -> None:
        self.left = steps
        self._shares: list[int] | None = None
        if steps is not None and in_turn:
            end = sum(taken) + steps
            # The range has the numbers of a shard's batches. After an epoch that was stopped, a shard may be ahead.
            self._shares = [max(0, len(range(shard, end, len(taken))) - before) for shard, before in enumerate(taken)]

    def share(self, shard: int) -> int | None:
        """Returns the number of steps that a shard may still begin; None if it has no share of its own."""
        if self._shares is None or self.left is None:
            return None
        return min(self._shares[shard], self.left)

    def has_steps_for(self, shard: int) -> bool:
        """Whether a shard may begin a step."""
        return self.left != 0 and self.share(shard) != 0

    def spend(self, steps: int, shard: int | None = None) -> None:
        """Takes the steps of an ordered closure.

        Args:
            steps: the number of steps.
            shard: the shard of the closure; None if the chief feeds its batches.
        """
        if self.left is not None:
            self.left -= steps
        if self._shares is not None and shard is not None:
            self._shares[shard] -= steps

    def refund(self, steps: int) -> None:
        """Returns steps that were ordered but did not run, because their shard has no more batches."""
        # Not to the share of the shard, which has ended. Without shares, other shards may take these steps.
        if self.left is not None:
            self.left += steps

    def end(self) -> None:
        """Lets no step begin any more."""
        self.left = 0
