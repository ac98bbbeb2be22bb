"""`tfps.plan`: where every byte of a model will live, before anything is started."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from tfps.checks import check_integer
from tfps.errors import PlanError
from tfps.keras.describe import DEFAULT_BATCH_SIZE, describe
from tfps.placement import planner
from tfps.placement.model import Plan
from tfps.placement.partitioners import as_partitioner
from tfps.placement.routing import RoutingKind
from tfps.placement.spec import VariableSpec


def plan(
    model: keras.Model | Callable[[], keras.Model] | Iterable[VariableSpec],
    num_ps: int,
    variable_partitioner: Any = None,
    *,
    inputs: Any = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    balancer: Any = None,
    routing: RoutingKind = "hash",
) -> Plan:
    """Plans where every variable of a model lives: nothing is started, and no memory is taken for variables.

    A strategy without a plan places variables as they are made; one that is given this plan,
    `tfps.ParameterServerStrategy(plan=...)`, follows it. It knows all of them beforehand, so it is the more even one.

    Args:
        model: a function that builds the model (a table of any size then costs nothing); a model that is there; or
            what variables it would have. Compiled, if the optimizer's slots shall count.
        num_ps: parameter servers, at least 1.
        variable_partitioner: into how many shards tables are split: one of `tfps.placement` or of
            `tf.distribute.experimental.partitioners`; `Auto()`, large ones over all servers, where None.
        inputs: what the model is called on, if it does not know it (subclassed, or Sequential without an Input): a
            structure of `keras.Input`, `tf.TensorSpec` or arrays, batch first, or a `tf.data.Dataset` of (inputs, ...);
            or a function that returns it.
        batch_size: examples in one step of one worker, for the rows that a step asks of each table.
        balancer: which server gets a shard: one of `tfps.placement`; `GreedyBytesAndTraffic()` where None.
        routing: how rows of a split table go to its shards, "div", "mod" or "hash".

    Returns:
        The plan: `print(plan.table())` shows it, `plan.loads()` has the bytes and rows of each server, `plan.save()`
        keeps it, `tfps.placement.advise(plan)` says what to change.

    Raises:
        PlanError: an argument breaks its rule, or the model needs `inputs`.

    Example:
        >>> import keras, tfps
        >>> def build():
        ...     model = keras.Sequential([keras.Input((3,), dtype="int64"), keras.layers.Embedding(10**9, 16)])
        ...     model.compile("adagrad", "mse")
        ...     return model
        >>> plan = tfps.plan(build, num_ps=4)
        >>> [load.bytes_with_slots for load in plan.loads()]
        [32000000000, 32000000000, 32000000000, 32000000000]
    """
    batch_size = check_integer("batch_size", batch_size, at_least=1, error=PlanError)
    check_integer("num_ps", num_ps, at_least=1, error=PlanError)
    partitioner = as_partitioner(variable_partitioner, "variable_partitioner")
    return planner.plan(_specs(model, inputs, batch_size), num_ps, partitioner, balancer, routing)


def _specs(model: Any, inputs: Any, batch_size: int) -> list[VariableSpec]:
    if isinstance(model, keras.Model):
        return describe(lambda: model, inputs, batch_size)
    if callable(model):
        return describe(model, inputs, batch_size)
    specs = list(model) if isinstance(model, Iterable) else [model]
    if not all(isinstance(spec, VariableSpec) for spec in specs):
        raise PlanError(
            f"`model` must say what is to be planned. Received: {model!r}. Valid: a function that returns a "
            "keras.Model, a keras.Model, or some VariableSpec."
        )
    return specs
