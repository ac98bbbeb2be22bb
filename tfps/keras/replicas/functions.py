"""What `fit` and `evaluate` call for each step under a strategy with replicas.

A step runs on every replica with its part of a batch. Its logs are those of the joined batch: what is computed from the
sums of metrics is computed from the sums over replicas, and other values are means over the examples. Variables that a
step assigns beside the optimizer (moving statistics) get the mean over the examples.

Threading: the main thread; a step is traced in a thread of each replica.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfps.inputs.chief_dataset import as_tensor
from tfps.keras._compat import Variable, convert_to_np_if_not_ragged, keras, metrics_of, tree
from tfps.keras.replicas.tables import local
from tfps.keras.returned_logs import ReturnedLogs
from tfps.replicas import reduction
from tfps.replicas.step import ReplicaStep, tracing
from tfps.training.device_batches import count_examples
from tfps.types import Nest

_PREDICT_ON_BATCH = "_tfps_predict_on_batch"
"""The attribute of a model that keeps its function for `predict_on_batch`."""


def make_function(model: keras.Model, run: Callable[[Nest], Nest]) -> Callable[[Any], Nest]:
    """Makes `model.train_function` or `model.test_function`: it takes an iterator and returns the logs.

    Args:
        model: a model of a strategy of `tfps.replicas`.
        run: its `train_step` or `test_step`.
    """
    strategy = model._distribute_strategy

    @tf.autograph.experimental.do_not_convert
    def one_step(data: Nest) -> Nest:
        outputs = strategy.run(lambda part: _step_of_replica(model, run, part), args=(data,))
        # All replicas have the same logs.
        return tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], outputs)

    on_data = one_step if model.run_eagerly else tf.function(one_step, reduce_retracing=True)

    @tf.autograph.experimental.do_not_convert
    def take_step(iterator: Any) -> Nest:
        return on_data(_without_optionals(iterator.get_next()))

    on_iterator = take_step if model.run_eagerly else tf.function(take_step, reduce_retracing=True)

    def function(iterator: Any) -> Nest:
        logs = None
        for _ in range(model.steps_per_execution):
            try:
                if isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
                    logs = on_iterator(iterator)
                else:
                    logs = on_data(_divide(strategy, _without_optionals(next(iterator))))
            except (StopIteration, tf.errors.OutOfRangeError):
                # The steps before this one count, and the next call ends the epoch.
                if logs is None:
                    raise StopIteration from None
                break
        return logs

    return function


def _divide(strategy: tf.distribute.Strategy, data: Nest) -> Nest:
    """Returns a batch of `train_on_batch` or `test_on_batch` with a part for each replica of this process."""
    replicas = len(strategy.extended.worker_devices)
    data = tree.map_structure(lambda one: None if one is None else as_tensor(one), data)
    if replicas == 1:
        return data

    def part(context: Any) -> Nest:
        number = context.replica_id_in_sync_group % replicas

        def cut(value: tf.Tensor | None) -> tf.Tensor | None:
            if value is None or value.shape.rank == 0:
                return value
            size = value.shape[0]
            return value[number * size // replicas : (number + 1) * size // replicas]

        return tree.map_structure(cut, data)

    return strategy.experimental_distribute_values_from_function(part)


def predict_on_batch(stock: Callable[..., Nest], model: keras.Model, x: Nest) -> Nest:
    """Replaces `predict_on_batch`: one replica predicts, where Keras would return what each predicts for the batch."""
    run = vars(model).get(_PREDICT_ON_BATCH)
    if run is None:
        run = model.predict_step if model.run_eagerly else tf.function(model.predict_step, autograph=False)
        # Keras tracks what is assigned to a model in the plain way.
        object.__setattr__(model, _PREDICT_ON_BATCH, run)
    outputs = run((tree.map_structure(as_tensor, x),))
    return tree.map_structure(convert_to_np_if_not_ragged, outputs)


def _without_optionals(data: Nest) -> Nest:
    """Returns a batch with None where a dataset of structures with None has an empty optional."""
    return tree.map_structure(lambda one: None if isinstance(one, tf.experimental.Optional) else one, data)


def _step_of_replica(model: keras.Model, run: Callable[[Nest], Nest], data: Nest) -> Nest:
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
