"""The input features of the batch that a model's metrics are updated with, for metrics that read one.

Keras hands labels and predictions to metrics, and no features. A hook around `compute_metrics` keeps the features of
the batch here meanwhile (`tfps.keras.hooks.features`).

Threading: each thread has its own batch, because the threads of several workers trace at the same time.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from tfps.checks import show_value
from tfps.errors import ConfigError
from tfps.keras._compat import keras, tree
from tfps.types import Nest, is_integer


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The batch of a step.

    Args:
        model: the model.
        x: the input of the model, in its own structure.
        y_pred: the predictions that the metrics are updated with.
        untrained: the predictions of the weights before the update of the step, without the effects of training, in the
            structure of `y_pred`; None in evaluation, and where `y_pred` is the same.
    """

    model: keras.Model
    x: Nest
    y_pred: Nest
    untrained: Nest = None

    def find(self, by: str | int, argument: str) -> tf.Tensor:
        """Returns an input feature: integers or strings, [batch] or [batch, 1].

        Args:
            by: a key of a dictionary, the name of an input, or an index.
            argument: the argument that says so, for messages: "by of metric 'gauc'".

        Raises:
            ConfigError: there is no such feature, or it has several values an example.
        """
        known = self._by_key()
        if by not in known:
            raise _refused(argument, "the name or the index of an input feature", show_value(by), list(known))
        value = known[by]
        if isinstance(value, tf.SparseTensor | tf.RaggedTensor):
            raise _refused(argument, "a dense feature", f"{by!r}, a {type(value).__name__}", list(known))
        value = tf.convert_to_tensor(value)
        if not (value.dtype.is_integer or value.dtype.is_bool or value.dtype == tf.string):
            received = f"{by!r}, of {value.dtype.name}"
            raise _refused(argument, "a feature of integers or strings", received, list(known))
        if value.shape.rank not in (1, 2) or (value.shape.rank == 2 and value.shape[1] != 1):
            received = f"{by!r}, of shape {value.shape}"
            raise _refused(argument, "a feature of one value an example", received, list(known))
        return value

    def _by_key(self) -> Mapping[str | int, Nest]:
        """Returns the features by every key that finds one."""
        if isinstance(self.x, Mapping):
            return dict(self.x)
        leaves = tree.flatten(self.x)
        known: dict[str | int, Nest] = dict(enumerate(leaves))
        if len(leaves) == 1 and _has_columns(leaves[0]):
            # One matrix of integers: its columns are features.
            known = {column: leaves[0][:, column] for column in range(leaves[0].shape[1])}
        names = [one.name for one in tree.flatten(getattr(self.model, "inputs", None) or [])]
        known.update(zip(names, leaves, strict=False) if len(names) == len(leaves) else ())
        return known

    def untrained_of(self, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the prediction before the update in place of one of `y_pred`."""
        if self.untrained is None:
            return y_pred
        pairs = zip(tree.flatten(self.y_pred), tree.flatten(self.untrained), strict=True)
        return next((before for one, before in pairs if one is y_pred), y_pred)


def _has_columns(leaf: Nest) -> bool:
    return isinstance(leaf, tf.Tensor) and leaf.shape.rank == 2 and (leaf.shape[1] or 0) > 1


def _refused(argument: str, rule: str, received: str, known: Sequence[str | int]) -> ConfigError:
    name, _, owner = argument.partition(" ")
    return ConfigError(f"`{name}` {owner} must be {rule}. Received: {received}. Valid: one of {known}.")


def check_by(name: str, value: object) -> str | int:
    """Checks an argument that names an input feature.

    Raises:
        ConfigError: the value is neither a name nor an index.
    """
    if (isinstance(value, str) and value) or (is_integer(value) and int(value) >= 0):
        return value
    raise ConfigError(
        f"`{name}` must be the name or the index of an input feature. Received: {show_value(value)}. "
        'Valid: a key of a dictionary of inputs, the name of a keras.Input, or an index, such as "user" or 0.'
    )


class _Current(threading.local):
    """The features of each thread."""

    features: Features | None = None


_CURRENT = _Current()


def current() -> Features | None:
    """Returns the features of the batch; None where no model updates its metrics."""
    return _CURRENT.features


@contextlib.contextmanager
def using(features: Features) -> Iterator[None]:
    """Makes `features` those of this thread."""
    before, _CURRENT.features = _CURRENT.features, features
    try:
        yield
    finally:
        _CURRENT.features = before
