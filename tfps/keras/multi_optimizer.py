"""Splits a `keras.optimizers.MultiOptimizer` into its parts and finds the part that updates a variable.

A MultiOptimizer (Keras 3.15) holds several optimizers and assigns each variable to one of them. Each part is a plain
optimizer with its own rule, slots and step count. The mode (asynchronous, GEO or synchronous) belongs to the whole.
Older versions of Keras lack the class. An optimizer of any other class is its own only part.

A `LossScaleOptimizer`, which Keras wraps around an optimizer under the policy "mixed_float16", has the parts of the
optimizer in it.
"""

import weakref

import keras

MULTI_KINDS: tuple[type, ...] = tuple(filter(None, [getattr(keras.optimizers, "MultiOptimizer", None)]))
"""The optimizer classes that consist of other optimizers: none before Keras 3.15."""

_WHOLES: "weakref.WeakKeyDictionary[keras.Optimizer, weakref.ref[keras.Optimizer]]" = weakref.WeakKeyDictionary()
"""The MultiOptimizer of each part. No attribute of the part: Keras saves and loads what those refer to."""


def unscaled(optimizer: keras.Optimizer) -> keras.Optimizer:
    """Returns the optimizer in a LossScaleOptimizer; any other optimizer as it is."""
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def is_multi(optimizer: keras.Optimizer) -> bool:
    """Whether an optimizer consists of other optimizers."""
    return isinstance(optimizer, MULTI_KINDS)


def parts_of(optimizer: keras.Optimizer) -> list[keras.Optimizer]:
    """Returns the current parts of a MultiOptimizer; for any other optimizer, the optimizer itself.

    A MultiOptimizer that assigns variables by a function finds its parts only when it is built.
    """
    optimizer = unscaled(optimizer)
    if not is_multi(optimizer):
        return [optimizer]
    for part in optimizer.optimizers:
        _WHOLES[part] = weakref.ref(optimizer)
    return list(optimizer.optimizers)


def part_for(optimizer: keras.Optimizer, variable: keras.Variable) -> keras.Optimizer:
    """Returns the optimizer that updates a variable.

    Args:
        optimizer: any optimizer. If it is not built yet, `variable` must be a Keras variable.
        variable: a Keras variable, or the table or variable that it holds.
    """
    optimizer = unscaled(optimizer)
    if not is_multi(optimizer):
        return optimizer
    parts = parts_of(optimizer)
    if optimizer.built:
        return parts[optimizer._var_to_optimizer_idx[optimizer._var_key(variable)]]
    # Before it is built there is no index yet, so the user's map decides. It reads the path of a Keras variable.
    return optimizer._optimizer_map(variable)


def whole_of(part: keras.Optimizer) -> keras.Optimizer:
    """Returns the MultiOptimizer that an optimizer is a part of; the optimizer itself if there is none."""
    whole = _WHOLES[part]() if part in _WHOLES else None
    return part if whole is None else whole
