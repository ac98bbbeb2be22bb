"""A window of word2vec and its kin in one op: pairs of rows, a logistic loss, and negatives of their own."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.errors import ConfigError, UnsupportedError
from tfps.ops import library
from tfps.ops.row_rules import RowRule
from tfps.ops.train_pairs_graph import train_pairs_graph

PAIR_RULES = ("sgd", "adagrad")
"""Names of the rules by which pairs can be trained one after the other."""


def train_pairs(
    rule: RowRule, rows: Sequence[tf.Tensor], centers: tf.Tensor, targets: tf.Tensor, hyper: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Trains pairs one after the other, as word2vec does; tfps_ops/core/pair_trainer.h has the order of the updates.

    For each pair, with the row c of its center: for each of its targets, with the row t, the slope of the logistic loss
    of c * t goes into the center's gradient, and t is updated at once; then the center is.

    Args:
        rule: of `PAIR_RULES`.
        rows: the rows and as many slots as the rule has, float32 [M, dim] each.
        centers: int32 [n], rows.
        targets: int32 [n, width], rows; the first of a pair is its positive one, the others are negative.
        hyper: the rule's hyperparameters in order and last the decay, float32 [h + 1].

    Returns:
        (deltas, loss): what training adds to each of `rows`; and the sum of the losses of all targets, float64.

    Raises:
        ConfigError: there are not as many matrices as the rule wants.
        UnsupportedError: the rule is another.
        tf.errors.InvalidArgumentError: a row is not below M, or the shapes do not fit.
    """
    if rule.name not in PAIR_RULES:
        # A rule with a Prepare of its own or with row slots would need more than the pairs' loop gives it.
        raise UnsupportedError(
            f"`rule` must be one by which pairs are trained. Received: {rule.name!r}. Valid: {PAIR_RULES}."
        )
    if len(rows) != 1 + len(rule.slots):
        raise ConfigError(f"`rows` must be the rows and the slots {rule.slot_names}. Received: {len(rows)} matrices.")
    ops = library.load()
    if ops is None:
        return train_pairs_graph(rule, rows, centers, targets, hyper)
    trained = ops.tfps_train_pairs(
        rows=list(rows), centers=centers, targets=targets, hyperparameters=hyper, rule=rule.name
    )
    return list(trained.deltas), trained.loss
