"""The step of one replica, and what makes it the step of all: joined logs, and one state of metrics and statistics.

A step runs on every replica with its part of a batch. Its logs are those of the joined batch: what is computed from the
sums of metrics is computed from the sums over replicas, and other values are means over the examples. Variables that a
step assigns beside the optimizer (moving statistics) get the mean over the examples.

Threading: a step is traced in a thread of each replica.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfps.keras._compat import Variable, keras, metrics_of, tree
from tfps.keras.replicas.tables import local
from tfps.keras.returned_logs import ReturnedLogs
from tfps.replicas import reduction
from tfps.replicas.step import ReplicaStep, tracing
from tfps.training.device_batches import count_examples
from tfps.types import Nest


def run_on_replica(model: keras.Model, run: Callable[[Nest], Nest], data: Nest) -> Nest:
    """Runs a step of a model on this replica and returns the logs, which are those of all replicas.

    Args:
        model: a model of a strategy of `tfps.replicas`.
        run: its `train_step` or `test_step`.
        data: the part of the batch that this replica has; it may have no example.
    """
    replica = tf.distribute.get_replica_context()
    current = ReplicaStep(tf.cast(count_examples(data), tf.float32))
    if replica.num_replicas_in_sync == 1:
        with tracing(current):
            return run(data)
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    begin = len(graph.get_operations()) if graph is not None else 0
    examples = current.examples
    metrics = [variable for metric in metrics_of(model) for variable in metric.variables]
    before = [tf.identity(local(variable._value)) for variable in metrics]
    with tracing(current):
        logs = run(_at_least_one(data, examples))
    # The step may have made metrics.
    metrics = [variable for metric in metrics_of(model) for variable in metric.variables]
    # Before the metrics are changed again, or their results would count as older than their state.
    returned = None
    if graph is not None:
        sums = [_MergedSum(one.path, local(one._value).handle, local(one._value)) for one in metrics]
        returned = ReturnedLogs(logs, sums, model.get_metrics_result, begin)
    _undo_if_empty(metrics, before, examples)
    return _join(model, logs, returned, metrics, current)


def _at_least_one(data: Nest, examples: tf.Tensor) -> Nest:
    """Returns a batch of zeros with one example for a replica that has none; layers may fail for an empty batch."""
    missing = tf.cast(tf.equal(examples, 0), tf.int32)

    def fill(value: Any) -> Any:
        if not isinstance(value, tf.Tensor) or value.shape.rank in (None, 0):
            return value
        shape = tf.concat([missing[tf.newaxis], tf.shape(value)[1:]], 0)
        filled = tf.concat([value, tf.fill(shape, tf.zeros([], value.dtype))], 0)
        filled.set_shape([None, *value.shape[1:]])
        return filled

    return tree.map_structure(fill, data)


def _undo_if_empty(metrics: list[Variable], before: list[tf.Tensor], examples: tf.Tensor) -> None:
    """Takes back what the example of zeros has added to metrics."""
    for number, variable in enumerate(metrics):
        value = local(variable._value)
        old = before[number] if number < len(before) else tf.zeros_like(value)
        value.assign(tf.where(examples > 0, value, old))


@dataclasses.dataclass(frozen=True, eq=False)
class _MergedSum:
    """A metric variable, with its sum over the replicas.

    Args:
        name: its name, for messages.
        home_handle: the handle of the variable of this replica, by which the graph of the step knows it.
        total: the sum.
    """

    name: str
    home_handle: tf.Tensor
    total: tf.Tensor

    @property
    def shape(self) -> tf.TensorShape:
        """The shape of the variable."""
        return self.total.shape

    @property
    def dtype(self) -> tf.DType:
        """The dtype of the variable."""
        return self.total.dtype

    @property
    def key(self) -> str:
        """A key that no step has a copy for."""
        return self.name

    def read_value(self) -> tf.Tensor:
        """Returns the sum over the replicas."""
        return self.total


def _join(
    model: keras.Model, logs: Nest, returned: ReturnedLogs | None, metrics: list[Variable], current: ReplicaStep
) -> Nest:
    """Returns the logs of all replicas, and gives them all the same state, by one message."""
    of_metrics = {id(variable) for variable in metrics}
    assigned = {id(one): one for one in current.assigned if id(one) not in of_metrics}
    state = [one for one in assigned.values() if one._value.dtype.is_floating]
    components = [local(variable._value) for variable in metrics]
    reads = [tf.convert_to_tensor(component) for component in components]
    kept = [tf.convert_to_tensor(local(one._value)) for one in state]
    flat = {} if returned is None else dict(sorted(returned.values.items()))
    values = [tf.cast(value, tf.float32) for value in flat.values()] if returned is not None else []
    means, totals = reduction.weighted_mean([*kept, *values], reads, current.examples)
    for one, mean in zip(state, means, strict=False):
        local(one._value).assign(mean)

    def results() -> Mapping[str, Any]:
        return _results(model, metrics, totals)

    if returned is None:
        # Eager logs have no graph that tells metrics from values: the name decides.
        exact = results()
        return {name: exact.get(name, value) for name, value in (logs or {}).items()}
    merged = [_MergedSum(m.path, c.handle, t) for m, c, t in zip(metrics, components, totals, strict=True)]
    return returned.compute_from(merged, dict(zip(flat, means[len(state) :], strict=True)), results)


def _results(model: keras.Model, metrics: list[Variable], totals: list[tf.Tensor]) -> Mapping[str, Any]:
    """Returns the results of the model's metrics from their sums over the replicas."""
    with keras.StatelessScope(state_mapping=list(zip(metrics, totals, strict=True))):
        return model.get_metrics_result()
