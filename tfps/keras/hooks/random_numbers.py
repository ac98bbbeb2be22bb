"""Hooks into random numbers: every step draws new ones, and no two workers draw the same.

Threading: every thread that traces a step.
"""

from tensorflow.python.framework import random_seed  # the seeds of operations are not public

from tfps.keras import seeds
from tfps.keras._compat import global_generator, in_stateless_scope, keras, seed_generator
from tfps.keras.hooks import replacing
from tfps.keras.variables import current_strategy


def install() -> None:
    """Installs the hooks."""
    in_step = lambda *args, **kwargs: seeds.draws_in_step() and not in_stateless_scope()  # noqa: E731
    replacing.replace(keras.random.SeedGenerator, "next", seeds.next_seed, in_step)
    in_scope = lambda *args: current_strategy() is not None or seeds.is_stranded(global_generator())  # noqa: E731
    replacing.replace(seed_generator, "global_seed_generator", seeds.global_seed_generator, in_scope)
    replacing.replace(random_seed, "get_seed", seeds.op_seeds, lambda *args: seeds.draws_in_step())
