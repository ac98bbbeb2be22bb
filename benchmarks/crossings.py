"""How many tensors a step of a traced closure sends between worker and servers: what costs, beside bytes."""

from typing import Any


def crossings(model: Any) -> dict[str, float]:
    """Tensors that cross, either way, from the devices of the graph that `fit` traced.

    Args:
        model: a Keras model of our strategy that was fitted.

    Returns:
        For all servers together: those of the loop over steps, once a step, and those around it, once a closure.
    """
    concrete, *_ = model.train_function._over_iterator.values()
    graph = concrete.graph.as_graph_def()
    functions = [list(function.node_def) for function in graph.library.function]
    body = max(functions, key=_gathers, default=[])
    in_loop = body if _gathers(body) else []
    return {
        "remote_tensors_per_step": len(_crossing(in_loop)),
        "remote_tensors_per_closure": len(_crossing(graph.node)),
    }


def _gathers(nodes: Any) -> int:
    return sum(node.op in ("TfpsGatherRows", "ResourceGather") and "/job:ps/" in node.device for node in nodes)


def _crossing(nodes: Any) -> set[tuple[str, str, str]]:
    """(tensor, its number, where it goes) of each edge between the worker and a server."""
    where = {node.name: node.device if "/job:ps/" in node.device else "worker" for node in nodes}
    found = set()
    for node in nodes:
        for source in node.input:
            name, *output = source.removeprefix("^").split(":")
            if not source.startswith("^") and name in where and where[name] != where[node.name]:
                found.add((name, output[-1] if output else "0", where[node.name]))
    return found
