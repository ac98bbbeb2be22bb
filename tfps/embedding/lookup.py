"""Lookups: unique ids travel to the servers in one request each, their rows come back in one answer each.

Cost of a step: per server one request (counts and ids), one answer (rows) and one push (gradients), whatever the number
of tables and of their widths. The ids are deduplicated on the worker, the gather runs beside the rows.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import tape as tape_lib  # how a variable tells the tapes that it was read is not public

from tfps import step
from tfps.errors import IdRangeError, UnsupportedError
from tfps.ops.gather_rows import gather_rows
from tfps.ops.route_unique import RoutedIds, route_unique
from tfps.ops.routes import RouteMap, TableRoute
from tfps.ops.segment_sum_rows import segment_sum_rows

_EXACT_FLOAT32 = 1 << 24
"""Integers up to this are themselves as float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Tables of one width and dtype, and what a step asks of them.

    Args:
        tables: each once.
        routes: where their shards are.
        routed: the ids of this step.
        answer: the unique rows, [M, dim]: what the servers sent, one after the other.
        table_ids: for each table its unique ids.
        places: for each lookup the row of the answer of each of its ids, of the shape of the ids.
        table_places: for each lookup the same as positions in the table_ids of its table.
    """

    tables: tuple[Any, ...]
    routes: RouteMap
    routed: RoutedIds
    answer: Any
    table_ids: tuple[Any, ...]
    places: tuple[Any, ...]
    table_places: tuple[Any, ...]

    def pieces(self, server: int) -> list[tuple[Any, int]]:
        """The (table, shard) that a server holds, in the order of its requests; empty where it holds none."""
        if server >= self.routes.num_servers:
            return []
        return [(self.tables[table], shard) for table, shard in self.routes.pieces[server]]

    def shards(self, server: int) -> list[Any]:
        """The variables of those pieces."""
        return [table.shards[shard] for table, shard in self.pieces(server)]

    def tensors(self) -> list[Any]:
        """Everything of it that is a tensor, for a loop to carry from one turn to the next."""
        routed = self.routed
        fields = (routed.requests, routed.inverse, self.table_ids, self.places, self.table_places)
        return [
            *(tensor for field in fields for tensor in field),
            routed.unique_ids,
            routed.table_order,
            routed.table_sizes,
            self.answer,
        ]

    def with_tensors(self, tensors: Sequence[Any]) -> "Group":
        """The group with other tensors, in the order of `tensors()`."""
        left = iter(tensors)

        def like(field: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(next(left) for _ in field)

        requests, inverse = like(self.routed.requests), like(self.routed.inverse)
        table_ids, places, table_places = like(self.table_ids), like(self.places), like(self.table_places)
        unique_ids, table_order, table_sizes, answer = left
        routed = RoutedIds(requests, unique_ids, table_order, table_sizes, inverse, self.routed.pieces)
        return Group(self.tables, self.routes, routed, answer, table_ids, places, table_places)


@dataclasses.dataclass(frozen=True, eq=False)
class LookupResult:
    """One lookup's share of a group: `index` counts the group's lookups."""

    table: Any
    group: Group
    index: int

    @property
    def table_ids(self) -> Any:
        """The unique ids of the table, int64 [m_t], which its other lookups of the group share."""
        return next(ids for one, ids in zip(self.group.tables, self.group.table_ids, strict=True) if one is self.table)


def look_up(table: Any, ids: Any) -> LookupResult:
    """The rows of one table: by the step under trace, or from the servers at once where there is none.

    Args:
        table: the table.
        ids: integer tensor of any shape.
    """
    _check_not_rounded(table, ids)
    current = step.current()
    if current is None:
        try:
            return fetch([table], [ids])[0]
        except IdRangeError as error:
            raise error.with_traceback(None) from None  # frames below this one say nothing to the user
    current.looked_up.append((table, ids))
    return current.lookups.look_up(table, ids)


def _check_not_rounded(table: Any, ids: Any) -> None:
    """Refuses ids that were float32 before Keras made them integers, where the table has more rows than that counts."""
    if table.rows <= _EXACT_FLOAT32 or tf.executing_eagerly():
        return
    cast = ids.op
    if cast.type == "SelectV2":  # Keras counts negative ids from the end
        cast = cast.inputs[2].op
    if cast.type == "Cast" and cast.inputs[0].dtype in (tf.float16, tf.bfloat16, tf.float32):
        raise UnsupportedError(
            f"ids of table {table.name!r} must be integers from the input on: as {cast.inputs[0].dtype.name}, which is "
            f"what Keras makes of an input that has no dtype, ids above {_EXACT_FLOAT32:,} are rounded, and the table "
            f'has {table.rows:,} rows. Valid: keras.Input(..., dtype="int64").'
        )


def fetch(tables: Sequence[Any], ids: Sequence[Any]) -> list[LookupResult]:
    """Asks the servers for the rows of several lookups at once, each row once.

    Args:
        tables: a table a lookup; one table may come more than once.
        ids: integer tensors of any shape, one a lookup.

    Returns:
        What was found for each lookup: `expand` gives it the shape of its ids, `tfps.embedding.pooled.pool` pools it.
    """
    found = route(tables, ids)
    groups = list({id(one.group): one.group for one in found}.values())
    answers = dict(zip(map(id, groups), pull(groups), strict=True))
    answered = {id(group): dataclasses.replace(group, answer=answers[id(group)]) for group in groups}
    return [dataclasses.replace(one, group=answered[id(one.group)]) for one in found]


def route(tables: Sequence[Any], ids: Sequence[Any]) -> list[LookupResult]:
    """What `fetch` would ask for: unique ids and where each is, but no answer; arguments as there."""
    by_kind: dict[Any, list[int]] = {}
    for i, table in enumerate(tables):
        by_kind.setdefault((table.dim, table.dtype), []).append(i)
    found: dict[int, LookupResult] = {}
    for members in by_kind.values():
        group = _routed([tables[i] for i in members], [ids[i] for i in members])
        found.update({i: LookupResult(tables[i], group, index) for index, i in enumerate(members)})
    return [found[i] for i in range(len(tables))]


def _routed(tables: Sequence[Any], ids: Sequence[Any]) -> Group:
    """What is asked of tables of one width; the answer is still missing."""
    unique = list({id(table): table for table in tables}.values())
    ids = [tf.cast(tf.convert_to_tensor(wanted), tf.int64) for wanted in ids]
    of_table = [[i for i, table in enumerate(tables) if table is one] for one in unique]
    routes = routes_of(unique)
    routed = route_unique(routes, [_one_vector([ids[i] for i in lookups]) for lookups in of_table])
    table_ids, local = _by_table(routed)
    places: dict[int, tuple[Any, Any]] = {}
    for lookups, inverse, positions in zip(of_table, routed.inverse, local, strict=True):
        wanted = [ids[i] for i in lookups]
        places.update(zip(lookups, zip(_parted(inverse, wanted), _parted(positions, wanted), strict=True), strict=True))
    ordered = [places[i] for i in range(len(tables))]
    return Group(tuple(unique), routes, routed, None, table_ids, *(tuple(of) for of in zip(*ordered, strict=True)))


def _by_table(routed: RoutedIds) -> tuple[tuple[Any, ...], list[Any]]:
    """For each table its unique ids, and its inverse as positions in them."""
    if len(routed.inverse) == 1:
        return (routed.unique_ids,), [routed.inverse[0]]
    position = tf.math.invert_permutation(routed.table_order)
    starts = tf.unstack(tf.cast(tf.cumsum(routed.table_sizes, exclusive=True), tf.int32), num=len(routed.inverse))
    table_ids = tf.split(tf.gather(routed.unique_ids, routed.table_order), routed.table_sizes, num=len(routed.inverse))
    return tuple(table_ids), [
        tf.gather(position, inverse) - start for inverse, start in zip(routed.inverse, starts, strict=True)
    ]


def routes_of(tables: Sequence[Any]) -> RouteMap:
    """Where the shards of some tables are, as the ops need it."""
    routes = tuple(TableRoute(table.name, table.routing, table.servers) for table in tables)
    return RouteMap(routes, max(server for table in tables for server in table.servers) + 1)


def _one_vector(ids: list[Any]) -> Any:
    return ids[0] if len(ids) == 1 else tf.concat([tf.reshape(wanted, [-1]) for wanted in ids], 0)


def _parted(inverse: Any, ids: list[Any]) -> list[Any]:
    if len(ids) == 1:
        return [inverse]
    parts = tf.split(inverse, [tf.size(wanted) for wanted in ids])
    return [tf.reshape(part, tf.shape(wanted)) for part, wanted in zip(parts, ids, strict=True)]


def pull(groups: Sequence[Group]) -> list[Any]:
    """The rows of each group, gathered beside the shards: one request and one answer a server for all of them."""
    blocks: list[list[Any]] = [[] for _ in groups]
    most = max((group.routes.num_servers for group in groups), default=0)
    dtypes = {group.tables[0].dtype for group in groups}  # float32, but for tables that a user put together
    for server, dtype in itertools.product(range(most), dtypes):
        asked = [i for i, group in enumerate(groups) if group.pieces(server) and group.tables[0].dtype == dtype]
        for i, block in zip(asked, _gather([groups[i] for i in asked], server) if asked else [], strict=True):
            blocks[i].append(block)
    return [parts[0] if len(parts) == 1 else tf.concat(parts, 0) for parts in blocks]


def _gather(groups: Sequence[Group], server: int) -> list[Any]:
    """The rows that one server has for each group, [m, dim] each."""
    requests = [group.routed.requests[server] for group in groups]
    if len(groups) == 1:
        return [gather_rows(groups[0].shards(server), requests[0])]
    received = send_as_one(requests, groups[0].shards(server)[0].device)
    rows = [gather_rows(group.shards(server), request) for group, request in zip(groups, received, strict=True)]
    with tf.device(rows[0].device):
        answer = tf.concat([tf.reshape(block, [-1]) for block in rows], 0)
    counts = [group.routed.answer_rows()[server] * group.tables[0].dim for group in groups]
    parts = tf.split(tf.identity(answer), counts, num=len(groups))
    return [tf.reshape(part, [-1, group.tables[0].dim]) for part, group in zip(parts, groups, strict=True)]


def send_as_one(vectors: Sequence[Any], device: str) -> list[Any]:
    """Vectors of one dtype on another device, to which they go as one tensor: each that crosses costs a message.

    Args:
        vectors: 1-D tensors of a 32 or 64 bit type.
        device: where they are wanted.
    """
    message = concat_with_sizes(vectors)
    with tf.device(device):
        return split_by_sizes(tf.identity(message), len(vectors))


def concat_with_sizes(vectors: Sequence[Any]) -> Any:
    """Vectors of one 32 or 64 bit dtype as one: the bits of their sizes, then one after the other."""
    sizes = tf.stack([tf.size(vector) for vector in vectors])
    header = tf.bitcast(tf.cast(sizes, _size_kind(vectors[0].dtype)), vectors[0].dtype)
    return tf.concat([header, *vectors], 0)


def split_by_sizes(message: Any, count: int) -> list[Any]:
    """The `count` vectors that `concat_with_sizes` put together."""
    header, body = tf.split(message, [count, -1])
    return list(tf.split(body, tf.bitcast(header, _size_kind(message.dtype)), num=count))


def _size_kind(dtype: Any) -> Any:
    return tf.int32 if dtype.size == 4 else tf.int64


def expand(found: LookupResult) -> Any:
    """The rows of one lookup in the shape of its ids, `ids.shape + [dim]`, with their gradient for the table.

    That is an IndexedSlices in which each id comes once.
    """
    group, index = found.group, found.index
    current = watching(found)
    if current is None:
        return tf.gather(group.answer, group.places[index])

    def backward(upstream: Any) -> Any:
        upstream = tf.cast(upstream, tf.float32)
        summed = segment_sum_rows([upstream], [group.table_places[index]], tf.size(found.table_ids, tf.int64))
        return table_gradient(current, found, summed, (upstream, group.places[index]))

    @tf.custom_gradient
    def with_gradient(_: Any) -> Any:
        return tf.gather(group.answer, group.places[index]), backward

    return with_gradient(current.gradient_source(found.table.key))


def watching(found: LookupResult) -> step.Step | None:
    """The step whose tapes are told that a lookup reads its table; None where nobody can ask for a gradient."""
    current = step.current()
    if current is None or not found.table.trainable:
        return None
    tape_lib.variable_accessed(found.table)
    return current


def table_gradient(
    current: step.Step, found: LookupResult, summed: Any, unsummed: tuple[Any, Any] | None = None
) -> Any:
    """The sums of a table's unique ids, [m_t, dim], as the tape gets them; noted for the push of the step."""
    table = found.table
    current.gradients.append(TableGradient(table, found.group, summed, unsummed))
    return tf.IndexedSlices(summed, found.table_ids, dense_shape=tf.constant([table.rows, table.dim], tf.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class TableGradient:
    """What the backward pass of one lookup gave.

    Args:
        table: the table.
        group: what was asked with it.
        values: the sums of the table's unique ids, [m_t, dim].
        unsummed: what they are the sums of, where that is known: the gradient of each place, and its row of the
            group's answer. One sum over all tables of a group costs less than one for each; those are then not made.
    """

    table: Any
    group: Group
    values: Any
    unsummed: tuple[Any, Any] | None = None


def in_answer_order(gradients: Sequence[TableGradient]) -> Any:
    """The sums of all unique ids of a group, [M, dim], in the order of its answer.

    Args:
        gradients: of the group's tables, in their order.
    """
    group = gradients[0].group
    unsummed = [gradient.unsummed for gradient in gradients if gradient.unsummed is not None]
    if len(unsummed) == len(gradients):
        places = [rows for _, rows in unsummed]
        return segment_sum_rows([values for values, _ in unsummed], places, tf.size(group.routed.unique_ids, tf.int64))
    if len(gradients) == 1:
        return gradients[0].values
    order = tf.math.invert_permutation(group.routed.table_order)
    return tf.gather(tf.concat([gradient.values for gradient in gradients], 0), order)
