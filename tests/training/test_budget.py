"""The steps of an epoch of `steps_per_epoch` steps, and the share that each shard has of them."""

import pytest

from tfps.training.budget import Budget


@pytest.mark.parametrize("shards", [1, 2, 3, 8])
@pytest.mark.parametrize("steps", [1, 7, 16])
def test_an_epoch_is_the_next_batches_of_the_input(shards, steps):
    taken = [0] * shards
    for epoch in range(5):
        budget = Budget(steps, taken, in_turn=True)
        for shard in range(shards):
            share = budget.share(shard)
            budget.spend(share, shard)
            taken[shard] += share
        assert budget.left == 0
        read = [shard + shards * number for shard, count in enumerate(taken) for number in range(count)]
        assert sorted(read) == list(range((epoch + 1) * steps))


def test_a_share_that_is_used_up_stays_so():
    budget = Budget(5, [0, 0], in_turn=True)
    assert [budget.share(0), budget.share(1)] == [3, 2]
    budget.spend(2, 1)
    budget.refund(2)  # the shard had fewer batches than its share
    assert not budget.has_steps_for(1) and budget.has_steps_for(0) and budget.left == 5


def test_any_shard_may_take_the_steps_of_an_input_that_has_no_turns():
    budget = Budget(5, [0, 0], in_turn=False)
    budget.spend(4, 1)
    assert budget.share(1) is None and budget.has_steps_for(1) and budget.left == 1
    budget.refund(1)
    assert budget.left == 2


def test_an_epoch_after_one_that_was_stopped_has_all_its_steps():
    budget = Budget(4, [3, 0], in_turn=True)
    assert [budget.share(0), budget.share(1)] == [1, 3]
    assert Budget(1, [5, 0], in_turn=True).share(0) == 0


def test_nothing_begins_after_the_end():
    for budget in (Budget(4, [0, 0], in_turn=True), Budget(None, [0, 0], in_turn=True)):
        assert budget.has_steps_for(0)
        budget.end()
        assert not budget.has_steps_for(0)
