"""Hand-written loops: `strategy.run` inside a function that a `ClusterCoordinator` schedules.

Each call of the function is a closure of one step, traced by the user's `tf.function`.
Cost: dense variables cross in both directions in every step.
"""

import contextlib
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx  # whether AutoGraph is on is not public

from tfps import step
from tfps.embedding import row_use, wire
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.closure import Copies
from tfps.training.device_steps import DeviceCopies, run_on_devices
from tfps.training.exchange import Exchange
from tfps.training.hoisting import Recording
from tfps.training.step_lookups import DeviceLookups, DirectLookups
from tfps.types import Nest

_NUMBERED: "weakref.WeakSet[ParameterServerStrategy]" = weakref.WeakSet()
"""The strategies whose workers know their numbers."""

_OWNERS = itertools.count()


def run_in_step(strategy: ParameterServerStrategy, function: Callable[..., Nest]) -> Callable[..., Nest]:
    """Wraps `function` as one step on the worker's copies of dense variables, which it pulls before and pushes after.

    Metric state stays on the chief and is updated there.
    """
    _number_workers(strategy)
    autograph = ag_ctx.control_status_ctx().status

    # TensorFlow has converted the user's function. AutoGraph cannot convert this one, and would say so in a warning.
    @tf.autograph.experimental.do_not_convert
    def run_function(*args: Any, **kwargs: Any) -> Nest:
        if tf.executing_eagerly():
            return run_eagerly(function, *args, **kwargs)
        copies: Copies = {}
        # None for the recording. There is one step, so what it assigns is known when its deltas are pushed.
        exchange: Exchange | None = None

        # The batch of a hand-written loop is not divided: its caller expects one result.
        devices = strategy.step_devices[:1]
        device_copies: DeviceCopies | None = None

        def call(batch: Nest) -> Nest:
            args_now, kwargs_now = batch or (args, kwargs)
            # AutoGraph is off here, but not for what the user's function calls.
            with ag_ctx.ControlStatusCtx(autograph):
                return function(*args_now, **kwargs_now)

        def run(lookups: DirectLookups, batch: Nest) -> Nest:
            # The recording and the real trace share this dictionary, and it is filled in between. It is empty for the
            # recording, which then reads the variables of the servers in a graph that never runs.
            assignments = None if exchange is None else exchange.assignments
            home = step.Step(lookups, copies, by_hand=True, assignments=assignments)
            if device_copies is not None and isinstance(lookups, DeviceLookups):
                of_devices, _ = run_on_devices(
                    home, lookups.of_devices, device_copies, batch, call, contextlib.nullcontext
                )
                return of_devices[0]
            with step.tracing(home):
                return call(batch)

        # Arguments that are no tensors are part of the function.
        batch: Nest = (args, kwargs)
        if not all(isinstance(leaf, tf.Tensor) for leaf in tf.nest.flatten(batch, expand_composites=True)):
            batch = ()
        # The recording comes first: the optimizer may create its variables in it, and the exchange needs all of them.
        recording = Recording(run, batch, devices=len(devices))
        # Each worker draws its own random numbers.
        exchange = Exchange(strategy.dense_variables, workers=strategy.num_workers, draws=_worker_number())
        owner = f"by_hand_{next(_OWNERS)}"
        with row_use.training(True), wire.using(strategy.wire, owner):
            exchange.pull()
            copies.update(exchange.copies)
            if devices:
                device_copies = DeviceCopies(devices, copies, strategy.dense_variables)
            result = run(recording.lookups(batch), batch)
            exchange.push()
        _own_errors(strategy, owner)
        return result

    return run_function


def _own_errors(strategy: ParameterServerStrategy, owner: str) -> None:
    """Lets what the graph under trace keeps on workers for its pushes (`tfps.embedding.wire`) end with the function."""
    graph = tf.compat.v1.get_default_graph()
    function = graph
    # The step may be in a loop or a branch, whose graph may be collected before that of the function.
    while isinstance(outer := getattr(function, "outer_graph", None), tf.__internal__.FuncGraph):
        function = outer
    strategy.remote_variables.make_owned(function).add_graph(graph, wire.prefix_of(owner))


def run_eagerly(function: Callable[..., Nest], *args: Any, **kwargs: Any) -> Nest:
    """Runs a function as an eager step: at once, on the variables and rows of the servers."""
    with step.tracing(step.Step(DirectLookups(), {}, by_hand=True, eager=True)), row_use.training(True):
        return function(*args, **kwargs)


def _number_workers(strategy: ParameterServerStrategy) -> None:
    """Tells each worker its number, once for each strategy."""
    # The coordinator runs one graph on all workers, so the graph finds the number by a name on its worker.
    if strategy not in _NUMBERED:
        _NUMBERED.add(strategy)
        with tf.init_scope():
            for worker, device in enumerate(strategy.worker_devices):
                with tf.device(device):
                    tf.raw_ops.AssignVariableOp(resource=_number_handle(), value=tf.constant(worker, tf.int64))


def _worker_number() -> tf.Tensor:
    """Returns the number of the worker that runs the step, int64; 0 on a worker that was replaced."""
    return tf.cond(
        tf.raw_ops.VarIsInitializedOp(resource=_number_handle()),
        lambda: tf.raw_ops.ReadVariableOp(resource=_number_handle(), dtype=tf.int64),
        lambda: tf.zeros([], tf.int64),
    )


def _number_handle() -> tf.Tensor:
    return tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[], shared_name="tfps_worker_number")
