"""Cuts the shard of one worker out of a dataset graph, as early in the graph as possible.

By file: if the input reads files through one dataset of file names, each worker reads its own files. By element: in all
other cases each worker reads the whole input and keeps every n-th batch, and drops the others before it processes them.
Example: with 2 workers and the batches 0 to 6, worker 0 keeps 0, 2, 4, 6 and worker 1 keeps 1, 3, 5.
"""

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2  # the serialised form of a dataset

from tfps.inputs.dataset_graph import PER_ELEMENT, READERS, add_constant, draws_random_numbers, is_worker_function

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
    "RebatchDatasetV2",
    "UnbatchDataset",
    "RepeatDataset",
}
"""Operations that do the same on some files as on all files. `take` and `skip`, say, count over the whole input."""


def cut_shard(graph: graph_pb2.GraphDef, num_workers: int, worker: int, by_file: bool) -> bytes:
    """Returns the serialised graph of one worker's shard.

    Args:
        graph: the graph of the whole dataset, whose elements are batches.
        num_workers: the number of workers, and so of shards.
        worker: the number of the worker.
        by_file: whether shards are whole files; only where `split_by_file` says that they may be.
    """
    # The caller cuts the shards of all workers out of the same graph, so this works on a copy.
    shard = graph_pb2.GraphDef()
    shard.CopyFrom(graph)
    if num_workers > 1:
        _insert_shard(shard, num_workers, worker, by_file)
    return shard.SerializeToString()


def split_by_file(graph: graph_pb2.GraphDef, num_workers: int) -> bool:
    """Whether shards are whole files: each worker gets at least one, and no operation counts over the whole input."""
    files = _find_file_names(graph)
    chain = {node.op for node in graph.node if "Dataset" in node.op}
    return files is not None and _count_files(graph, files) >= num_workers and chain <= _FILE_BY_FILE


def _insert_shard(graph: graph_pb2.GraphDef, num_workers: int, worker: int, by_file: bool) -> None:
    """Inserts a ShardDataset after the file names, or else before the last operations that work element by element."""
    files = _find_file_names(graph) if by_file else None
    if files is not None:
        source = files
        consumer = next(node for node in graph.node if source.name in node.input)
    else:
        consumer = _find_shard_consumer(graph)
        source = next(node for node in graph.node if node.name == consumer.input[0])
    shard = graph.node.add(name="tfps_shard", op="ShardDataset", input=[source.name])
    shard.input.append(add_constant(graph, "tfps_workers", num_workers))
    shard.input.append(add_constant(graph, "tfps_worker", worker))
    # A "TensorSliceDataset" uses another attribute name for its types.
    types = "Toutput_types" if "Toutput_types" in source.attr else "output_types"
    shard.attr["output_types"].CopyFrom(source.attr[types])
    shard.attr["output_shapes"].CopyFrom(source.attr["output_shapes"])
    consumer.input[list(consumer.input).index(source.name)] = shard.name


def _find_shard_consumer(graph: graph_pb2.GraphDef) -> node_def_pb2.NodeDef:
    """Returns the node before which elements can be dropped: from it on, the chain processes each element by itself.

    A map that draws random numbers always stays before the shard. Every worker must run such a map for all elements;
    otherwise the numbers of an element would depend on the number of workers.
    """
    # The walk goes from the end of the chain towards its source.
    nodes = {node.name: node for node in graph.node}
    consumer = next(node for node in graph.node if node.op == "_Retval")
    while nodes[consumer.input[0]].op in PER_ELEMENT and not draws_random_numbers(graph, nodes[consumer.input[0]]):
        consumer = nodes[consumer.input[0]]
    return consumer


def _find_file_names(graph: graph_pb2.GraphDef) -> node_def_pb2.NodeDef | None:
    """Returns the dataset of file names; None unless the input reads files through exactly one."""
    # Readers of files are in the function of an interleave or a flat_map, which gets one file name at a time.
    # What a worker function reads by a name, a file or some messages of a broker, is divided in the same way.
    readers = any(
        node.op in READERS or is_worker_function(node)
        for function in graph.library.function
        for node in function.node_def
    )
    string = [tf.string.as_datatype_enum]
    names = [
        node
        for node in graph.node
        if node.op == "TensorSliceDataset" and list(node.attr["Toutput_types"].list.type) == string
    ]
    return names[0] if readers and len(names) == 1 else None


def _count_files(graph: graph_pb2.GraphDef, files: node_def_pb2.NodeDef) -> int:
    """Counts the files of a dataset of file names; 0 if the names are not a constant."""
    constant = next((node for node in graph.node if node.name == files.input[0] and node.op == "Const"), None)
    # The shape gives the count. TensorFlow writes long lists of strings in a form that it cannot read as an array.
    return 0 if constant is None else int(constant.attr["value"].tensor.tensor_shape.dim[0].size)
