"""Checks the arguments of users. Each function returns the value as a Python type, or raises an error that names it.

A message has four parts: the argument, its rule, the value received and, if the rule does not say it, the valid values.
Example: "`num_ps` must be an integer of at least 1. Received: 'x'."

numpy's integers, floats and bools are valid wherever Python's are. The checks return Python's types, because JSON and
the attributes of TensorFlow accept no others. `True` is not an integer here: `num_ps=True` is a mistake, not a count.

All functions are pure, may run in any thread, and take microseconds.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tfps.errors import ConfigError
from tfps.types import is_integer

_T = TypeVar("_T")
_MAX_REPR = 200
"""The largest number of characters of a value in a message."""


def show_value(value: object) -> str:
    """Returns the repr of a value for a message, cut after 200 characters."""
    try:
        text = repr(value)
    # A broken `__repr__` must not hide which argument is wrong.
    except Exception as error:
        text = f"a value whose repr raises {type(error).__name__}"
    return text if len(text) <= _MAX_REPR else text[:_MAX_REPR] + "..."


def check_integer(
    name: str, value: object, *, at_least: int | None = None, error: type[Exception] = ConfigError, valid: str = ""
) -> int:
    """Checks that an argument is an integer.

    Args:
        name: the name of the argument.
        value: the value received.
        at_least: the smallest valid number; None for no limit.
        error: the class of the error to raise.
        valid: other valid values, for the message: "None for the default".

    Raises:
        ConfigError: (or `error`) the value has another type, or is too small.
    """
    if is_integer(value) and (at_least is None or int(value) >= at_least):
        return int(value)
    raise error(
        _format_error(name, "an integer" + ("" if at_least is None else f" of at least {at_least}"), value, valid)
    )


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    error: type[Exception] = ConfigError,
    valid: str = "",
) -> float:
    """Checks that an argument is a finite number, an integer or a float.

    Args:
        name: the name of the argument.
        value: the value received.
        above: a limit that the number must exceed; None for no limit.
        at_least: the smallest valid number; None for no limit.
        at_most: the largest valid number; None for no limit.
        error: the class of the error to raise.
        valid: other valid values, for the message.

    Raises:
        ConfigError: (or `error`) the value has another type, is not finite, or is outside the limits.
    """
    # In Python a bool is an int.
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        number = float(value)
        # Every comparison with NaN is false, so NaN fails every limit here. Without limits, `isfinite` refuses it.
        fits = (above is None or number > above) and (at_least is None or number >= at_least)
        if np.isfinite(number) and fits and (at_most is None or number <= at_most):
            return number
    raise error(_format_error(name, "a number" + _limits(above, at_least, at_most), value, valid))


def check_seed(name: str, value: object, *, valid: str = "") -> int:
    """Checks that an argument is an integer that fits the 64 bits of a seed in a graph.

    Raises:
        ConfigError: it is not.
    """
    number = check_integer(name, value, valid=valid)
    if -(2**63) <= number < 2**63:
        return number
    raise ConfigError(_format_error(name, "an integer from -2**63 to 2**63 - 1", value, valid))


def check_bool(name: str, value: object, *, error: type[Exception] = ConfigError) -> bool:
    """Checks that an argument is True or False.

    Raises:
        ConfigError: (or `error`) the value is neither.
    """
    # No conversion of other values: `bool("no")` is True.
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise error(_format_error(name, "True or False", value))


def check_string(name: str, value: object, *, error: type[Exception] = ConfigError, valid: str = "") -> str:
    """Checks that an argument is a string that is not empty.

    Raises:
        ConfigError: (or `error`) the value has another type, or is empty.
    """
    # `str(value)` turns a numpy string into Python's.
    if isinstance(value, str) and value:
        return str(value)
    raise error(_format_error(name, "a string that is not empty", value, valid))


def check_choice(name: str, value: object, choices: Collection[str], *, error: type[Exception] = ConfigError) -> str:
    """Checks that an argument is one of a few strings.

    Raises:
        ConfigError: (or `error`) the value is not one of them. The message lists them.
    """
    if isinstance(value, str) and value in choices:
        return value
    raise error(_format_error(name, "one of " + ", ".join(map(repr, choices)), value))


def check_type(
    name: str,
    value: object,
    kinds: type[_T] | tuple[type[_T], ...],
    rule: str,
    *,
    error: type[Exception] = ConfigError,
    valid: str = "",
) -> _T:
    """Checks that an argument is an instance of a class.

    Args:
        name: the name of the argument.
        value: the value received.
        kinds: the class, or several classes.
        rule: a description of the class: "a tfps.LocalCluster".
        error: the class of the error to raise.
        valid: other valid values, for the message.

    Raises:
        ConfigError: (or `error`) the value is not an instance.
    """
    if isinstance(value, kinds):
        return value
    raise error(_format_error(name, rule, value, valid))


def check_callable(name: str, value: object, rule: str, *, error: type[Exception] = ConfigError) -> Callable[..., Any]:
    """Checks that an argument can be called and is not a class.

    Raises:
        ConfigError: (or `error`) the value cannot be called, or is a class.
    """
    # Calling a class only makes an object. A user who passes `Auto` meant `Auto()`.
    if callable(value) and not isinstance(value, type):
        return value
    raise error(_format_error(name, rule, value))


def check_list(name: str, value: object, rule: str, *, error: type[Exception] = ConfigError) -> list[Any]:
    """Checks that an argument is a collection of values, and returns it as a list.

    Args:
        name: the name of the argument.
        value: the value received.
        rule: a description of the list: "a list of integers".
        error: the class of the error to raise.

    Raises:
        ConfigError: (or `error`) the value is not a collection.
    """
    # A string is one value, although Python can iterate over its characters. A mapping has keys and no order of values.
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        try:
            return list(value)
        # A numpy array of no dimensions is `Iterable`, but iterating over it fails.
        except TypeError:
            pass
    raise error(_format_error(name, rule, value))


def check_array(name: str, value: object, dtype: npt.DTypeLike | None, rule: str) -> np.ndarray[Any, Any]:
    """Checks that an argument is an array of numbers, or converts it to one.

    Args:
        name: the name of the argument.
        value: the value received.
        dtype: the dtype of the array; None for the dtype that numpy chooses.
        rule: a description of the elements: "numbers".

    Raises:
        ConfigError: the value is None or text, or numpy cannot convert it to such an array.
    """
    try:
        array = np.asarray(value, dtype)
    # An array of objects, which the check below refuses.
    except (TypeError, ValueError, OverflowError):
        array = np.asarray(None)
    # numpy turns a set or an object into an array of objects, and a string into an array of text. With a float dtype it
    # turns None into NaN, so None needs a check of its own.
    if value is not None and array.dtype.kind in "biuf":
        return array
    raise ConfigError(_format_error(name, f"an array of {rule}", value))


def _limits(above: float | None, at_least: float | None, at_most: float | None) -> str:
    """Describes the limits of a number, with a space in front: " above 0 and at most 1"."""
    limits = [
        f"{word} {limit:g}"
        for word, limit in (("above", above), ("of at least", at_least), ("at most", at_most))
        if limit is not None
    ]
    return " " + " and ".join(limits) if limits else ""


def _format_error(name: str, rule: str, value: object, valid: str = "") -> str:
    """Returns the message for an argument that breaks its rule.

    Args:
        name: the name of the argument, and then optionally its owner: "slots of variable 'item'".
        rule: the rule of the argument.
        value: the value received.
        valid: other valid values.
    """
    # Example: "slots of variable 'item'" gives "`slots` of variable 'item' must be ...".
    argument, _, owner = name.partition(" ")
    quoted = f"`{argument}` {owner}" if owner else f"`{argument}`"
    also = f", or {valid}" if valid else ""
    return f"{quoted} must be {rule}{also}. Received: {show_value(value)}."
