"""Observation of the steps of a model: what layers return and optimizers get, while a step is traced.

Observers see a step as it is traced, and add operations of their own to its graph. While a model has observers, its
`train_step`, its `compute_loss`, and the methods `call` of its layers and `apply` of its optimizers are replaced on
these objects alone. Without observers nothing is replaced, and a graph that is traced then has nothing of it.

Threading: steps are traced in several threads at once; each has its own `Capture`.
"""

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import keras
import tensorflow as tf

from tfps import step
from tfps.debug.model_layers import ModelLayers
from tfps.debug.step_file import LOSS
from tfps.keras._compat import tree
from tfps.keras.multi_optimizer import unscaled
from tfps.keras.optimizers import Gradient, leading_optimizer, optimizers_of
from tfps.types import Nest

Method: TypeAlias = Callable[..., Any]


class Capture:
    """What one trace of a step has computed so far.

    Args:
        layers: the layers of the model.
        optimizer: the optimizer that counts the steps.
        batch: the batch.

    Attributes:
        rows: the (layer, ids, rows) that each call of an embedding layer has read whose matrix is no table.
        gradients: the (gradient, variable) pairs that optimizers got, in order.
        is_applying: whether an optimizer makes its update.
        is_scaled: whether the last gradients are those of a scaled loss.
        spans: the (layer, operations of the graph before its call, and after it) of each call, inner calls before outer
            ones; None for the loss. Empty for a step that runs eagerly.
    """

    def __init__(self, layers: ModelLayers, optimizer: keras.Optimizer, batch: Nest) -> None:
        self.layers, self.optimizer, self.batch = layers, optimizer, batch
        self._outputs: list[tuple[keras.layers.Layer | None, int, list[tf.Tensor]]] = []
        self.rows: list[tuple[keras.layers.Layer, tf.Tensor, tf.Tensor]] = []
        self.gradients: list[tuple[Gradient, keras.Variable]] = []
        self.spans: list[tuple[keras.layers.Layer | None, int, int]] = []
        self._unseen: set[str] = set()
        self.is_applying = self.is_scaled = False
        self._calls: dict[int, int] = {}
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    def is_usable(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor is one of the step itself, and not of a branch or a loop in it."""
        return self._graph is None or getattr(tensor, "graph", None) is self._graph

    def count_operations(self) -> int | None:
        """Returns the number of operations of the step so far; None in a branch or a loop, and eagerly."""
        if self._graph is None or tf.compat.v1.get_default_graph() is not self._graph:
            return None
        return int(self._graph.version)

    def note_span(self, layer: keras.layers.Layer | None, begin: int | None) -> None:
        """Takes note of the operations since a call began, of a layer, or of the loss if there is none."""
        end = self.count_operations()
        if begin is not None and end is not None:
            self.spans.append((layer, begin, end))

    def note_call(self, layer: keras.layers.Layer, args: Sequence[Any], result: Nest) -> None:
        """Takes note of a call of a layer."""
        tensors = [one for one in tree.flatten(result) if tf.is_tensor(one)]
        flat = [part for one in tensors for part in tf.nest.flatten(one, expand_composites=True)]
        if not all(map(self.is_usable, flat)):
            self._unseen.add(str(layer.name))
            return
        self.note_output(layer, flat)
        if args and self.layers.reads_rows_itself(layer) and (ids := _flat_ids(args[0])) is not None:
            # Read here: the step will update the matrix.
            self.rows.append((layer, *_read_rows(layer, ids)))

    def note_output(self, layer: keras.layers.Layer | None, tensors: list[tf.Tensor]) -> None:
        """Takes note of what a layer has returned, or of the loss if there is none."""
        number = self._calls[id(layer)] = self._calls.get(id(layer), 0) + 1
        self._outputs.append((layer, number, tensors))

    @property
    def unseen(self) -> set[str]:
        """The names of layers that were called in a branch or a loop alone, whose tensors no other graph can use."""
        # Keras builds a layer by calling it in a graph of its own, which counts for nothing.
        return self._unseen - {str(layer.name) for layer, _, _ in self._outputs if layer is not None}

    @property
    def outputs(self) -> list[tuple[str, int, list[tf.Tensor]]]:
        """The (path of the layer, number of its call, tensors) of each call of a layer, in order."""
        # The path of a layer is known once it is built.
        return [
            (LOSS if layer is None else self.layers.path_of(layer), number, tensors)
            for layer, number, tensors in self._outputs
        ]


class Observer(Protocol):
    """Sees the steps of a model while they are traced."""

    def begin(self, capture: Capture) -> object:
        """Called before a step is traced; the result is given to the other methods."""
        ...

    def before_update(self, capture: Capture, begun: Any) -> Sequence[tf.Tensor]:
        """Called with the gradients of an update; returns what the update has to wait for."""
        ...

    def end(self, capture: Capture, begun: Any) -> None:
        """Called after a step was traced."""
        ...


class _Current(threading.local):
    """The capture of the step that a thread traces, and what its observers have begun."""

    capture: Capture | None = None
    begun: tuple[tuple[Observer, Any], ...] = ()


_CURRENT = _Current()


class _Observation:
    """The observers of one model, and the methods that are replaced for them."""

    def __init__(self, model: keras.Model) -> None:
        self.observers: list[Observer] = []
        self._model = weakref.ref(model)
        # Each with what the object itself had under the name; None if it had the method of its class.
        self._replaced: list[tuple[Any, str, Method | None]] = []
        self._jit_compile: Any = None

    def install(self) -> None:
        model = self._model()
        assert model is not None
        self.find_layers()
        for optimizer in optimizers_of(model):
            self._replace(optimizer, "apply", _apply)
        self._replace(model, "compute_loss", _compute_loss)
        self._replace(model, "train_step", functools.partial(_train_step, self))
        # Keras compiles steps with XLA, which calls no Python.
        self._jit_compile, model.jit_compile = model.jit_compile, False
        forget_steps(model)

    @property
    def leading_optimizer(self) -> keras.Optimizer:
        """The optimizer that counts the steps of the model."""
        return leading_optimizer(self._model())

    def find_layers(self) -> ModelLayers:
        """Returns the layers of the model, and observes those that it did not have before: steps may make layers."""
        model = self._model()
        assert model is not None
        layers = ModelLayers(model)
        known = {id(owner) for owner, _, _ in self._replaced}
        for layer in layers.layers:
            if id(layer) not in known:
                self._replace(layer, "call", functools.partial(_call, layer))
        return layers

    def remove(self) -> None:
        for owner, name, own in self._replaced:
            if own is None:
                object.__delattr__(owner, name)
            else:
                object.__setattr__(owner, name, own)
        self._replaced.clear()
        model = self._model()
        if model is not None:
            model.jit_compile = self._jit_compile
            forget_steps(model)

    def _replace(self, owner: Any, name: str, replacement: Method) -> None:
        own, stock = vars(owner).get(name), getattr(owner, name)

        @functools.wraps(stock)
        def call(*args: Any, **kwargs: Any) -> Any:
            return replacement(stock, *args, **kwargs)

        # Keras tracks what is assigned in the plain way.
        object.__setattr__(owner, name, call)
        self._replaced.append((owner, name, own))


_OBSERVATIONS: "weakref.WeakKeyDictionary[keras.Model, _Observation]" = weakref.WeakKeyDictionary()


def observe(model: keras.Model, observer: Observer) -> None:
    """Lets an observer see the steps of a built model, which are traced anew."""
    observation = _OBSERVATIONS.setdefault(model, _Observation(model))
    if observation.observers:
        # Layers and optimizers may have changed, and steps have to be traced anew.
        observation.remove()
    if observer not in observation.observers:
        observation.observers.append(observer)
    observation.install()


def stop_observing(model: keras.Model, observer: Observer) -> None:
    """Forgets an observer and the steps that it has seen traced."""
    observation = _OBSERVATIONS.get(model)
    if observation is None or observer not in observation.observers:
        return
    observation.observers.remove(observer)
    observation.remove()
    if observation.observers:
        observation.install()
    else:
        del _OBSERVATIONS[model]


def is_observed(model: keras.Model, observer: Observer) -> bool:
    """Whether an observer sees the steps of a model."""
    observation = _OBSERVATIONS.get(model)
    return observation is not None and observer in observation.observers


def forget_steps(model: keras.Model) -> None:
    """Lets a model trace its training steps anew."""
    object.__setattr__(model, "train_function", None)


def _train_step(observation: _Observation, stock: Method, data: Nest) -> Nest:
    """Traces a step with its observers."""
    capture = Capture(observation.find_layers(), observation.leading_optimizer, data)
    current = step.current()
    if current is not None:
        current.uses_number = True
    begun = tuple((observer, observer.begin(capture)) for observer in observation.observers)
    before = _CURRENT.capture, _CURRENT.begun
    _CURRENT.capture, _CURRENT.begun = capture, begun
    try:
        logs = stock(data)
    finally:
        _CURRENT.capture, _CURRENT.begun = before
    # A model of a class of its own is built by its first step.
    capture.layers = observation.find_layers()
    for observer, state in begun:
        observer.end(capture, state)
    return logs


def _call(layer: keras.layers.Layer, stock: Method, *args: Any, **kwargs: Any) -> Nest:
    capture = _CURRENT.capture
    if capture is None:
        return stock(*args, **kwargs)
    begin = capture.count_operations()
    result = stock(*args, **kwargs)
    capture.note_span(layer, begin)
    capture.note_call(layer, args, result)
    return result


def _compute_loss(stock: Method, *args: Any, **kwargs: Any) -> Any:
    capture = _CURRENT.capture
    if capture is None:
        return stock(*args, **kwargs)
    begin = capture.count_operations()
    loss = stock(*args, **kwargs)
    capture.note_span(None, begin)
    if tf.is_tensor(loss) and capture.is_usable(loss):
        capture.note_output(None, [loss])
    return loss


def _apply(
    stock: Method, grads: Sequence[Gradient | None], trainable_variables: Sequence[keras.Variable] | None = None
) -> Any:
    capture = _CURRENT.capture
    # An optimizer may apply others, which it holds.
    if capture is None or capture.is_applying:
        return stock(grads, trainable_variables)
    optimizer = stock.__self__  # type: ignore[attr-defined]
    capture.is_scaled = unscaled(optimizer) is not optimizer
    variables = optimizer._trainable_variables if trainable_variables is None else trainable_variables
    pairs = [(one, variable) for one, variable in zip(grads, variables, strict=True) if one is not None]
    capture.gradients += [pair for pair in pairs if _is_usable(capture, pair[0])]
    waits = [one for observer, state in _CURRENT.begun for one in observer.before_update(capture, state)]
    capture.is_applying = True
    try:
        with tf.control_dependencies(waits) if waits else contextlib.nullcontext():
            return stock(grads, trainable_variables)
    finally:
        capture.is_applying = False


def _is_usable(capture: Capture, gradient: Gradient) -> bool:
    return capture.is_usable(gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient)


def _flat_ids(ids: Any) -> tf.Tensor | None:
    """Returns the ids of a call of an embedding layer, int64 [n]; None if they are given in another way."""
    flat = ids.flat_values if isinstance(ids, tf.RaggedTensor) else ids
    if isinstance(flat, (tf.SparseTensor, tf.RaggedTensor)) or not tf.is_tensor(flat):
        return None
    return tf.reshape(tf.cast(flat, tf.int64), [-1]) if flat.dtype.is_integer or flat.dtype.is_floating else None


def _read_rows(layer: keras.layers.Embedding, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads rows of an embedding layer; returns their ids, each once, and the rows."""
    matrix = tf.convert_to_tensor(layer.embeddings)
    # Padding may be negative, and an id that is out of range is the error of the layer.
    valid = tf.boolean_mask(ids, (ids >= 0) & (ids < tf.shape(matrix, tf.int64)[0]))
    unique = tf.unique(valid)[0]
    return unique, tf.gather(matrix, unique)


@contextlib.contextmanager
def observing(model: keras.Model, observer: Observer) -> Iterator[None]:
    """Lets an observer see the steps of a model within."""
    observe(model, observer)
    try:
        yield
    finally:
        stop_observing(model, observer)
