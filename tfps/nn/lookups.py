"""The lookups of `tf.nn`, with their arguments and results, for tables on parameter servers.

What is not a table goes to `tf.nn` itself, so code that uses these runs with and without a strategy. Of a table only
the rows asked for cross: ids are made unique on the worker, gathered beside the rows and combined on the worker again.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfps.checks import check_integer
from tfps.embedding.table import Table
from tfps.nn.bags import Ids, bags_of, shape_like
from tfps.nn.rows import Params, pooled_rows_of, resolve_params, rows_of
from tfps.ops.combine_rows import check_combiner


def embedding_lookup(
    params: Params | Sequence[Params],
    ids: tf.Tensor | tf.RaggedTensor,
    max_norm: float | tf.Tensor | None = None,
    name: str | None = None,
) -> tf.Tensor | tf.RaggedTensor:
    """Rows for ids; see `tf.nn.embedding_lookup`.

    Args:
        params: `embeddings` of a Keras layer, or the table it holds; or a `tf.Variable` or tensor [rows, dim], or a
            list of its parts, for which `tf.nn` is called.
        ids: int32 or int64 of any shape, dense or ragged, each at least 0 and below `rows`.
        max_norm: rows with a larger l2 norm are scaled down to it; none are where None.
        name: of the operations.

    Returns:
        A tensor of shape `ids.shape + [dim]`, ragged if `ids` are.

    Raises:
        TypeError: `ids` are not integers.
        UnsupportedError: `params` lists several tables.
        IdRangeError: when it runs: an id is out of range; has table, layer, id, rows and place.

    Example:
        >>> rows = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> embedding_lookup(rows, [1, 1, 0]).numpy().tolist()
        [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]
    """
    table = resolve_params(params)
    if not isinstance(table, Table):
        return tf.nn.embedding_lookup(table, ids, max_norm, name)
    with tf.name_scope(name or "embedding_lookup"):
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(rows_of(table, ids.flat_values, max_norm))
        return rows_of(table, tf.convert_to_tensor(ids), max_norm)


def embedding_lookup_sparse(
    params: Params | Sequence[Params],
    sp_ids: Ids,
    sp_weights: Ids | None,
    combiner: str | None = None,
    max_norm: float | tf.Tensor | None = None,
    name: str | None = None,
    allow_fast_lookup: bool = False,
) -> tf.Tensor:
    """Rows pooled bag by bag; see `tf.nn.embedding_lookup_sparse`.

    A bag without ids gives zeros, but bags after the last that has any are left out: `safe_embedding_lookup_sparse`
    gives those as well.

    Args:
        params: as for `embedding_lookup`.
        sp_ids: int32 or int64, `tf.SparseTensor` in row-major order or `tf.RaggedTensor`, [bags, ids of a bag].
        sp_weights: the same kind of tensor with a float for each id; all are 1 where None.
        combiner: "sum"; "mean", over the sum of the weights, if None; or "sqrtn", over the root of the sum of their
            squares.
        max_norm: rows with a larger l2 norm are scaled down to it first; none are where None.
        name: of the operations.
        allow_fast_lookup: used by `tf.nn` alone.

    Returns:
        A tensor [bags, dim].

    Raises:
        ConfigError: `combiner` is no combiner; a `ValueError`.
        TypeError: ids or weights are of another kind.
        ValueError: they differ in shape.
        UnsupportedError: `params` lists several tables.
        IdRangeError: when it runs: an id is out of range; has table, layer, id, rows and place.

    Example:
        >>> rows = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> embedding_lookup_sparse(rows, tf.ragged.constant([[0, 1], [1]]), None, "sum").numpy().tolist()
        [[4.0, 6.0], [3.0, 4.0]]
    """
    table = resolve_params(params)
    if not isinstance(table, Table):
        return tf.nn.embedding_lookup_sparse(table, sp_ids, sp_weights, combiner, max_norm, name, allow_fast_lookup)
    # None means "mean" to tf.nn, which says so in a warning.
    combiner = "mean" if combiner is None else combiner
    check_combiner(combiner)
    with tf.name_scope(name or "embedding_lookup_sparse"):
        bags = bags_of(sp_ids, sp_weights, "sp_ids")
        return pooled_rows_of(table, bags.without_empty_end(), combiner, max_norm)


def safe_embedding_lookup_sparse(
    embedding_weights: Params | Sequence[Params],
    sparse_ids: Ids,
    sparse_weights: Ids | None = None,
    combiner: str | None = "mean",
    default_id: int | None = None,
    max_norm: float | tf.Tensor | None = None,
    name: str | None = None,
    allow_fast_lookup: bool = False,
) -> tf.Tensor:
    """Rows pooled bag by bag, empty bags and negative ids allowed; see `tf.nn.safe_embedding_lookup_sparse`.

    Negative ids are left out, and, unless the combiner is "sum", ids whose weight is not above 0. A bag with none left
    gives the row of `default_id`, or zeros.

    Args:
        embedding_weights: as `params` for `embedding_lookup`.
        sparse_ids: int32 or int64, `tf.SparseTensor` of any rank in row-major order, the last dimension being the ids
            of a bag, or `tf.RaggedTensor` [bags, ids of a bag].
        sparse_weights: the same kind of tensor with a float for each id; all are 1 where None.
        combiner: as for `embedding_lookup_sparse`.
        default_id: what an empty bag looks up; it gives zeros where None.
        max_norm: rows with a larger l2 norm are scaled down to it first; none are where None.
        name: of the operations.
        allow_fast_lookup: used by `tf.nn` alone.

    Returns:
        A tensor of shape `sparse_ids.shape[:-1] + [dim]`.

    Raises:
        ConfigError: `combiner` is no combiner; a `ValueError`.
        TypeError: ids or weights are of another kind.
        ValueError: they differ in shape.
        UnsupportedError: `embedding_weights` lists several tables.
        IdRangeError: when it runs: an id is not below the rows; has table, layer, id, rows and place.

    Example:
        >>> rows = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> safe_embedding_lookup_sparse(rows, tf.ragged.constant([[0, 1], [], [-1, 1]])).numpy().tolist()
        [[2.0, 3.0], [0.0, 0.0], [3.0, 4.0]]
    """
    table = resolve_params(embedding_weights)
    if not isinstance(table, Table):
        return tf.nn.safe_embedding_lookup_sparse(
            table, sparse_ids, sparse_weights, combiner, default_id, max_norm, name, allow_fast_lookup
        )
    kind = "mean" if combiner is None else combiner
    check_combiner(kind)
    if default_id is not None and not tf.is_tensor(default_id):
        check_integer("default_id", default_id, at_least=0, valid="None for zeros")
    with tf.name_scope(name or "safe_embedding_lookup_sparse"):
        bags = bags_of(sparse_ids, sparse_weights, "sparse_ids")
        # What tf.nn leaves out: negative ids, and weights that are not above 0 unless they are only added up.
        keep = bags.ids >= 0
        if bags.weights is not None and kind != "sum":
            keep &= bags.weights > 0
        bags = bags.select(keep)
        if default_id is not None:
            bags = bags.fill_empty(default_id)
        return shape_like(sparse_ids, pooled_rows_of(table, bags, kind, max_norm))
