"""What an assigned value keeps of its variable, as the trace of a step shows it."""

import pytest
import tensorflow as tf

from tfps.training.affine import Dependencies

CASES = {
    "adds": (lambda v, x, d: v + x, 1.0),
    "subtracts": (lambda v, x, d: x - v, -1.0),
    "replaces": (lambda v, x, d: 2.0 * x, 0.0),
    "averages": (lambda v, x, d: 0.9 * v + 0.1 * x, 0.9),
    "averages by a step": (lambda v, x, d: v - (v - x) * 0.1, 0.9),
    "averages by a computed decay": (lambda v, x, d: d * v + (1.0 - d) * x, 0.75),
    "divides": (lambda v, x, d: v / 4.0 + x, 0.25),
    "chooses": (lambda v, x, d: tf.where(d > 0.5, tf.identity(-v), x), -1.0),
    "clips": (lambda v, x, d: tf.clip_by_value(v, 0.0, 1.0), None),
    "squares": (lambda v, x, d: v * v, None),
    "divides by itself": (lambda v, x, d: x / v, None),
    "scales by itself": (lambda v, x, d: v * tf.reduce_sum(v), None),
    "scales each element": (lambda v, x, d: v * x, None),
    "chooses by itself": (lambda v, x, d: tf.where(tf.reduce_sum(v) > 0.0, v, x), None),
    "branches on a constant": (lambda v, x, d: tf.where(True, v, x), 1.0),
}


@pytest.mark.parametrize("within", ["step", "branch"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_kept(name, within):
    value_of, expected = CASES[name]
    variable = tf.Variable([3.0, 4.0])

    @tf.function(autograph=False)
    def keep(x, d):
        found = []

        def trace():
            kept = Dependencies().keep_of(value_of(variable, x, d), variable.handle)
            found.append(kept is None)
            return tf.cast(-99.0 if kept is None else kept, tf.float32)

        return tf.cond(d > 0.0, trace, lambda: 0.0) if within == "branch" else trace()

    found = float(keep(tf.constant([1.0, 2.0]), tf.constant(0.75)))
    assert found == (-99.0 if expected is None else pytest.approx(expected))
