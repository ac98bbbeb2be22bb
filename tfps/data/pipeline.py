"""The graph of a dataset of files: parts, the blocks of each by calls of tfps, and batches."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.cluster import worker_functions
from tfps.data import blocks
from tfps.data.blocks import BEGIN, END, Reading
from tfps.data.packing import head_types, unpack
from tfps.data.parts import Part
from tfps.data.stored_files import is_of_one_process
from tfps.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Order:
    """How examples follow one another.

    Args:
        batch_size: see `files`.
        drop_remainder: see `files`.
        shuffle: see `files`.
        seed: see `files`.
        read_ahead: see `files`.
    """

    batch_size: int | None
    drop_remainder: bool
    shuffle: int | None
    seed: int | None
    read_ahead: int

    def arrange(self, wanted: Sequence[Part], how: Reading) -> tf.data.Dataset:
        """Returns the dataset of the columns of parts, of strings if there is one without a name of a user."""
        # Names alone: each worker gets its own part of this list.
        names = tf.data.Dataset.from_tensor_slices(tf.constant([part.to_json() for part in wanted], tf.string))
        if self.shuffle is not None and wanted:
            names = names.shuffle(len(wanted), self.seed)
        on_chief = bool(wanted) and is_of_one_process(wanted[0].file.url, how.access)
        read = names.interleave(
            lambda part: _read(part, how, on_chief),
            cycle_length=self.read_ahead,
            num_parallel_calls=self.read_ahead,
            deterministic=True,
        )
        if self.shuffle is not None:
            read = read.unbatch().shuffle(self.shuffle, self.seed)
            return read if self.batch_size is None else read.batch(self.batch_size, self.drop_remainder)
        if self.batch_size is None:
            return read.unbatch()
        return read.rebatch(self.batch_size, self.drop_remainder)


def _read(part: tf.Tensor, how: Reading, on_chief: bool) -> tf.data.Dataset:
    """Returns the dataset of the blocks of a part."""
    text = tf.constant(how.to_json())
    types = [tf.int64, *head_types(how.columns)]

    def step(offset: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        inputs = [part, text, offset]
        if on_chief:
            after, *arrays = tf.numpy_function(blocks.read_block, inputs, types)
        else:
            after, *arrays = worker_functions.call(blocks.__name__, "read_block", inputs, types)
        return tf.ensure_shape(after, []), (offset, *unpack(how.columns, arrays))

    steps = tf.data.Dataset.range(tf.int64.max).scan(tf.constant(BEGIN, tf.int64), step)
    read = steps.take_while(lambda offset, *_: offset != END).map(lambda _, *arrays: _element(how, arrays))
    # A range may have no begin of a line.
    return read.filter(lambda element: tf.shape(tf.nest.flatten(element)[0])[0] > 0)


def _element(how: Reading, arrays: Sequence[tf.Tensor]) -> tf.Tensor | dict[str, tf.Tensor]:
    if how.format in ("text", "tfrecord"):
        return arrays[0]
    return {column.name: array for column, array in zip(how.columns, arrays, strict=True)}


def with_label(dataset: tf.data.Dataset, label: str | None) -> tf.data.Dataset:
    """Makes pairs of columns and the label."""
    if label is None:
        return dataset
    spec = dataset.element_spec
    if not isinstance(spec, dict) or label not in spec:
        valid = sorted(spec) if isinstance(spec, dict) else "None, since elements are strings"
        raise ConfigError(f"`label` must be a column or feature. Received: {label!r}. Valid: {valid}.")
    return dataset.map(lambda element: ({key: element[key] for key in element if key != label}, element[label]))
