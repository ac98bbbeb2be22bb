"""`Selection`: which steps, workers, layers and kinds of values a dump has. It checks itself.

Threading: any. No TensorFlow.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from tfps.checks import check_list
from tfps.debug import step_file
from tfps.debug.step_file import ACTIVATION, GRADIENT, PARAMETER, ROW_GRADIENT
from tfps.errors import ConfigError
from tfps.types import is_integer

VALUES, GRADIENTS, ROWS = "values", "gradients", "rows"
WHAT = (VALUES, GRADIENTS, ROWS)
"""What a dump may have: dense parameters and outputs of layers, gradients of dense parameters, rows with gradients."""

WHAT_OF = {PARAMETER: VALUES, ACTIVATION: VALUES, GRADIENT: GRADIENTS, step_file.ROWS: ROWS, ROW_GRADIENT: ROWS}
"""Which of `WHAT` brings a kind of value."""

_MOST_STEPS = 10_000
"""The most steps of a list, because a graph has the list as a constant; a `range` may be of any length."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which values are dumped.

    Args:
        layers: names or paths of layers; None for all. A nested model stands for all layers in it.
        steps: the numbers of the steps, from 0; None for all.
        workers: the numbers of the workers; None for all.
        what: some of `WHAT`.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    layers: Sequence[str] | None = None
    steps: Sequence[int] | None = None
    workers: Sequence[int] | None = None
    what: Sequence[str] = WHAT

    def __post_init__(self) -> None:
        """Checks the fields."""
        # A frozen dataclass forbids plain assignment, and the checked values have to be stored.
        object.__setattr__(self, "what", _check_what(self.what))
        object.__setattr__(self, "steps", _check_steps(self.steps))
        object.__setattr__(self, "layers", _check_layers(self.layers))
        if self.workers is not None:
            object.__setattr__(self, "workers", _check_numbers("workers", self.workers))

    def count_steps(self, begin: int, steps: int | None) -> int | None:
        """Counts the chosen steps among those of a training, all chosen ones if its length is not known.

        Args:
            begin: the number of its first step.
            steps: the number of its steps; None if it is not known.

        Returns:
            The number; None if all are chosen and their number is not known.
        """
        if self.steps is None or steps is None:
            return steps if self.steps is None else len(self.steps)
        within = range(begin, begin + steps)
        if isinstance(self.steps, range) and len(within) < len(self.steps):
            # A `range` may be of any length.
            return sum(1 for one in within if one in self.steps)
        return sum(1 for one in self.steps if one in within)

    def describe(self) -> tuple[str, str]:
        """Returns the steps and the workers as text."""
        return _describe_numbers(self.steps), _describe_numbers(self.workers)

    def check_workers(self, num_workers: int) -> None:
        """Checks that all chosen workers exist.

        Raises:
            ConfigError: one does not.
        """
        if self.workers is not None and max(self.workers) >= num_workers:
            raise ConfigError(
                f"`workers` must be numbers of workers. Received: {list(self.workers)}. "
                f"Valid: 0 to {num_workers - 1}, or None for all."
            )

    def choose_layers(self, paths: Mapping[str, str]) -> set[str]:
        """Returns the paths of the chosen layers.

        Args:
            paths: the name of each layer of the model, by path.

        Raises:
            ConfigError: a chosen layer is not there.
        """
        if self.layers is None:
            return set(paths)
        chosen: set[str] = set()
        for wanted in self.layers:
            found = {path for path, name in paths.items() if wanted in (path, name)}
            # Example: the nested model "deep" stands for "deep/hidden" too.
            found |= {path for path in paths if any(path.startswith(f"{parent}/") for parent in found | {wanted})}
            if not found:
                raise ConfigError(
                    f"`layers` must be names of layers of the model. Received: {wanted!r}. Valid: {_list(list(paths))}."
                )
            chosen |= found
        return chosen


def _check_what(value: object) -> tuple[str, ...]:
    kinds = [value] if isinstance(value, str) else check_list("what", value, f"some of {', '.join(map(repr, WHAT))}")
    if not kinds or any(kind not in WHAT for kind in kinds):
        raise ConfigError(f"`what` must be some of {', '.join(map(repr, WHAT))}. Received: {value!r}.")
    return tuple(kind for kind in WHAT if kind in kinds)


def _check_layers(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    layers = [value] if isinstance(value, str) else check_list("layers", value, "a list of names of layers")
    if not layers or not all(isinstance(layer, str) and layer for layer in layers):
        raise ConfigError(f"`layers` must be names of layers, or None for all. Received: {value!r}.")
    return tuple(layers)


def _check_steps(value: object) -> Sequence[int] | None:
    if value is None:
        return None
    if isinstance(value, range):
        # Backwards it names the same steps.
        ascending = value if value.step > 0 else value[::-1]
        if not ascending or ascending[0] < 0:
            raise _bad_steps(value)
        return ascending
    if is_integer(value):
        raise _bad_steps(value)
    steps = _check_numbers("steps", value)
    if len(steps) > _MOST_STEPS:
        raise ConfigError(
            f"`steps` must be a range, or a list of at most {_MOST_STEPS:,} steps. Received: {len(steps):,} of them."
        )
    return steps


def _check_numbers(name: str, value: object) -> tuple[int, ...]:
    try:
        numbers = check_list(name, value, f"a list of numbers of {name}, from 0")
    except ConfigError:
        raise _bad_numbers(name, value) from None
    if not numbers or not all(is_integer(number) and number >= 0 for number in numbers):
        raise _bad_numbers(name, value)
    return tuple(sorted({int(number) for number in numbers}))


def _bad_numbers(name: str, value: object) -> ConfigError:
    if name == "steps":
        return _bad_steps(value)
    return ConfigError(
        f"`{name}` must be a list of numbers of {name}, from 0. Received: {value!r}. "
        "Valid: [0], [0, 2], or None for all."
    )


def _bad_steps(value: object) -> ConfigError:
    return ConfigError(
        f"`steps` must be a range or a list of numbers of steps, from 0. Received: {value!r}. "
        "Valid: range(100), [0, 10, 20], or None for all steps."
    )


def _describe_numbers(numbers: Sequence[int] | None) -> str:
    if numbers is None:
        return "all"
    return str(numbers) if isinstance(numbers, range) else _list([str(number) for number in numbers])


def _list(names: Sequence[str]) -> str:
    """Returns names for a message, 20 at most."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
