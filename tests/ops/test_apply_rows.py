"""apply_rows against Keras's own optimizers, step after step, in both of its forms, and on the order of its message."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.row_request import REPEATS
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.segment_sum_rows import segment_sum_repeats

RATE = 0.05
DECAY = 0.1
NUMBERS = {
    "beta_1": 0.8,
    "beta_2": 0.99,
    "epsilon": 1e-4,
    "momentum": 0.9,
    "nesterov": False,
    "rho": 0.8,
    "learning_rate_power": -0.5,
    "l1": 0.01,
    "l2": 0.02,
    "l2_shrinkage": 0.03,
    "beta": 0.1,
}
OTHER_NUMBERS = {"adam_amsgrad": {"beta_2": 0.9}, "adamax": {"beta_2": 0.9}, "adadelta": {"epsilon": 1e-2}}
OTHER_NUMBERS |= {name: {"momentum": 0.5} for name in ("rmsprop_momentum", "rmsprop_momentum_centered")}


def case_of(rule):
    """The Keras optimizer that a rule stands for, and its arguments after the learning rate."""
    module, _, name = rule.keras[0].rpartition(".")
    numbers = NUMBERS | OTHER_NUMBERS.get(rule.name, {})
    named = {rule.attribute_of(hyper): numbers[hyper] for hyper in rule.hyperparameters if rule.attribute_of(hyper)}
    return getattr(importlib.import_module(module), name), dict.fromkeys(rule.options, True) | named


CASES = {name: case_of(rule) for name, rule in ROW_RULES.items()}


def hyper_of(rule, settings, step, decay=0.0):
    known = {"learning_rate": RATE, "step": step, **settings}
    return [float(known[rule.attribute_of(name) or name]) for name in rule.hyperparameters] + [decay]


def variables_of(optimizer, table):
    """The table and its slots, started as Keras starts them."""
    optimizer.build([keras.Variable(table)])
    slots = [v.numpy() for v in slots_of(optimizer)]
    return [tf.Variable(table), *map(tf.Variable, slots)]


def keras_steps(optimizer, table, gradients):
    variable = keras.Variable(table)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [variable])
    return [variable.numpy(), *(v.numpy() for v in slots_of(optimizer))]


def slots_of(optimizer):
    """After the iterations and the learning rate; the product of Nadam, a number, is no slot."""
    return [v for v in optimizer.variables[2:] if v is not getattr(optimizer, "_u_product", None)]


def run_steps(rule, settings, variables, local, gradients, decay=0.0):
    for step, gradient in enumerate(gradients, start=1):
        request = tf.constant([len(local), *local], tf.int64)
        apply_rows(rule, [variables], pack_update(hyper_of(rule, settings, step, decay), request, gradient))


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("dim", [1, 10, 19])
@pytest.mark.parametrize("name", CASES)
def test_equals_keras_on_the_rows_and_leaves_the_others(way, rng, name, dim, decay):
    make, settings = CASES[name]
    rule, local = ROW_RULES[name], [7, 2, 11]
    table = rng.normal(size=[13, dim]).astype(np.float32)
    gradients = rng.normal(size=[4, 3, dim]).astype(np.float32)
    variables = variables_of(make(RATE, **settings), table)
    before = [v.numpy() for v in variables]
    run_steps(rule, settings, variables, local, gradients, decay * RATE)
    expected = keras_steps(make(RATE, weight_decay=decay or None, **settings), table[local], gradients)
    assert len(expected) == len(variables) == 1 + len(rule.slots)
    others = np.setdiff1d(np.arange(13), local)
    for variable, start, wanted in zip(variables, before, expected, strict=True):
        np.testing.assert_allclose(variable.numpy()[local], wanted, rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(variable.numpy()[others], start[others])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("momentum", {"momentum": 0.9, "nesterov": True}),
        ("adam", {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}),
        ("ftrl", {**CASES["ftrl"][1], "learning_rate_power": -0.7}),
        ("ftrl", {**CASES["ftrl"][1], "learning_rate_power": 0.0}),
    ],
)
def test_equals_keras_with_other_settings(way, rng, name, settings):
    make, table = CASES[name][0], rng.normal(size=[3, 5]).astype(np.float32)
    gradients = rng.normal(size=[3, 3, 5]).astype(np.float32)
    variables = variables_of(make(RATE, **settings), table)
    run_steps(ROW_RULES[name], settings, variables, [0, 1, 2], gradients)
    for variable, wanted in zip(variables, keras_steps(make(RATE, **settings), table, gradients), strict=True):
        np.testing.assert_allclose(variable.numpy(), wanted, rtol=5e-4, atol=5e-5)


@pytest.mark.parametrize("name", [name for name, rule in ROW_RULES.items() if rule.repeats])
def test_an_id_that_repeats_equals_the_sparse_update_of_keras(way, rng, name):
    """Keras gets the gradient of each place, apply_rows the sums and the measures of the rows 0 and 2."""
    make, settings = CASES[name]
    rule, table = ROW_RULES[name], rng.normal(size=[4, 5]).astype(np.float32)
    ids = np.array([2, 0, 1, 2, 3, 0, 2], np.int32)
    variables, theirs = variables_of(make(RATE, **settings), table), make(RATE, **settings)
    variable = keras.Variable(table)
    for step in (1, 2):
        values = rng.normal(size=[len(ids), 5]).astype(np.float32)
        sums, marks, measures = segment_sum_repeats([values], [ids], 4, rule.measure or "square")
        assert marks.numpy().tolist() == [REPEATS, 0, REPEATS, 0]
        request = tf.constant([4, 0, 1, 2, 3], tf.int64)
        if rule.measure is None:
            # A rule that takes no measures is never sent some.
            measures = None
        else:
            request += tf.pad(marks, [[1, 0]])
        message = pack_update(hyper_of(rule, settings, step), request, sums, measures)
        apply_rows(rule, [variables], message)
        theirs.apply([tf.IndexedSlices(tf.constant(values), tf.constant(ids), tf.constant([4, 5]))], [variable])
    expected = [variable.numpy(), *(v.numpy() for v in slots_of(theirs))]
    for ours, wanted in zip(variables, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("request_", [[REPEATS], [2**63 - 1], [1, REPEATS + 4], [1, -REPEATS]])
def test_a_marked_row_that_does_not_fit_is_an_error(way, request_):
    tables = [tf.Variable(tf.zeros([4, 2])), tf.Variable(tf.zeros([4, 2]))]
    message = pack_update([1.0, 0.0, 0.0], tf.constant(request_, tf.int64), tf.ones([1, 2]), tf.ones([1, 2]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        apply_rows(ROW_RULES["adagrad"], [tables], message)


@pytest.mark.parametrize("counts", [[3, 0, 2], [900, 5000, 0]])
def test_several_tables_in_one_message(way, rng, counts):
    rule, dim = ROW_RULES["adagrad"], 6
    tables = [
        [tf.Variable(rng.normal(size=[6000, dim]), dtype=tf.float32), tf.Variable(tf.ones([6000, dim]))] for _ in counts
    ]
    local = [rng.permutation(6000)[:count] for count in counts]
    gradients = [rng.normal(size=[count, dim]).astype(np.float32) for count in counts]
    expected = [table[0].numpy() for table in tables]
    for rows, where, gradient in zip(expected, local, gradients, strict=True):
        rows[where] -= 0.1 * gradient / np.sqrt(1 + gradient**2)
    request = np.concatenate([counts, *local]).astype(np.int64)
    apply_rows(rule, tables, pack_update([0.1, 0.0, 0.0], request, np.concatenate(gradients)))
    for table, rows in zip(tables, expected, strict=True):
        np.testing.assert_allclose(table[0].numpy(), rows, rtol=1e-5, atol=1e-6)


def test_what_was_read_before_stays_as_it_was(way):
    table = tf.Variable(tf.zeros([4, 2]))
    read = tf.identity(table.read_value())  # a checkpoint's view of the table
    alias = table.value()
    apply_rows(ROW_RULES["sgd"], [[table]], pack_update([1.0, 0.0], tf.constant([1, 2], tf.int64), tf.ones([1, 2])))
    np.testing.assert_array_equal(table.numpy()[2], [-1, -1])
    np.testing.assert_array_equal(read, np.zeros([4, 2]))
    np.testing.assert_array_equal(alias, np.zeros([4, 2]))


def test_assign_and_update_take_turns(way):
    table = tf.Variable(tf.zeros([4, 2]))
    message = pack_update([1.0, 0.0], tf.constant([1, 0], tf.int64), tf.ones([1, 2]))
    apply_rows(ROW_RULES["sgd"], [[table]], message)
    fresh = tf.ones([4, 2])
    table.assign(fresh)
    apply_rows(ROW_RULES["sgd"], [[table]], message)
    np.testing.assert_array_equal(table.numpy()[:2], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(fresh, np.ones([4, 2]))


@pytest.mark.parametrize("size", [0, 3, 4, 6, 9])
def test_a_message_of_a_wrong_size_is_an_error(way, size):
    with pytest.raises(tf.errors.InvalidArgumentError):
        apply_rows(ROW_RULES["sgd"], [[tf.Variable(tf.zeros([4, 2]))]], tf.ones([size]))


@pytest.mark.parametrize("request_", [[1, 4], [1, -1], [2, 1], [0, 1], [-1, 1]])
def test_a_request_that_does_not_fit_is_an_error_and_changes_nothing(way, request_):
    table = tf.Variable(tf.zeros([4, 2]))
    message = pack_update([1.0, 0.0], tf.constant(request_, tf.int64), tf.ones([1, 2]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        apply_rows(ROW_RULES["sgd"], [[table]], message)
    np.testing.assert_array_equal(table.numpy(), np.zeros([4, 2]))


def test_arguments_are_checked():
    table = tf.Variable(tf.zeros([4, 2]))
    with pytest.raises(ConfigError, match=r"slots \('accumulator',\) for rule 'adagrad'. Received: 1"):
        apply_rows(ROW_RULES["adagrad"], [[table]], [0.0])
    with pytest.raises(ConfigError, match="slot 'accumulator' .* with 2 columns for rule 'adagrad'. Received: .*4, 3"):
        apply_rows(ROW_RULES["adagrad"], [[table, tf.Variable(tf.zeros([4, 3]))]], [0.0])
