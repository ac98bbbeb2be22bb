"""Trains a window of word2vec in one op: pairs of rows with a logistic loss, each with its own negatives."""

from collections.abc import Sequence

import tensorflow as tf

from tfps import step
from tfps.errors import ConfigError, UnsupportedError
from tfps.ops import library
from tfps.ops.row_rules import RowRule
from tfps.ops.train_pairs_graph import train_pairs_graph

PAIR_RULES = ("sgd", "adagrad")
"""Names of the rules that can train pairs one after the other."""


def train_pairs(
    rule: RowRule, rows: Sequence[tf.Tensor], centers: tf.Tensor, targets: tf.Tensor, hyper: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Trains pairs one after the other, as word2vec does.

    A pair is a center and its targets. For each target, with the rows c of the center and t of the target, the slope of
    the logistic loss of c * t is added to the center's gradient, and t is updated at once. The center is updated after
    its last target. tfps_ops/core/pair_trainer.h describes the order in detail.

    Args:
        rule: the optimizer, one of `PAIR_RULES`.
        rows: the rows of the table, then of each slot of the rule, float32 [M, dim] each.
        centers: the row of each center, int32 [n].
        targets: the rows of the targets, int32 [n, width]. The first target of a pair is positive, the others negative.
        hyper: the rule's hyperparameters in order, then the decay, float32 [h + 1].

    Returns:
        (deltas, loss): what training adds to each matrix of `rows`, and the sum of the losses of all targets, float64.

    Raises:
        ConfigError: the number of matrices does not fit the rule.
        UnsupportedError: the rule is not one of `PAIR_RULES`.
        tf.errors.InvalidArgumentError: a row is not below M, or the shapes do not fit.
    """
    check_pair_rule(rule, rows)
    ops = library.load()
    if ops is None:
        return train_pairs_graph(rule, rows, centers, targets, hyper)
    with step.on_host():
        trained = ops.tfps_train_pairs(
            rows=list(rows), centers=centers, targets=targets, hyperparameters=hyper, rule=rule.name
        )
    return list(trained.deltas), trained.loss


def check_pair_rule(rule: RowRule, rows: Sequence[tf.Tensor]) -> None:
    """Refuses a rule that cannot train pairs, and matrices that do not fit it.

    Raises:
        ConfigError: the number of matrices is not that of the rows and the slots of the rule.
        UnsupportedError: the rule is not one of `PAIR_RULES`.
    """
    # The C++ loop over pairs supports neither slots with one number per row nor rules with their own `Prepare`.
    if rule.name not in PAIR_RULES:
        raise UnsupportedError(
            f"`rule` must be one by which pairs are trained. Received: {rule.name!r}. Valid: {PAIR_RULES}."
        )
    if len(rows) != 1 + len(rule.slots):
        raise ConfigError(f"`rows` must be the rows and the slots {rule.slot_names}. Received: {len(rows)} matrices.")
