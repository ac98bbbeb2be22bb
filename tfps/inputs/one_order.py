"""One order of the elements on all workers: each of them runs the whole dataset, and keeps its shard.

Whatever would come in another order, or with other random numbers, on another worker gets an order and seeds of its
own here. The seeds come from Python's `random`, which `keras.utils.set_random_seed` seeds.
"""

import random

from tensorflow.core.framework import dataset_options_pb2, graph_pb2, node_def_pb2  # the serialised form of a dataset

from tfps.inputs.dataset_graph import (
    PER_ELEMENT,
    STATEFUL_RANDOM,
    add_constant,
    all_nodes,
    constant_value,
    draws_random_numbers,
    is_int64_constant,
)

_SEEDS_AT = {
    "ShuffleDataset": 2,
    "ShuffleAndRepeatDataset": 2,
    "SamplingDataset": 2,
    "RandomDataset": 0,
    "RandomDatasetV2": 0,
}
"""Which input of a dataset is the first of its two seeds."""

_SEEDS_IN_A_RESOURCE = frozenset({"ShuffleDatasetV2", "ShuffleDatasetV3", "ShuffleAndRepeatDatasetV2"})
_FUNCTIONS = frozenset({"f", "predicate", "key_func"})
_BY_VALUE = frozenset({"UnbatchDataset", "DirectedInterleaveDataset"})


def find_unseeded_in_functions(graph: graph_pb2.GraphDef) -> set[str]:
    """Datasets inside functions (as of `flat_map`) that are random without a seed.

    They cannot be given one: with a seed they would give the same for each element, and in each epoch.
    """
    found = set()
    for function in graph.library.function:
        zeros = {
            f"{node.name}:output:0"
            for node in function.node_def
            if is_int64_constant(node) and not constant_value(node).any()
        }
        for node in function.node_def:
            start = _SEEDS_AT.get(node.op[:-2] if node.op in _SEEDS_IN_A_RESOURCE else node.op)
            if node.op == "ShuffleDatasetV2" or start is not None and zeros.issuperset(node.input[start : start + 2]):
                found.add(node.op)
    return found


def fix_order(graph: graph_pb2.GraphDef) -> None:
    """Elements come in the order of the input, not as parallel calls are done."""
    for node in all_nodes(graph):
        if "Dataset" in node.op and "deterministic" in node.attr:
            node.attr["deterministic"].s = b"true"
        if "Dataset" in node.op and "sloppy" in node.attr:
            node.attr["sloppy"].b = False
        if node.op == "OptionsDataset":
            options = dataset_options_pb2.Options.FromString(node.attr["serialized_options"].s)
            options.deterministic = True
            node.attr["serialized_options"].s = options.SerializeToString()
    for node in list(graph.node):
        # Parallel calls that draw numbers draw them as they race. Where the numbers decide which elements there are,
        # calls are made one by one.
        if node.op == "ParallelMapDatasetV2" and draws_random_numbers(graph, node) and _decides_count(graph, node):
            node.input[-1] = add_constant(graph, f"{node.name}/tfps_calls", 1)


def fix_seeds(graph: graph_pb2.GraphDef) -> None:
    """Gives every source of randomness without a seed one."""
    constants = {node.name: constant_value(node) for node in graph.node if is_int64_constant(node)}
    for node in list(graph.node):
        if node.op in _SEEDS_IN_A_RESOURCE:
            _move_seeds_into(graph, node)
        if node.op == "RandomDatasetV2":  # of no other op: it makes a generator of its own where it finds none
            node.input[2] = graph.node.add(name=f"{node.name}/tfps_no_generator", op="DummySeedGenerator").name
        start = _SEEDS_AT.get(node.op)
        if start is not None and all(constants.get(name, 0) == 0 for name in node.input[start : start + 2]):
            for index in (start, start + 1):
                node.input[index] = add_constant(graph, f"{node.name}/tfps_seed_{index}", random.getrandbits(31))
    for node in all_nodes(graph):
        if node.op in STATEFUL_RANDOM and not node.attr["seed"].i and not node.attr["seed2"].i:
            node.attr["seed"].i, node.attr["seed2"].i = random.getrandbits(31), random.getrandbits(31)


def _decides_count(graph: graph_pb2.GraphDef, start: node_def_pb2.NodeDef) -> bool:
    """Whether the elements of a dataset can decide how many there are: an operation after it has a function."""
    after = {start.name}
    for node in graph.node:  # each comes after its inputs
        if "Dataset" in node.op and not after.isdisjoint(node.input):
            after.add(node.name)
            if node.op not in PER_ELEMENT and (_FUNCTIONS & set(node.attr) or node.op in _BY_VALUE):
                return True
    return False


def _move_seeds_into(graph: graph_pb2.GraphDef, node: node_def_pb2.NodeDef) -> None:
    """Makes a shuffle the first version of its op, which holds its seeds; newer ones name a resource instead."""
    del node.input[-1]
    if node.op == "ShuffleDatasetV2":  # had no seeds of its own
        node.input.extend([add_constant(graph, f"{node.name}/tfps_no_seed", 0)] * 2)
        node.attr["reshuffle_each_iteration"].b = True
    node.op = node.op[:-2]
