"""The shard of one worker, cut out of the graph of a dataset as early as possible.

By file, where files are read through one dataset of names: each worker reads its own. Else by element: each worker
reads the whole input, and drops all but every n-th batch before work is spent on it.
Example: of the batches 0 to 6 and 2 workers, worker 0 has 0, 2, 4, 6 and worker 1 has 1, 3, 5.
"""

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2  # the serialised form of a dataset

from tfps.inputs.dataset_graph import PER_ELEMENT, add_constant, draws_random_numbers

_READERS = frozenset(
    {
        "TextLineDataset",
        "TFRecordDataset",
        "TFRecordDatasetV2",
        "FixedLengthRecordDatasetV2",
        "ExperimentalCSVDataset",
        "CSVDatasetV2",
    }
)
_FILE_BY_FILE = PER_ELEMENT | {
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
"""Operations that mean the same for some files as for all; `take` and `skip`, say, count over the whole input."""


def shard_of(graph: graph_pb2.GraphDef, num_workers: int, worker: int) -> bytes:
    """The serialised graph of one worker's shard.

    Args:
        graph: of the whole dataset; its elements are batches.
        num_workers: shards there are.
        worker: number of this one.
    """
    shard = graph_pb2.GraphDef()
    shard.CopyFrom(graph)
    if num_workers > 1:
        _insert_shard(shard, num_workers, worker)
    return shard.SerializeToString()


def split_by_file(graph: graph_pb2.GraphDef, num_workers: int) -> bool:
    """Whether workers get whole files: there is one for each, and nothing counts elements of the whole input."""
    files = _find_file_names(graph)
    chain = {node.op for node in graph.node if "Dataset" in node.op}
    return files is not None and _count_files(graph, files) >= num_workers and chain <= _FILE_BY_FILE


def _insert_shard(graph: graph_pb2.GraphDef, num_workers: int, worker: int) -> None:
    """Puts a ShardDataset between two nodes: behind the names of files, or before the last operations by element."""
    files = _find_file_names(graph) if split_by_file(graph, num_workers) else None
    if files is not None:
        source = files
        consumer = next(node for node in graph.node if source.name in node.input)
    else:
        consumer = _find_shard_consumer(graph)
        source = next(node for node in graph.node if node.name == consumer.input[0])
    shard = graph.node.add(name="tfps_shard", op="ShardDataset", input=[source.name])
    shard.input.append(add_constant(graph, "tfps_workers", num_workers))
    shard.input.append(add_constant(graph, "tfps_worker", worker))
    # A dataset of tensors calls its types as its arguments are called.
    types = "Toutput_types" if "Toutput_types" in source.attr else "output_types"
    shard.attr["output_types"].CopyFrom(source.attr[types])
    shard.attr["output_shapes"].CopyFrom(source.attr["output_shapes"])
    consumer.input[list(consumer.input).index(source.name)] = shard.name


def _find_shard_consumer(graph: graph_pb2.GraphDef) -> node_def_pb2.NodeDef:
    """The node before which elements can be dropped: after it each element is worked on by itself.

    A map that draws random numbers is not passed: every worker has to run it for all elements, or the numbers of an
    element would depend on how many workers there are.
    """
    nodes = {node.name: node for node in graph.node}
    consumer = next(node for node in graph.node if node.op == "_Retval")
    while nodes[consumer.input[0]].op in PER_ELEMENT and not draws_random_numbers(graph, nodes[consumer.input[0]]):
        consumer = nodes[consumer.input[0]]
    return consumer


def _find_file_names(graph: graph_pb2.GraphDef) -> node_def_pb2.NodeDef | None:
    """The dataset of file names, if files are read through exactly one."""
    readers = any(node.op in _READERS for function in graph.library.function for node in function.node_def)
    string = [tf.string.as_datatype_enum]
    names = [
        node
        for node in graph.node
        if node.op == "TensorSliceDataset" and list(node.attr["Toutput_types"].list.type) == string
    ]
    return names[0] if readers and len(names) == 1 else None


def _count_files(graph: graph_pb2.GraphDef, files: node_def_pb2.NodeDef) -> int:
    """How many files a dataset of names has; 0 where the names are no constant."""
    constant = next((node for node in graph.node if node.name == files.input[0] and node.op == "Const"), None)
    # By the shape: TensorFlow writes long lists of strings in a form that it cannot read back as an array.
    return 0 if constant is None else int(constant.attr["value"].tensor.tensor_shape.dim[0].size)
