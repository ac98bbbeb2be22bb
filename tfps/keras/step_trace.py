"""Traces the training step of a model whose variables have no values, to count what it keeps and computes.

Only for `without_values`, which creates such variables. The graph is never run.
"""

import re
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable  # has no public name

from tfps.choice.footprint import StepCounts
from tfps.choice.step_graph import count_step
from tfps.errors import PlanError
from tfps.keras._compat import standardize_dtype
from tfps.keras.describe import tables_of
from tfps.types import Nest, Shape

_MOST_ROWS = 2**31 - 1
_VALID = (
    "inputs= with the shapes of a batch: keras.Input, tf.TensorSpec or arrays; or a tf.data.Dataset of (inputs, labels)"
)


class TracedStep(NamedTuple):
    """A training step that was traced.

    Args:
        counts: what it keeps and computes.
        whole: the trained tables that it reads whole, as a softmax over all rows does; their gradients are whole, too.
    """

    counts: StepCounts
    whole: list[keras.Variable]


def trace_step(model: keras.Model, inputs: Nest, batch_size: int, dataset: tf.data.Dataset | None = None) -> TracedStep:
    """Traces one training step of a compiled model, and counts what it keeps in memory and computes.

    Args:
        model: the model, compiled and built.
        inputs: the inputs to call it on, a structure of values with a shape, batch first, and a dtype.
        batch_size: the examples of the batch.
        dataset: a dataset of what `train_step` gets; None to take `inputs` and labels of the shapes of the outputs.

    Raises:
        PlanError: an input has an unknown dimension beside the batch, or the step cannot be traced.
    """
    tables = [variable for own in tables_of(model).values() for variable in own]
    shapes = [_prepare_table(variable) for variable in tables]
    graph = tf.__internal__.FuncGraph("tfps_counted_step")
    # TensorFlow warns that a gradient of rows becomes as large as its table. Here it takes no memory.
    with graph.as_default(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            results, dense = _trace(model, inputs, batch_size, dataset)
        except PlanError:
            raise
        # The user's own layers, loss and step run here, so it may be any error.
        except Exception as error:
            raise PlanError(
                f"`build_model` must return a model whose training step can be traced on a batch of {batch_size}. "
                f"Received: {type(error).__name__}: {_shorten(error)} Valid if labels have another shape than outputs: "
                f"{_VALID}."
            ) from error
    whole = [table for table in tables if any(table is variable for variable in dense)]
    return TracedStep(count_step(graph, results, batch_size, shapes), whole)


def _shorten(error: Exception) -> str:
    """Returns the sentence of an error that says what is wrong."""
    # Keras puts "Exception encountered when calling ..." in front, prints in bold, and adds all arguments.
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception encountered")]
    return f"{said[0].rstrip('.')}." if said else ""


def _prepare_table(variable: keras.Variable) -> Shape:
    """Gives a table of more rows than an int32 counts that many rows, and no regularizer; returns its shape.

    The model is not used again. Under tfps a regularizer sees only the rows of the batch.
    """
    variable.regularizer = None
    # TensorFlow's gradient of a lookup has the shape of the table as int32. No row is looked up here.
    shape = tuple(variable.shape)
    if shape[0] <= _MOST_ROWS:
        return shape
    variable._value = UninitializedVariable(shape=(_MOST_ROWS, *shape[1:]), dtype=variable.value.dtype)
    return (_MOST_ROWS, *shape[1:])


def _trace(
    model: keras.Model, inputs: Nest, batch_size: int, dataset: tf.data.Dataset | None
) -> tuple[list[tf.Tensor], list[keras.Variable]]:
    """Traces the step into the current graph.

    Returns:
        The tensors that it computes, and the variables whose whole gradients it computes, as far as they can be seen.
    """
    if dataset is not None:
        spec = dataset.element_spec
        batch = tuple(_placeholders(part, batch_size) for part in (spec if isinstance(spec, tuple) else (spec,)))
    else:
        batch = (_placeholders(_check_inputs(model, inputs), batch_size),)
    needs_labels = dataset is None and not _needs_no_labels(model)
    if type(model).train_step is not keras.Model.train_step:
        # A user's own step has tapes of its own, and applies the optimizer.
        model.optimizer.build(model.trainable_variables)
        labels = (_labels(model, _outputs_elsewhere(model, batch[0]), batch_size),) if needs_labels else ()
        logs = model.train_step((*batch, *labels) if needs_labels or len(batch) > 1 else batch[0])
        return [value for value in tf.nest.flatten(logs) if tf.is_tensor(value)], []
    # Keras's own step without the optimizer and the metrics: they keep nothing for the backward pass, and take most of
    # the time of a trace.
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    with tf.GradientTape() as tape:
        outputs = _call(model, x)
        y = _labels(model, outputs, batch_size) if needs_labels else y
        loss = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights)
    variables = model.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    results = [part for gradient in gradients if gradient is not None for part in _tensors_of(gradient)]
    dense = [
        variable for variable, gradient in zip(variables, gradients, strict=True) if isinstance(gradient, tf.Tensor)
    ]
    return [loss, *results], dense


def _tensors_of(gradient: tf.Tensor | tf.IndexedSlices) -> list[tf.Tensor]:
    return [gradient.values, gradient.indices] if isinstance(gradient, tf.IndexedSlices) else [gradient]


def _call(model: keras.Model, x: Nest) -> Nest:
    return model(x, training=True) if model._call_has_training_arg else model(x)


def _check_inputs(model: keras.Model, inputs: Nest) -> Nest:
    if inputs is None:
        raise PlanError(
            f"`inputs` must be given for model {model.name!r}, which defines none. Received: None. Valid: {_VALID}."
        )
    # A Sequential has a list of its only input.
    if isinstance(inputs, list) and len(inputs) == 1 and not isinstance(getattr(model, "_inputs_struct", None), list):
        return inputs[0]
    return inputs


def _placeholders(specs: Nest, batch_size: int) -> Nest:
    """Makes symbolic tensors of the shapes of some values, with the batch size in front."""

    def make(spec: Any) -> tf.Tensor:
        sizes = tuple(spec.shape)[1:]
        if None in sizes:
            raise PlanError(
                "`inputs` must have known sizes behind the batch, because a step keeps tensors of these sizes. "
                f"Received: shape {tuple(spec.shape)}. Valid: {_VALID}."
            )
        dtype = spec.dtype if isinstance(spec.dtype, tf.DType) else standardize_dtype(spec.dtype)
        return tf.compat.v1.placeholder(dtype, (batch_size, *sizes))

    return tf.nest.map_structure(make, specs)


def _needs_no_labels(model: keras.Model) -> bool:
    return getattr(model, "loss", None) is None and type(model).compute_loss is keras.Model.compute_loss


def _outputs_elsewhere(model: keras.Model, x: Nest) -> Nest:
    """Calls the model in a graph that no count sees, and returns its outputs."""
    with tf.__internal__.FuncGraph("tfps_outputs").as_default():
        return _call(model, tf.nest.map_structure(lambda tensor: tf.zeros(tensor.shape, tensor.dtype), x))


def _labels(model: keras.Model, outputs: Nest, batch_size: int) -> Nest:
    """Makes symbolic labels: of the shape of each output; of class numbers for a loss that is called sparse."""
    shapes = [tuple(output.shape) for output in tf.nest.flatten(outputs)]
    losses = tf.nest.flatten(getattr(model, "loss", None))
    if len(losses) != len(shapes):
        losses = losses[:1] * len(shapes)

    def make(shape: tuple[int | None, ...], loss: object) -> tf.Tensor:
        sizes = [size or batch_size for size in shape]
        is_sparse = "sparse" in _name_of(loss)
        return tf.compat.v1.placeholder("int64" if is_sparse else "float32", sizes[:-1] if is_sparse else sizes)

    made = [make(shape, loss) for shape, loss in zip(shapes, losses, strict=True)]
    return tf.nest.pack_sequence_as(outputs, made)


def _name_of(loss: object) -> str:
    """Returns the name of a loss in lower case: of a function, of a loss object or of its class, or the name itself."""
    names = [loss] if isinstance(loss, str) else [getattr(loss, "__name__", ""), type(loss).__name__]
    return " ".join(map(str, names)).lower()


def input_bytes(inputs: Nest, batch_size: int) -> int:
    """Returns the bytes of a batch of inputs. Unknown sizes count as 1."""
    total = 0
    for value in tf.nest.flatten(inputs):
        dtype = value.dtype if isinstance(value.dtype, tf.DType) else tf.as_dtype(standardize_dtype(value.dtype))
        elements = int(np.prod([size or 1 for size in tuple(value.shape)[1:]], dtype=np.int64))
        total += batch_size * elements * max(dtype.size or 0, 1)
    return total
