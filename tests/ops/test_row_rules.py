"""Declarations of optimizers: complete, found by themselves, and the same in Python and in C++."""

import importlib

import keras
import pytest
import tensorflow as tf

from tfps.keras import moving_averages, row_optimizers
from tfps.ops import library, rules
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.rules.declaration import RowRule, Slot


def names(text):
    return tuple(text.decode().split(", ")) if text else ()


def test_the_library_declares_the_same_rules():
    listed = library.load().tfps_row_rules()
    in_library = {
        name.decode(): (names(hyper), names(slots), names(row_slots))
        for name, hyper, slots, row_slots in zip(*(column.numpy() for column in listed), strict=True)
    }
    declared = {
        rule.name: (
            rule.hyperparameters,
            tuple(slot.name for slot in rule.slots if not slot.per_row),
            tuple(slot.name for slot in rule.slots if slot.per_row),
        )
        for rule in ROW_RULES.values()
    }
    assert in_library == declared


@pytest.mark.parametrize("rule", ROW_RULES.values(), ids=ROW_RULES.keys())
def test_a_declaration_is_complete(rule):
    assert rule.hyperparameters[0] == "learning_rate"
    assert [slot.per_row for slot in rule.slots] == sorted(slot.per_row for slot in rule.slots)
    symbols = [slot.symbol for slot in rule.slots]
    assert len(set(symbols)) == len(symbols)
    for slot in rule.slots:
        assert slot.decay is None or slot.decay in dir(new_optimizer(rule))
    for path in rule.keras:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name) in row_optimizers.KINDS


def new_optimizer(rule):
    module, _, name = rule.keras[0].rpartition(".")
    return getattr(importlib.import_module(module), name)(**{option: 0.5 for option in rule.options})


@pytest.mark.parametrize("rule", ROW_RULES.values(), ids=ROW_RULES.keys())
def test_the_optimizer_of_a_rule_is_read_as_declared(rule):
    optimizer = new_optimizer(rule)
    assert row_optimizers.row_rule(optimizer) is rule
    matrix = keras.Variable(tf.ones([3, 2]))
    optimizer.build([matrix])
    bound = row_optimizers.rule_of(optimizer, tf.constant(0.25))
    assert [tuple(slot.shape) for slot in bound.slots_of(matrix)] == [(3, slot.width(2)) for slot in rule.slots]
    numbers = bound.hyper(0.125).numpy()
    assert len(numbers) == len(rule.hyperparameters) + 1
    assert (numbers[0], numbers[-1]) == (0.25, 0.125)
    declared = {slot.attribute: getattr(optimizer, slot.decay) for slot in rule.slots if slot.decay}
    assert moving_averages.decays(optimizer) == declared


def test_an_optimizer_of_the_users_own_is_that_of_its_base_as_long_as_it_updates_alike():
    class Renamed(keras.optimizers.Adagrad):
        pass

    class Changed(keras.optimizers.Adagrad):
        def update_step(self, gradient, variable, learning_rate):
            self.assign_sub(variable, gradient)

    assert row_optimizers.row_rule(Renamed()) is ROW_RULES["adagrad"]
    assert row_optimizers.row_rule(Changed()) is None
    assert row_optimizers.declared_rule(Changed()) is ROW_RULES["adagrad"]
    assert row_optimizers.row_rule(keras.optimizers.Lamb()) is None


def test_a_file_in_the_folder_is_all_that_a_new_rule_needs(tmp_path, monkeypatch):
    (tmp_path / "sign_descent.py").write_text(
        "import tensorflow as tf\n"
        "from tfps.ops.rules.declaration import RowRule\n"
        "RULES = (RowRule('sign_descent', ('learning_rate',), (),\n"
        "    lambda rows, slots, g, q, hyper: [-hyper['learning_rate'] * tf.sign(g)], (), '`w -= rate * sign(g)`'),)\n"
    )
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    from tfps.ops import row_rules

    found = {rule.name: rule for rule in row_rules._find_rules()}
    assert set(found) == {*ROW_RULES, "sign_descent"}
    rows, gradient = tf.constant([[1.0, 2.0]]), tf.constant([[-3.0, 0.5]])
    (delta,) = found["sign_descent"].deltas(rows, [], gradient, tf.constant([0.5, 0.25]))
    assert delta.numpy().tolist() == [[0.5 - 0.25, -0.5 - 0.5]]


def test_slots_know_their_width():
    assert [Slot("a", "_a", "a", per_row=per_row).width(7) for per_row in (False, True)] == [7, 1]
    rule = RowRule("r", ("learning_rate",), (Slot("a", "_a", "a", per_row=True),), lambda *_: [], (), "")
    assert not rule.elementwise and rule.slot_names == ("a",)
