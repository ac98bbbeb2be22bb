"""The mode of training is a property of the optimizer: it becomes an instance of a subclass that carries the mode."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfps.errors import ConfigError, UnsupportedError
from tfps.keras._compat import keras
from tfps.keras.multi_optimizer import MULTI_KINDS
from tfps.keras.row_optimizers import KINDS

if TYPE_CHECKING:

    class _Optimizer:
        """What a mode builds on of the optimizer that it is mixed into."""

        _trainable_variables: list[Any]

        def get_config(self) -> dict[str, Any]: ...

        @classmethod
        def from_config(cls, config: dict[str, Any], *args: Any) -> Any: ...

        def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None: ...

else:
    _Optimizer = object

_KINDS: dict[tuple[type, type], type] = {}


class Moded(_Optimizer):
    """What an optimizer in a mode has beside its own class: the mode, which is saved with it.

    Attributes:
        prefix: of the names of the subclasses.
        mode_type: a frozen dataclass that checks itself; its fields are the arguments of the mode.
        means: slots of which each worker pushes its part of a mean, by the attribute that holds them.
        tfps_mode: one of that type.
    """

    prefix: ClassVar[str]
    mode_type: ClassVar[type]
    means: ClassVar[tuple[str, ...]] = ()
    tfps_mode: Any

    def get_config(self) -> dict[str, Any]:
        """The optimizer's own, and the mode."""
        return super().get_config() | dataclasses.asdict(self.tfps_mode)

    @classmethod
    def from_config(cls, config: dict[str, Any], *args: Any) -> Any:
        """The optimizer and its mode, as they were saved."""
        names = {field.name for field in dataclasses.fields(cls.mode_type)}
        mode = cls.mode_type(**{name: value for name, value in config.items() if name in names})
        own = {name: value for name, value in config.items() if name not in names}
        optimizer = super().from_config(own, *args)
        object.__setattr__(optimizer, "tfps_mode", mode)
        return optimizer


def optimizer_of(given: Any) -> Any:
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
    if optimizer is None:
        raise ConfigError("`optimizer` must be a Keras optimizer, or the name of one. Received: None.")
    return optimizer


def with_mode(optimizer: Any, mixin: type[Moded], mode: Any) -> Any:
    """Puts an optimizer into a mode; returns it.

    Args:
        optimizer: of Keras.
        mixin: of the mode.
        mode: of the mixin's `mode_type`.

    Raises:
        UnsupportedError: it is in another mode.
    """
    if isinstance(optimizer, Moded) and not isinstance(optimizer, mixin):
        raise UnsupportedError(
            f"`optimizer` must not be in another mode already: an optimizer has one of Geo and Sync. "
            f"Received: {type(optimizer).__name__}. Valid: an optimizer as Keras makes it."
        )
    if not isinstance(optimizer, mixin):
        optimizer.__class__ = kind(mixin, type(optimizer))
    object.__setattr__(optimizer, "tfps_mode", mode)
    return optimizer


def kind(mixin: type[Moded], inner: type) -> type:
    """The class of `inner` in a mode; one class for each, which a saved model can name."""
    if (mixin, inner) not in _KINDS:
        doc = {"__doc__": f"{inner.__name__} in the mode of {mixin.prefix}."}
        made = type(f"{mixin.prefix}{inner.__name__}", (mixin, inner), doc)
        _KINDS[mixin, inner] = keras.saving.register_keras_serializable("tfps")(made)
    return _KINDS[mixin, inner]


def know(mixin: type[Moded]) -> None:
    """Makes the classes that a saved model may name before its optimizer is made again."""
    for inner in (*KINDS, *MULTI_KINDS):
        kind(mixin, inner)
