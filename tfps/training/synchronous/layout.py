"""What a contribution is made of, and how it is laid out as one message for each server.

A message: sizes, then (1) examples of the batch, the gradients of the server's dense variables and what its other dense
variables have moved by, all of it multiplied by the examples, as float32; (2) for each width of tables that the server
has shards of, the rows and their gradients. Workers write it, servers read it; both follow the same `Layout`.
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


@dataclasses.dataclass(frozen=True, eq=False)
class Received:
    """What one server has of the contributions of a global step, summed and divided by its examples.

    Args:
        dense: by position among the values of all contributions, the mean gradient.
        moved: what each of the other variables has moved by, in the mean.
        rows: for each width of tables that the server has shards of.
        examples: a float32 scalar. Where it is 0 all means are 0: Keras, too, updates by zeros after an empty batch.
    """

    dense: dict[int, Any]
    moved: list[tuple[DenseVariable, Any]]
    rows: list[ServerRows]
    examples: Any


class Layout:
    """Of the messages of one kind of step.

    Args:
        contributions: that a traced step made; the shapes count, not the tensors.
        known: what its lookups gave as gradients.
        others: dense variables that steps move and no gradient is for, such as moving averages.
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
        self._widths = self._routed(contributions)
        dense = [v for v in [*self.values, *others] if isinstance(v, DenseVariable)]
        self.servers = sorted(
            {variable.placement.servers[0] for variable in dense}
            | {server for width in self._widths for server, pieces in enumerate(width.routes.pieces) if pieces}
        )

    def message(self, server: int, examples: Any, moved: dict[Any, Any]) -> Any:
        """What a worker leaves with a server: the tensors of the step that the layout was made from.

        Args:
            server: its number.
            examples: of the batch, a float32 scalar.
            moved: what the other variables have moved by, by key.
        """
        floats = [_as_dense(self._gradients[position]) for position, _ in self._dense_of(server)]
        floats += [moved[variable.key] for variable in self._others_of(server)]
        flat = [tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in floats]
        # The mean over an empty batch may be NaN, and 0 times that is.
        head = tf.math.multiply_no_nan(tf.concat([tf.ones([1]), *flat], 0), examples)
        rows = [width.message(server, examples) for width in self._widths_of(server)]
        return concat_with_sizes([head, *rows])

    def read(self, server: int, messages: Sequence[Any]) -> Received:
        """What a server makes of messages; to be called with it as the device."""
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
            rows.append(merge(pieces, [part[1 + number] for part in parts], examples))
        positions = [position for position, _ in dense]
        return Received(
            dict(zip(positions, means[: len(dense)], strict=True)),
            list(zip(others, means[len(dense) :], strict=True)),
            rows,
            examples,
        )

    def nothing(self, server: int) -> np.ndarray[Any, Any]:
        """The message of no examples."""
        sizes = [value.shape.num_elements() for value in [*(v for _, v in self._dense_of(server))]]
        sizes += [variable.shape.num_elements() for variable in self._others_of(server)]
        parts = [1 + sum(sizes), *(2 * len(width.routes.pieces[server]) for width in self._widths_of(server))]
        header = np.asarray(parts, np.int32).view(np.float32)
        return np.concatenate([header, np.zeros(sum(parts), np.float32)])

    def update(self, received: dict[int, Received]) -> None:
        """Has the optimizers make their updates of the mean gradients that the servers have."""
        left = iter(self._means(received))
        for contribution in self._contributions:
            contribution.update([next(left) for _ in contribution.values])

    def _means(self, received: dict[int, Received]) -> list[Any]:
        found = {position: mean for one in received.values() for position, mean in one.dense.items()}
        for position, value in enumerate(self.values):
            if isinstance(value, Table):
                parts = [
                    (rows, piece)
                    for one in received.values()
                    for rows in one.rows
                    for piece, (table, _) in enumerate(rows.pieces)
                    if table is value
                ]
                found[position] = MergedGradient(value, tuple(parts))
        return [found[position] for position in range(len(self.values))]

    def _routed(self, contributions: Sequence[Contribution]) -> list[RoutedGradients]:
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


def _as_dense(gradient: Any) -> Any:
    return tf.convert_to_tensor(gradient)
