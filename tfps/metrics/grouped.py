"""Metrics within groups of examples, such as the impressions of a user: `GroupAUC`, `PositiveNegativeRatio`."""

from typing import Any

import keras
import numpy as np

from tfps.checks import check_choice
from tfps.keras.features import check_by
from tfps.metrics.collecting import LIMIT, CollectingMetric
from tfps.metrics.examples import Examples
from tfps.metrics.pairs import Pairs, count_group_pairs

_WEIGHTINGS = ("examples", "positives", "groups")


@keras.saving.register_keras_serializable("tfps")
class GroupAUC(CollectingMetric):
    """The mean of the AUCs of groups, such as users: how well a model ranks what one user sees.

    GAUC = sum_g w_g AUC_g / sum_g w_g over the groups that have both classes. Ties count half.

    Memory: 20 bytes an example on the chief. Cost: 20 bytes an example in the results of closures, and a sort at the
    end of an epoch (0.25 s for a million examples). While an epoch runs, its logs have NaN.

    Source: G. Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018.

    Args:
        by: the input feature that groups the examples: a key of a dictionary of inputs, the name of a `keras.Input`, or
            the index of an input or column. Integers or strings.
        weighting: what w_g is: the weight of the "examples" of the group, as in the paper; of its "positives"; or 1 for
            all "groups".
        limit: the most examples of an epoch.
        name: the name of the metric.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    def __init__(self, by: str | int, weighting: str = "examples", limit: int = LIMIT, name: str = "group_auc") -> None:
        super().__init__(check_by("by", by), limit, name)
        self.weighting = check_choice("weighting", weighting, _WEIGHTINGS)

    def _compute(self, examples: Examples) -> float:
        found = count_group_pairs(examples)
        counted = found.pairs > 0
        aucs = (found.concordant + found.tied / 2)[counted] / found.pairs[counted]
        chosen = {"examples": found.weights, "positives": found.positives, "groups": np.ones_like(found.weights)}
        weights = chosen[self.weighting][counted]
        return float(np.sum(weights * aucs) / np.sum(weights)) if counted.any() else float("nan")

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {**super().get_config(), "weighting": self.weighting}


@keras.saving.register_keras_serializable("tfps")
class PositiveNegativeRatio(CollectingMetric):
    """Concordant over discordant pairs of a positive and a negative example of one group.

    A pair is concordant if its positive example has the higher score. A pair of equal scores counts half on both sides.
    Infinite if no pair is discordant or tied; NaN without pairs.

    Cost: see `GroupAUC`.

    Args:
        by: as of `GroupAUC`; None if all examples are one group.
        limit: the most examples of an epoch.
        name: the name of the metric.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    def __init__(self, by: str | int | None = None, limit: int = LIMIT, name: str = "positive_negative_ratio") -> None:
        super().__init__(by, limit, name)

    def _compute(self, examples: Examples) -> float:
        groups = count_group_pairs(examples)
        found = Pairs(*(float(np.sum(one)) for one in (groups.concordant, groups.pairs, groups.tied)))
        concordant = found.concordant + found.tied / 2
        discordant = found.pairs - concordant
        if not discordant:
            return float("inf") if concordant else float("nan")
        return concordant / discordant
