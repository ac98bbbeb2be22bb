"""The graph of a dataset of files: parts, the blocks of each by calls of tfps, and batches."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.data.block_graphs import BlockGraph, Element
from tfps.data.blocks import BEGIN, END
from tfps.data.parts import Part
from tfps.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Order:
    """How examples follow one another.

    Args:
        batch_size: see `files`.
        drop_remainder: see `files`.
        shuffle: see `files`.
        shuffle_group: see `files`.
        seed: see `files`.
        read_ahead: see `files`.
    """

    batch_size: int | None
    drop_remainder: bool
    shuffle: int | None
    shuffle_group: int
    seed: int | None
    read_ahead: int

    def arrange(self, wanted: Sequence[Part], graph: BlockGraph) -> tf.data.Dataset:
        """Returns the dataset of the rows of parts."""
        # Names alone: each worker gets its own part of this list.
        names = tf.data.Dataset.from_tensor_slices(tf.constant([part.to_json() for part in wanted], tf.string))
        if self.shuffle is not None and wanted:
            names = names.shuffle(len(wanted), self.seed)
        read = names.interleave(
            lambda part: self._blocks(part, graph),
            cycle_length=self.read_ahead,
            num_parallel_calls=self.read_ahead,
            deterministic=True,
        )
        if self.shuffle is None:
            return read.unbatch() if self.batch_size is None else self._batch(read)
        if self.shuffle_group == 1:
            read = read.unbatch().shuffle(self.shuffle, self.seed)
            return read if self.batch_size is None else read.batch(self.batch_size, self.drop_remainder)
        groups = -(-self.shuffle // self.shuffle_group)
        # Batches of one group and back: groups are copies then. Slices would keep their whole blocks in memory, and
        # TensorFlow logs an error whenever it cuts a slice again.
        read = read.rebatch(self.shuffle_group).batch(1).shuffle(groups, self.seed).unbatch()
        return read.unbatch() if self.batch_size is None else self._batch(read)

    def _batch(self, blocks: tf.data.Dataset) -> tf.data.Dataset:
        return blocks.rebatch(self.batch_size, self.drop_remainder)

    def _blocks(self, part: tf.Tensor, graph: BlockGraph) -> tf.data.Dataset:
        """Returns the dataset of the blocks of a part."""

        def step(offset: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            after, read = graph.read(part, offset)
            return after, (offset, *read)

        def parse(offset: tf.Tensor, *read: tf.Tensor) -> Element:
            rows = graph.parse(part, read)
            if self.shuffle is None or self.shuffle_group == 1:
                return rows
            return _permute(rows, tf.strings.join([part, tf.strings.as_string(offset)]), self.seed)

        steps = tf.data.Dataset.range(tf.int64.max).scan(tf.constant(BEGIN, tf.int64), step)
        read = steps.take_while(lambda offset, *_: offset != END).map(parse)
        # A range may have no begin of a line.
        return read.filter(lambda element: tf.shape(tf.nest.flatten(element)[0])[0] > 0)


def _permute(rows: Element, name: tf.Tensor, seed: int | None) -> Element:
    """Returns the rows of a block in an order that depends on its name and the seed alone."""
    key = tf.strings.to_hash_bucket_fast(name, 2**31)
    order = tf.range(tf.shape(tf.nest.flatten(rows)[0])[0])
    order = tf.random.experimental.stateless_shuffle(order, [tf.constant(seed or 0, tf.int64), key])
    return tf.nest.map_structure(lambda values: tf.gather(values, order), rows)


def with_label(dataset: tf.data.Dataset, label: str | None) -> tf.data.Dataset:
    """Makes pairs of columns and the label."""
    if label is None:
        return dataset
    spec = dataset.element_spec
    if not isinstance(spec, dict) or label not in spec:
        valid = sorted(spec) if isinstance(spec, dict) else "None, since elements are strings"
        raise ConfigError(f"`label` must be a column or feature. Received: {label!r}. Valid: {valid}.")
    return dataset.map(lambda element: ({key: element[key] for key in element if key != label}, element[label]))
