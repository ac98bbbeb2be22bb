"""Chooses the strategy for a model: what the model needs, what there is, what each strategy costs, and the decision.

`step_graph` and `found` alone know TensorFlow. All else is arithmetic on values.
"""

from tfps.choice.explanation import Candidate, Explanation
from tfps.choice.footprint import Footprint, StepCounts
from tfps.choice.hardware import Hardware

__all__ = ["Candidate", "Explanation", "Hardware", "Footprint", "StepCounts"]
