"""Counts the tensors that a step of a traced closure sends between worker and servers. Each has its price."""

from typing import Any

from tensorflow.core.framework.types_pb2 import DT_RESOURCE


def crossings(model: Any) -> dict[str, float]:
    """Counts tensors that cross in either direction, from the devices in the graph that `fit` traced.

    Args:
        model: a Keras model of our strategy that was fitted.

    Returns:
        For all servers together: those of the loop over steps, for each step of a turn, and those around it, once a
        closure.
    """
    *_, concrete = model.train_function.closures.by_iterator.values()
    graph = concrete.graph.as_graph_def()
    bodies = [list(function.node_def) for function in graph.library.function]
    bodies = sorted(filter(_gathers, bodies), key=_gathers) or [[]]
    step, turn = bodies[0], bodies[-1]
    steps = _gathers(turn) // max(1, _gathers(step))
    return {
        "remote_tensors_per_step": len(_crossing(turn)) / max(1, steps),
        "remote_tensors_per_closure": len(_crossing(graph.node)),
    }


def _gathers(nodes: Any) -> int:
    return sum(node.op in ("TfpsGatherRows", "ResourceGather") and "/job:ps/" in node.device for node in nodes)


def _crossing(nodes: Any) -> set[tuple[str, str, str]]:
    """(tensor, its number, where it goes) of each edge between the worker and a server; handles stay where they are."""
    values = [node for node in nodes if node.attr["dtype"].type != DT_RESOURCE]
    where = {node.name: node.device if "/job:ps/" in node.device else "worker" for node in values}
    found = set()
    for node in values:
        for source in node.input:
            name, *output = source.removeprefix("^").split(":")
            if not source.startswith("^") and name in where and where[name] != where[node.name]:
                found.add((name, output[-1] if output else "0", where[node.name]))
    return found
