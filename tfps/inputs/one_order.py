"""Makes a dataset graph produce the same elements in the same order on all workers.

Each worker runs the whole dataset and keeps its shard, so all workers must see the same sequence. This module turns off
parallelism that changes the order, and gives a seed to all randomness that has none. The seeds come from Python's
`random`, which `keras.utils.set_random_seed` seeds.
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
"""For each dataset operation with two seed inputs, the index of the first one."""

_SEEDS_IN_A_RESOURCE = frozenset({"ShuffleDatasetV2", "ShuffleDatasetV3", "ShuffleAndRepeatDatasetV2"})
"""Shuffles that name a seed generator, a resource of the chief that no worker has."""

_FUNCTIONS = frozenset({"f", "predicate", "key_func"})
"""The attributes that name the functions of dataset operations."""

_BY_VALUE = frozenset({"UnbatchDataset", "DirectedInterleaveDataset"})
"""Operations without a function whose number of elements depends on the values of their input."""


def find_unseeded_in_functions(graph: graph_pb2.GraphDef) -> set[str]:
    """Returns the types of the datasets inside functions (of `flat_map`, say) that are random and have no seed.

    This module cannot give them a seed: with a fixed seed they would draw the same numbers for each element and in each
    epoch.
    """
    found = set()
    for function in graph.library.function:
        zeros = {
            f"{node.name}:output:0"
            for node in function.node_def
            if is_int64_constant(node) and not constant_value(node).any()
        }
        for node in function.node_def:
            # Two seeds of 0 mean "no seed". A "ShuffleDatasetV2" never has seeds of its own.
            start = _SEEDS_AT.get(node.op[:-2] if node.op in _SEEDS_IN_A_RESOURCE else node.op)
            if node.op == "ShuffleDatasetV2" or start is not None and zeros.issuperset(node.input[start : start + 2]):
                found.add(node.op)
    return found


def fix_order(graph: graph_pb2.GraphDef) -> None:
    """Makes parallel operations return elements in the order of their input, and not as the calls finish."""
    for node in all_nodes(graph):
        # TensorFlow has three settings for this: a newer attribute, an older one with the opposite meaning, and an
        # option of the whole dataset.
        if "Dataset" in node.op and "deterministic" in node.attr:
            node.attr["deterministic"].s = b"true"
        if "Dataset" in node.op and "sloppy" in node.attr:
            node.attr["sloppy"].b = False
        if node.op == "OptionsDataset":
            options = dataset_options_pb2.Options.FromString(node.attr["serialized_options"].s)
            options.deterministic = True
            node.attr["serialized_options"].s = options.SerializeToString()
    for node in list(graph.node):
        # Parallel calls race for the random numbers. If the numbers can decide how many elements there are (in a filter
        # after the map, say), the calls run one by one.
        if node.op == "ParallelMapDatasetV2" and draws_random_numbers(graph, node) and _decides_count(graph, node):
            node.input[-1] = add_constant(graph, f"{node.name}/tfps_calls", 1)


def fix_seeds(graph: graph_pb2.GraphDef) -> None:
    """Gives a seed to every source of randomness that has none."""
    constants = {node.name: constant_value(node) for node in graph.node if is_int64_constant(node)}
    for node in list(graph.node):
        if node.op in _SEEDS_IN_A_RESOURCE:
            _move_seeds_into(graph, node)
        # This op alone makes its own generator if it finds none, so it must not keep the resource of the chief.
        if node.op == "RandomDatasetV2":
            node.input[2] = graph.node.add(name=f"{node.name}/tfps_no_generator", op="DummySeedGenerator").name
        start = _SEEDS_AT.get(node.op)
        # A seed that is no constant counts as missing: the graph cannot tell its value.
        if start is not None and all(constants.get(name, 0) == 0 for name in node.input[start : start + 2]):
            for index in (start, start + 1):
                node.input[index] = add_constant(graph, f"{node.name}/tfps_seed_{index}", random.getrandbits(31))
    for node in all_nodes(graph):
        if node.op in STATEFUL_RANDOM and not node.attr["seed"].i and not node.attr["seed2"].i:
            node.attr["seed"].i, node.attr["seed2"].i = random.getrandbits(31), random.getrandbits(31)


def _decides_count(graph: graph_pb2.GraphDef, start: node_def_pb2.NodeDef) -> bool:
    """Whether the values of a dataset's elements can decide how many elements come out at the end."""
    after = {start.name}
    # The nodes come in topological order, so `after` has the inputs of a node before the loop reaches the node.
    for node in graph.node:
        if "Dataset" in node.op and not after.isdisjoint(node.input):
            after.add(node.name)
            if node.op not in PER_ELEMENT and (_FUNCTIONS & set(node.attr) or node.op in _BY_VALUE):
                return True
    return False


def _move_seeds_into(graph: graph_pb2.GraphDef, node: node_def_pb2.NodeDef) -> None:
    """Changes a shuffle into the first version of its op, which has its seeds as inputs and needs no resource."""
    # The last input is the resource.
    del node.input[-1]
    # This version has no seed inputs. Two zeros mean "no seed", and `fix_seeds` replaces them.
    if node.op == "ShuffleDatasetV2":
        node.input.extend([add_constant(graph, f"{node.name}/tfps_no_seed", 0)] * 2)
        node.attr["reshuffle_each_iteration"].b = True
    # Drops the version: "ShuffleDatasetV3" becomes "ShuffleDataset".
    node.op = node.op[:-2]
