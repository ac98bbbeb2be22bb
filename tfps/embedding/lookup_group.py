"""`LookupGroup`: the lookups of one step in all tables of one kind, and where each lookup finds its rows in the answer.

Tables of one kind (store type, width and dtype) share one request, one answer and one push for each server. This module
deduplicates the ids and sorts them by server; `tfps.embedding.pulling` pulls the rows.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding import wire
from tfps.embedding.routed_rows import Kind, RoutedRows
from tfps.embedding.row_store import RowStore
from tfps.ops.id_range import make_label
from tfps.ops.route_unique import RoutedIds, route_unique
from tfps.ops.routes import RouteMap
from tfps.ops.row_codec import RowCodec
from tfps.ops.shared_constants import gather_rows_at
from tfps.stages import IDS, in_stage


@dataclasses.dataclass(frozen=True, eq=False)
class LookupGroup:
    """The lookups of a step in tables of one kind.

    Example: a step looks up ids [5, 3, 5] in table a and [9] in table b. The unique ids come in the order of the
    servers that hold them, say [3, 9, 5]. Then `table_ids` is ([3, 5], [9]), `places` is ([2, 0, 2], [1]) and
    `table_places` is ([1, 0, 1], [0]).

    Args:
        tables: the tables, each once.
        routes: the shards of the tables and their servers.
        routed: the ids of this step, sorted by server.
        answer: the unique rows, [M, dim], as the servers sent them, one server after the other; None before the pull.
        table_ids: for each table, its unique ids, int64 [m_t].
        places: for each lookup, the index of each id into `answer`, int32 with the shape of the ids.
        table_places: for each lookup, the index of each id into the `table_ids` of its table, in the same form.
    """

    tables: tuple[RoutedRows, ...]
    routes: RouteMap
    routed: RoutedIds
    answer: tf.Tensor
    table_ids: tuple[tf.Tensor, ...]
    places: tuple[tf.Tensor, ...]
    table_places: tuple[tf.Tensor, ...]

    def stores(self, server: int) -> list[RowStore]:
        """Returns the group's stores on a server, in the order of the pieces of its request."""
        # Another group of the same step may reach more servers than this one.
        if server >= self.routes.num_servers:
            return []
        return [self.tables[table].stores[shard] for table, shard in self.routes.pieces[server]]

    def rows_by_piece(self) -> tuple[list[tuple[RoutedRows, int]], tf.Tensor]:
        """Returns the pieces (table, shard) of all servers, and the rows requested of each, int64 [pieces]."""
        pieces = [(self.tables[table], shard) for of_server in self.routes.pieces for table, shard in of_server]
        # A request begins with these counts.
        heads = zip(self.routed.requests, self.routed.pieces, strict=True)
        return pieces, tf.concat([request[:count] for request, count in heads if count], 0)

    def places_of(self, table: RoutedRows) -> tf.Tensor:
        """Returns the index into the answer of each unique id of a table, int32 [m_t], in the order of `table_ids`."""
        number = next(i for i, one in enumerate(self.tables) if one is table)
        if len(self.tables) == 1:
            return tf.range(tf.size(self.table_ids[number]))
        return tf.cast(
            tf.split(self.routed.table_order, self.routed.table_sizes, num=len(self.tables))[number], tf.int32
        )

    def tensors(self) -> list[tf.Tensor]:
        """Returns all tensors of the group, for a loop to carry from one turn to the next."""
        # The answer comes last, so that a caller can leave it out.
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
        """Returns a copy of the group with other tensors, in the order of `tensors()`."""
        # This must read the fields in the order in which `tensors` lists them.
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
        table: the table.
        group: all lookups of the step in tables of this kind.
        index: the number of this lookup in the group.
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
        """The index into the group's answer of each id, int32 with the shape of the ids."""
        return self.group.places[self.index]

    @property
    def table_places(self) -> tf.Tensor:
        """The index into `table_ids` of each id, int32 with the shape of the ids."""
        return self.group.table_places[self.index]


def of_all_ids(found: LookupResult) -> LookupResult:
    """Returns a lookup of all unique ids of a table in a group, [m_t], whichever lookup asked for them."""
    group = found.group
    size = tf.size(found.table_ids)
    group = dataclasses.replace(group, places=(group.places_of(found.table),), table_places=(tf.range(size),))
    return LookupResult(found.table, group, 0)


@in_stage(IDS)
def route(tables: Sequence[RoutedRows], ids: Sequence[tf.Tensor]) -> list[LookupResult]:
    """Finds the unique ids of several lookups and the server of each id. It sends nothing.

    Args:
        tables: the table of each lookup; several lookups may use the same table.
        ids: the ids of each lookup, an integer tensor of any shape.

    Returns:
        The result of each lookup. Their groups have no answer yet.
    """
    # A group takes the place of the first lookup of its kind, so that a second trace makes the same graph.
    by_kind: dict[tuple[Kind, RowCodec | None], list[int]] = {}
    for i, table in enumerate(tables):
        # A group has one answer, whose rows are all coded in one way.
        by_kind.setdefault((table.kind, wire.codec_of(table)), []).append(i)
    found: dict[int, LookupResult] = {}
    for members in by_kind.values():
        group = _route_group([tables[i] for i in members], [ids[i] for i in members])
        found.update({i: LookupResult(tables[i], group, index) for index, i in enumerate(members)})
    return [found[i] for i in range(len(tables))]


def make_route_map(tables: Sequence[RoutedRows]) -> RouteMap:
    """Returns where the shards of some tables are, in the form that the ops need."""
    routes = tuple(table.route for table in tables)
    return RouteMap(routes, max(server for route in routes for server in route.servers) + 1)


def _route_group(tables: Sequence[RoutedRows], ids: Sequence[tf.Tensor]) -> LookupGroup:
    """Makes the group of some lookups in tables of one kind."""
    unique = list({id(table): table for table in tables}.values())
    ids = [tf.cast(tf.convert_to_tensor(wanted), tf.int64) for wanted in ids]
    # The lookups of one table are deduplicated together: lookups_of[t] lists the lookups of table t.
    # Example: lookups in the tables (a, b, a) give unique = [a, b] and lookups_of = [[0, 2], [1]].
    lookups_of = [[i for i, table in enumerate(tables) if table is one] for one in unique]
    routes = make_route_map(unique)
    shapes_of = [[ids[i].shape for i in lookups] for lookups in lookups_of]
    table_inputs = [_concat_flat([ids[i] for i in lookups]) for lookups in lookups_of]
    routed = route_unique(_label_routes(routes, shapes_of), table_inputs)
    table_ids, positions_of = _split_by_table(routed)
    places: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
    for lookups, inverse, positions in zip(lookups_of, routed.inverse, positions_of, strict=True):
        wanted = [ids[i] for i in lookups]
        pairs = zip(_split_like(inverse, wanted), _split_like(positions, wanted), strict=True)
        places.update(zip(lookups, pairs, strict=True))
    in_answer, in_table = zip(*(places[i] for i in range(len(tables))), strict=True)
    return LookupGroup(tuple(unique), routes, routed, None, table_ids, in_answer, in_table)


def _label_routes(routes: RouteMap, shapes_of: Sequence[Sequence[tf.TensorShape]]) -> RouteMap:
    """Returns the routes with labels from which an error finds the lookup that had an id out of range."""
    # The op sees only the concatenated ids of a table. The label carries the shapes of the lookups, so that the error
    # can turn a position among all ids into a lookup and a place in its ids.
    labelled = tuple(
        route if len(shapes) == 1 or any(shape.rank is None for shape in shapes)
        else dataclasses.replace(route, name=make_label(route.name, shapes))
        for route, shapes in zip(routes.tables, shapes_of, strict=True)
    )  # fmt: skip
    return dataclasses.replace(routes, tables=labelled)


def _split_by_table(routed: RoutedIds) -> tuple[tuple[tf.Tensor, ...], list[tf.Tensor]]:
    """Returns the unique ids of each table, and for each table the index into them of each of its ids."""
    # With one table, the answer has only its rows, in the order of its unique ids.
    if len(routed.inverse) == 1:
        return (routed.unique_ids,), [routed.inverse[0]]
    # `routed.inverse` holds indices into the answer, which mixes the tables. `position` maps such an index to a list of
    # all unique ids, table by table, and the start of a table in that list makes it an index into the table's own ids.
    position = tf.math.invert_permutation(routed.table_order)
    starts = tf.unstack(tf.cast(tf.cumsum(routed.table_sizes, exclusive=True), tf.int32), num=len(routed.inverse))
    table_ids = tf.split(tf.gather(routed.unique_ids, routed.table_order), routed.table_sizes, num=len(routed.inverse))
    return tuple(table_ids), [
        gather_rows_at(position, inverse) - start for inverse, start in zip(routed.inverse, starts, strict=True)
    ]


def _concat_flat(ids: list[tf.Tensor]) -> tf.Tensor:
    """Concatenates the ids of several lookups into a vector; the ids of a single lookup keep their shape."""
    return ids[0] if len(ids) == 1 else tf.concat([tf.reshape(wanted, [-1]) for wanted in ids], 0)


def _split_like(vector: tf.Tensor, ids: list[tf.Tensor]) -> list[tf.Tensor]:
    """Splits a vector with a value for each id back into the shapes of `ids`: the inverse of `_concat_flat`."""
    if len(ids) == 1:
        return [vector]
    parts = tf.split(vector, [tf.size(wanted) for wanted in ids])
    return [tf.reshape(part, tf.shape(wanted)) for part, wanted in zip(parts, ids, strict=True)]
