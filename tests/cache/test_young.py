"""How often rows that workers keep may be used, by the age of the model."""

import pytest

from tfps.training.asynchronous.pacing import UNSEEN, YoungPacing
from tfps.training.pacing import Pace


def pacing(workers, steps, trained=0, weight=1.0):
    return YoungPacing(Pace(workers, steps), 1, lambda: 1, trained, weight)


@pytest.mark.parametrize(
    ("workers", "steps", "done", "uses"),
    [
        (1, 32, 0, 0),
        (1, 32, 63, 0),
        (1, 32, 64, 1),
        (1, 32, 256, 4),
        # While one worker of four is alone, it misses nothing of others.
        (4, 8, 256, 4),
        # Then the four have under way what a model of this age may miss, until their closures have full length.
        (4, 8, 512, 0),
        (4, 8, 2048, 0),
        (4, 8, 2304, 1),
        (4, 8, 3072, 4),
        (2, 16, 2560, 4),
    ],
)
def test_rows_are_used_more_often_the_older_the_model_is(workers, steps, done, uses):
    assert pacing(workers, steps).row_uses(done) == uses
    assert pacing(workers, steps, trained=done).row_uses(0) == uses


@pytest.mark.parametrize("workers", [1, 2, 3, 9, 64])
def test_all_workers_together_miss_at_most_what_the_age_allows(workers):
    for done in range(0, 20_000, 37):
        young = pacing(workers, max(1, 32 // workers))
        pace, uses = young.pace(done), young.row_uses(done)
        under_way = pace.workers * pace.steps if pace.workers > 1 else 0
        assert uses >= 0
        assert not uses or under_way + pace.workers * uses <= done / UNSEEN


def test_a_momentum_makes_a_model_young_for_longer():
    assert pacing(1, 32, weight=10.0).row_uses(640) == 1
