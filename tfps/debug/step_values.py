"""The values of a step for a dump: tensors of its graph, each with an entry for the index.

Order: parameters and rows as the step found them, outputs of layers in the order of the forward pass, gradients in
that of the backward pass. So the first value in which two runs part is where they part.

Threading: the thread that traces the step.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfps import step
from tfps.debug.model_layers import ModelLayers
from tfps.debug.observation import Capture
from tfps.debug.step_file import ACTIVATION, GRADIENT, LOSS, PARAMETER, ROW_GRADIENT, ROWS, Entry
from tfps.embedding.local_table import LocalTable, find_stand_in
from tfps.embedding.routed_rows import RoutedRows
from tfps.keras.optimizers import value_of


@dataclasses.dataclass(frozen=True, eq=False)
class StepValue:
    """A tensor of a step, with its entry in the index.

    Args:
        entry: the entry.
        values: the tensor; [m, dim] with ids.
        ids: the ids of its rows, which may repeat, int64 [m]; None without.
    """

    entry: Entry
    values: tf.Tensor
    ids: tf.Tensor | None = None

    @property
    def tensors(self) -> list[tf.Tensor]:
        """The tensors that a graph sends for it, as `step_file.make_values` reads them."""
        return [self.values] if self.ids is None else [self.ids, self.values]


def parameters(layers: ModelLayers, is_wanted: Callable[[str], bool]) -> list[StepValue]:
    """Reads the dense variables of some layers, before a step changes them.

    Args:
        layers: the layers of the model.
        is_wanted: whether the layer at a path is one of them.
    """
    located = [(*layers.locate(variable), variable) for variable in layers.dense_variables()]
    return [
        StepValue(Entry(path, PARAMETER, name), tf.convert_to_tensor(variable))
        for path, name, variable in located
        if is_wanted(path)
    ]


def all_parameters(layers: ModelLayers) -> list[StepValue]:
    """Reads all dense variables of a model, also those of integers, before a step changes them."""
    located = [(*layers.locate(variable), variable) for variable in layers.dense_variables(only_floats=False)]
    return [StepValue(Entry(path, PARAMETER, name), tf.convert_to_tensor(one)) for path, name, one in located]


def outputs(capture: Capture, is_wanted: Callable[[str], bool]) -> list[StepValue]:
    """Returns the outputs of some layers, and the loss."""
    found = []
    for path, call, tensors in capture.outputs:
        numbers = [one for one in tensors if one.dtype.is_floating or one.dtype.is_integer or one.dtype.is_bool]
        for number, tensor in enumerate(numbers if is_wanted(path) or path == LOSS else []):
            # Example: the second output of the third call of a layer is "output.1@3".
            name = "output" + (f".{number}" if number else "") + (f"@{call}" if call > 1 else "")
            found.append(StepValue(Entry(path, ACTIVATION, name), tensor))
    return found


def dense_gradients(capture: Capture, is_wanted: Callable[[str], bool]) -> list[StepValue]:
    """Returns the gradients of dense variables of some layers."""
    pairs = [(one, variable) for one, variable in capture.gradients if not isinstance(one, tf.IndexedSlices)]
    located = [(*capture.layers.locate(variable), one) for one, variable in reversed(pairs)]
    return [StepValue(Entry(path, GRADIENT, name), one) for path, name, one in located if is_wanted(path)]


def row_gradients(capture: Capture, is_wanted: Callable[[str], bool]) -> list[StepValue]:
    """Returns the gradients of rows, with their ids."""
    found = []
    for gradient, variable in reversed(capture.gradients):
        path, name = capture.layers.locate(variable)
        if isinstance(gradient, tf.IndexedSlices) and is_wanted(path):
            ids = _ids_of(gradient.indices, find_stand_in(value_of(variable)))
            found.append(StepValue(Entry(path, ROW_GRADIENT, name, True), gradient.values, ids))
    return found


def rows(capture: Capture, is_wanted: Callable[[str], bool]) -> list[StepValue]:
    """Returns the rows that a step has read of tables and embedding layers, before it updates them, with their ids."""
    found: dict[tuple[str, str], list[tuple[tf.Tensor, tf.Tensor]]] = {}
    for (path, name), ids, values in [*_rows_of_tables(capture), *_rows_of_layers(capture)]:
        if is_wanted(path):
            found.setdefault((path, name), []).append((ids, values))
    return [
        StepValue(Entry(path, ROWS, name, True), _concat([v for _, v in parts]), _concat([i for i, _ in parts]))
        for (path, name), parts in found.items()
    ]


def _rows_of_tables(capture: Capture) -> Iterator[tuple[tuple[str, str], tf.Tensor, tf.Tensor]]:
    """Yields the rows that lookups have found, one group of lookups once."""
    current = step.current()
    seen = set()
    for one in [] if current is None else current.found:
        located = capture.layers.locate_table(one.table.key)
        known = (one.table.key, id(one.group))
        if located is None or known in seen or not capture.is_usable(one.group.answer):
            continue
        seen.add(known)
        values = tf.gather(one.group.answer, one.group.places_of(one.table))
        yield located, _ids_of(one.table_ids, one.table), values


def _rows_of_layers(capture: Capture) -> Iterator[tuple[tuple[str, str], tf.Tensor, tf.Tensor]]:
    """Yields the rows of embedding layers whose matrix is no table."""
    for layer, ids, values in capture.rows:
        yield capture.layers.locate(layer.embeddings), ids, values


def _ids_of(ids: tf.Tensor, table: RoutedRows | tf.Variable) -> tf.Tensor:
    ids = tf.cast(ids, tf.int64)
    # In a window, rows are numbered by their place in it.
    return tf.gather(table.ids, ids) if isinstance(table, LocalTable) and table.ids is not None else ids


def _concat(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tensors[0] if len(tensors) == 1 else tf.concat(tensors, 0)
