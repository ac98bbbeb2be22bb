"""`Geo`: a Keras optimizer that trains windows of batches on a worker's own rows and pushes what they moved by."""

import dataclasses
import logging
from typing import Any

from tfps.embedding.table import Table
from tfps.errors import ConfigError
from tfps.keras import moving_averages, row_optimizers
from tfps.keras.modes import Moded, know, optimizer_of, with_mode
from tfps.keras.multi_optimizer import part_for, parts_of
from tfps.keras.variables import stored_values
from tfps.strategy.variables import DenseVariable
from tfps.training.geo.window import WindowMode
from tfps.types import is_integer

_LOG = logging.getLogger("tfps")
MERGES = ("cap", "mean", "sum")
_SAFE_SUM = 2
"""Workers whose whole deltas were seen to add up without harm where all of them move the same rows."""


@dataclasses.dataclass(frozen=True)
class GeoMode:
    """How an optimizer made by `Geo` trains.

    Args:
        push_every: batches of a window, at least 1; "auto" to find it by timing.
        merge: what servers make of the deltas of several workers, one of `MERGES`.
        overlap: whether the exchange of one window goes on while the next is trained.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    push_every: int | str
    merge: str
    overlap: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        auto = isinstance(self.push_every, str) and self.push_every == "auto"
        if not auto and not (is_integer(self.push_every) and int(self.push_every) >= 1):
            raise ConfigError(
                f'`push_every` must be an integer of at least 1, or "auto". Received: {self.push_every!r}.'
            )
        object.__setattr__(self, "push_every", "auto" if auto else int(self.push_every))  # numpy's would not be saved
        if self.merge not in MERGES:
            raise ConfigError(f"`merge` must be one of {MERGES}. Received: {self.merge!r}.")
        if not isinstance(self.overlap, bool):
            raise ConfigError(f"`overlap` must be True or False. Received: {self.overlap!r}.")

    def delta_scale(self, num_workers: int) -> float:
        """The share of a worker's delta that is added to what the servers hold, where it does not depend on them."""
        return 1.0 / num_workers if self.merge == "mean" else 1.0


class _Geo(Moded):
    """An optimizer in GEO mode."""

    prefix = "Geo"
    mode_type = GeoMode
    means = moving_averages.WINDOW_MEANS


know(_Geo)


def geo(optimizer: Any, push_every: int | str = 100, merge: str = "cap", overlap: bool = False) -> Any:
    """Trains in GEO mode: a worker takes a window of batches, trains on rows of its own, and pushes deltas.

    Within a window a worker exchanges nothing, so a step costs hardly more than in one process; the price is that
    workers do not see each other's windows under way. With one worker the result is that of one process. With more, a
    young model is trained by one of them in windows of one batch; both grow with what it was trained for.

    The mode is the optimizer's, which is returned, now an instance of a subclass of its class: everything that holds
    for it (learning rate, schedules, slots, saving) still does. Without `tfps.ParameterServerStrategy` it trains as it
    always did.

    Args:
        optimizer: a Keras optimizer with a row-wise form, or its name; not Ftrl, whose rows follow from its slots.
        push_every: batches of a window, which memory grows with. A window misses at most 8 of each other worker's.
            "auto" makes windows
            longer, up to 1,024 batches, while that makes a step cheaper by a tenth.
        merge: "cap" adds a worker's delta whole where nobody else has moved the row meanwhile, and less of it the
            further others have gone the same way, so that together they go one and a half times as far as one of them.
            "mean" adds each delta divided by the number of workers: it cannot overshoot, and learns as slowly as at a
            rate that much lower. "sum" adds them whole: right where workers touch different rows; where they touch the
            same it may diverge, and more than two workers are warned of.
        overlap: while a window is trained, push the deltas of the one before and pull the rows of the next. A worker
            still misses nothing of its own (with one the result is that of one process), but sees what others push a
            window later, and holds the rows of two windows. Worth it where exchanges take long, as over a slow network.

    Returns:
        The optimizer.

    Raises:
        ConfigError: an argument breaks its rule.
        UnsupportedError: the optimizer's deltas mean nothing to another worker.

    Example:
        >>> import keras, tfps
        >>> optimizer = tfps.optimizers.Geo(keras.optimizers.Adagrad(0.05), push_every=50)
        >>> optimizer.tfps_mode.push_every, isinstance(optimizer, keras.optimizers.Adagrad)
        (50, True)
    """
    optimizer = optimizer_of(optimizer)
    mode = GeoMode(push_every, merge, overlap)
    row_optimizers.check_windows(optimizer)
    return with_mode(optimizer, _Geo, mode)


def mode_of(optimizer: Any) -> GeoMode | None:
    """The mode of an optimizer made by `Geo`; None for any other."""
    mode = getattr(optimizer, "tfps_mode", None)
    return mode if isinstance(mode, GeoMode) else None


def window_mode(model: Any, num_workers: int) -> WindowMode | None:
    """How the windows of a built model are trained; None where its optimizer is not in GEO mode."""
    mode = mode_of(model.optimizer)
    if mode is None:
        return None
    if mode.merge == "sum" and num_workers > _SAFE_SUM:
        _LOG.warning(
            'merge="sum" adds the windows of %d workers whole: where they move the same rows or dense variables, that '
            'overshoots and may diverge. merge="cap" holds it back; docs/convergence.md has figures.',
            num_workers,
        )
    row_optimizers.check_windows(model.optimizer)  # parts that were not known before it was built
    share = mode.delta_scale(num_workers)
    slots, scales, decays = {}, {}, {}
    for table in stored_values(model.trainable_variables, Table):
        optimizer = part_for(model.optimizer, table)
        names = row_optimizers.slot_names(optimizer)
        of_table = {name: row_optimizers.slot_of(optimizer, name, table)._value for name in names}
        slots[table.key] = list(of_table.values())
        scales[table.key] = share
        of_averages = moving_averages.decays(optimizer)
        decays.update({slot.key: of_averages[name] for name, slot in of_table.items() if name in of_averages})
        scales.update({slot.key: 1.0 / num_workers for name, slot in of_table.items() if name in _Geo.means})
    weights = [
        *stored_values(model.trainable_variables, Table),
        *stored_values(model.trainable_variables, DenseVariable),
    ]
    capped = frozenset(variable.key for variable in weights) if mode.merge == "cap" and num_workers > 1 else frozenset()
    return WindowMode(slots, scales, decays, capped)


def dense_scales(model: Any, num_workers: int) -> dict[Any, float]:
    """Share of the delta of dense variables that is pushed in GEO mode, by key; 1 where there is none."""
    mode = mode_of(model.optimizer)
    if mode is None or num_workers == 1:
        return {}
    scales = {v.key: mode.delta_scale(num_workers) for v in stored_values(model.trainable_variables, DenseVariable)}
    parts = parts_of(model.optimizer)
    means = [slot for part in parts for name in _Geo.means for slot in getattr(part, name, None) or []]
    return scales | {slot.key: 1.0 / num_workers for slot in stored_values(means, DenseVariable)}
