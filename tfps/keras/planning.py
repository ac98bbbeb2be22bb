"""`tfps.plan`: plans where every byte of a model will live, before anything is started."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from tfps.checks import check_choice, check_integer
from tfps.errors import PlanError
from tfps.keras.describe import DEFAULT_BATCH_SIZE, describe
from tfps.placement import planner
from tfps.placement.model import Plan
from tfps.placement.partitioners import as_partitioner
from tfps.placement.routing import RoutingKind
from tfps.placement.small_tables import DENSE_TABLES_BYTES
from tfps.placement.spec import STORED_DTYPES, TableDtypes, VariableSpec
from tfps.types import Nest


def plan(
    model: keras.Model | Callable[[], keras.Model] | Iterable[VariableSpec],
    num_ps: int,
    variable_partitioner: Any = None,
    *,
    inputs: Nest = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    balancer: Any = None,
    routing: RoutingKind = "hash",
    dense_tables_bytes: int = DENSE_TABLES_BYTES,
    embeddings_dtype: str = "float32",
    slots_dtype: str = "float32",
) -> Plan:
    """Plans where every variable of a model lives. It starts nothing and takes no memory for variables.

    A strategy without a plan places variables one by one as they are created. With
    `tfps.ParameterServerStrategy(plan=...)` it follows the plan, which balances better because it knows all variables
    in advance.

    Args:
        model: a function that builds the model (tables of any size then take no memory), an existing model, or the
            specs of its variables. Compile the model if the plan should count optimizer slots.
        num_ps: the number of parameter servers, at least 1.
        variable_partitioner: decides into how many shards a table is split; from `tfps.placement` or
            `tf.distribute.experimental.partitioners`. None for `Auto()`, which splits large tables over all servers.
        inputs: the inputs to call the model on, if it does not define them (a subclassed model, or a Sequential
            without an Input): a structure of `keras.Input`, `tf.TensorSpec` or arrays, batch first; a `tf.data.Dataset`
            of (inputs, ...); or a function that returns one of these.
        batch_size: the number of examples in one step of one worker. It determines how many rows of each table a step
            looks up.
        balancer: decides which server gets a shard; from `tfps.placement`. None for `GreedyBytesAndTraffic()`.
        routing: how the rows of a split table map to its shards: "div", "mod" or "hash".
        dense_tables_bytes: the bytes of tables that are planned as dense variables, as in
            `tfps.ParameterServerStrategy`; specs of variables are planned as they are.
        embeddings_dtype: the type in which servers keep rows, as in `tfps.ParameterServerStrategy`.
        slots_dtype: the type in which they keep slots, likewise.

    Returns:
        The plan. `print(plan.table())` shows it, `plan.loads()` returns the bytes and rows of each server,
        `plan.save()` saves it, and `tfps.placement.advise(plan)` suggests changes.

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
    # Checked before the model is built, which may take long.
    batch_size = check_integer("batch_size", batch_size, at_least=1, error=PlanError)
    check_integer("num_ps", num_ps, at_least=1, error=PlanError)
    check_integer("dense_tables_bytes", dense_tables_bytes, at_least=0, error=PlanError)
    for name, dtype in (("embeddings_dtype", embeddings_dtype), ("slots_dtype", slots_dtype)):
        check_choice(name, dtype, STORED_DTYPES, error=PlanError)
    partitioner = as_partitioner(variable_partitioner, "variable_partitioner")
    stored = TableDtypes(embeddings_dtype, slots_dtype)
    specs = [
        stored.of_table(spec) if spec.is_table else spec
        for spec in _specs(model, inputs, batch_size, dense_tables_bytes)
    ]
    return planner.plan(specs, num_ps, partitioner, balancer, routing)


def _specs(model: Any, inputs: Nest, batch_size: int, dense_tables_bytes: int) -> list[VariableSpec]:
    # A Keras model is callable too, so it is tested first.
    if isinstance(model, keras.Model):
        return describe(lambda: model, inputs, batch_size, dense_tables_bytes)
    if callable(model):
        return describe(model, inputs, batch_size, dense_tables_bytes)
    specs = list(model) if isinstance(model, Iterable) else [model]
    if not all(isinstance(spec, VariableSpec) for spec in specs):
        raise PlanError(
            f"`model` must define the variables to plan. Received: {model!r}. Valid: a function that returns a "
            "keras.Model, a keras.Model, or an iterable of VariableSpec."
        )
    return specs
