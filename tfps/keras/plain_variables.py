"""Refuses steps whose workers would overwrite each other's assignments to a plain variable.

A step moves its own copies of variables that were made in the scope by Keras, and their changes are merged. It has no
copy of a plain `tf.Variable`, nor of a variable that was made outside the scope and that the model does not know: all
workers read and write the one value there is. Adding to it and setting it are safe. `v.assign(0.9 * v + x)` is not: two
workers may both read the value before either writes it.
"""

from collections.abc import Iterable, Iterator

import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras._compat import Variable
from tfps.runtime.remote_variables import operations_of
from tfps.strategy.variables import StepVariable
from tfps.training.affine import Dependencies, is_symbolic, outermost

_CALLS = frozenset({"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}) | frozenset(
    {"PartitionedCall", "StatefulPartitionedCall"}
)
"""The operations that run functions: branches, loops and calls."""

_ASSIGNMENTS = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp")

_VALID = "Valid: a Keras variable, layer or metric that is made in the scope, such as `keras.Variable`"


def check_trained(variables: Iterable[Variable | tf.Variable]) -> None:
    """Refuses an optimizer of a step that would train variables of which the worker has no copy.

    Raises:
        UnsupportedError: a variable was made outside the scope, or is a plain one.
    """
    current = step.current()
    if current is None or current.by_hand or current.eager:
        return
    for variable in variables:
        value = variable._value if isinstance(variable, Variable) else variable
        if not isinstance(value, StepVariable | Table):
            raise UnsupportedError(
                f"variable {variable.name!r}, which a step trains, must be made in `strategy.scope()`, or belong to a "
                f"layer of the model. Received: a {type(value).__name__} made outside. {_VALID}."
            )


def check_assigned(begin: int, workers: int, devices: int = 1) -> None:
    """Refuses a traced step that computes the new value of a plain variable from its old one.

    Args:
        begin: the number of operations that the graph had before the step.
        workers: the number of workers that run the step.
        devices: the number of devices that share a batch. Several of them may not assign a plain variable at all.

    Raises:
        UnsupportedError: several workers or devices would overwrite each other's assignments. The message names the
            variable.
    """
    # Steps that follow one another overwrite nothing.
    if workers == 1 and devices == 1:
        return
    graph = tf.compat.v1.get_default_graph()
    known: Dependencies | None = None
    for operation in _operations_since(graph, begin):
        if operation.type not in _ASSIGNMENTS:
            continue
        handle = outermost(operation.inputs[0])
        # The handle of a copy is an operation of the graph.
        if is_symbolic(handle):
            continue
        if devices > 1:
            raise UnsupportedError(
                f"variable {_name_of(handle, operation.graph)!r}, which a step assigns, must be made by Keras in "
                f"`strategy.scope()` where {devices} devices share a batch: each of them would assign it. "
                f"Received: a plain variable, or one made outside. {_VALID}, or devices_per_worker=1."
            )
        if operation.type != "AssignVariableOp":
            continue
        known = known or Dependencies()
        if known.depends(outermost(operation.inputs[1]), handle):
            raise UnsupportedError(
                f"variable {_name_of(handle, operation.graph)!r}, whose new value a step computes from the old one, "
                "must be made by Keras in `strategy.scope()`: workers have no copies of others, and would overwrite "
                f"each other's values. Received: a plain variable, or one made outside, with {workers} workers. "
                f"{_VALID}, or `assign_add`."
            )


def _operations_since(graph: tf.Graph, begin: int) -> Iterator[tf.Operation]:
    """Yields the operations of a graph from one on, and those in their branches and loops."""
    for operation in graph.get_operations()[begin:]:
        yield operation
        # Not of all operations: their definitions are copied, constants with their values.
        if operation.type not in _CALLS:
            continue
        for value in operation.node_def.attr.values():
            for name in [value.func.name, *(function.name for function in value.list.func)]:
                inner = getattr(graph._functions.get(name), "graph", None)
                if inner is not None:
                    yield from operations_of(inner)


def _name_of(handle: tf.Tensor, graph: tf.Graph | None) -> str:
    """Returns the name of the variable that a graph, or one around it, captured by this handle."""
    while graph is not None:
        for variable in getattr(graph, "_watched_variables", ()):
            if variable.handle is handle:
                return str(variable.name)
        graph = getattr(graph, "outer_graph", None)
    return "without a name"
