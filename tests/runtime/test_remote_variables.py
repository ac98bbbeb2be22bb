"""Variables on other tasks that have an owner: made, made again where a task lost them, destroyed with their owner."""

import gc
import time

import numpy as np
import pytest
import tensorflow as tf

from tfps.cluster import devices
from tfps.runtime.remote_variables import RemoteVariable


class Owner:
    """Owns remote variables."""


DEVICES = [devices.server(0), devices.server(1), devices.Worker(0).compute_device, devices.Worker(1).compute_device]


def read(variable):
    with tf.device(variable.device):
        return tf.raw_ops.ReadVariableOp(resource=variable.handle(), dtype=tf.float32).numpy()


def gone(variable):
    with tf.device(variable.device):
        return not tf.raw_ops.VarIsInitializedOp(resource=variable.handle())


def wait_until_gone(variables):
    deadline = time.monotonic() + 60
    while not all(gone(variable) for variable in variables):
        assert time.monotonic() < deadline, [variable for variable in variables if not gone(variable)]
        time.sleep(0.05)


@pytest.fixture
def owner(strategy):
    owner = Owner()
    owner.variables = strategy.remote_variables.make_owned(owner)
    return owner


@pytest.fixture
def variables(owner, request):
    made = [RemoteVariable(device, f"tfps_test_{request.node.name}") for device in DEVICES]
    for number, variable in enumerate(made):
        owner.variables.make(variable, lambda number=number: tf.fill([3], float(number)))
    return made


def test_they_are_made_where_they_belong(variables):
    for number, variable in enumerate(variables):
        np.testing.assert_array_equal(read(variable), np.full(3, number))


def test_they_are_made_again_on_a_task_that_was_replaced(owner, variables):
    """A process in the place of a dead one has none of its variables."""
    for variable in variables:
        variable.destroy()
    owner.variables.remake(DEVICES[1])
    np.testing.assert_array_equal(read(variables[1]), np.full(3, 1.0))
    assert [gone(variable) for variable in variables] == [True, False, True, True]


def test_they_are_destroyed_when_told(owner, variables):
    owner.variables.destroy()
    wait_until_gone(variables)
    owner.variables.remake(DEVICES[0])
    assert gone(variables[0])  # it owns nothing now


def test_they_are_destroyed_when_their_owner_is_collected(strategy):
    """Nothing else has to happen: no other `fit`, no other model."""
    owner = Owner()
    owned = strategy.remote_variables.make_owned(owner)
    variables = [RemoteVariable(device, "tfps_test_collected") for device in DEVICES]
    for variable in variables:
        owned.make(variable, lambda: tf.zeros([2]))
    assert not any(gone(variable) for variable in variables)
    owner.itself = owner  # found by the garbage collector alone
    del owner
    gc.collect()
    wait_until_gone(variables)


def test_names_of_a_graph_and_of_its_loops_are_owned(owner):
    def assign(name):
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name=name)
        tf.raw_ops.AssignVariableOp(resource=handle, value=1.0)

    @tf.function(autograph=False)
    def closure():
        assign("tfps_test_outside")
        assign("of_the_user")
        with tf.device(DEVICES[1]):
            assign("tfps_test_on_a_server")

        def body(i):
            assign("tfps_test_in_a_loop")
            return i + 1

        return tf.while_loop(lambda i: i < 2, body, [0])

    with tf.device(DEVICES[2]):
        graph = closure.get_concrete_function().graph
    owner.variables.add_graph(graph)
    on_workers = {(device, name) for device in DEVICES[2:] for name in ("tfps_test_outside", "tfps_test_in_a_loop")}
    found = {(variable.device, variable.name) for variable in owner.variables}
    assert found == on_workers | {(DEVICES[1], "tfps_test_on_a_server")}
