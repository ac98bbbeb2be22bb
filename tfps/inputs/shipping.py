"""Whether a dataset can run on the workers, and its graph made fit for it. What cannot is read by the chief."""

import logging

import tensorflow as tf
from google.protobuf import message as protobuf_message
from tensorflow.core.framework import graph_pb2  # the serialised form of a dataset

from tfps.inputs.dataset_graph import all_nodes, strip_devices
from tfps.inputs.one_order import find_unseeded_in_functions, fix_order, fix_seeds
from tfps.inputs.sharding import split_by_file

_LOG = logging.getLogger("tfps")
_MAX_BYTES = 1 << 30
_PYTHON = frozenset({"PyFunc", "EagerPyFunc", "PyFuncStateless"})


def make_shippable_graph(dataset: tf.data.Dataset, num_workers: int) -> graph_pb2.GraphDef | None:
    """The dataset as a graph for all workers; None where it cannot leave this process.

    A refusal is logged with its reason.

    Args:
        dataset: of batches.
        num_workers: that read it.

    Returns:
        The graph with one order and with seeds, so that every worker sees the same elements; not yet cut into shards.
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
    """Why a dataset cannot be shipped; empty where it can."""
    if graph.ByteSize() > _MAX_BYTES:
        return f"it holds {graph.ByteSize() >> 20} MiB of data"
    if python := _PYTHON & {node.op for node in all_nodes(graph)}:
        return f"it calls Python ({', '.join(sorted(python))})"
    # By file each worker draws for its own elements; by element all workers would have to draw the same.
    if num_workers > 1 and not split_by_file(graph, num_workers) and (inner := find_unseeded_in_functions(graph)):
        return f"a function of it has randomness without a seed ({', '.join(sorted(inner))})"
    return ""


def _log_fed(reason: str) -> None:
    _LOG.info("the dataset is read by the chief and fed to the workers: %s", reason)
