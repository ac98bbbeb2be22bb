"""Where the training of a model is in its input, and how `fit` goes on from there.

`fit` is Keras's own loop. It begins with another epoch by an attribute of the model that Keras has for that. It begins
within an epoch by two things: the input starts after the batches that were trained, and the loop skips the numbers of
their steps.

Threading: the main thread.
"""

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfps.checks import check_integer, check_type
from tfps.errors import CheckpointError
from tfps.inputs.epoch import Epoch
from tfps.inputs.place import Place, random_states
from tfps.inputs.worker_input import WorkerInput
from tfps.keras._compat import DataAdapter, GeneratorDataAdapter, TFEpochIterator
from tfps.keras.functions import StepFunction
from tfps.types import JSON

_INPUTS: "weakref.WeakKeyDictionary[keras.Model, weakref.ref[TFEpochIterator]]" = weakref.WeakKeyDictionary()
"""The input of the last loop of each model."""

_BETWEEN_EPOCHS = ("on_epoch_begin", "on_epoch_end")
"""The methods of a `PyDataset` by which it may change, in the order in which Keras calls them."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where `fit` is.

    Args:
        epoch: the number of the epoch of Keras, from 0.
        batches: the number of its batches that were trained.
        place: the place in the input; None where it begins anew.
    """

    epoch: int
    batches: int
    place: Place | None

    def to_json(self) -> dict[str, JSON]:
        """Returns the progress as JSON."""
        place = None if self.place is None else self.place.to_json()
        return {"epoch": self.epoch, "batches": self.batches, "input": place}

    @classmethod
    def from_json(cls, value: JSON) -> "Progress":
        """Reads a progress.

        Raises:
            CheckpointError: the value is not what `to_json` returns.
        """
        fields = check_type("progress", value, dict, "an object", error=CheckpointError)
        place = fields.get("input")
        return cls(
            check_integer("epoch", fields.get("epoch"), at_least=0, error=CheckpointError),
            check_integer("batches", fields.get("batches"), at_least=0, error=CheckpointError),
            None if place is None else Place.from_json(place),
        )


def note_input(model: keras.Model, iterator: TFEpochIterator) -> None:
    """Notes the input of a loop that begins."""
    _INPUTS[model] = weakref.ref(iterator)


def input_of(model: keras.Model) -> TFEpochIterator | None:
    """Returns the input of the last loop of a model that began."""
    reference = _INPUTS.get(model)
    return None if reference is None else reference()


def progress_in_epoch(model: keras.Model, iterator: TFEpochIterator, epoch: int, batches: int) -> Progress:
    """Returns where `fit` is between two batches; no step may be under way.

    Args:
        model: a model of our strategy.
        iterator: the input of the `fit`.
        epoch: the number of the epoch.
        batches: the number of its batches that the loop has had.
    """
    function = model.train_function
    if isinstance(function, StepFunction) and function.schedule is not None:
        schedule = function.schedule
        return Progress(epoch, schedule.trained, schedule.epoch.place(schedule.taken()))
    # Eager steps, one after the other.
    current = iterator._current_iterator
    place = current.place(current.taken) if isinstance(current, Epoch) and current.number else None
    return Progress(epoch, batches, place)


def progress_after_epoch(iterator: TFEpochIterator, epoch: int) -> Progress:
    """Returns where `fit` is after an epoch.

    Args:
        iterator: the input of the `fit`.
        epoch: the number of the epoch.
    """
    current, source = iterator._current_iterator, iterator._distributed_dataset
    # With `steps_per_epoch` the next epoch of Keras goes on in the same input.
    if iterator.steps_per_epoch is not None and isinstance(current, Epoch) and current.number:
        return Progress(epoch + 1, 0, current.place(current.taken))
    shards = source.shards
    # The next pass begins with the random states of now.
    place = Place(shards.epochs + 1, (0,), source.examples, shards.by_file, random_states(), shards.order)
    return Progress(epoch + 1, 0, place)


def may_rewind(iterator: TFEpochIterator) -> bool:
    """Whether another `fit` of this program can read an input from the begin of an epoch again."""
    adapter = iterator.data_adapter
    # A generator object has no begin. A dataset that changes at the end of an epoch has changed.
    return not isinstance(adapter, GeneratorDataAdapter) and not _changes_between_epochs(adapter)


def _changes_between_epochs(adapter: DataAdapter) -> bool:
    kind = type(getattr(adapter, "py_dataset", None))
    # Not every version of Keras has the first one.
    own = [name for name in _BETWEEN_EPOCHS if _method(kind, name) is not _method(keras.utils.PyDataset, name)]
    return bool(own) and issubclass(kind, keras.utils.PyDataset)


def _method(kind: type, name: str) -> object:
    return getattr(kind, name, None)


def go_on(
    model: keras.Model, iterator: TFEpochIterator, progress: Progress, set_values: Callable[[], None]
) -> Progress:
    """Lets a `fit` that has not begun its first epoch begin where another one was.

    Args:
        model: a model of our strategy.
        iterator: the input of the `fit`.
        progress: where the other one was.
        set_values: called when the first epoch has begun and no step of it has. The other `fit` had called what
            callbacks do at the begin of an epoch, such as setting a learning rate, before its values were saved.

    Returns:
        Where the `fit` begins: at another batch if the batch size has changed.
    """
    source = iterator._distributed_dataset
    if progress.place is not None:
        place = progress.place.in_batches_of(source.examples)
        if place is not progress.place:
            progress = Progress(progress.epoch, place.batches, place)
    if _changes_between_epochs(iterator.data_adapter):
        # What Keras has called in the epochs before, such as a shuffle.
        for _ in range(progress.epoch):
            for name in _BETWEEN_EPOCHS:
                getattr(iterator.data_adapter.py_dataset, name, lambda: None)()
    # Keras has this attribute for `BackupAndRestore`, and reads it once the callbacks have begun.
    model._initial_epoch = progress.epoch
    if progress.place is not None:
        source.go_on_at(progress.place, progress.batches)
    # Read by `steps_of_epoch`.
    iterator._tfps_resumed = progress.batches, set_values
    return progress


def is_resumed(iterator: TFEpochIterator) -> bool:
    """Whether the next epoch of an input begins with a later step."""
    return hasattr(iterator, "_tfps_resumed") and isinstance(iterator._distributed_dataset, WorkerInput)


def steps_of_epoch(stock: Callable[..., Iterator[Any]], iterator: TFEpochIterator) -> Iterator[Any]:
    """Yields the steps of an epoch whose first ones another program has trained."""
    skipped, set_values = iterator._tfps_resumed
    del iterator._tfps_resumed
    if skipped:
        set_values()
    for step in stock(iterator):
        # The number of the first batch; Keras before 3.7 leaves out that of the last.
        if step[0] + iterator.steps_per_execution > skipped:
            yield step
