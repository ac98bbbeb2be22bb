"""Trains a window of word2vec in one op, in minibatches: the centers of a group share one context and its negatives."""

from collections.abc import Sequence

import tensorflow as tf

from tfps import step
from tfps.ops import library
from tfps.ops.row_rules import RowRule
from tfps.ops.train_groups_graph import train_groups_graph
from tfps.ops.train_pairs import check_pair_rule


def train_groups(
    rule: RowRule,
    rows: Sequence[tf.Tensor],
    centers: tf.Tensor,
    sizes: tf.Tensor,
    targets: tf.Tensor,
    hyper: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Trains groups of pairs one after the other, and the pairs of a group as one minibatch.

    All scores of a group are of the rows before it: products of matrices. Then each target is updated with the sum of
    its gradients over the centers, and each center with the sum over the targets. A row that a group names twice gets
    two updates, one after the other. tfps_ops/core/pair_trainer.h describes the order in detail.

    Args:
        rule: the optimizer, one of `PAIR_RULES`.
        rows: the rows of the table, then of each slot of the rule, float32 [M, dim] each.
        centers: the row of each center, int32 [p]; the centers of a group are next to each other.
        sizes: the number of centers of each group, int32 [n]. They come to p. A group of 0 moves no row.
        targets: the rows of the targets, int32 [n, width]. The first of a group is positive, the others negative.
        hyper: the rule's hyperparameters in order, then the decay, float32 [h + 1].

    Returns:
        (deltas, loss): what training adds to each matrix of `rows`, and the sum of the losses of all targets of all
        centers, float64.

    Raises:
        ConfigError: the number of matrices does not fit the rule.
        UnsupportedError: the rule is not one of `PAIR_RULES`.
        tf.errors.InvalidArgumentError: a row is not below M, the sizes do not come to p, or the shapes do not fit.

    Source:
        Ji, Satish, Li and Dubey 2016, Parallelizing Word2Vec in Shared and Distributed Memory, section 3.
    """
    check_pair_rule(rule, rows)
    ops = library.load()
    if ops is None:
        return train_groups_graph(rule, rows, centers, sizes, targets, hyper)
    with step.on_host():
        trained = ops.tfps_train_groups(
            rows=list(rows), centers=centers, sizes=sizes, targets=targets, hyperparameters=hyper, rule=rule.name
        )
    return list(trained.deltas), trained.loss
