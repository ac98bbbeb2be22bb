"""`Geo`: a Keras optimizer whose workers train windows of batches on rows of their own, and push the deltas."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_bool, check_choice, check_integer
from tfps.embedding.table import Table
from tfps.embedding.window_rows import WindowRows
from tfps.errors import UnsupportedError
from tfps.keras import moving_averages, row_optimizers
from tfps.keras.model_steps import ModelSteps, without_optionals
from tfps.keras.modes import ModeSettings, optimizer_of, with_mode
from tfps.keras.multi_optimizer import part_for, parts_of
from tfps.keras.variables import stored_values
from tfps.strategy.variables import DenseVariable
from tfps.training.geo.mode import Geo
from tfps.training.geo.whole_window import WindowMethods
from tfps.training.geo.window import WindowSettings
from tfps.training.mode import Mode
from tfps.types import Nest

_LOG = logging.getLogger("tfps")
MERGES = ("cap", "mean", "sum")
_SAFE_SUM = 2
"""More workers than this may diverge if all of them move the same rows and their deltas are added whole."""


@dataclasses.dataclass(frozen=True)
class GeoMode(ModeSettings):
    """How an optimizer made by `Geo` trains.

    Args:
        push_every: batches of a window, at least 1; "auto" to find it by timing.
        merge: how servers merge the deltas of several workers, one of `MERGES`.
        overlap: whether the exchange of one window runs while the next is trained.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    prefix = "Geo"
    means = moving_averages.WINDOW_MEANS
    several_optimizers = False

    push_every: int | str
    merge: str
    overlap: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not (isinstance(self.push_every, str) and self.push_every == "auto"):
            push_every = check_integer("push_every", self.push_every, at_least=1, valid='"auto"')
            object.__setattr__(self, "push_every", push_every)
        check_choice("merge", self.merge, MERGES)
        object.__setattr__(self, "overlap", check_bool("overlap", self.overlap))

    def make_mode(self, steps: ModelSteps) -> Mode:
        """GEO training of a model."""
        # The text "auto" is for users; to the mode it is the absence of a number.
        push_every = None if isinstance(self.push_every, str) else self.push_every
        return Geo(steps.strategy, GeoModel(steps, self), push_every, self.overlap)

    def delta_scale(self, num_workers: int) -> float:
        """The factor of a worker's delta that is added to what the servers hold, where it does not depend on them."""
        return 1.0 / num_workers if self.merge == "mean" else 1.0


def geo(optimizer: Any, push_every: int | str = 100, merge: str = "cap", overlap: bool = False) -> keras.Optimizer:
    """Trains in GEO mode: a worker takes a window of batches, trains on rows of its own, and pushes deltas.

    Within a window a worker exchanges nothing, so a step costs hardly more than in one process. The price is that
    workers do not see each other's windows that are under way. With one worker the result is that of one process. With
    more, a young model is trained by one of them in windows of one batch; the number of workers and the length of
    windows grow with the steps it was trained for.

    The optimizer is returned; it is now an instance of a subclass of its class, and its learning rate, schedules, slots
    and saving work as before. Without `tfps.ParameterServerStrategy` it trains as it always did.

    Args:
        optimizer: a Keras optimizer with a row-wise form, or its name; not Ftrl, whose rows follow from its slots.
        push_every: batches of a window; memory grows with it. A window misses at most 8 windows of each other worker.
            "auto" makes windows longer, up to 1,024 batches, while that makes a step cheaper by a tenth.
        merge: how servers merge the deltas of several workers. "cap" adds a delta whole where nobody else has moved the
            row meanwhile, and less of it the further others have moved the row in the same direction, so that together
            they move it one and a half times as far as one of them. "mean" adds each delta divided by the number of
            workers: it cannot overshoot, and learns as slowly as with a learning rate that much lower. "sum" adds
            deltas whole: right where workers touch different rows; where they touch the same it may diverge, and tfps
            warns if there are more than two workers.
        overlap: while a window is trained, push the deltas of the one before and pull the rows of the next. A worker
            still sees all its own updates (with one worker the result is that of one process), but the updates of
            others a window later, and it holds the rows of two windows. Worth it where exchanges take long, as over a
            slow network.

    Returns:
        The optimizer.

    Raises:
        ConfigError: an argument breaks its rule.
        UnsupportedError: deltas of the optimizer do not add up.

    Example:
        >>> import keras, tfps
        >>> optimizer = tfps.optimizers.Geo(keras.optimizers.Adagrad(0.05), push_every=50)
        >>> optimizer.tfps_mode.push_every, isinstance(optimizer, keras.optimizers.Adagrad)
        (50, True)
    """
    optimizer = optimizer_of(optimizer)
    mode = GeoMode(push_every, merge, overlap)
    # Before the class of the optimizer is changed: one that is refused stays as it was.
    row_optimizers.check_windows(optimizer)
    return with_mode(optimizer, mode)


class GeoModel:
    """A Keras model as GEO training sees it; a `tfps.training.geo.mode.WindowedModel`.

    Args:
        steps: of the model.
        settings: of its optimizer.
    """

    def __init__(self, steps: ModelSteps, settings: GeoMode) -> None:
        self._steps, self._settings = steps, settings

    def trained_steps(self) -> int:
        """Steps that the model was trained for, as its optimizer counts them."""
        return self._steps.trained_steps()

    def window_settings(self) -> WindowSettings:
        """What its windows carry and push; the optimizer must be built."""
        return window_settings(self._steps.model, self._settings, self._steps.strategy.num_workers)

    def window_methods(self) -> WindowMethods | None:
        """The model's methods that train whole windows; None if it has none.

        Raises:
            UnsupportedError: it has one of the two.
        """
        model = self._steps.model
        # Looked up by name: any Keras model may have these methods, without a base class of ours.
        if not hasattr(model, "train_window"):
            return None
        if not callable(getattr(model, "window_lookups", None)):
            raise UnsupportedError(
                "a model that trains whole windows must have a method `window_lookups` beside `train_window`. "
                f"Received: {model.__class__.__name__}."
            )
        return WindowMethods(self._window_lookups, self._train_window)

    def _window_lookups(self, batches: Nest) -> Sequence[tuple[tf.Variable, tf.Tensor]]:
        with self._steps.in_scope():
            return self._steps.model.window_lookups(without_optionals(batches))

    def _train_window(
        self, batches: Nest, rows: WindowRows, steps: tf.Tensor
    ) -> tuple[Sequence[tf.Tensor], Mapping[str, tf.Tensor]]:
        with self._steps.in_scope():
            deltas, logs = self._steps.model.train_window(without_optionals(batches), rows, steps)
            return deltas, self._steps.own_logs(logs)


def window_settings(model: keras.Model, settings: GeoMode, num_workers: int) -> WindowSettings:
    """What the windows of a model carry and push, once its optimizer is built.

    Args:
        model: a Keras model of our strategy.
        settings: of its optimizer.
        num_workers: that train it.
    """
    if settings.merge == "sum" and num_workers > _SAFE_SUM:
        _LOG.warning(
            'merge="sum" adds the windows of %d workers whole: where they move the same rows or dense variables, that '
            'overshoots and may diverge. merge="cap" holds it back; docs/convergence.md has figures.',
            num_workers,
        )
    # Slots exist by now: the optimizer was built before the closure is traced. A MultiOptimizer knows all its parts.
    row_optimizers.check_windows(model.optimizer)
    tables = stored_values(model.trainable_variables, Table)
    # Only deltas of weights are damped. Those of slots add up, or are composed as moving averages.
    weights = [*tables, *stored_values(model.trainable_variables, DenseVariable)]
    scales = {weight.key: settings.delta_scale(num_workers) for weight in weights}
    slots, decays = {}, {}
    for table in tables:
        optimizer = part_for(model.optimizer, table)
        averages = moving_averages.decays(optimizer)
        of_table = {
            name: row_optimizers.slot_of(optimizer, name, table)._value for name in row_optimizers.slot_names(optimizer)
        }
        slots[table.key] = list(of_table.values())
        decays.update({slot.key: averages[name] for name, slot in of_table.items() if name in averages})
        # Each worker pushes its part of the mean: with a velocity added whole, all would move by the sum of velocities.
        scales.update({slot.key: 1.0 / num_workers for name, slot in of_table.items() if name in settings.means})
    parts = parts_of(model.optimizer)
    dense_means = [slot for part in parts for name in settings.means for slot in getattr(part, name, None) or []]
    scales.update({slot.key: 1.0 / num_workers for slot in stored_values(dense_means, DenseVariable)})
    # One worker moves nothing behind its own back, so there is nothing to look at before it pushes.
    capped = frozenset(weight.key for weight in weights) if settings.merge == "cap" and num_workers > 1 else frozenset()
    return WindowSettings(slots, scales, decays, capped)
