"""The mode of training is a property of the optimizer, which becomes an instance of a subclass that carries settings.

The settings are saved with the optimizer and make the `tfps.training.mode.Mode` of a model that is compiled with it.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import tensorflow as tf

from tfps.errors import ConfigError, UnsupportedError
from tfps.keras.model_steps import ModelSteps
from tfps.keras.multi_optimizer import MULTI_KINDS
from tfps.keras.row_optimizers import KINDS
from tfps.training.asynchronous.mode import Asynchronous
from tfps.training.mode import Mode
from tfps.types import JSON

if TYPE_CHECKING:

    class _Optimizer:
        """What `Moded` builds on of the optimizer that it is mixed into."""

        _trainable_variables: list[keras.Variable]

        def get_config(self) -> dict[str, Any]: ...

        @classmethod
        def from_config(cls, config: dict[str, Any], *args: Any) -> keras.Optimizer: ...

        def apply(
            self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None
        ) -> None: ...

else:
    _Optimizer = object

_KINDS: dict[tuple[type, type], type] = {}
"""The subclass for each class of settings and of optimizers: a saved model names one of them."""


class Moded(_Optimizer):
    """What an optimizer in a mode has beside its own class: the settings, which are saved with it.

    Attributes:
        settings_type: class of the settings; its fields are the arguments of the mode.
        means: slots of which each worker pushes its part of a mean, by the attribute that has them.
        tfps_mode: the settings.
    """

    settings_type: ClassVar[type["ModeSettings"]]
    means: ClassVar[tuple[str, ...]]
    tfps_mode: "ModeSettings"

    def get_config(self) -> dict[str, JSON]:
        """The optimizer's own, and the settings."""
        return super().get_config() | self.tfps_mode.config()

    @classmethod
    def from_config(cls, config: dict[str, JSON], *args: Any) -> keras.Optimizer:
        """The optimizer and its settings, as they were saved."""
        # A saved configuration has the settings beside the arguments of the optimizer.
        names = {field.name for field in dataclasses.fields(cls.settings_type)}  # type: ignore[arg-type]
        settings = cls.settings_type(**{name: value for name, value in config.items() if name in names})
        # Keras refuses arguments that its optimizer does not know.
        own = {name: value for name, value in config.items() if name not in names}
        optimizer = super().from_config(own, *args)
        object.__setattr__(optimizer, "tfps_mode", settings)
        return optimizer


class ModeSettings(abc.ABC):
    """Base of the settings of a mode: a frozen dataclass that checks itself.

    A subclass registers itself: models that were saved in its mode can be loaded once its module is imported.

    Attributes:
        prefix: of the names of optimizer classes in this mode: an SGD is a `GeoSGD` in the mode of prefix "Geo".
        mixin: what an optimizer in this mode is mixed with.
        means: slots of which each worker pushes its part of a mean, by the optimizer's attribute that has them.
        several_optimizers: whether a model may apply others in this mode beside the optimizer it was compiled with.
    """

    prefix: ClassVar[str]
    mixin: ClassVar[type[Moded]] = Moded
    means: ClassVar[tuple[str, ...]] = ()
    several_optimizers: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        """Makes the optimizer classes of the mode, which a saved model names before any optimizer is in it."""
        # Only for settings: optimizer classes are made by `optimizer_kind` and derive from the mixin.
        super().__init_subclass__()
        # Keras finds a class by the name in the saved file, so it has to be registered before a file is read.
        for inner in (*KINDS, *MULTI_KINDS):
            optimizer_kind(cls, inner)

    @abc.abstractmethod
    def make_mode(self, steps: ModelSteps) -> Mode:
        """The mode of a model whose optimizer has these settings.

        Args:
            steps: the steps of that model.
        """

    def config(self) -> dict[str, JSON]:
        """The settings by name, to be saved."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


def optimizer_of(given: object) -> keras.Optimizer:
    """The optimizer that a user gave: one of Keras, its configuration, or its name.

    Raises:
        ConfigError: it is none.
    """
    try:
        optimizer = keras.optimizers.get(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`optimizer` must be a Keras optimizer, or the name of one, such as 'adagrad'. Received: {given!r}."
        ) from error
    # `keras.optimizers.get(None)` gives None, which a model would take as an optimizer that is not set.
    if optimizer is None:
        raise ConfigError("`optimizer` must be a Keras optimizer, or the name of one. Received: None.")
    return optimizer


def with_mode(optimizer: keras.Optimizer, settings: ModeSettings) -> keras.Optimizer:
    """Puts an optimizer into the mode of some settings; returns it.

    Raises:
        UnsupportedError: it is in another mode.
    """
    before = settings_of(optimizer)
    if before is not None and type(before) is not type(settings):
        raise UnsupportedError(
            f"`optimizer` must not be in another mode already: this one is in the mode of {before.prefix} and cannot "
            f"be put into that of {settings.prefix}. Received: {type(optimizer).__name__}. "
            "Valid: an optimizer as Keras makes it."
        )
    # An optimizer that is in this mode already gets other settings, and keeps its class.
    if before is None:
        optimizer.__class__ = optimizer_kind(type(settings), type(optimizer))
    object.__setattr__(optimizer, "tfps_mode", settings)
    return optimizer


def settings_of(optimizer: keras.Optimizer | None) -> ModeSettings | None:
    """The settings of an optimizer in a mode; None for one as Keras makes it."""
    return optimizer.tfps_mode if isinstance(optimizer, Moded) else None


def make_mode(steps: ModelSteps) -> Mode:
    """The mode in which a model trains: that of its optimizer, else asynchronous."""
    settings = settings_of(steps.model.optimizer)
    return Asynchronous(steps.strategy, steps.closure_steps) if settings is None else settings.make_mode(steps)


def optimizer_kind(settings: type[ModeSettings], inner: type) -> type:
    """The class of `inner` in a mode; the same class each time, as a saved model names it."""
    if (settings, inner) not in _KINDS:
        members = {
            "__doc__": f"{inner.__name__} in the mode of {settings.prefix}.",
            "settings_type": settings,
            "means": settings.means,
        }
        # The mixin comes first, so that its `apply` and `get_config` go before those of Keras.
        made = type(f"{settings.prefix}{inner.__name__}", (settings.mixin, inner), members)
        _KINDS[settings, inner] = keras.saving.register_keras_serializable("tfps")(made)
    return _KINDS[settings, inner]
