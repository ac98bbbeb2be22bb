"""Copies operations from one graph into another."""

import tensorflow as tf


def copy_tensor(tensor: tf.Tensor, known: dict[str, tf.Tensor]) -> tf.Tensor:
    """Copies a tensor of another graph, and all operations it depends on, into the current graph.

    Args:
        tensor: a tensor of another graph, such as the recording.
        known: the copies by the name of their originals. At first it has the inputs; this function adds to it.
    """
    # Depth first with an explicit stack: a long chain of operations would exceed Python's recursion limit.
    waiting = [tensor]
    while waiting:
        inputs = [source for source in waiting[-1].op.inputs if source.name not in known]
        if waiting[-1].name in known:
            waiting.pop()
        elif inputs:
            waiting += inputs
        else:
            op = waiting.pop().op
            copied = tf.compat.v1.get_default_graph().create_op(
                op.type,
                [known[source.name] for source in op.inputs],
                [output.dtype for output in op.outputs],
                attrs={key: op.node_def.attr[key] for key in op.node_def.attr if not key.startswith("_")},
                name=op.name,
            )
            for old, new in zip(op.outputs, copied.outputs, strict=True):
                # Some operations cannot infer the shape again, such as the lookup of a `StringLookup` layer.
                new.set_shape(old.shape)
                known[old.name] = new
    return known[tensor.name]
