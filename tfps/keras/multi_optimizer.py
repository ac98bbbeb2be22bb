"""`keras.optimizers.MultiOptimizer` taken apart: each variable is updated by the optimizer that it belongs to.

Keras 3.15 has an optimizer that holds several others and gives each variable to one of them. Its parts are plain
optimizers, so everything that holds for one of these holds for a part: its rule, its slots, its number of steps. The
whole has the mode (asynchronous, GEO or synchronous). Older versions of Keras have no such class, and there every
optimizer is its own only part.
"""

import keras

MULTI_KINDS: tuple[type, ...] = tuple(filter(None, [getattr(keras.optimizers, "MultiOptimizer", None)]))
"""The classes of optimizers that consist of others: none before Keras 3.15."""


def is_multi(optimizer: keras.Optimizer) -> bool:
    """Whether an optimizer consists of others."""
    return isinstance(optimizer, MULTI_KINDS)


def parts_of(optimizer: keras.Optimizer) -> list[keras.Optimizer]:
    """The optimizers that update variables: those that a MultiOptimizer holds so far, or the optimizer itself.

    A MultiOptimizer that is made with a function learns of its parts when it is built.
    """
    if not is_multi(optimizer):
        return [optimizer]
    for part in optimizer.optimizers:
        # Past Keras, which would track the whole as a child of its part.
        object.__setattr__(part, "_tfps_whole", optimizer)
    return list(optimizer.optimizers)


def part_for(optimizer: keras.Optimizer, variable: keras.Variable) -> keras.Optimizer:
    """The optimizer that updates a variable.

    Args:
        optimizer: built; or not yet, if `variable` is a Keras variable.
        variable: a Keras variable or what it holds.
    """
    if not is_multi(optimizer):
        return optimizer
    parts = parts_of(optimizer)
    if optimizer.built:
        return parts[optimizer._var_to_optimizer_idx[optimizer._var_key(variable)]]
    return optimizer._optimizer_map(variable)


def whole_of(part: keras.Optimizer) -> keras.Optimizer:
    """The MultiOptimizer that an optimizer is a part of; the optimizer itself where there is none."""
    return getattr(part, "_tfps_whole", part)
