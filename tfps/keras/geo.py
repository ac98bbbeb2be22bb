"""`Geo`: puts a Keras optimizer into GEO mode. Workers train windows of batches on local copies and push deltas."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tfps.checks import check_bool, check_choice, check_integer
from tfps.embedding.table import Table
from tfps.embedding.window_rows import WindowRows
from tfps.errors import UnsupportedError
from tfps.keras import moving_averages, row_optimizers
from tfps.keras.model_steps import ModelSteps, operations_so_far, without_optionals
from tfps.keras.modes import ModeSettings, get_optimizer, with_mode
from tfps.keras.multi_optimizer import part_for, parts_of
from tfps.keras.optimizers import leading_optimizer
from tfps.keras.variables import stored_values
from tfps.strategy.variables import DenseVariable, SmallTable
from tfps.training.geo.mode import Geo
from tfps.training.geo.whole_window import WindowMethods
from tfps.training.geo.window import WindowSettings
from tfps.training.mode import Mode
from tfps.types import Nest

_LOG = logging.getLogger("tfps")
MERGES = ("cap", "mean", "sum")
_SAFE_SUM = 2
"""With more workers than this, adding whole deltas to the same rows may diverge."""


@dataclasses.dataclass(frozen=True)
class GeoMode(ModeSettings):
    """The settings of an optimizer made by `Geo`.

    Args:
        push_every: batches in a window, at least 1; "auto" finds the length by timing.
        merge: how servers merge the deltas of several workers, one of `MERGES`.
        overlap: whether one window is exchanged while the next one is trained.

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
        # A frozen dataclass forbids plain assignment, and `__post_init__` has to store the checked values.
        if not (isinstance(self.push_every, str) and self.push_every == "auto"):
            push_every = check_integer("push_every", self.push_every, at_least=1, valid='"auto"')
            object.__setattr__(self, "push_every", push_every)
        check_choice("merge", self.merge, MERGES)
        object.__setattr__(self, "overlap", check_bool("overlap", self.overlap))

    def make_mode(self, steps: ModelSteps) -> Mode:
        """Makes the GEO mode of a model."""
        # Users write "auto"; the mode takes None for it.
        push_every = None if isinstance(self.push_every, str) else self.push_every
        return Geo(steps.strategy, GeoModel(steps, self), push_every, self.overlap)

    def delta_scale(self, num_workers: int) -> float:
        """Returns the constant factor of every delta. "cap" scales further, on the servers, by what they find there."""
        return 1.0 / num_workers if self.merge == "mean" else 1.0


def geo(
    optimizer: keras.Optimizer | str, push_every: int | str = 100, merge: str = "cap", overlap: bool = False
) -> keras.Optimizer:
    """Puts an optimizer into GEO mode: each worker trains a window of batches on local rows, then pushes deltas.

    A worker exchanges nothing within a window, so a step costs hardly more than in one process. The price is that
    workers do not see each other's unfinished windows. One worker gives the same result as one process. With several
    workers, training starts with one of them and windows of one batch. More workers and longer windows follow as the
    number of trained steps grows.

    `Geo` changes the class of the optimizer to a subclass and returns it. Its learning rate, schedules, slots and
    saving work as before. Without `tfps.ParameterServerStrategy` it trains as before, too.

    Args:
        optimizer: a Keras optimizer with a row-wise form, or its name. Ftrl is refused: it computes rows from slots.
        push_every: batches in a window. Longer windows take more memory. A window misses at most 8 windows of each
            other worker. "auto" lengthens windows, up to 1,024 batches, while that makes a step at least a tenth
            cheaper.
        merge: how servers merge the deltas of several workers. "cap" adds a whole delta if no other worker has moved
            the row in the meantime. It adds less the further others have moved the row in the same direction, so that
            all workers together move it at most one and a half times as far as one would. "mean" divides each delta by
            the number of workers: it cannot overshoot, but learns as slowly as with a learning rate divided by that
            number. "sum" adds whole deltas: this is right if workers touch different rows, but may diverge if they
            touch the same ones, and tfps warns if there are more than two workers.
        overlap: whether a worker pushes the previous window and pulls the next one while it trains. A worker still
            sees all its own updates, so one worker gives the same result as one process. It sees the updates of others
            one window later, and holds the rows of two windows. Use it if exchanges are slow, for example over a slow
            network.

    Returns:
        The optimizer.

    Raises:
        ConfigError: an argument breaks its rule.
        UnsupportedError: the deltas of the optimizer cannot be added up.

    Example:
        >>> import keras, tfps
        >>> optimizer = tfps.optimizers.Geo(keras.optimizers.Adagrad(0.05), push_every=50)
        >>> optimizer.tfps_mode.push_every, isinstance(optimizer, keras.optimizers.Adagrad)
        (50, True)
    """
    optimizer = get_optimizer(optimizer)
    mode = GeoMode(push_every, merge, overlap)
    # This check comes before the class of the optimizer changes, so a refused optimizer stays as it was.
    row_optimizers.check_windows(optimizer)
    return with_mode(optimizer, mode)


class GeoModel:
    """Adapts a Keras model to GEO training; implements `tfps.training.geo.mode.WindowedModel`.

    Args:
        steps: the steps of the model.
        settings: the settings of its optimizer.
    """

    def __init__(self, steps: ModelSteps, settings: GeoMode) -> None:
        self._steps, self._settings = steps, settings

    def trained_steps(self) -> int:
        """Returns the number of steps that the model has been trained for, as its optimizer counts them."""
        return self._steps.trained_steps()

    def window_settings(self) -> WindowSettings:
        """Returns what the windows of the model carry and push. The optimizer must be built."""
        return window_settings(self._steps.model, self._settings, self._steps.strategy.num_workers)

    def window_methods(self) -> WindowMethods | None:
        """Returns the methods of the model that train whole windows; None if it has none.

        Raises:
            UnsupportedError: the model has `train_window` without `window_lookups`.
        """
        model = self._steps.model
        # The methods are looked up by name, so that a model needs no base class of ours.
        if not hasattr(model, "train_window"):
            return None
        if not callable(getattr(model, "window_lookups", None)):
            raise UnsupportedError(
                "a model that trains whole windows must have a method `window_lookups` beside `train_window`. "
                f"Received: {model.__class__.__name__}."
            )
        return WindowMethods(self._window_lookups, self._train_window)

    def _window_lookups(self, batches: Nest) -> Sequence[tuple[tf.Variable, tf.Tensor]]:
        # Keras passes missing sample weights as empty Optionals, which a model's own methods do not expect.
        with self._steps.in_scope():
            lookups = self._steps.model.window_lookups(without_optionals(batches))
        small = [variable.path for variable, _ in lookups if isinstance(getattr(variable, "_value", None), SmallTable)]
        if small:
            raise UnsupportedError(
                "`window_lookups` must return tables, whose rows a window holds. "
                f"Received: {small}, small enough to be dense variables. "
                "Valid: a strategy with dense_tables_bytes=0, or `tfps_may_be_dense = False` on their layers."
            )
        return lookups

    def _train_window(
        self, batches: Nest, rows: WindowRows, steps: tf.Tensor
    ) -> tuple[Sequence[tf.Tensor], Mapping[str, tf.Tensor]]:
        with self._steps.in_scope():
            begin = operations_so_far()
            deltas, logs = self._steps.model.train_window(without_optionals(batches), rows, steps)
            return deltas, self._steps.values_of(logs, begin)


def window_settings(model: keras.Model, settings: GeoMode, num_workers: int) -> WindowSettings:
    """Returns what the windows of a model carry and push. The optimizer must be built.

    Args:
        model: a Keras model of our strategy.
        settings: the settings of its optimizer.
        num_workers: the number of workers that train it.
    """
    if settings.merge == "sum" and num_workers > _SAFE_SUM:
        _LOG.warning(
            'merge="sum" adds the whole windows of %d workers. If they move the same rows or dense variables, the sum '
            'overshoots and may diverge. merge="cap" limits it; docs/convergence.md has figures.',
            num_workers,
        )
    # The optimizer is built before the closure is traced, so slots exist here, and a MultiOptimizer knows its parts.
    leading = leading_optimizer(model)
    row_optimizers.check_windows(leading)
    tables = stored_values(model.trainable_variables, Table)
    # Damping is for weights only. Slot deltas are added whole, or composed as moving averages.
    weights = [*tables, *stored_values(model.trainable_variables, DenseVariable)]
    scales = {weight.key: settings.delta_scale(num_workers) for weight in weights}
    slots, decays = {}, {}
    for table in tables:
        optimizer = part_for(leading, table)
        averages = moving_averages.decays(optimizer)
        # Slot attribute -> the table of that slot, for example "_accumulators" -> a table as large as this one.
        slot_tables = {
            name: row_optimizers.slot_of(optimizer, name, table)._value for name in row_optimizers.slot_names(optimizer)
        }
        slots[table.key] = list(slot_tables.values())
        decays.update({slot.key: averages[name] for name, slot in slot_tables.items() if name in averages})
        # Each worker pushes 1 / N of a velocity. If velocities were added whole, every worker would then move by the
        # sum of all of them.
        scales.update({slot.key: 1.0 / num_workers for name, slot in slot_tables.items() if name in settings.means})
    parts = parts_of(leading)
    dense_means = [slot for part in parts for name in settings.means for slot in getattr(part, name, None) or []]
    scales.update({slot.key: 1.0 / num_workers for slot in stored_values(dense_means, DenseVariable)})
    # With one worker no row changes between its pull and its push, so there is nothing to cap.
    capped = frozenset(weight.key for weight in weights) if settings.merge == "cap" and num_workers > 1 else frozenset()
    return WindowSettings(slots, scales, decays, capped)
