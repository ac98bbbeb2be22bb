"""`replay`: runs a step that `FirstNaN` has saved, in this process, and finds its first value that is not finite.

Threading: the main thread.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfps.debug import batch_nest, replayed_step
from tfps.debug.layer_names import match_layers
from tfps.debug.model_layers import ModelLayers
from tfps.debug.nan_file import SavedStep, bad_rows, is_bad
from tfps.debug.saved_rows import SavedRows, built_of
from tfps.debug.step_file import ACTIVATION, LOSS, PARAMETER, ROWS, Value
from tfps.errors import DumpError
from tfps.keras.optimizers import value_of
from tfps.types import Nest


@dataclasses.dataclass(frozen=True)
class Replayed:
    """The result of a replay.

    Args:
        saved: the step that was run again.
        operation: the type of the first operation whose result is not finite; None if there is none.
        layer: the path of the layer that has run it; empty for an operation outside of layers.
        is_backward: whether it is one of the backward pass.
        bad: the (layer, kind, name) of each value of the step that is not finite, in order.
        row_ids: for each layer, the ids of rows, or of gradients of rows, that are not finite.
        is_same: whether the loss and the gradients that are not finite are those of the step that was saved.
    """

    saved: SavedStep
    operation: str | None
    layer: str
    is_backward: bool
    bad: Sequence[tuple[str, str, str]]
    row_ids: Mapping[str, Sequence[int]]
    is_same: bool

    @property
    def is_not_finite(self) -> bool:
        """Whether the replay has a value that is not finite."""
        return bool(self.bad)

    def lines(self) -> list[str]:
        """Returns what a person reads."""
        saved = self.saved
        lines = [f"Step {saved.step} of worker {saved.worker}, saved in {saved.path}."]
        lines += [
            f"Tensor {number} of the batch has {np.count_nonzero(~np.isfinite(array))} elements that are NaN or "
            f"infinite, first at {list(map(int, np.argwhere(~np.isfinite(array))[0]))}."
            for number, array in enumerate(saved.batch_arrays)
            if is_bad(array)
        ]
        if not self.bad:
            return [*lines, "Run again, all its values are finite. Random numbers, as of Dropout, are not repeated."]
        where = "the backward pass" if self.is_backward else "the forward pass"
        if self.operation is not None:
            within = f" of layer {self.layer!r}" if self.layer else ", outside of layers"
            lines.append(f"First operation that is NaN or infinite: {self.operation}, in {where}{within}.")
        layer, kind, name = self.bad[0]
        lines.append(f"First value that is NaN or infinite: {kind} {name} of layer {layer!r}.")
        for layer, ids in self.row_ids.items():
            rest = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
            lines.append(f"Rows of layer {layer!r}: {', '.join(map(str, ids[:8]))}{rest}.")
        same = "the same ones" if self.is_same else "not the same ones"
        return [*lines, f"The loss and gradients that are NaN or infinite are {same} as in the training."]


def replay(build: Callable[[], keras.Model], saved: SavedStep) -> Replayed:
    """Runs a saved step again, up to its update that was not finite, and finds its first operation that was not.

    Args:
        build: builds and compiles the model, without a strategy.
        saved: the step.

    Raises:
        DumpError: the model is not the one that was trained.
    """
    with built_of(SavedRows(saved.values)):
        model = build()
        if not isinstance(model, keras.Model) or not model.compiled:
            raise DumpError(
                f"the function of the model must return a compiled keras.Model. Received: {type(model).__name__}"
                f"{'' if not isinstance(model, keras.Model) else ', which is not compiled'}."
            )
        batch = batch_nest.restore(saved.batch, saved.batch_arrays)
        if not model.built or not all(layer.built for layer in model._flatten_layers()):
            replayed_step.make_variables(model, batch)
    values, updates = _run_to_bad_update(model, batch, saved)
    _assign(model, saved)
    operation, layer, is_backward = replayed_step.find_operation(model, batch, updates)
    values = [one for one in saved.values if one.entry.kind in (PARAMETER, ROWS)] + values
    bad = [(one.entry.layer, one.entry.kind, one.entry.name) for one in values if is_bad(one.values)]
    row_ids = bad_rows(values)
    return Replayed(saved, operation, layer, is_backward, bad, row_ids, _is_same(model, saved, bad, row_ids))


def _run_to_bad_update(model: keras.Model, batch: Nest, saved: SavedStep) -> tuple[list[Value], int]:
    """Runs the step up to its first update that is not finite; returns its values, and the updates before that one.

    That update is not made: optimizers fail in many ways on a gradient that is NaN. A step may make several, of which
    the forward passes after them depend.
    """
    for updates in itertools.count():
        # A run has counted in its metrics, and moved its averages.
        _assign(model, saved)
        ran = replayed_step.run(model, batch, updates)
        if ran.is_over or any(is_bad(one.values) for one in ran.values if ran.is_checked(one.entry)):
            return ran.values, updates
    raise AssertionError("a step makes a finite number of updates")


def _assign(model: keras.Model, saved: SavedStep) -> None:
    """Gives the model the values that the step has read.

    Raises:
        DumpError: the model has no such variable, or one of another shape.
    """
    layers = ModelLayers(model)
    names = match_layers(list(layers.names), saved.layers)
    known = {layers.locate(variable): variable for variable in model.variables}
    for value in saved.values:
        entry = value.entry
        variable = known.get((names.get(entry.layer, entry.layer), entry.name))
        if entry.kind == PARAMETER:
            if variable is None or tuple(variable.shape) != value.values.shape:
                shape = "none" if variable is None else f"shape {tuple(variable.shape)}"
                raise DumpError(
                    f"the model must be the one that was trained. Received: {shape} for variable {entry.name!r} of "
                    f"layer {entry.layer!r}, which has shape {value.values.shape}. Layers of the model: "
                    f"{', '.join(list(layers.names)[:20])}."
                )
            variable.assign(value.values)
        elif value.ids is not None and entry.kind == ROWS and variable is not None and not layers.has_rows(variable):
            # A wide `Dense` whose kernel was a table.
            value_of(variable).scatter_nd_update(value.ids[:, None], value.values)


def _is_same(
    model: keras.Model,
    saved: SavedStep,
    bad: Sequence[tuple[str, str, str]],
    row_ids: Mapping[str, Sequence[int]],
) -> bool:
    names = match_layers(list(ModelLayers(model).names), saved.layers)
    renamed = {(names.get(layer, layer), kind, name) for layer, kind, name in saved.bad}
    is_compared = lambda one: one[1] != ACTIVATION or one[0] == LOSS  # noqa: E731
    rows = {names.get(layer, layer): list(ids) for layer, ids in saved.row_ids.items()}
    return set(filter(is_compared, renamed)) == set(filter(is_compared, bad)) and rows == dict(row_ids)
