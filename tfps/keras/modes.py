"""Attaches a training mode to an optimizer, by changing its class to a subclass that carries the settings of the mode.

The settings are saved with the optimizer. They make the `tfps.training.mode.Mode` of a model that is compiled with it.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import tensorflow as tf

from tfps.errors import ConfigError, UnsupportedError
from tfps.keras.model_steps import ModelSteps
from tfps.keras.multi_optimizer import MULTI_KINDS, unscaled
from tfps.keras.optimizers import leading_optimizer
from tfps.keras.row_optimizers import KINDS
from tfps.strategy.arguments import ALLREDUCE
from tfps.training.allreduce.mode import AllReduce
from tfps.training.asynchronous.mode import Asynchronous
from tfps.training.mode import Mode
from tfps.types import JSON

if TYPE_CHECKING:

    class _Optimizer:
        """The parts of a Keras optimizer that `ModeOptimizer` uses."""

        _trainable_variables: list[keras.Variable]

        def get_config(self) -> dict[str, Any]: ...

        @classmethod
        def from_config(cls, config: dict[str, Any], *args: Any) -> keras.Optimizer: ...

        def apply(
            self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None
        ) -> None: ...

else:
    # At run time the mixin has no base: `optimizer_kind` puts it before the class of the optimizer.
    _Optimizer = object

_KINDS: dict[tuple[type, type], type] = {}
"""(settings class, optimizer class) -> the subclass for both. Saved models refer to these classes by name."""


class ModeOptimizer(_Optimizer):
    """Mixin of every optimizer in a mode. It holds the settings of the mode, and saves and loads them.

    Attributes:
        settings_type: the class of the settings; its fields are the arguments of the mode.
        means: attributes of the optimizer that hold slots to be averaged: each of N workers pushes 1 / N of its delta.
        tfps_mode: the settings.
    """

    settings_type: ClassVar[type["ModeSettings"]]
    means: ClassVar[tuple[str, ...]]
    tfps_mode: "ModeSettings"

    def get_config(self) -> dict[str, JSON]:
        """Returns the configuration of the optimizer together with the settings."""
        return super().get_config() | self.tfps_mode.config()

    @classmethod
    def from_config(cls, config: dict[str, JSON], *args: Any) -> keras.Optimizer:
        """Makes an optimizer in this mode from a saved configuration."""
        # A saved configuration is flat: it has the settings beside the arguments of the optimizer.
        names = {field.name for field in dataclasses.fields(cls.settings_type)}  # type: ignore[arg-type]
        settings = cls.settings_type(**{name: value for name, value in config.items() if name in names})
        # The settings are removed first, because a Keras optimizer refuses unknown arguments.
        own = {name: value for name, value in config.items() if name not in names}
        optimizer = super().from_config(own, *args)
        object.__setattr__(optimizer, "tfps_mode", settings)
        return optimizer


class ModeSettings(abc.ABC):
    """Base of the settings of a mode: a frozen dataclass that checks itself.

    A subclass registers itself: models saved in its mode can be loaded as soon as its module is imported.

    Attributes:
        prefix: the prefix of optimizer class names in this mode: with "Geo", SGD becomes `GeoSGD`.
        mixin: the class that optimizers in this mode are mixed with.
        means: attributes of optimizers that hold slots to be averaged: each of N workers pushes 1 / N of its delta.
        several_optimizers: whether a model may apply more optimizers in this mode than the one it was compiled with.
        updates_on_servers: whether the optimizer runs on the servers, once for a gradient of all workers.
    """

    prefix: ClassVar[str]
    mixin: ClassVar[type[ModeOptimizer]] = ModeOptimizer
    means: ClassVar[tuple[str, ...]] = ()
    several_optimizers: ClassVar[bool] = True
    updates_on_servers: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Registers the optimizer classes of the mode."""
        super().__init_subclass__()
        # A saved file refers to a class by its name, so Keras must know all of them before it reads a file, even if no
        # optimizer of this process is in the mode.
        for inner in (*KINDS, *MULTI_KINDS):
            optimizer_kind(cls, inner)

    @abc.abstractmethod
    def make_mode(self, steps: ModelSteps) -> Mode:
        """Makes the mode of a model whose optimizer has these settings.

        Args:
            steps: the steps of the model.
        """

    def config(self) -> dict[str, JSON]:
        """Returns the settings by name, for saving."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


def get_optimizer(given: object) -> keras.Optimizer:
    """Returns the Keras optimizer for an optimizer, a configuration or a name.

    Raises:
        ConfigError: `given` is none of these.
    """
    try:
        optimizer = keras.optimizers.get(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`optimizer` must be a Keras optimizer, or the name of one, such as 'adagrad'. Received: {given!r}."
        ) from error
    # `keras.optimizers.get(None)` returns None, and a model with that would simply have no optimizer.
    if optimizer is None:
        raise ConfigError("`optimizer` must be a Keras optimizer, or the name of one. Received: None.")
    return optimizer


def with_mode(optimizer: keras.Optimizer, settings: ModeSettings) -> keras.Optimizer:
    """Puts an optimizer into the mode of `settings` and returns it.

    Raises:
        UnsupportedError: the optimizer is already in another mode.
    """
    # Keras asks a LossScaleOptimizer for the update, and that asks the optimizer in it, which has the mode.
    outer, optimizer = optimizer, unscaled(optimizer)
    before = settings_of(optimizer)
    if before is not None and type(before) is not type(settings):
        raise UnsupportedError(
            f"`optimizer` must not be in another mode already: this one is in mode {before.prefix} and cannot be put "
            f"into mode {settings.prefix}. Received: {type(optimizer).__name__}. "
            "Valid: a plain Keras optimizer."
        )
    # An optimizer that is already in this mode keeps its class and gets the new settings.
    if before is None:
        optimizer.__class__ = optimizer_kind(type(settings), type(optimizer))
    # Keras would track a plain attribute, and the settings are no state.
    object.__setattr__(optimizer, "tfps_mode", settings)
    return outer


def settings_of(optimizer: keras.Optimizer | None) -> ModeSettings | None:
    """Returns the mode settings of an optimizer, or of that in a LossScaleOptimizer; None for a plain optimizer."""
    optimizer = None if optimizer is None else unscaled(optimizer)
    return optimizer.tfps_mode if isinstance(optimizer, ModeOptimizer) else None


def make_mode(steps: ModelSteps) -> Mode:
    """Makes the mode in which a model trains: the mode of its optimizer, or asynchronous for a plain optimizer."""
    optimizer = leading_optimizer(steps.model)
    settings = settings_of(optimizer)
    if steps.strategy.dense == ALLREDUCE:
        _check_reducible(optimizer, settings)
        return AllReduce(steps.strategy, steps.closure_steps)
    if settings is not None:
        if steps.strategy.cache_size is not None:
            raise UnsupportedError(
                f"`cache_rows` must be 0 for an optimizer in mode {settings.prefix}, which decides itself how old the "
                f"rows of a step are. Received: {steps.strategy.cache_size.rows}. Valid: 0; or max_staleness=0; or an "
                "optimizer without a mode."
            )
        return settings.make_mode(steps)
    return Asynchronous(steps.strategy, steps.exchange_steps, steps)


def _check_reducible(optimizer: keras.Optimizer | None, settings: ModeSettings | None) -> None:
    """Refuses an optimizer whose dense gradients workers cannot reduce in every step."""
    name = type(optimizer).__name__
    if settings is not None:
        raise UnsupportedError(
            f'`optimizer` must have no mode with dense="allreduce": mode {settings.prefix} shares what workers do '
            f'to dense variables in another way. Received: {name}. Valid: a plain optimizer, or dense="exchange".'
        )
    if optimizer is not unscaled(optimizer):
        raise UnsupportedError(
            '`optimizer` must not scale the loss with dense="allreduce", because each worker would decide by its own '
            f'rows whether to skip a step. Received: {name}. Valid: dense="exchange", or the policy "mixed_bfloat16".'
        )


def optimizer_kind(settings: type[ModeSettings], inner: type) -> type:
    """Returns the subclass of `inner` for a mode, the same class on every call."""
    if (settings, inner) not in _KINDS:
        members = {
            "__doc__": f"{inner.__name__} in mode {settings.prefix}.",
            "settings_type": settings,
            "means": settings.means,
        }
        # The mixin is the first base, so that its `apply` and `get_config` override the methods of Keras.
        kind = type(f"{settings.prefix}{inner.__name__}", (settings.mixin, inner), members)
        _KINDS[settings, inner] = keras.saving.register_keras_serializable("tfps")(kind)
    return _KINDS[settings, inner]
