"""Reads and changes the graph of a dataset before the dataset runs on another task.

A dataset graph is the serialised form of `tf.data`: a chain of nodes, where each node is a dataset that reads the one
before it, and the functions that maps and filters call. The last node, `_Retval`, names the dataset itself.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2  # the serialised form of a dataset

from tfps.cluster import devices, worker_functions
from tfps.errors import UnsupportedError

PER_ELEMENT = frozenset(
    {"MapDataset", "ParallelMapDataset", "ParallelMapDatasetV2", "PrefetchDataset", "OptionsDataset", "ModelDataset"}
)
"""Operations that make one element from each element, so dropping elements before them gives the same result."""

READERS = frozenset(
    {
        "TextLineDataset",
        "TFRecordDataset",
        "TFRecordDatasetV2",
        "FixedLengthRecordDataset",
        "FixedLengthRecordDatasetV2",
        "CSVDataset",
        "CSVDatasetV2",
        "ExperimentalCSVDataset",
    }
)
"""Datasets that read files, whose names are their first input."""

STATEFUL_RANDOM = frozenset(
    {
        "RandomShuffle",
        "RandomUniform",
        "RandomUniformInt",
        "RandomStandardNormal",
        "TruncatedNormal",
        "Multinomial",
        "RandomCrop",
        "RandomGamma",
        "RandomPoisson",
        "RandomPoissonV2",
        "ParameterizedTruncatedNormal",
        "SampleDistortedBoundingBox",
        "SampleDistortedBoundingBoxV2",
    }
)
"""Operations that draw new random numbers each time they run."""


def strip_devices(dataset: tf.data.Dataset) -> graph_pb2.GraphDef:
    """Serialises a dataset as a graph that does not name the devices of its context.

    Raises:
        UnsupportedError: the dataset uses a variable or a lookup table that was made before the strategy.
        tf.errors.OpError: the dataset cannot be serialised.
    """
    # A dataset with state (a shuffle with a generator, say) is serialised as it would begin, without its state.
    policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    try:
        serialized = dataset._as_serialized_graph(external_state_policy=policy)
    except tf.errors.FailedPreconditionError as error:
        # Its message names the device where the resource was.
        if not devices.is_unconnected(error.message):
            raise
        raise UnsupportedError(
            "the dataset uses a variable or a lookup table (of StringLookup, TextVectorization) that was made before "
            "the strategy. TensorFlow loses it when it connects to a cluster. Valid: make the strategy first."
        ) from error
    graph = graph_pb2.GraphDef.FromString(serialized.numpy())
    for node in all_nodes(graph):
        node.device = ""
    return graph


def all_nodes(graph: graph_pb2.GraphDef) -> Iterator[node_def_pb2.NodeDef]:
    """Returns the nodes of a graph and of its functions."""
    # The list is a copy, so callers may add nodes to the graph in their loop.
    return iter([*graph.node, *(node for function in graph.library.function for node in function.node_def)])


def is_worker_function(node: node_def_pb2.NodeDef) -> bool:
    """Whether a node calls a Python function of tfps, which every worker has."""
    return worker_functions.is_call(node.op, node.attr["token"].s if "token" in node.attr else b"")


def add_constant(graph: graph_pb2.GraphDef, name: str, value: int) -> str:
    """Adds an int64 scalar to a graph and returns its name."""
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = tf.int64.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.int64))
    return name


def constant_value(node: node_def_pb2.NodeDef) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Returns the value of a constant."""
    value: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = tf.make_ndarray(node.attr["value"].tensor)
    return value


def is_int64_constant(node: node_def_pb2.NodeDef) -> bool:
    """Whether a node is an int64 constant, the type of seeds and sizes."""
    return bool(node.op == "Const" and node.attr["dtype"].type == tf.int64.as_datatype_enum)


def draws_random_numbers(graph: graph_pb2.GraphDef, node: node_def_pb2.NodeDef) -> bool:
    """Whether the function that a map calls draws random numbers."""
    # The attribute "f" of a map names its function in the graph's library.
    name = node.attr["f"].func.name if "f" in node.attr else None
    return any(
        inner.op in STATEFUL_RANDOM
        for function in graph.library.function
        if function.signature.name == name
        for inner in function.node_def
    )
