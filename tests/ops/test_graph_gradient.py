"""A gradient of our own: the same as `tf.custom_gradient` gives, wherever it is taken, and freed with its graph."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tfps.ops.graph_gradient import with_gradient


def ours(x, w):
    """w * x * x with gradients that no rule would give: 3 for x and x for w, times the upstream gradient."""
    return with_gradient(w * x * x, [x, w], lambda upstream: [3.0 * upstream, x * upstream])


@tf.custom_gradient
def stock(x, w):
    """The same by TensorFlow's own decorator."""
    return w * x * x, lambda upstream: (3.0 * upstream, x * upstream)


def plain(multiply, x, w):
    return multiply(x, w)


def in_a_loop(multiply, x, w):
    return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, multiply(y, w)), (0, x))[1]


def in_a_branch(multiply, x, w):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: multiply(x, w), lambda: x)


def in_a_loop_of_a_loop(multiply, x, w):
    return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, in_a_loop(multiply, y, w)), (0, x))[1]


def in_a_function(multiply, x, w):
    return tf.function(multiply, autograph=False)(x, w)


def in_a_function_of_a_function(multiply, x, w):
    return tf.function(lambda x, w: in_a_function(multiply, x, w), autograph=False)(x, w)


def in_a_function_of_a_loop(multiply, x, w):
    called = tf.function(multiply, autograph=False)
    return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, called(y, w)), (0, x))[1]


PLACES = [
    plain,
    in_a_loop,
    in_a_branch,
    in_a_loop_of_a_loop,
    in_a_function,
    in_a_function_of_a_function,
    in_a_function_of_a_loop,
]


def taped(place, multiply, x, w):
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = place(multiply, x, w)
    return y, *tape.gradient(y, [x, w])


def by_tf_gradients(place, multiply, x, w):
    y = place(multiply, x, w)
    return y, *tf.gradients(y, [x, w])


def taped_twice(place, multiply, x, w):
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y, for_x, for_w = taped(place, multiply, x, w)
        total = tf.reduce_sum(y * y) + tf.reduce_sum(for_x) + tf.reduce_sum(for_w * w)
    return total, *tape.gradient(total, [x, w])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("take", [taped, by_tf_gradients, taped_twice])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_those_of_custom_gradient(place, take, compiled):
    if take is by_tf_gradients and not compiled:
        pytest.skip("tf.gradients is for graphs")
    if (place, take, compiled) == (in_a_branch, taped_twice, True):
        pytest.skip("TensorFlow's own second gradient of a branch fails for custom gradients")
    x, w = tf.constant([1.5, 2.0]), tf.constant([0.5, 3.0])

    def gradients(multiply):
        call = lambda x, w: take(place, multiply, x, w)  # noqa: E731
        return (tf.function(call, autograph=False) if compiled else call)(x, w)

    found, expected = gradients(ours), gradients(stock)
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_a_tape_outside_of_a_function_finds_it():
    multiply = tf.function(ours)
    x, w = tf.constant(2.0), tf.constant(5.0)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = multiply(x, w)
    assert [float(value) for value in (y, *tape.gradient(y, [x, w]))] == [20.0, 3.0, 2.0]


def test_a_backward_function_is_freed_with_its_graph():
    class Table:
        pass

    table = Table()
    freed = weakref.ref(table)

    @tf.function
    def gradient(x, table=table):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = with_gradient(x + 1.0, [x], lambda upstream: [(table, upstream)[1]])
        return tape.gradient(y, x)

    assert float(gradient(tf.constant(1.0))) == 1.0
    del table, gradient
    gc.collect()
    assert freed() is None
