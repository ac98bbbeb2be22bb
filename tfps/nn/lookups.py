"""The lookups of `tf.nn`, with the same arguments and results, for tables on parameter servers.

If `params` is not a table, the call goes to `tf.nn` itself, so the same code runs with and without a strategy. Only the
requested rows of a table cross: the worker deduplicates the ids, the servers gather the rows, and the worker combines
them.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfps.checks import check_integer
from tfps.embedding.table import Table
from tfps.nn.bags import Ids, make_bags, shape_like
from tfps.nn.rows import Params, look_up_rows, pool_rows, resolve_params
from tfps.ops.combine_rows import check_combiner


def embedding_lookup(
    params: Params | Sequence[Params],
    ids: tf.Tensor | tf.RaggedTensor,
    max_norm: float | tf.Tensor | None = None,
    name: str | None = None,
) -> tf.Tensor | tf.RaggedTensor:
    """Looks up rows by id; see `tf.nn.embedding_lookup`.

    Args:
        params: the `embeddings` of a Keras layer, or the table that it holds. A `tf.Variable` or tensor [rows, dim], or
            a list of its parts, goes to `tf.nn`.
        ids: int32 or int64 ids of any shape, dense or ragged; 0 <= id < rows.
        max_norm: the largest l2 norm of a row; longer rows are scaled down to it. None for no limit.
        name: the name scope of the operations.

    Returns:
        The rows, of shape `ids.shape + [dim]`; ragged if `ids` are ragged.

    Raises:
        TypeError: `ids` are not integers.
        UnsupportedError: `params` lists several tables.
        IdRangeError: an id is out of range, which shows when the lookup runs. The error has the table, the layer, the
            id, the number of rows and the place of the id.

    Example:
        >>> rows = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> embedding_lookup(rows, [1, 1, 0]).numpy().tolist()
        [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]
    """
    table = resolve_params(params)
    if not isinstance(table, Table):
        return tf.nn.embedding_lookup(table, ids, max_norm, name)
    with tf.name_scope(name or "embedding_lookup"):
        # A ragged lookup needs only the flat ids; the row lengths stay on the worker.
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(look_up_rows(table, ids.flat_values, max_norm))
        return look_up_rows(table, tf.convert_to_tensor(ids), max_norm)


def embedding_lookup_sparse(
    params: Params | Sequence[Params],
    sp_ids: Ids,
    sp_weights: Ids | None,
    combiner: str | None = None,
    max_norm: float | tf.Tensor | None = None,
    name: str | None = None,
    allow_fast_lookup: bool = False,
) -> tf.Tensor:
    """Looks up rows and pools them bag by bag; see `tf.nn.embedding_lookup_sparse`.

    A bag without ids gives zeros, but the result ends at the last bag that has an id. `safe_embedding_lookup_sparse`
    returns all bags.

    Args:
        params: as for `embedding_lookup`.
        sp_ids: int32 or int64 ids, [bags, ids of a bag]: a `tf.SparseTensor` in row-major order or a `tf.RaggedTensor`.
        sp_weights: the same kind of tensor with a float weight for each id; None if all weights are 1.
        combiner: "sum" for the weighted sum; "mean" (also for None) to divide it by the sum of the weights; "sqrtn" to
            divide it by the l2 norm of the weights.
        max_norm: the largest l2 norm of a row; longer rows are scaled down to it before pooling. None for no limit.
        name: the name scope of the operations.
        allow_fast_lookup: an option of `tf.nn`; tables ignore it.

    Returns:
        The pooled rows, [bags, dim].

    Raises:
        ConfigError: `combiner` is not a combiner. This error is also a `ValueError`.
        TypeError: ids or weights have an unsupported type.
        ValueError: ids and weights differ in shape.
        UnsupportedError: `params` lists several tables.
        IdRangeError: as for `embedding_lookup`.

    Example:
        >>> rows = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> embedding_lookup_sparse(rows, tf.ragged.constant([[0, 1], [1]]), None, "sum").numpy().tolist()
        [[4.0, 6.0], [3.0, 4.0]]
    """
    table = resolve_params(params)
    if not isinstance(table, Table):
        return tf.nn.embedding_lookup_sparse(table, sp_ids, sp_weights, combiner, max_norm, name, allow_fast_lookup)
    # `tf.nn` also takes None for "mean", with a warning that the default may change.
    combiner = "mean" if combiner is None else combiner
    check_combiner(combiner)
    with tf.name_scope(name or "embedding_lookup_sparse"):
        bags = make_bags(sp_ids, sp_weights, "sp_ids")
        return pool_rows(table, bags.without_empty_end(), combiner, max_norm)


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
    """Looks up rows and pools them bag by bag, with empty bags and negative ids.

    See `tf.nn.safe_embedding_lookup_sparse`. The lookup drops negative ids. Unless the combiner is "sum", it also drops
    ids whose weight is not above 0. A bag without remaining ids gives the row of `default_id`, or zeros.

    Args:
        embedding_weights: as `params` for `embedding_lookup`.
        sparse_ids: int32 or int64 ids: a `tf.SparseTensor` of any rank in row-major order, whose last dimension is the
            ids of a bag, or a `tf.RaggedTensor` [bags, ids of a bag].
        sparse_weights: the same kind of tensor with a float weight for each id; None if all weights are 1.
        combiner: as for `embedding_lookup_sparse`.
        default_id: the id that an empty bag looks up; None for a row of zeros.
        max_norm: the largest l2 norm of a row; longer rows are scaled down to it before pooling. None for no limit.
        name: the name scope of the operations.
        allow_fast_lookup: an option of `tf.nn`; tables ignore it.

    Returns:
        The pooled rows, of shape `sparse_ids.shape[:-1] + [dim]`.

    Raises:
        ConfigError: `combiner` is not a combiner. This error is also a `ValueError`.
        TypeError: ids or weights have an unsupported type.
        ValueError: ids and weights differ in shape.
        UnsupportedError: `embedding_weights` lists several tables.
        IdRangeError: as for `embedding_lookup`, but only for ids that are too large.

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
        bags = make_bags(sparse_ids, sparse_weights, "sparse_ids")
        # The same ids that `tf.nn` drops. "sum" keeps weights of 0 and below, because it does not divide by them.
        keep = bags.ids >= 0
        if bags.weights is not None and kind != "sum":
            keep &= bags.weights > 0
        bags = bags.select(keep)
        if default_id is not None:
            bags = bags.fill_empty(default_id)
        return shape_like(sparse_ids, pool_rows(table, bags, kind, max_norm))
