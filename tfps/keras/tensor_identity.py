"""What identifies a tensor of a graph, also within the graphs of its branches and loops."""

import tensorflow as tf


def _captured(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor of the outermost graph, or the eager tensor, that a graph has captured as `tensor`."""
    while tf.is_symbolic_tensor(tensor) and tensor.op.type == "Placeholder":
        captures = getattr(tensor.graph, "captures", ())
        outer = next((external for external, internal in captures if internal.name == tensor.name), None)
        if outer is None:
            break
        tensor = outer
    return tensor


def identity_of(tensor: tf.Tensor) -> tuple[int, str]:
    """Returns what identifies a tensor, or the tensor outside that an inner graph has captured as this one."""
    tensor = _captured(tensor)
    # A tensor of a graph may have several Python objects.
    return (id(tensor.graph), tensor.name) if tf.is_symbolic_tensor(tensor) else (id(tensor), "")
