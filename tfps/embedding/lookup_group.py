"""`LookupGroup`: what a step asks of all tables of one kind, and where the answer to each of its lookups is.

Tables of one kind (store type, width and dtype) share a request, an answer and a push for each server. This module
deduplicates the ids and sorts them by server; `tfps.embedding.pulling` fetches the rows.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.row_store import RowStore
from tfps.ops.id_range import make_label
from tfps.ops.route_unique import RoutedIds, route_unique
from tfps.ops.routes import RouteMap


@dataclasses.dataclass(frozen=True, eq=False)
class LookupGroup:
    """Tables of one kind, and what a step asks of them.

    Example: ids [5, 3, 5] of table a and [9] of table b give unique ids in the order of the servers that hold them,
    say [3, 9, 5]. Then `table_ids` is ([3, 5], [9]), `places` ([2, 0, 2], [1]) and `table_places` ([1, 0, 1], [0]).

    Args:
        tables: each once.
        routes: where their shards are.
        routed: the ids of this step.
        answer: the unique rows, [M, dim], as the servers sent them, one server after the other; None before the pull.
        table_ids: for each table its unique ids, int64 [m_t].
        places: for each lookup the row of the answer of each of its ids, int32, of the shape of the ids.
        table_places: for each lookup the same as positions in the `table_ids` of its table.
    """

    tables: tuple[RoutedRows, ...]
    routes: RouteMap
    routed: RoutedIds
    answer: tf.Tensor
    table_ids: tuple[tf.Tensor, ...]
    places: tuple[tf.Tensor, ...]
    table_places: tuple[tf.Tensor, ...]

    def stores(self, server: int) -> list[RowStore]:
        """The stores of the group on a server, in the order of its requests; empty where it holds none."""
        if server >= self.routes.num_servers:
            return []
        return [self.tables[table].stores[shard] for table, shard in self.routes.pieces[server]]

    def tensors(self) -> list[tf.Tensor]:
        """All tensors of the group, for a loop to carry from one turn to the next."""
        routed = self.routed
        fields = (routed.requests, routed.inverse, self.table_ids, self.places, self.table_places)
        return [
            *(tensor for field in fields for tensor in field),
            routed.unique_ids,
            routed.table_order,
            routed.table_sizes,
            self.answer,
        ]

    def with_tensors(self, tensors: Sequence[tf.Tensor | None]) -> "LookupGroup":
        """The group with other tensors, in the order of `tensors()`."""
        # Must take the fields in the order in which `tensors` lists them.
        remaining = iter(tensors)

        def take_for(field: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            return tuple(next(remaining) for _ in field)

        requests, inverse = take_for(self.routed.requests), take_for(self.routed.inverse)
        table_ids, places, table_places = map(take_for, (self.table_ids, self.places, self.table_places))
        unique_ids, table_order, table_sizes, answer = remaining
        routed = RoutedIds(requests, unique_ids, table_order, table_sizes, inverse, self.routed.pieces)
        return LookupGroup(self.tables, self.routes, routed, answer, table_ids, places, table_places)


@dataclasses.dataclass(frozen=True, eq=False)
class LookupResult:
    """One lookup of a group.

    Args:
        table: that it asks.
        group: with all lookups of tables of this kind.
        index: of this lookup among those of the group.
    """

    table: RoutedRows
    group: LookupGroup
    index: int

    @property
    def table_ids(self) -> tf.Tensor:
        """The unique ids of the table, int64 [m_t]. Other lookups of the same table in the group share them."""
        return next(ids for one, ids in zip(self.group.tables, self.group.table_ids, strict=True) if one is self.table)

    @property
    def places(self) -> tf.Tensor:
        """The row of the group's answer of each id, int32, of the shape of the ids."""
        return self.group.places[self.index]

    @property
    def table_places(self) -> tf.Tensor:
        """The position in `table_ids` of each id, int32, of the shape of the ids."""
        return self.group.table_places[self.index]


def route(tables: Sequence[RoutedRows], ids: Sequence[tf.Tensor]) -> list[LookupResult]:
    """Finds the unique ids of several lookups and the server of each, and asks nobody yet.

    Args:
        tables: a table a lookup; one table may come more than once.
        ids: integer tensors of any shape, one a lookup.

    Returns:
        A result a lookup, whose groups have no answer yet.
    """
    # Groups keep the order of the first lookup of their kind, so that a second trace makes the same graph.
    by_kind: dict[tuple[type[RowStore], int, tf.DType], list[int]] = {}
    for i, table in enumerate(tables):
        by_kind.setdefault(table.kind, []).append(i)
    found: dict[int, LookupResult] = {}
    for members in by_kind.values():
        group = _route_group([tables[i] for i in members], [ids[i] for i in members])
        found.update({i: LookupResult(tables[i], group, index) for index, i in enumerate(members)})
    return [found[i] for i in range(len(tables))]


def routes_of(tables: Sequence[RoutedRows]) -> RouteMap:
    """Where the shards of some tables are, as the ops need it."""
    routes = tuple(table.route for table in tables)
    return RouteMap(routes, max(server for route in routes for server in route.servers) + 1)


def _route_group(tables: Sequence[RoutedRows], ids: Sequence[tf.Tensor]) -> LookupGroup:
    """The group of some lookups of tables of one kind."""
    unique = list({id(table): table for table in tables}.values())
    ids = [tf.cast(tf.convert_to_tensor(wanted), tf.int64) for wanted in ids]
    # Example: lookups of tables (a, b, a) give unique = [a, b] and lookups_of = [[0, 2], [1]].
    # Lookups of one table share one deduplication: lookups_of[t] lists them for table t.
    lookups_of = [[i for i, table in enumerate(tables) if table is one] for one in unique]
    routes = routes_of(unique)
    shapes_of = [[ids[i].shape for i in lookups] for lookups in lookups_of]
    joined = [_concat_flat([ids[i] for i in lookups]) for lookups in lookups_of]
    routed = route_unique(_label_joined(routes, shapes_of), joined)
    table_ids, positions_of = _split_by_table(routed)
    places: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
    for lookups, inverse, positions in zip(lookups_of, routed.inverse, positions_of, strict=True):
        wanted = [ids[i] for i in lookups]
        pairs = zip(_split_like(inverse, wanted), _split_like(positions, wanted), strict=True)
        places.update(zip(lookups, pairs, strict=True))
    in_answer, in_table = zip(*(places[i] for i in range(len(tables))), strict=True)
    return LookupGroup(tuple(unique), routes, routed, None, table_ids, in_answer, in_table)


def _label_joined(routes: RouteMap, shapes_of: Sequence[Sequence[tf.TensorShape]]) -> RouteMap:
    """The routes with names by which an error can say which lookup of a table had an id out of range."""
    # The shapes are part of the name because the op sees the joined ids alone.
    labelled = tuple(
        route if len(shapes) == 1 or any(shape.rank is None for shape in shapes)
        else dataclasses.replace(route, name=make_label(route.name, shapes))
        for route, shapes in zip(routes.tables, shapes_of, strict=True)
    )  # fmt: skip
    return dataclasses.replace(routes, tables=labelled)


def _split_by_table(routed: RoutedIds) -> tuple[tuple[tf.Tensor, ...], list[tf.Tensor]]:
    """For each table its unique ids, and its inverse as positions in them."""
    # With one table the answer has only its rows, in the order of its unique ids.
    if len(routed.inverse) == 1:
        return (routed.unique_ids,), [routed.inverse[0]]
    # routed.inverse counts rows of the answer, in which the tables are mixed; `position` counts table by table.
    position = tf.math.invert_permutation(routed.table_order)
    starts = tf.unstack(tf.cast(tf.cumsum(routed.table_sizes, exclusive=True), tf.int32), num=len(routed.inverse))
    table_ids = tf.split(tf.gather(routed.unique_ids, routed.table_order), routed.table_sizes, num=len(routed.inverse))
    return tuple(table_ids), [
        tf.gather(position, inverse) - start for inverse, start in zip(routed.inverse, starts, strict=True)
    ]


def _concat_flat(ids: list[tf.Tensor]) -> tf.Tensor:
    """The ids of several lookups as one vector; those of a single one as they are."""
    return ids[0] if len(ids) == 1 else tf.concat([tf.reshape(wanted, [-1]) for wanted in ids], 0)


def _split_like(vector: tf.Tensor, ids: list[tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `_concat_flat` for a value of each id: a tensor of the shape of each of `ids`."""
    if len(ids) == 1:
        return [vector]
    parts = tf.split(vector, [tf.size(wanted) for wanted in ids])
    return [tf.reshape(part, tf.shape(wanted)) for part, wanted in zip(parts, ids, strict=True)]
