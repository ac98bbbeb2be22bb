"""Calls functions of tfps on all workers of a strategy between two steps, and in this process.

Threading: the main thread.
"""

import contextlib
import functools
import json
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.cluster import worker_functions
from tfps.runtime.losses import WorkerLostError
from tfps.strategy.strategy import ParameterServerStrategy


def call_all(strategy: ParameterServerStrategy | None, module: str, name: str, inputs: Sequence[Any]) -> list[Any]:
    """Calls a function that returns JSON; returns what it has returned on this process and on each worker.

    Args:
        strategy: the strategy whose workers are called; None for this process alone.
        module: the module of the function.
        name: its name in `WORKER_FUNCTIONS`.
        inputs: its arguments.
    """
    call = functools.partial(_call, module, name, inputs)
    # Steps that run eagerly run in this process, as do those of a model without a strategy.
    found = [call()]
    hosts = set() if strategy is None else {strategy.host_of(shard) for shard in range(strategy.num_workers)}
    for worker in sorted(hosts):
        assert strategy is not None
        # A worker that is lost has nothing to tell.
        with contextlib.suppress(WorkerLostError):
            found.append(strategy.pool.call(worker, call))
    return [_decode(one) for one in found]


def _call(module: str, name: str, inputs: Sequence[Any]) -> tf.Tensor:
    # The tensors are made on the worker, in the thread that calls it.
    (found,) = worker_functions.call(module, name, [tf.constant(one) for one in inputs], [tf.string])
    return found


def _decode(found: Any) -> Any:
    plain = found.numpy() if hasattr(found, "numpy") else found
    return json.loads(plain.item() if hasattr(plain, "item") else plain)
