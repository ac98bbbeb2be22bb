"""What a contribution consists of, and how it is laid out as one message for each server.

A message: sizes, then (1) examples of the batch, the gradients of the server's dense variables and the deltas of its
other dense variables, all of it multiplied by the examples, as float32; (2) for each width of tables that the server
has shards of, the rows and their gradients. Workers write it, servers read it; both follow the same `Layout`.

Why multiplied: a server adds up the messages of several workers, and dividing the sum by the sum of their examples
gives the mean over all examples. Example: batches of 32 and 8 examples with gradients 1.0 and 2.0 sum to 48 / 40 = 1.2.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.embedding.merged import MergedGradient, ServerRows, merge
from tfps.embedding.messages import concat_with_sizes, split_by_sizes
from tfps.embedding.routed_gradients import RoutedGradients, route_gradients
from tfps.embedding.table import Table
from tfps.embedding.table_gradient import TableGradient
from tfps.errors import UnsupportedError
from tfps.step import Contribution
from tfps.strategy.variables import DenseVariable
from tfps.types import VariableKey


@dataclasses.dataclass(frozen=True, eq=False)
class Received:
    """The contributions of a global step on one server, summed and divided by their examples.

    Args:
        dense: mean gradients, by position among the values of all contributions.
        moved: mean delta of each of the other variables.
        rows: rows and mean gradients, for each width of tables that the server has shards of.
        examples: a float32 scalar. Where it is 0 all means are 0: Keras, too, updates by zeros after an empty batch.
    """

    dense: dict[int, tf.Tensor]
    moved: list[tuple[DenseVariable, tf.Tensor]]
    rows: list[ServerRows]
    examples: tf.Tensor


class Layout:
    """The layout of the messages of one kind of step.

    Args:
        contributions: that a traced step made. A worker writes their tensors; a server needs their shapes alone.
        known: gradients of its lookups, whose routing is known.
        others: dense variables that steps move without a gradient, such as the averages of a BatchNormalization.

    Attributes:
        values: the tables and variables of all contributions.
        servers: the numbers of the servers that get a message.

    Raises:
        UnsupportedError: a variable has several gradients.
    """

    def __init__(
        self, contributions: Sequence[Contribution], known: Sequence[TableGradient], others: Sequence[DenseVariable]
    ) -> None:
        self._contributions = contributions
        self.values = [value for contribution in contributions for value in contribution.values]
        if len({value.key for value in self.values}) < len(self.values):
            raise UnsupportedError("a synchronous step must apply one gradient a variable. Received: more of one.")
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
        """The message of a worker for a server: the tensors of the step that the layout was made from.

        Args:
            server: its number.
            examples: of the batch, a float32 scalar.
            moved: deltas of the other variables, by key.
        """
        # IndexedSlices of a dense variable, as of a small Embedding outside of tables, become dense here.
        floats = [tf.convert_to_tensor(self._gradients[position]) for position, _ in self._dense_of(server)]
        # First gradients, then deltas of the others, in the order in which `read` splits them.
        floats += [moved[variable.key] for variable in self._others_of(server)]
        flat = [tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in floats]
        # The mean over an empty batch may be NaN, and 0 times that is.
        head = tf.math.multiply_no_nan(tf.concat([tf.ones([1]), *flat], 0), examples)
        rows = [width.message(server, examples) for width in self._widths_of(server)]
        return concat_with_sizes([head, *rows])

    def read(self, server: int, messages: Sequence[tf.Tensor]) -> Received:
        """Sums and divides messages on a server; to be called with it as the device."""
        # As many parts as the writer made: one of dense values, one for each width of tables.
        widths = self._widths_of(server)
        parts = [split_by_sizes(message, 1 + len(widths)) for message in messages]
        total = tf.add_n([part[0] for part in parts])
        dense, others = self._dense_of(server), self._others_of(server)
        shapes = [value.shape for value in [*(value for _, value in dense), *others]]
        examples, *flat = tf.split(total, [1, *(shape.num_elements() for shape in shapes)])
        examples = examples[0]
        means = [tf.reshape(tf.math.divide_no_nan(t, examples), shape) for t, shape in zip(flat, shapes, strict=True)]
        rows = []
        for number, width in enumerate(widths):
            pieces = [(width.tables[table], shard) for table, shard in width.routes.pieces[server]]
            # One vector for each message, in the order of the messages; `merge` adds up what they have for the same
            # row.
            rows.append(merge(pieces, [part[1 + number] for part in parts], examples))
        positions = [position for position, _ in dense]
        return Received(
            dict(zip(positions, means[: len(dense)], strict=True)),
            list(zip(others, means[len(dense) :], strict=True)),
            rows,
            examples,
        )

    def empty_message(self, server: int) -> np.ndarray[Any, Any]:
        """The message of no examples."""
        sizes = [value.shape.num_elements() for _, value in self._dense_of(server)]
        sizes += [variable.shape.num_elements() for variable in self._others_of(server)]
        # The sizes travel in front, as the bits of int32, see `concat_with_sizes`. All else is 0: no example, no row.
        parts = [1 + sum(sizes), *(2 * len(width.routes.pieces[server]) for width in self._widths_of(server))]
        header = np.asarray(parts, np.int32).view(np.float32)
        return np.concatenate([header, np.zeros(sum(parts), np.float32)])

    def update(self, received: dict[int, Received]) -> None:
        """Has the optimizers make their updates of the mean gradients that the servers have."""
        remaining = iter(self._means(received))
        for contribution in self._contributions:
            contribution.update([next(remaining) for _ in contribution.values])

    def _means(self, received: dict[int, Received]) -> list[tf.Tensor | MergedGradient]:
        """The mean gradient of each value; that of a table is spread over the servers that have its rows."""
        found: dict[int, tf.Tensor | MergedGradient] = {}
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
                # Of a table each server has its own rows: nothing is brought together.
                found[position] = MergedGradient(value, tuple(parts))
        return [found[position] for position in range(len(self.values))]

    def _route(self, contributions: Sequence[Contribution]) -> list[RoutedGradients]:
        """The gradients of tables, one entry a width and contribution."""
        widths = []
        for contribution in contributions:
            groups: dict[Any, list[tuple[Any, Any]]] = {}
            for value, gradient in zip(contribution.values, contribution.gradients, strict=True):
                if isinstance(value, Table):
                    groups.setdefault(value.kind, []).append((value, gradient))
            for pairs in groups.values():
                tables, gradients = zip(*pairs, strict=True)
                widths.append(route_gradients(tables, gradients, self._known))
        return widths

    def _dense_of(self, server: int) -> list[tuple[int, DenseVariable]]:
        return [
            (position, value)
            for position, value in enumerate(self.values)
            if isinstance(value, DenseVariable) and value.placement.servers[0] == server
        ]

    def _others_of(self, server: int) -> list[DenseVariable]:
        return [variable for variable in self._others if variable.placement.servers[0] == server]

    def _widths_of(self, server: int) -> list[RoutedGradients]:
        return [w for w in self._widths if server < len(w.routes.pieces) and w.routes.pieces[server]]
