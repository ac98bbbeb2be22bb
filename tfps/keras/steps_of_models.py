"""Finds the steps that workers have under way for a model."""

import weakref

import keras

from tfps.keras.functions import StepFunction
from tfps.runtime.steps_under_way import StepsUnderWay

_STEPS: "weakref.WeakKeyDictionary[keras.Model, StepsUnderWay]" = weakref.WeakKeyDictionary()
"""The steps under way of each model of our strategy. An entry is made the first time something waits for them."""


def steps_of(model: keras.Model) -> StepsUnderWay:
    """Returns the steps that workers have under way for a model of our strategy."""
    if model not in _STEPS:
        # The value of a WeakKeyDictionary must not refer to its key, or the model would never be freed.
        reference = weakref.ref(model)

        def function_of(kind: str) -> StepFunction | None:
            function = getattr(reference(), kind, None)
            return function if isinstance(function, StepFunction) else None

        _STEPS[model] = StepsUnderWay(function_of, model._distribute_strategy.closure_timeout_s)
    return _STEPS[model]
