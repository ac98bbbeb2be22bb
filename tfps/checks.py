"""Checks of arguments that users give. Each returns the value as Python has it, or raises an error that names it.

A message has four parts: the argument, its rule, what was received and what is valid where the rule does not say it:
"`num_ps` must be an integer of at least 1. Received: 'x'." numpy's integers, floats and bools are taken where
Python's are, and come back as Python's, because JSON and TensorFlow's attributes have no others. `True` is not an
integer here: `num_ps=True` is a slip, not a count.

Pure functions, any thread, microseconds.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from tfps.errors import ConfigError
from tfps.types import is_integer

_T = TypeVar("_T")
_MAX_REPR = 200


def show_value(value: object) -> str:
    """How messages show a value: its repr, cut after 200 characters."""
    try:
        text = repr(value)
    except Exception as error:  # a broken __repr__ must not hide which argument is wrong
        text = f"a value whose repr raises {type(error).__name__}"
    return text if len(text) <= _MAX_REPR else text[:_MAX_REPR] + "..."


def check_integer(
    name: str, value: object, *, at_least: int | None = None, error: type[Exception] = ConfigError, valid: str = ""
) -> int:
    """Checks that an argument is a whole number.

    Args:
        name: the argument.
        value: what was received.
        at_least: the smallest valid number; none where None.
        error: the class to raise.
        valid: what else is valid, for the message: "None for the default".

    Raises:
        ConfigError: (or `error`) it is of another type, or too small.
    """
    if is_integer(value) and (at_least is None or int(value) >= at_least):  # type: ignore[call-overload]
        return int(value)  # type: ignore[call-overload]
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
    """Checks that an argument is a finite number, whole or not.

    Args:
        name: the argument.
        value: what was received.
        above: the number must be larger than this; no such limit where None.
        at_least: the smallest valid number; none where None.
        at_most: the largest valid number; none where None.
        error: the class to raise.
        valid: what else is valid, for the message.

    Raises:
        ConfigError: (or `error`) it is of another type, is not finite or is outside the limits.
    """
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        number = float(value)
        # Asked this way round, a nan fails every limit; without a limit `isfinite` refuses it.
        fits = (above is None or number > above) and (at_least is None or number >= at_least)
        if np.isfinite(number) and fits and (at_most is None or number <= at_most):
            return number
    raise error(_format_error(name, "a number" + _limits(above, at_least, at_most), value, valid))


def check_bool(name: str, value: object, *, error: type[Exception] = ConfigError) -> bool:
    """Checks that an argument is True or False: `"no"` would count as true.

    Raises:
        ConfigError: (or `error`) it is anything else.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise error(_format_error(name, "True or False", value))


def check_string(name: str, value: object, *, error: type[Exception] = ConfigError, valid: str = "") -> str:
    """Checks that an argument is a string that is not empty.

    Raises:
        ConfigError: (or `error`) it is of another type, or empty.
    """
    if isinstance(value, str) and value:
        return str(value)
    raise error(_format_error(name, "a string that is not empty", value, valid))


def check_choice(name: str, value: object, choices: Collection[str], *, error: type[Exception] = ConfigError) -> str:
    """Checks that an argument is one of a few strings.

    Raises:
        ConfigError: (or `error`) it is not; the message lists them.
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
        name: the argument.
        value: what was received.
        kinds: the class, or several.
        rule: what it must be, in words: "a tfps.LocalCluster".
        error: the class to raise.
        valid: what else is valid, for the message.

    Raises:
        ConfigError: (or `error`) it is not.
    """
    if isinstance(value, kinds):
        return value
    raise error(_format_error(name, rule, value, valid))


def check_callable(name: str, value: object, rule: str, *, error: type[Exception] = ConfigError) -> Callable[..., Any]:
    """Checks that an argument can be called and is no class: who passes `Auto` meant `Auto()`.

    Raises:
        ConfigError: (or `error`) it is not.
    """
    if callable(value) and not isinstance(value, type):
        return value
    raise error(_format_error(name, rule, value))


def check_list(name: str, value: object, rule: str, *, error: type[Exception] = ConfigError) -> list[Any]:
    """Checks that an argument is a collection of values, in order, and not one value: a string is one value.

    Args:
        name: the argument.
        value: what was received.
        rule: what it must be, in words: "a list of integers".
        error: the class to raise.

    Raises:
        ConfigError: (or `error`) it is not.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        try:
            return list(value)
        except TypeError:  # an array without a dimension says that it can be iterated over, and cannot
            pass
    raise error(_format_error(name, rule, value))


def check_array(name: str, value: object, dtype: Any, rule: str) -> np.ndarray[Any, Any]:
    """Checks that an argument is, or can be made, an array.

    Args:
        name: the argument.
        value: what was received.
        dtype: of the array; the one that numpy finds where None.
        rule: what its elements must be, in words: "numbers".

    Raises:
        ConfigError: it is None or text, or numpy can make no array of such elements of it.
    """
    try:
        array = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError):
        array = np.asarray(None)
    # None, a set or an object becomes an array of objects, and a string one of text; as floats None is even a nan.
    if value is not None and array.dtype.kind in "biuf":
        return array
    raise ConfigError(_format_error(name, f"an array of {rule}", value))


def _limits(above: float | None, at_least: float | None, at_most: float | None) -> str:
    """The limits of a number in words, with a space in front: " above 0 and at most 1"."""
    limits = [
        f"{word} {limit:g}"
        for word, limit in (("above", above), ("of at least", at_least), ("at most", at_most))
        if limit is not None
    ]
    return " " + " and ".join(limits) if limits else ""


def _format_error(name: str, rule: str, value: object, valid: str = "") -> str:
    """The message of an error for an argument that breaks its rule.

    Args:
        name: the argument, and in further words whose it is: "slots of variable 'item'".
        rule: what it must be.
        value: what was received.
        valid: what else is valid.
    """
    argument, _, owner = name.partition(" ")
    quoted = f"`{argument}` {owner}" if owner else f"`{argument}`"
    also = f", or {valid}" if valid else ""
    return f"{quoted} must be {rule}{also}. Received: {show_value(value)}."
