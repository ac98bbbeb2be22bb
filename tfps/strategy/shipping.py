"""A dataset's graph, made fit to run on every worker: same order everywhere, each worker's share as early as possible."""

import logging
import random
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2  # the serialised form of a dataset

_LOG = logging.getLogger("tfps")
_MAX_BYTES = 1 << 30
_UNSHIPPABLE = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
_PER_ELEMENT = {"MapDataset", "ParallelMapDataset", "ParallelMapDatasetV2", "PrefetchDataset", "OptionsDataset", "ModelDataset"}
_STATEFUL_RANDOM = {"RandomShuffle", "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "Multinomial"}


def shippable_graph(dataset: Any) -> graph_pb2.GraphDef | None:
    """The dataset as a graph, or None where it cannot leave this process."""
    try:
        serialized = dataset._as_serialized_graph(external_state_policy=tf.data.experimental.ExternalStatePolicy.IGNORE)
    except (tf.errors.OpError, ValueError) as error:
        return _refuse(f"it cannot be serialised ({str(error)[:200]})")
    if len(serialized.numpy()) > _MAX_BYTES:
        return _refuse(f"it holds {len(serialized.numpy()) >> 20} MiB of data")
    graph = graph_pb2.GraphDef.FromString(serialized.numpy())
    if python := _UNSHIPPABLE & {node.op for node in _all_nodes(graph)}:
        return _refuse(f"it calls Python ({', '.join(sorted(python))})")
    _fix_seeds(graph)
    return graph


def share_of(graph: graph_pb2.GraphDef, num_workers: int, worker: int) -> bytes:
    """The graph with every `num_workers`-th element from `worker` on, taken before work is spent on the others.

    An element (a batch) is what the dataset gives; operations that turn one element into one element run after.
    """
    shared = graph_pb2.GraphDef()
    shared.CopyFrom(graph)
    if num_workers > 1:
        _insert_shard(shared, num_workers, worker)
    return shared.SerializeToString()


def _insert_shard(graph: graph_pb2.GraphDef, num_workers: int, worker: int) -> None:
    nodes = {node.name: node for node in graph.node}
    consumer = next(node for node in graph.node if node.op == "_Retval")
    while nodes[consumer.input[0]].op in _PER_ELEMENT and not _is_stateful(graph, nodes[consumer.input[0]]):
        consumer = nodes[consumer.input[0]]
    source = nodes[consumer.input[0]]
    shard = graph.node.add(name="tfps_share", op="ShardDataset", input=[source.name, _constant(graph, "tfps_workers", num_workers)])
    shard.input.append(_constant(graph, "tfps_worker", worker))
    for key in ("output_types", "output_shapes"):
        shard.attr[key].CopyFrom(source.attr[key] if key in source.attr else source.attr[f"T{key}"])
    consumer.input[0] = shard.name


def _constant(graph: graph_pb2.GraphDef, name: str, value: int) -> str:
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = tf.int64.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.int64))
    return name


def _is_stateful(graph: graph_pb2.GraphDef, node: Any) -> bool:
    """Whether a map function draws random numbers: then all workers have to run it for all elements."""
    name = node.attr["f"].func.name if "f" in node.attr else None
    return any(
        inner.op in _STATEFUL_RANDOM for function in graph.library.function if function.signature.name == name for inner in function.node_def
    )


def _fix_seeds(graph: graph_pb2.GraphDef) -> None:
    """Gives every source of randomness without a seed one, so that all workers put the elements in one order.

    The seeds come from Python's `random`, which `keras.utils.set_random_seed` seeds.
    """
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    for node in graph.node:
        if node.op.startswith(("ShuffleDataset", "ShuffleAndRepeatDataset")):
            _fix_seed_inputs(node, constants)
    for node in _all_nodes(graph):
        if node.op in _STATEFUL_RANDOM and not node.attr["seed"].i and not node.attr["seed2"].i:
            node.attr["seed"].i, node.attr["seed2"].i = random.getrandbits(31), random.getrandbits(31)


def _fix_seed_inputs(node: Any, constants: dict[str, Any]) -> None:
    seeds = [constants[name] for name in node.input[2:4] if name in constants]
    if all(tf.make_ndarray(seed.attr["value"].tensor) == 0 for seed in seeds):
        for seed in seeds:
            seed.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(random.getrandbits(31), tf.int64))


def _all_nodes(graph: graph_pb2.GraphDef) -> list[Any]:
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def _refuse(reason: str) -> None:
    _LOG.info("the dataset is read by the chief and fed to the workers: %s", reason)
    return None
