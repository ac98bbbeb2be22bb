"""Names metrics whose state is no sum when a model is compiled, so that nobody waits for the first step to learn it.

Each worker counts for itself and the chief adds up the counts. The graph of a step shows whether a metric grows by
addition (`tfps.keras.returned_logs`). Where the outputs of a model are known, that graph is traced here, for one metric
at a time and a copy of it.
"""

import logging
from collections.abc import Iterator

import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.keras._compat import keras, tree
from tfps.keras.returned_logs import check_sums
from tfps.keras.variables import stored_values
from tfps.strategy.variables import SumVariable

_LOG = logging.getLogger("tfps")


def check_compiled(model: keras.Model) -> None:
    """Refuses compiled metrics whose state is no sum. Other metrics are left to the first trace of a step.

    Raises:
        UnsupportedError: the state of a metric is no sum. The message names it.
    """
    outputs = tree.flatten(getattr(model, "outputs", None) or [])
    # With several outputs only Keras knows which metric belongs to which.
    if len(outputs) != 1:
        return
    with model._distribute_strategy.scope():
        for metric in _given(model):
            _check(metric, outputs[0])


def _given(model: keras.Model) -> Iterator[keras.Metric]:
    """The metric objects that a user has given to `compile`. Names stand for metrics of Keras, which are sums."""
    compiled = model._compile_metrics
    for given in (getattr(compiled, "_user_metrics", None), getattr(compiled, "_user_weighted_metrics", None)):
        yield from (one for one in tree.flatten(given) if isinstance(one, keras.Metric))


def _check(metric: keras.Metric, output: keras.KerasTensor) -> None:
    # Metrics of ours are sums, and may need features, which only a batch has.
    if type(metric).__module__.startswith("tfps."):
        return
    graph = tf.__internal__.FuncGraph("check_metric")
    try:
        copy = type(metric).from_config(metric.get_config())
        with graph.as_default():
            batch = tf.compat.v1.placeholder(output.dtype, output.shape)
            copy.update_state(batch, batch)
        sums = stored_values(copy.variables, SumVariable)
    # Whatever the copy lacks, such as an argument of its class or a label of another shape: the metric may have it.
    except Exception as error:
        _LOG.debug("metric %r was not checked: %s", metric.name, error)
        return
    with graph.as_default():
        try:
            check_sums(sums)
        except UnsupportedError as error:
            raise UnsupportedError(f"metric {metric.name!r} cannot be counted by several workers: {error}") from None
