"""Metrics for ranking and click prediction: exact over any number of workers, and without one.

Example::

    model.compile("adagrad", "binary_crossentropy", metrics=[tfps.metrics.AUC(), tfps.metrics.GroupAUC(by="user")])
"""

from tfps.metrics.auc import AUC, ExactAUC
from tfps.metrics.grouped import GroupAUC, PositiveNegativeRatio
from tfps.metrics.probabilities import Calibration, LogLoss, NormalizedEntropy
from tfps.metrics.progressive import Progressive
from tfps.metrics.ranking import NDCG, MeanReciprocalRank, RecallAtK
from tfps.metrics.sliced import Sliced

__all__ = [
    "AUC",
    "NDCG",
    "Calibration",
    "ExactAUC",
    "GroupAUC",
    "LogLoss",
    "MeanReciprocalRank",
    "NormalizedEntropy",
    "PositiveNegativeRatio",
    "Progressive",
    "RecallAtK",
    "Sliced",
]
