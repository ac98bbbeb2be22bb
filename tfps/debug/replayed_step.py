"""A step of a model in this process, up to one of its updates: its values, and its first operation that is not finite.

Threading: the main thread.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfps.debug import step_values
from tfps.debug.observation import Capture, observing
from tfps.debug.saved_rows import ids_of, known_ids
from tfps.debug.step_file import GRADIENT, LOSS, ROW_GRADIENT, Array, Entry, Value, make_values
from tfps.debug.step_values import StepValue
from tfps.types import Nest

_NO_OPERATIONS = frozenset({"Const", "Placeholder"})
"""Operations that compute nothing: a constant may be infinite, and a placeholder is the batch."""

_MOVES = frozenset(
    ("BroadcastTo", "Cast", "Concat", "ConcatV2", "ExpandDims", "Fill", "GatherV2", "Identity", "IdentityN", "Pack")
    + ("Reshape", "Slice", "Split", "SplitV", "Squeeze", "StridedSlice", "Tile", "Transpose", "Unpack")
)
"""Operations that pass on what they get."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a step has computed.

    Args:
        values: the outputs of its layers and its gradients.
        is_over: whether the step ended without another update.
        is_scaled: whether the gradients are those of a scaled loss, which may overflow.
    """

    values: list[Value]
    is_over: bool
    is_scaled: bool

    def is_checked(self, entry: Entry) -> bool:
        """Whether `FirstNaN` saves a step for such a value: the loss, or a gradient."""
        return entry.layer == LOSS or (entry.kind in (GRADIENT, ROW_GRADIENT) and not self.is_scaled)


def make_variables(model: keras.Model, batch: Nest) -> None:
    """Lets the first step of a model make its variables. It is traced, and not run: their values are not known yet."""
    tf.function(model.train_step, autograph=False).get_concrete_function(batch)


def run(model: keras.Model, batch: Nest, updates: int) -> Run:
    """Runs a step up to an update, which is not made.

    It runs in a graph, as in the training: there TensorFlow makes one operation of some, such as of MatMul and Relu,
    and a NaN may become 0. A model that was compiled with `run_eagerly` runs eagerly.

    Args:
        model: a model with variables.
        batch: the batch.
        updates: the updates that are made before it.
    """
    watcher = _Watcher(updates)
    entries: list[Entry] = []
    pairs: list[tuple[Entry, keras.layers.Layer]] = []

    def compute(batch: Nest) -> tuple[list[tf.Tensor], list[list[tf.Tensor]]]:
        capture = watcher.watch(model, batch)
        found = _dense_values(capture)
        entries[:] = [one.entry for one in found]
        of_rows = [pair for pair in reversed(capture.gradients) if isinstance(pair[0], tf.IndexedSlices)]
        pairs[:] = [_locate(capture, variable) for _, variable in of_rows]
        return [one.values for one in found], [[one.indices, one.values] for one, _ in of_rows]

    dense, of_rows = (compute if model.run_eagerly else tf.function(compute, autograph=False))(batch)
    values = make_values(entries, [one.numpy() for one in dense])
    values += [
        _row_gradient(entry, layer, indices.numpy(), rows.numpy())
        for (entry, layer), (indices, rows) in zip(pairs, of_rows, strict=True)
    ]
    return Run(values, not watcher.is_stopped, watcher.capture.is_scaled)


def find_operation(model: keras.Model, batch: Nest, updates: int) -> tuple[str | None, str, bool]:
    """Runs a step up to an update, each operation by itself, and looks at what it computes.

    Args:
        model: a model with variables.
        batch: the batch.
        updates: the updates that are made before it.

    Returns:
        The type of the first operation whose result is not finite, the path of its layer, and whether it is one of the
        backward pass; None, "" and False if there is none, and for a model that runs eagerly and in no graph. What only
        passes on a value, such as Reshape, does not count within a layer.
    """
    watcher = _Watcher(updates)
    operations: list[tf.Operation] = []

    @tf.function(autograph=False)
    def compute(batch: Nest) -> tf.Tensor:
        watcher.watch(model, batch)
        operations[:] = tf.compat.v1.get_default_graph().get_operations()
        return tf.stack([_is_finite(one) for one in operations])

    # A model that runs eagerly may have steps that cannot be traced, with errors of any class.
    with contextlib.suppress(Exception) if model.run_eagerly else contextlib.nullcontext():
        is_finite = compute(batch).numpy()
        return _first(watcher.capture, operations, is_finite)
    return None, "", False


class _BeforeUpdateError(Exception):
    """Ends a step before its update."""


class _Watcher:
    """Sees a step up to an update; implements `Observer`.

    Args:
        updates: the updates that are made before it.

    Attributes:
        is_stopped: whether the step has come to it.
    """

    def __init__(self, updates: int) -> None:
        self._updates = self._left = updates
        self._capture: Capture | None = None
        self.is_stopped = False

    @property
    def capture(self) -> Capture:
        """What the step has computed."""
        assert self._capture is not None, "the step has not begun"
        return self._capture

    def watch(self, model: keras.Model, batch: Nest) -> Capture:
        """Runs or traces the step; returns what it has computed."""
        with observing(model, self), contextlib.suppress(_BeforeUpdateError):
            model.train_step(batch)
        return self.capture

    def begin(self, capture: Capture) -> None:
        """See `Observer`."""
        self._capture, self._left, self.is_stopped = capture, self._updates, False

    def before_update(self, capture: Capture, begun: object) -> Sequence[tf.Tensor]:
        """See `Observer`."""
        if not self._left:
            self.is_stopped = True
            raise _BeforeUpdateError
        self._left -= 1
        return ()

    def end(self, capture: Capture, begun: object) -> None:
        """See `Observer`."""


def _dense_values(capture: Capture) -> list[StepValue]:
    everything = lambda path: True  # noqa: E731
    return [*step_values.outputs(capture, everything), *step_values.dense_gradients(capture, everything)]


def _locate(capture: Capture, variable: keras.Variable) -> tuple[Entry, keras.layers.Layer]:
    path, name = capture.layers.locate(variable)
    layer = next(one for one in capture.layers.layers if capture.layers.path_of(one) == path)
    return Entry(path, ROW_GRADIENT, name, True), layer


def _row_gradient(entry: Entry, layer: keras.layers.Layer, indices: Array, values: Array) -> Value:
    ids = ids_of(layer, indices)
    # Padding is not read from a table, and has no gradient there; without one, its weight of 0 may be times NaN.
    known = known_ids(layer)
    is_known = np.ones(len(ids), bool) if known is None else np.isin(ids, known)
    return make_values([entry], [ids[is_known], values[is_known]])[0]


def _is_finite(operation: tf.Operation) -> tf.Tensor:
    # The other results of a batch normalization are for its gradient, and may be memory that nothing was written to.
    results = operation.outputs[:1] if operation.type.startswith("FusedBatchNorm") else operation.outputs
    floats = [one for one in results if one.dtype.is_floating]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(one)) for one in floats]) if floats else tf.constant(True)


def _first(capture: Capture, operations: Sequence[tf.Operation], is_finite: Array) -> tuple[str | None, str, bool]:
    """Returns what `find_operation` does. Operations are in the order in which they were traced."""
    numbers = [int(number) for number in np.flatnonzero(~is_finite)]
    bad = {operations[number].name for number in numbers}
    results = {tensor.op.name for _, _, tensors in capture.outputs for tensor in tensors}
    loss_end = min((end for layer, _, end in capture.spans if layer is None), default=len(operations))
    for number in numbers:
        operation = operations[number]
        is_passed_on = operation.type in _MOVES and any(one.op.name in bad for one in operation.inputs)
        if operation.type in _NO_OPERATIONS or (is_passed_on and operation.name not in results):
            continue
        # Inner calls come first.
        inside = [layer for layer, begin, end in capture.spans if begin <= number < end]
        path = "" if not inside else LOSS if inside[0] is None else capture.layers.path_of(inside[0])
        return str(operation.type), path, not inside and number >= loss_end
    return None, "", False
