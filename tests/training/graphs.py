"""What waits for what in the graph of a closure."""


def before(name, nodes):
    """The names of all nodes that a node waits for."""
    by_name, waiting, seen = {node.name: node for node in nodes}, [name], set()
    while waiting:
        one = waiting.pop()
        if one in by_name and one not in seen:
            seen.add(one)
            waiting += [source.lstrip("^").split(":")[0] for source in by_name[one].input]
    return seen - {name}
