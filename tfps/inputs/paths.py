"""Makes the relative file names of a dataset absolute, so that workers open the same files as the chief would.

A worker of an embedded cluster stays in the folder where its program started; the chief may have changed folders since.
"""

import os
from collections.abc import Callable, MutableSequence

from tensorflow.core.framework import graph_pb2, node_def_pb2  # the serialised form of a dataset

from tfps.inputs.dataset_graph import READERS

_OPENS_FILES = READERS | {"ReadFile", "MatchingFiles"}
"""Operations whose first input is a file name, a pattern of names, or a list of them."""


def current_folder() -> str | None:
    """Returns the current folder of this process; None if it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def make_absolute(graph: graph_pb2.GraphDef, folder: str) -> None:
    """Changes a dataset graph so that it looks relative file names up in a folder.

    Names with a scheme, such as "s3://bucket/file", stay as they are.

    Args:
        graph: the graph of a dataset.
        folder: the absolute path of the folder.
    """
    # The names are tensors whose values the graph may compute, so operations change them when the dataset runs.
    _change_names(graph.node, folder, lambda name: name)
    for function in graph.library.function:
        # Within a function, an input names one output of an operation.
        _change_names(function.node_def, folder, lambda name: f"{name}:output:0")


def _change_names(nodes: MutableSequence[node_def_pb2.NodeDef], folder: str, output: Callable[[str], str]) -> None:
    """Puts two replacements before each operation that opens files: one adds the folder, one removes it again."""
    folder = folder.rstrip("/") + "/"
    for node in [node for node in nodes if node.op in _OPENS_FILES]:
        # An expression cannot say "without a scheme", so the folder is added first and removed from URLs then.
        added = _replace(
            nodes, f"{node.name}/tfps_folder", node.input[0], "^([^/])", folder.replace("\\", "\\\\") + r"\1"
        )
        scheme = rf"^\Q{folder}\E([A-Za-z][A-Za-z0-9+.\-]*://)"
        node.input[0] = output(_replace(nodes, f"{node.name}/tfps_path", output(added), scheme, r"\1"))


def _replace(nodes: MutableSequence[node_def_pb2.NodeDef], name: str, source: str, pattern: str, rewrite: str) -> str:
    """Adds an operation that replaces the first match of a pattern in each string of a tensor; returns its name."""
    node = node_def_pb2.NodeDef(name=name, op="StaticRegexReplace", input=[source])
    node.attr["pattern"].s = pattern.encode()
    node.attr["rewrite"].s = rewrite.encode()
    node.attr["replace_global"].b = False
    nodes.append(node)
    return name
