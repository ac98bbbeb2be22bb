"""Checks of users' arguments: what passes comes back as Python has it, what does not is named with the rule."""

import numpy as np
import pytest

from tfps import checks
from tfps.errors import ConfigError, PlanError

PASSES = [
    (checks.check_integer, 3, {}, 3),
    (checks.check_integer, np.int64(3), {"at_least": 3}, 3),
    (checks.check_number, 3, {"above": 2}, 3.0),
    (checks.check_number, np.float32(0.5), {"at_least": 0.5, "at_most": 0.5}, 0.5),
    (checks.check_bool, np.bool_(True), {}, True),
    (checks.check_string, "x", {}, "x"),
    (checks.check_choice, "mod", {"choices": ("mod", "div")}, "mod"),
    (checks.check_list, (1, 2), {"rule": "a list"}, [1, 2]),
    (checks.check_list, np.array([1, 2]), {"rule": "a list"}, [1, 2]),
]
FAILS = [
    (checks.check_integer, {"at_least": 1}, "an integer of at least 1", [0, True, 1.0, "1", None, float("nan"), [1]]),
    (checks.check_number, {"above": 0}, "a number above 0", [0, -1.5, True, "1", None, float("nan"), float("inf")]),
    (checks.check_number, {"at_least": 0, "at_most": 1}, "a number of at least 0 and at most 1", [-0.1, 1.1]),
    (checks.check_bool, {}, "True or False", [0, 1, "no", None, np.array([True])]),
    (checks.check_string, {}, "a string that is not empty", ["", None, 1, b"x"]),
    (checks.check_choice, {"choices": ("mod", "div")}, "one of 'mod', 'div'", ["Mod", None, ["mod"]]),
    (checks.check_list, {"rule": "a list of names"}, "a list of names", ["ab", b"ab", None, 1, {"a": 1}, np.array(1)]),
    (checks.check_type, {"kinds": int, "rule": "an int"}, "an int", ["x", None]),
    (checks.check_callable, {"rule": "a function"}, "a function", ["x", None, int]),
]


@pytest.mark.parametrize(("check", "value", "limits", "wanted"), PASSES)
def test_what_passes_comes_back_as_a_python_value(check, value, limits, wanted):
    found = check("argument", value, **limits)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("check", "limits", "rule", "value"), [(c, limits, rule, v) for c, limits, rule, vs in FAILS for v in vs]
)
def test_what_fails_is_named_with_its_rule_and_what_came(check, limits, rule, value):
    with pytest.raises(ConfigError) as caught:
        check("argument", value, **limits)
    assert str(caught.value) == f"`argument` must be {rule}. Received: {value!r}."


def test_the_caller_chooses_the_class_and_what_else_is_valid():
    with pytest.raises(PlanError, match="an integer, or None for the default. Received: 'x'"):
        checks.check_integer("shards", "x", error=PlanError, valid="None for the default")


def test_a_long_value_is_cut_and_a_broken_repr_hides_nothing():
    class Broken:
        def __repr__(self):
            raise KeyError("no")

    assert len(checks.show_value("x" * 1000)) < 250
    assert "KeyError" in checks.show_value(Broken())
