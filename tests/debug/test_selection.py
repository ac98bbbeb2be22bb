"""Which steps and layers are chosen."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.debug.layer_names import match_layers
from tfps.debug.selection import Selection
from tfps.debug.step_number import is_one_of
from tfps.errors import ConfigError

LAYERS = {"items": "items", "deep": "deep", "deep/first": "first", "deep/in/first": "first", "deeper": "deeper"}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, set(LAYERS)),
        (["items"], {"items"}),
        ("deep", {"deep", "deep/first", "deep/in/first"}),
        (["first"], {"deep/first", "deep/in/first"}),
        (["deep/in"], {"deep/in/first"}),
        (["deeper", "items"], {"deeper", "items"}),
    ],
)
def test_layers(wanted, found):
    assert Selection(layers=wanted).choose_layers(LAYERS) == found


STEPS = [range(5), range(3, 40, 7), range(20, 2, -3), [4], [7, 0, 7, 19], np.array([1, 2]), range(0, 10**12, 3)]


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_steps_are_those_of_the_user(steps):
    given = set(steps) if len(steps) < 1000 else {one for one in range(60) if one % 3 == 0}
    selection = Selection(steps=steps)
    chosen = [int(n) for n in range(60) if bool(is_one_of(tf.constant(n, tf.int64), selection.steps))]
    assert chosen == sorted(given)
    for begin, count in ((0, 60), (3, 10), (50, 1)):
        assert selection.count_steps(begin, count) == len(given & set(range(begin, begin + count)))
    assert selection.count_steps(0, None) == len(selection.steps)


def test_all_steps():
    assert bool(is_one_of(tf.constant(10**15, tf.int64), None))
    assert (Selection().count_steps(5, 7), Selection().count_steps(5, None)) == (7, None)
    with pytest.raises(ConfigError, match="`steps` must be a range, or a list of at most 10,000.*Received: 20,000"):
        Selection(steps=list(range(20_000)))


def test_layers_of_two_programs():
    ours, theirs = ["embedding", "tower/dense", "tower/dense_1"], ["embedding_2", "tower_1/dense_5", "tower_1/dense_6"]
    assert match_layers(ours, theirs) == dict(zip(theirs, ours, strict=True))
    assert match_layers(ours, ours[::-1]) == {one: one for one in ours}
    assert match_layers(ours, ["embedding_2", "other"]) == {one: one for one in ("embedding_2", "other")}
