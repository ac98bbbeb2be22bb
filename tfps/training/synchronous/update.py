"""The update of a global step: each server merges its contributions, then the optimizer updates the variables there."""

import tensorflow as tf

from tfps import step
from tfps.cluster import devices
from tfps.stages import PUSH, in_stage
from tfps.strategy.variables import DenseVariable
from tfps.training.exchange import extreme
from tfps.training.merges import EXTREMES, Merge
from tfps.training.step_lookups import DirectLookups
from tfps.training.synchronous.layout import Layout, Received
from tfps.training.synchronous.stage import Stage


@in_stage(PUSH)
def update(layout: Layout, stage: Stage, merged: tf.Tensor) -> None:
    """Traces the update. Any server can run it, and sends the other servers their parts.

    Args:
        layout: the layout of the messages.
        stage: the stage where the messages wait.
        merged: whether the message in each place is part of this update, bool [places].
    """
    received = {server: _receive(layout, stage, merged, server) for server in layout.servers}
    # First what the steps moved by themselves: they computed their gradients after that.
    for server, one in received.items():
        with tf.device(devices.server(server)):
            for variable, moved in one.moved:
                _move(variable, moved, one.examples, layout.merges.get(variable.key, Merge.MEAN))
    # A step without copies: the variables are those on the servers, and the optimizer updates them there.
    with step.tracing(step.Step(DirectLookups(), {})):
        layout.update(received)
    for assignment in layout.afterwards:
        assignment.replay()


def _receive(layout: Layout, stage: Stage, merged: tf.Tensor, server: int) -> Received:
    with tf.device(devices.server(server)):
        nothing = tf.constant(layout.empty_message(server))
        # A place that is not merged counts as a message without examples, so one graph serves all sets of places.
        there = tf.unstack(tf.identity(merged), num=stage.places)
        messages = [stage.take(server, place, is_there, nothing) for place, is_there in enumerate(there)]
        return layout.read(server, messages)


def _move(variable: DenseVariable, moved: tf.Tensor, examples: tf.Tensor, merge: Merge) -> None:
    """Adds the workers' merged delta to a variable; counters are rounded, a bool gets the value of most workers."""
    if merge in EXTREMES or variable.dtype == tf.bool:
        before = tf.raw_ops.ReadVariableOp(resource=variable.home_handle, dtype=variable.dtype)
        value = extreme(EXTREMES[merge], before, moved) if merge in EXTREMES else moved > 0.5
        # A step without examples moves nothing.
        value = tf.where(examples > 0.0, value, before)
        tf.raw_ops.AssignVariableOp(resource=variable.home_handle, value=value)
    else:
        moved = moved if variable.dtype.is_floating else tf.round(moved)
        value = tf.cast(moved, variable.dtype)
        tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=value)
