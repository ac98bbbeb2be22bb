"""The layout of a contribution: its parts, and how they form one message for each server.

A message has sizes, then (1) the number of examples, the gradients of the server's dense variables and the deltas of
its other dense variables, all multiplied by the number of examples, as float32; (2) the rows and their gradients, for
each width of tables that the server has shards of; (3) the gradient rows of each small table, not summed by id, so that
an optimizer sees the rows of all workers as it sees those of one process. Workers write it and servers read it, both by
the same `Layout`.

Why multiplied: a server adds up the messages of several workers. The sum divided by all their examples is the mean over
all examples. Example: batches of 32 and 8 examples with gradients 1.0 and 2.0 give 48 / 40 = 1.2.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.embedding.merged import MergedGradient, ServerRows, merge
from tfps.embedding.messages import concat_with_sizes, split_by_sizes
from tfps.embedding.routed_gradients import RoutedGradients, route_gradients
from tfps.embedding.routed_rows import Kind
from tfps.embedding.table import Table
from tfps.embedding.table_gradient import TableGradient
from tfps.errors import UnsupportedError
from tfps.ops.rules.declaration import Measure
from tfps.step import Contribution
from tfps.strategy.variables import DenseVariable, SmallTable
from tfps.training.coded_message import CodedMessage, coded_deltas
from tfps.training.lanes import lanes, pack, unpack
from tfps.training.merges import Merge, merge_exact, merge_weighted
from tfps.training.synchronous.afterwards import Assignment
from tfps.types import VariableKey


@dataclasses.dataclass(frozen=True, eq=False)
class Received:
    """The contributions of a global step on one server, summed and divided by the number of examples.

    Args:
        dense: the mean gradients, by position among the values of all contributions; IndexedSlices for a small table.
        moved: the merged delta of each other variable: the mean delta, the greatest value, and so on.
        rows: the rows and mean gradients, for each width of tables that the server has shards of.
        examples: a float32 scalar. If it is 0, all means are 0: Keras, too, updates by zeros after an empty batch.
    """

    dense: dict[int, tf.Tensor | tf.IndexedSlices]
    moved: list[tuple[DenseVariable, tf.Tensor]]
    rows: list[ServerRows]
    examples: tf.Tensor


class Layout:
    """The layout of the messages of one kind of step.

    Args:
        contributions: the contributions of a traced step. A worker writes their tensors; a server needs only shapes.
        known: the gradients of its lookups, which have been routed.
        others: dense variables that steps change by themselves, such as the averages of a BatchNormalization.
        afterwards: the assignments that the servers make after the update, in order.
        merges: how what the steps move by themselves is merged, by variable key; the mean without an entry.

    Attributes:
        values: the tables and variables of all contributions.
        merges: as given.
        afterwards: as given.
        servers: the numbers of the servers that get a message.

    Raises:
        UnsupportedError: a variable has more than one gradient.
    """

    def __init__(
        self,
        contributions: Sequence[Contribution],
        known: Sequence[TableGradient],
        others: Sequence[DenseVariable],
        afterwards: Sequence[Assignment] = (),
        merges: Mapping[VariableKey, Merge] | None = None,
    ) -> None:
        self.afterwards, self.merges = afterwards, merges or {}
        self._contributions = contributions
        self.values = [value for contribution in contributions for value in contribution.values]
        if len({value.key for value in self.values}) < len(self.values):
            raise UnsupportedError(
                "a synchronous step must apply one gradient to each variable. Received: several for one variable."
            )
        self._known = known
        self._gradients = [gradient for contribution in contributions for gradient in contribution.gradients]
        self._others = others
        self._widths = self._route(contributions)
        dense = [v for v in [*self.values, *others] if isinstance(v, DenseVariable)]
        self.servers = sorted(
            {variable.placement.servers[0] for variable in dense}
            | {server for width in self._widths for server, pieces in enumerate(width.routes.pieces) if pieces}
        )

    def message(self, server: int, examples: tf.Tensor, moved: dict[VariableKey, tf.Tensor]) -> tf.Tensor:
        """Writes a worker's message for a server, from the tensors of the step that the layout was made for.

        Args:
            server: the number of the server.
            examples: the number of examples in the batch, a float32 scalar.
            moved: what the other variables have moved by, by key: values for `EXTREMES`, and otherwise deltas.
        """
        # IndexedSlices of a dense variable become dense, for example those of a small Embedding that is not a table.
        floats = [tf.convert_to_tensor(self._gradients[position]) for position, _ in self._dense_on(server)]
        # Gradients first, then deltas of the others, then what crosses with all its bits: `read` splits them so.
        floats += [moved[variable.key] for variable in self._others_on(server, exact=False)]
        flat = [tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in floats]
        # The mean over an empty batch may be NaN, which a plain product with 0 would keep.
        head = tf.math.multiply_no_nan(tf.concat([tf.ones([1]), *flat], 0), examples)
        exact = [moved[variable.key] for variable in self._others_on(server, exact=True)]
        head = tf.concat([head, pack(exact)], 0) if exact else head
        codec = self._head_codec(server)
        head = head if codec is None else codec.encode(head)
        rows = [width.message(server, examples) for width in self._widths_on(server)]
        slices = [_pack_slices(self._gradients[position], examples) for position, _ in self._sliced_on(server)]
        return concat_with_sizes([head, *rows, *slices])

    def decode(self, server: int, message: tf.Tensor) -> tf.Tensor:
        """Returns a message as it would be if nothing were coded; call it with the server as the device."""
        widths, sliced, head_codec = self._widths_on(server), self._sliced_on(server), self._head_codec(server)
        codecs = [head_codec, *(width.codec(server) for width in widths), *(None for _ in sliced)]
        if not any(codecs):
            return message
        parts = split_by_sizes(message, len(codecs))
        return concat_with_sizes(
            [part if codec is None else codec.decode(part) for part, codec in zip(parts, codecs, strict=True)]
        )

    def read(self, server: int, messages: Sequence[tf.Tensor]) -> Received:
        """Reads messages on a server, sums and divides them; call it with the server as the device."""
        # The parts of a message: one of dense values, one for each width of tables, and one for each small table.
        widths, sliced = self._widths_on(server), self._sliced_on(server)
        parts = [split_by_sizes(message, 1 + len(widths) + len(sliced)) for message in messages]
        dense = self._dense_on(server)
        values = [*(value for _, value in dense), *self._others_on(server, exact=False)]
        sizes = [1, *(value.shape.num_elements() for value in values)]
        # What crosses with all its bits is behind the others; most models have nothing of the kind.
        exact = self._others_on(server, exact=True)
        heads = [part[0][: sum(sizes)] if exact else part[0] for part in parts]
        examples, *flat = tf.split(tf.add_n(heads), sizes)
        examples = examples[0]
        means = [tf.reshape(tf.math.divide_no_nan(t, examples), v.shape) for t, v in zip(flat, values, strict=True)]
        moved = self._merge_weighted(server, heads, sizes, means[len(dense) :])
        if exact:
            moved += self._merge_exact(exact, [part[0] for part in parts], sum(sizes))
        rows = []
        for number, width in enumerate(widths):
            pieces = [(width.tables[table], shard) for table, shard in width.routes.pieces[server]]
            # One vector for each message; `merge` adds up the gradients that they have for the same row.
            rows.append(merge(pieces, [part[1 + number] for part in parts], examples, width.measure))
        positions = [position for position, _ in dense]
        gradients: dict[int, tf.Tensor | tf.IndexedSlices] = dict(zip(positions, means[: len(dense)], strict=True))
        for number, (position, table) in enumerate(sliced, start=1 + len(widths)):
            gradients[position] = _unpack_slices([part[number] for part in parts], table, examples)
        return Received(
            gradients,
            moved,
            rows,
            examples,
        )

    def empty_message(self, server: int) -> np.ndarray[Any, Any]:
        """Returns the message of a contribution without examples."""
        sizes = [value.shape.num_elements() for _, value in self._dense_on(server)]
        sizes += [variable.shape.num_elements() for variable in self._others_on(server, exact=False)]
        sizes += [lanes(one.shape.num_elements(), one.dtype) for one in self._others_on(server, exact=True)]
        # The sizes come first, as the bits of int32, see `concat_with_sizes`. All else is 0: no example, no row.
        parts = [1 + sum(sizes), *(2 * len(width.routes.pieces[server]) for width in self._widths_on(server))]
        parts += [0] * len(self._sliced_on(server))
        header = np.asarray(parts, np.int32).view(np.float32)
        return np.concatenate([header, np.zeros(sum(parts), np.float32)])

    def update(self, received: dict[int, Received]) -> None:
        """Runs the optimizers on the mean gradients that the servers have."""
        remaining = iter(self._means(received))
        for contribution in self._contributions:
            contribution.update([next(remaining) for _ in contribution.values])

    def _means(self, received: dict[int, Received]) -> list[tf.Tensor | tf.IndexedSlices | MergedGradient]:
        """Returns the mean gradient of each value; for a table it is spread over the servers that have its rows."""
        found: dict[int, tf.Tensor | tf.IndexedSlices | MergedGradient] = {}
        for one in received.values():
            found.update(one.dense)
        for position, value in enumerate(self.values):
            if isinstance(value, Table):
                parts = [
                    (rows, piece)
                    for one in received.values()
                    for rows in one.rows
                    for piece, (table, _) in enumerate(rows.pieces)
                    if table is value
                ]
                # Each server has its own rows of a table, so nothing is gathered in one place.
                found[position] = MergedGradient(value, tuple(parts))
        return [found[position] for position in range(len(self.values))]

    def _route(self, contributions: Sequence[Contribution]) -> list[RoutedGradients]:
        """Routes the gradients of tables; returns one entry for each width and contribution."""
        widths = []
        for contribution in contributions:
            groups: dict[tuple[Kind, Measure | None], list[tuple[Table, tf.IndexedSlices]]] = {}
            parts = zip(contribution.values, contribution.gradients, contribution.measures, strict=True)
            for value, gradient, measure in parts:
                if isinstance(value, Table):
                    groups.setdefault((value.kind, measure), []).append((value, gradient))
            for (_, measure), pairs in groups.items():
                tables, gradients = zip(*pairs, strict=True)
                widths.append(route_gradients(tables, gradients, self._known, measure))
        return widths

    def _dense_on(self, server: int) -> list[tuple[int, DenseVariable]]:
        return [
            (position, value)
            for position, value in enumerate(self.values)
            if isinstance(value, DenseVariable)
            and value.placement.servers[0] == server
            and not (isinstance(value, SmallTable) and isinstance(self._gradients[position], tf.IndexedSlices))
        ]

    def _sliced_on(self, server: int) -> list[tuple[int, SmallTable]]:
        """Returns the small tables whose gradients cross as the rows of their lookups."""
        return [
            (position, value)
            for position, value in enumerate(self.values)
            if isinstance(value, SmallTable)
            and value.placement.servers[0] == server
            and isinstance(self._gradients[position], tf.IndexedSlices)
        ]

    def _others_on(self, server: int, exact: bool) -> list[DenseVariable]:
        """Returns the variables that steps change by themselves: those that cross exactly, or the others."""
        found = (variable for variable in self._others if variable.placement.servers[0] == server)
        return [variable for variable in found if self._merge_of(variable).is_exact is exact]

    def _merge_weighted(
        self, server: int, heads: Sequence[tf.Tensor], sizes: Sequence[int], means: Sequence[tf.Tensor]
    ) -> list[tuple[DenseVariable, tf.Tensor]]:
        """Merges the deltas that were multiplied by examples, at the end of the heads; `means` are their means."""
        others = self._others_on(server, exact=False)
        if all(self._merge_of(variable) is Merge.MEAN for variable in others):
            return list(zip(others, means, strict=True))
        each = [tf.split(head, sizes) for head in heads]
        examples = [split[0][0] for split in each]
        found = []
        for at, (variable, mean) in enumerate(zip(others, means, strict=True), start=len(sizes) - len(others)):
            deltas = [split[at] for split in each]
            found.append((variable, merge_weighted(self._merge_of(variable), examples, deltas, mean)))
        return found

    def _merge_exact(
        self, variables: Sequence[DenseVariable], vectors: Sequence[tf.Tensor], begin: int
    ) -> list[tuple[DenseVariable, tf.Tensor]]:
        """Merges what crossed with all its bits, from the element `begin` of each worker's vector on."""
        shapes, dtypes = [v.shape for v in variables], [v.dtype for v in variables]
        each = [unpack(vector[begin:], shapes, dtypes) for vector in vectors]
        examples = [vector[0] for vector in vectors]
        values = zip(variables, zip(*each, strict=True), strict=True)
        return [(variable, merge_exact(self._merge_of(variable), examples, parts)) for variable, parts in values]

    def _merge_of(self, variable: DenseVariable) -> Merge:
        return self.merges.get(variable.key, Merge.MEAN)

    def _head_codec(self, server: int) -> CodedMessage | None:
        """Returns how the closure under trace codes the first part of a message; None if it crosses as it is."""
        gradients = [value for _, value in self._dense_on(server)]
        others = self._others_on(server, exact=False)
        # The other merges look at which elements a worker has changed.
        summed = {v.key for v in gradients} | {v.key for v in others if self._merge_of(v) is Merge.MEAN}
        codec = coded_deltas([*gradients, *others], summed, frozenset(), f"sync_{server}")
        if codec is None:
            return None
        # The number of examples comes first, and everything is cast to float32.
        sizes = (1, *(v.shape.num_elements() for v in [*gradients, *others]))
        return dataclasses.replace(codec, sizes=sizes, codings=(None, *codec.codings))

    def _widths_on(self, server: int) -> list[RoutedGradients]:
        return [w for w in self._widths if server < len(w.routes.pieces) and w.routes.pieces[server]]


def _pack_slices(gradient: tf.IndexedSlices, examples: tf.Tensor) -> tf.Tensor:
    """Packs the ids and the values of a gradient, multiplied by the number of examples, into a float32 vector."""
    ids = tf.reshape(tf.bitcast(tf.cast(gradient.indices, tf.int64), tf.float32), [-1])
    values = tf.math.multiply_no_nan(tf.cast(gradient.values, tf.float32), examples)
    return tf.concat([ids, tf.reshape(values, [-1])], 0)


def _unpack_slices(parts: Sequence[tf.Tensor], table: SmallTable, examples: tf.Tensor) -> tf.IndexedSlices:
    """Joins the gradients that workers packed, and divides them by the number of examples of all workers."""
    dim = table.shape[1]
    ids, values = [], []
    for part in parts:
        # An id has two lanes, and a row `dim`.
        count = tf.size(part) // (2 + dim)
        ids.append(tf.bitcast(tf.reshape(part[: 2 * count], [-1, 2]), tf.int64))
        values.append(tf.reshape(part[2 * count :], [-1, dim]))
    mean = tf.math.divide_no_nan(tf.concat(values, 0), examples)
    return tf.IndexedSlices(mean, tf.concat(ids, 0), tf.constant(table.shape.as_list(), tf.int64))
