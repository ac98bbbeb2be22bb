"""Decides whether a dataset can run on the workers, and prepares its graph. The chief reads all other datasets.

A dataset is shipped only if each of its operations is known to do the same on every worker. Datasets with a state
outside their graph would otherwise lose or repeat elements silently.
"""

import logging

import tensorflow as tf
from google.protobuf import message as protobuf_message
from tensorflow.core.framework import graph_pb2  # the serialised form of a dataset
from tensorflow.python.framework import op_def_registry  # whether an operation has a state is not public

from tfps.inputs.dataset_graph import READERS, STATEFUL_RANDOM, all_nodes, is_worker_function, strip_devices
from tfps.inputs.one_order import find_unseeded_in_functions, fix_order, fix_seeds
from tfps.inputs.paths import make_absolute
from tfps.inputs.sharding import split_by_file

_LOG = logging.getLogger("tfps")
_MAX_BYTES = 1 << 30
"""The largest graph that is shipped, data in memory included. A protocol buffer ends at 2 GiB."""

_PYTHON = frozenset({"PyFunc", "EagerPyFunc", "PyFuncStateless"})
"""Operations that call Python functions of the chief, which workers do not have."""

_CACHES = frozenset({"CacheDataset", "CacheDatasetV2"})

_DATASETS = (
    _CACHES
    | READERS
    | frozenset(
        {
            # Sources.
            "TensorDataset",
            "TensorSliceDataset",
            "SparseTensorSliceDataset",
            "RangeDataset",
            "RandomDataset",
            "RandomDatasetV2",
            # Functions of elements.
            "MapDataset",
            "ParallelMapDataset",
            "ParallelMapDatasetV2",
            "MapAndBatchDataset",
            "ParseExampleDataset",
            "ParseExampleDatasetV2",
            "FilterDataset",
            "ParallelFilterDataset",
            "TakeWhileDataset",
            "ScanDataset",
            "FlatMapDataset",
            "InterleaveDataset",
            "ParallelInterleaveDatasetV2",
            "ParallelInterleaveDatasetV3",
            "ParallelInterleaveDatasetV4",
            "GroupByWindowDataset",
            "GroupByReducerDataset",
            "ReduceDataset",
            "DatasetToSingleElement",
            # Batches and windows.
            "BatchDataset",
            "BatchDatasetV2",
            "ParallelBatchDataset",
            "PaddedBatchDataset",
            "PaddedBatchDatasetV2",
            "DenseToSparseBatchDataset",
            "RebatchDataset",
            "RebatchDatasetV2",
            "UnbatchDataset",
            "WindowDataset",
            "SlidingWindowDataset",
            # Order and choice.
            "ConcatenateDataset",
            "ZipDataset",
            "RepeatDataset",
            "TakeDataset",
            "SkipDataset",
            "ShardDataset",
            "UniqueDataset",
            "ShuffleDataset",
            "ShuffleDatasetV2",
            "ShuffleDatasetV3",
            "ShuffleAndRepeatDataset",
            "ShuffleAndRepeatDatasetV2",
            "SamplingDataset",
            "DirectedInterleaveDataset",
            # How elements are made, not which.
            "PrefetchDataset",
            "OptionsDataset",
            "ModelDataset",
            "OptimizeDataset",
            "FinalizeDataset",
            "AssertCardinalityDataset",
            "IgnoreErrorsDataset",
            "IgnoreErrorsDatasetV2",
            "MaxIntraOpParallelismDataset",
            "PrivateThreadPoolDataset",
        }
    )
)
"""Dataset operations that give the same elements on every worker, once their order and seeds are fixed.

Not among them: the tf.data service, which hands out elements itself; snapshots and saved datasets, whose files
TensorFlow finds in ways of its own; databases.
"""

_STATEFUL = STATEFUL_RANDOM | frozenset(
    {
        # They call other functions, whose operations are checked too.
        "Case",
        "If",
        "StatefulPartitionedCall",
        "While",
        # TensorFlow calls them stateful so that they are not optimized away.
        "Assert",
        "Timestamp",
        # It makes nothing, and a shuffle that gets it draws by itself.
        "DummySeedGenerator",
        # A table that never changes: the graph has its content.
        "HashTableV2",
        "LookupTableFindV2",
        "LookupTableImportV2",
        "LookupTableSizeV2",
    }
)
"""Other operations that TensorFlow calls stateful and that are safe on a worker."""

_OWN = frozenset({"TfpsParseLines", "TfpsSplitRecords"})
"""Operations of tfps in datasets. Each worker has the library if the chief has it."""

_OF_GRAPHS = frozenset({"_Arg", "_Retval"})


def make_shippable_graph(
    dataset: tf.data.Dataset, num_workers: int, whole_files: bool = True, folder: str | None = None
) -> graph_pb2.GraphDef | None:
    """Makes the graph of a dataset that every worker can run.

    Args:
        dataset: a dataset of batches.
        num_workers: the number of workers that read it.
        whole_files: whether the shards of workers may be whole files.
        folder: the folder in which workers look relative file names up; None for the folder of each worker.

    Returns:
        The graph of the whole dataset, with a fixed order and fixed seeds, so that every worker sees the same elements.
        None if the dataset cannot leave this process; the reason is logged.
    """
    try:
        graph = strip_devices(dataset)
    except (tf.errors.OpError, ValueError, protobuf_message.DecodeError) as error:
        _log_fed(f"it cannot be serialised ({str(error)[:200]})")
        return None
    reason = _find_obstacle(graph, num_workers, whole_files, folder)
    if reason:
        _log_fed(reason)
        return None
    fix_order(graph)
    fix_seeds(graph)
    if folder is not None:
        make_absolute(graph, folder)
    return graph


def _find_obstacle(graph: graph_pb2.GraphDef, num_workers: int, whole_files: bool, folder: str | None) -> str:
    """Returns the reason why a dataset cannot be shipped; empty if it can."""
    if graph.ByteSize() > _MAX_BYTES:
        return f"it holds {graph.ByteSize() >> 20} MiB of data"
    operations = {node.op for node in all_nodes(graph) if not is_worker_function(node)}
    if python := _PYTHON & operations:
        return f"it calls Python ({', '.join(sorted(python))})"
    functions = {function.signature.name for function in graph.library.function}
    if unsafe := {name for name in operations - functions if not _is_safe(name)}:
        return f"it has a state of its own, or operations that may have one ({', '.join(sorted(unsafe))})"
    if _caches_in_files(graph):
        return "it caches its elements in a file, which only one process can write"
    if "MatchingFiles" in operations and set(folder or "") & set("*?[\\"):
        return "it looks for files by a pattern, and the current folder has a name that would be part of it"
    # If shards are files, each worker draws numbers for its own elements. If shards are elements, all workers would
    # have to draw the same numbers.
    by_file = whole_files and split_by_file(graph, num_workers)
    if num_workers > 1 and not by_file and (inner := find_unseeded_in_functions(graph)):
        return f"a function of it has randomness without a seed ({', '.join(sorted(inner))})"
    return ""


def _is_safe(name: str) -> bool:
    """Whether an operation is known to do the same on every worker, with nothing but its graph."""
    if name in _DATASETS or name in _STATEFUL or name in _OWN or name in _OF_GRAPHS:
        return True
    definition = op_def_registry.get(name)
    # `raw_ops` has the operations of TensorFlow itself. Workers may not have those of other libraries.
    return definition is not None and not definition.is_stateful and "Dataset" not in name and hasattr(tf.raw_ops, name)


def _caches_in_files(graph: graph_pb2.GraphDef) -> bool:
    """Whether a dataset caches its elements in a file, or within a function, where this cannot be seen."""
    names = {node.name: node.attr["value"].tensor.string_val for node in graph.node if node.op == "Const"}
    in_memory = [b""]
    caches = [node for node in graph.node if node.op in _CACHES]
    inner = any(node.op in _CACHES for function in graph.library.function for node in function.node_def)
    return inner or any(list(names.get(node.input[1], ())) != in_memory for node in caches)


def _log_fed(reason: str) -> None:
    """Logs why the chief reads a dataset."""
    _LOG.info("the chief reads the dataset and feeds its batches to the workers: %s", reason)
