"""The update of a global step: each server merges what waits there, then the optimizer runs where the variables are."""

from typing import Any

import tensorflow as tf

from tfps import step
from tfps.cluster import devices
from tfps.strategy.variables import DenseVariable
from tfps.training.hoisting import DirectLookups
from tfps.training.synchronous.layout import Layout, Received
from tfps.training.synchronous.stage import Stage


def update(layout: Layout, stage: Stage, merged: Any) -> None:
    """Traces the update; run on any server, its parts go to all.

    Args:
        layout: of the messages.
        stage: where they wait.
        merged: for each place whether its message is part of this update, bool [places].
    """
    received = {server: _received(layout, stage, merged, server) for server in layout.servers}
    with step.tracing(step.Step(DirectLookups(), {})):
        layout.update(received)
    for server, one in received.items():
        with tf.device(devices.server(server)):
            for variable, moved in one.moved:
                _move(variable, moved, one.examples)


def _received(layout: Layout, stage: Stage, merged: Any, server: int) -> Received:
    with tf.device(devices.server(server)):
        nothing = tf.constant(layout.nothing(server))
        there = tf.unstack(tf.identity(merged), num=stage.places)
        messages = [stage.take(server, place, is_there, nothing) for place, is_there in enumerate(there)]
        return layout.read(server, messages)


def _move(variable: DenseVariable, moved: Any, examples: Any) -> None:
    """Adds a mean of what workers moved a variable by; counters count in whole steps, a bool is what most made it."""
    if variable.dtype == tf.bool:
        before = tf.raw_ops.ReadVariableOp(resource=variable.home_handle, dtype=tf.bool)
        value = tf.where(examples > 0.0, moved > 0.5, before)
        tf.raw_ops.AssignVariableOp(resource=variable.home_handle, value=value)
    else:
        moved = moved if variable.dtype.is_floating else tf.round(moved)
        value = tf.cast(moved, variable.dtype)
        tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=value)
