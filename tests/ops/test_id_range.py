"""Which lookup of a table, and where in it, an id out of range is, where the ids of several lookups are joined."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.ops import id_range


def found(shapes, known, bad):
    """The error for the id at `bad` = (lookup, index), with `known` shapes in the label."""
    ids = [np.zeros(shape, np.int64) for shape in shapes]
    ids[bad[0]][bad[1]] = 99
    joined = np.concatenate([one.reshape(-1) for one in ids])
    name = id_range.make_label("model/item/embeddings", [tf.TensorShape(shape) for shape in known])
    try:
        id_range.check_in_range(name, 50, tf.constant(joined))
    except tf.errors.InvalidArgumentError as error:
        return id_range.find(str(error))
    return None


@pytest.mark.parametrize(
    ("shapes", "known"),
    [
        ([(4, 8), (4,)], [(None, 8), (4,)]),
        ([(4, 8), (4, 2)], [(None, 8), (None, 2)]),
        ([(4, 8), (6, 2), (3,)], [(4, 8), (6, 2), (None,)]),
        ([(2, 2), (2, 2)], [(2, 2), (2, 2)]),
        ([(), (3,)], [(), (None,)]),
    ],
)
def test_every_place_of_every_lookup_is_found(shapes, known):
    for lookup, shape in enumerate(shapes):
        for place in np.ndindex(shape):
            error = found(shapes, known, (lookup, place))
            assert (error.table, error.layer) == ("model/item/embeddings", "model/item")
            assert (error.place, error.shape) == (place, shape)
            assert f"in lookup {lookup + 1} of {len(shapes)}" in str(error)


@pytest.mark.parametrize("known", [[(None,), (None,)], [(None, None), (3,)], [(None, 2), (None,)]])
def test_where_sizes_do_not_follow_the_place_is_that_in_all_ids(known):
    shapes = [(4, 2) if len(shape) == 2 else (3,) for shape in known]
    error = found(shapes, known, (1, (2,)))
    before = int(np.prod(shapes[0]))
    assert error.place == (before + 2,) and "of its 2 lookups, one after the other" in str(error)
