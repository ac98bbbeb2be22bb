"""Decides whether a dataset can run on the workers, and prepares its graph. The chief reads all other datasets."""

import logging

import tensorflow as tf
from google.protobuf import message as protobuf_message
from tensorflow.core.framework import graph_pb2  # the serialised form of a dataset

from tfps.inputs.dataset_graph import all_nodes, strip_devices
from tfps.inputs.one_order import find_unseeded_in_functions, fix_order, fix_seeds
from tfps.inputs.sharding import split_by_file

_LOG = logging.getLogger("tfps")
_MAX_BYTES = 1 << 30
"""The largest graph that is shipped, data in memory included. A protocol buffer ends at 2 GiB."""

_PYTHON = frozenset({"PyFunc", "EagerPyFunc", "PyFuncStateless"})
"""Operations that call Python functions of the chief, which workers do not have."""


def make_shippable_graph(dataset: tf.data.Dataset, num_workers: int) -> graph_pb2.GraphDef | None:
    """Makes the graph of a dataset that every worker can run.

    Args:
        dataset: a dataset of batches.
        num_workers: the number of workers that read it.

    Returns:
        The graph of the whole dataset, with a fixed order and fixed seeds, so that every worker sees the same elements.
        None if the dataset cannot leave this process; the reason is logged.
    """
    try:
        graph = strip_devices(dataset)
    except (tf.errors.OpError, ValueError, protobuf_message.DecodeError) as error:
        _log_fed(f"it cannot be serialised ({str(error)[:200]})")
        return None
    reason = _find_obstacle(graph, num_workers)
    if reason:
        _log_fed(reason)
        return None
    fix_order(graph)
    fix_seeds(graph)
    return graph


def _find_obstacle(graph: graph_pb2.GraphDef, num_workers: int) -> str:
    """Returns the reason why a dataset cannot be shipped; empty if it can."""
    if graph.ByteSize() > _MAX_BYTES:
        return f"it holds {graph.ByteSize() >> 20} MiB of data"
    if python := _PYTHON & {node.op for node in all_nodes(graph)}:
        return f"it calls Python ({', '.join(sorted(python))})"
    # If shards are files, each worker draws numbers for its own elements. If shards are elements, all workers would
    # have to draw the same numbers.
    if num_workers > 1 and not split_by_file(graph, num_workers) and (inner := find_unseeded_in_functions(graph)):
        return f"a function of it has randomness without a seed ({', '.join(sorted(inner))})"
    return ""


def _log_fed(reason: str) -> None:
    """Logs why the chief reads a dataset."""
    _LOG.info("the chief reads the dataset and feeds its batches to the workers: %s", reason)
