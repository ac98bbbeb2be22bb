"""A dataset's graph, made fit to run on every worker: one order everywhere, each worker's shard cut out early."""

import logging
import random
from typing import Any

import tensorflow as tf
from google.protobuf import message as protobuf_message
from tensorflow.core.framework import dataset_options_pb2, graph_pb2  # the serialised form of a dataset

_LOG = logging.getLogger("tfps")
_MAX_BYTES = 1 << 30
_UNSHIPPABLE = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
_PER_ELEMENT = {
    "MapDataset",
    "ParallelMapDataset",
    "ParallelMapDatasetV2",
    "PrefetchDataset",
    "OptionsDataset",
    "ModelDataset",
}
_FUNCTIONS = {"f", "predicate", "key_func"}
_BY_VALUE = {"UnbatchDataset", "DirectedInterleaveDataset"}
_READERS = {
    "TextLineDataset",
    "TFRecordDataset",
    "TFRecordDatasetV2",
    "FixedLengthRecordDatasetV2",
    "ExperimentalCSVDataset",
    "CSVDatasetV2",
}
_FILE_BY_FILE = _PER_ELEMENT | {
    "TensorSliceDataset",
    "InterleaveDataset",
    "ParallelInterleaveDatasetV4",
    "FlatMapDataset",
    "FilterDataset",
    "ShuffleDataset",
    "BatchDatasetV2",
    "ParallelBatchDataset",
    "PaddedBatchDatasetV2",
    "UnbatchDataset",
    "RepeatDataset",
}
_SEEDS_AT = {
    "ShuffleDataset": 2,
    "ShuffleAndRepeatDataset": 2,
    "SamplingDataset": 2,
    "RandomDataset": 0,
    "RandomDatasetV2": 0,
}
"""Which input of a dataset is the first of its two seeds."""

_DETACHED = {"ShuffleDatasetV2", "ShuffleDatasetV3", "ShuffleAndRepeatDatasetV2"}
_STATEFUL_RANDOM = {
    "RandomShuffle",
    "RandomUniform",
    "RandomUniformInt",
    "RandomStandardNormal",
    "TruncatedNormal",
    "Multinomial",
}


def shippable_graph(dataset: Any, num_workers: int) -> graph_pb2.GraphDef | None:
    """The dataset as a graph, or None where it cannot leave this process, or workers would not see one order."""
    try:
        graph = without_devices(dataset)
    except (tf.errors.OpError, ValueError, protobuf_message.DecodeError) as error:
        _say_fed(f"it cannot be serialised ({str(error)[:200]})")
        return None
    if graph.ByteSize() > _MAX_BYTES:
        _say_fed(f"it holds {graph.ByteSize() >> 20} MiB of data")
        return None
    if python := _UNSHIPPABLE & {node.op for node in _all_nodes(graph)}:
        _say_fed(f"it calls Python ({', '.join(sorted(python))})")
        return None
    by_batch = num_workers > 1 and not split_by_file(graph, num_workers)
    if by_batch and (inner := _draw_anew(graph)):
        _say_fed(f"a function of it has randomness without a seed ({', '.join(sorted(inner))})")
        return None
    _fix_order(graph)
    _fix_seeds(graph)
    return graph


def without_devices(dataset: Any) -> graph_pb2.GraphDef:
    """The dataset as a graph that is not tied to the devices of the context it was made in."""
    policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    graph = graph_pb2.GraphDef.FromString(dataset._as_serialized_graph(external_state_policy=policy).numpy())
    for node in _all_nodes(graph):
        node.device = ""
    return graph


def shard_of(graph: graph_pb2.GraphDef, num_workers: int, worker: int) -> bytes:
    """The graph with every `num_workers`-th element from `worker` on, taken before work is spent on the others.

    An element (a batch) is what the dataset gives; operations that turn one element into one element run after.
    """
    shared = graph_pb2.GraphDef()
    shared.CopyFrom(graph)
    if num_workers > 1:
        _insert_shard(shared, num_workers, worker)
    return shared.SerializeToString()


def split_by_file(graph: graph_pb2.GraphDef, num_workers: int) -> bool:
    """Whether workers get whole files: each has some, and nothing in between counts elements of the whole input."""
    files = _file_names(graph)
    chain = {node.op for node in graph.node if "Dataset" in node.op}
    return files is not None and _count(graph, files) >= num_workers and chain <= _FILE_BY_FILE


def _insert_shard(graph: graph_pb2.GraphDef, num_workers: int, worker: int) -> None:
    if split_by_file(graph, num_workers):
        source = _file_names(graph)
        consumer = next(node for node in graph.node if source.name in node.input)
    else:
        consumer = _last_of_chain(graph)
        source = next(node for node in graph.node if node.name == consumer.input[0])
    shard = graph.node.add(name="tfps_share", op="ShardDataset", input=[source.name])
    shard.input.append(_constant(graph, "tfps_workers", num_workers))
    shard.input.append(_constant(graph, "tfps_worker", worker))
    types, shapes = (
        ("Toutput_types", "output_shapes") if "Toutput_types" in source.attr else ("output_types", "output_shapes")
    )
    shard.attr["output_types"].CopyFrom(source.attr[types])
    shard.attr["output_shapes"].CopyFrom(source.attr[shapes])
    consumer.input[list(consumer.input).index(source.name)] = shard.name


def _last_of_chain(graph: graph_pb2.GraphDef) -> Any:
    """The node before which elements can be dropped: after it each element is worked on by itself."""
    nodes = {node.name: node for node in graph.node}
    consumer = next(node for node in graph.node if node.op == "_Retval")
    while nodes[consumer.input[0]].op in _PER_ELEMENT and not _is_stateful(graph, nodes[consumer.input[0]]):
        consumer = nodes[consumer.input[0]]
    return consumer


def _file_names(graph: graph_pb2.GraphDef) -> Any:
    """The dataset of file names, if files are read through one."""
    readers = any(node.op in _READERS for function in graph.library.function for node in function.node_def)
    names = [
        n
        for n in graph.node
        if n.op == "TensorSliceDataset" and list(n.attr["Toutput_types"].list.type) == [tf.string.as_datatype_enum]
    ]
    return names[0] if readers and len(names) == 1 else None


def _count(graph: graph_pb2.GraphDef, files: Any) -> int:
    constant = next((node for node in graph.node if node.name == files.input[0] and node.op == "Const"), None)
    # By the shape: TensorFlow writes long lists of strings in a form that it cannot read back as an array.
    return 0 if constant is None else int(constant.attr["value"].tensor.tensor_shape.dim[0].size)


def _constant(graph: graph_pb2.GraphDef, name: str, value: int) -> str:
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = tf.int64.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.int64))
    return name


def _is_stateful(graph: graph_pb2.GraphDef, node: Any) -> bool:
    """Whether a map function draws random numbers: then all workers have to run it for all elements."""
    name = node.attr["f"].func.name if "f" in node.attr else None
    return any(
        inner.op in _STATEFUL_RANDOM
        for function in graph.library.function
        if function.signature.name == name
        for inner in function.node_def
    )


def _fix_order(graph: graph_pb2.GraphDef) -> None:
    """Elements come in the order of the input, not as they are done: that would be another on every worker."""
    for node in _all_nodes(graph):
        if "Dataset" in node.op and "deterministic" in node.attr:
            node.attr["deterministic"].s = b"true"
        if "Dataset" in node.op and "sloppy" in node.attr:
            node.attr["sloppy"].b = False
        if node.op == "OptionsDataset":
            options = dataset_options_pb2.Options.FromString(node.attr["serialized_options"].s)
            options.deterministic = True
            node.attr["serialized_options"].s = options.SerializeToString()
    for node in list(graph.node):
        if node.op == "ParallelMapDatasetV2" and _is_stateful(graph, node) and _decides(graph, node):
            node.input[-1] = _constant(graph, f"{node.name}/tfps_calls", 1)  # or numbers are drawn as calls race


def _decides(graph: graph_pb2.GraphDef, start: Any) -> bool:
    """Whether what comes out of a dataset can decide which elements there are: an operation after it has a function."""
    after = {start.name}
    for node in graph.node:  # each comes after its inputs
        if "Dataset" in node.op and not after.isdisjoint(node.input):
            after.add(node.name)
            if node.op not in _PER_ELEMENT and (_FUNCTIONS & set(node.attr) or node.op in _BY_VALUE):
                return True
    return False


def _draw_anew(graph: graph_pb2.GraphDef) -> set[str]:
    """Datasets inside functions that are random without a seed.

    With one they would give the same for each element, and in each epoch.
    """
    found = set()
    for function in graph.library.function:
        zeros = {f"{n.name}:output:0" for n in function.node_def if _is_seed(n) and not _value(n).any()}
        for node in function.node_def:
            start = _SEEDS_AT.get(node.op[:-2] if node.op in _DETACHED else node.op)
            if node.op == "ShuffleDatasetV2" or start is not None and zeros.issuperset(node.input[start : start + 2]):
                found.add(node.op)
    return found


def _fix_seeds(graph: graph_pb2.GraphDef) -> None:
    """Gives every source of randomness without a seed one, so that all workers put the elements in one order.

    The seeds come from Python's `random`, which `keras.utils.set_random_seed` seeds.
    """
    constants = {node.name: _value(node) for node in graph.node if _is_seed(node)}
    for node in list(graph.node):
        if node.op in _DETACHED:
            _detach_seed_generator(graph, node)
        if node.op == "RandomDatasetV2":  # of no other op: it makes a generator of its own where it finds none
            node.input[2] = graph.node.add(name=f"{node.name}/tfps_no_generator", op="DummySeedGenerator").name
        start = _SEEDS_AT.get(node.op)
        if start is not None and all(constants.get(n, 0) == 0 for n in node.input[start : start + 2]):
            for index in (start, start + 1):
                node.input[index] = _constant(graph, f"{node.name}/tfps_seed_{index}", random.getrandbits(31))
    for node in _all_nodes(graph):
        if node.op in _STATEFUL_RANDOM and not node.attr["seed"].i and not node.attr["seed2"].i:
            node.attr["seed"].i, node.attr["seed2"].i = random.getrandbits(31), random.getrandbits(31)


def _value(constant: Any) -> Any:
    return tf.make_ndarray(constant.attr["value"].tensor)


def _is_seed(node: Any) -> bool:
    return bool(node.op == "Const" and node.attr["dtype"].type == tf.int64.as_datatype_enum)


def _detach_seed_generator(graph: graph_pb2.GraphDef, node: Any) -> None:
    """Newer shuffles hold their seeds in a resource of this process; the first version of the op holds them itself."""
    del node.input[-1]
    if node.op == "ShuffleDatasetV2":  # had no seeds of its own
        node.input.extend([_constant(graph, f"{node.name}/tfps_no_seed", 0)] * 2)
        node.attr["reshuffle_each_iteration"].b = True
    node.op = node.op[:-2]


def _all_nodes(graph: graph_pb2.GraphDef) -> list[Any]:
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def _say_fed(reason: str) -> None:
    _LOG.info("the dataset is read by the chief and fed to the workers: %s", reason)
