"""Numbers the summaries (`tf.summary`) that a step writes as one process would number them.

A worker counts its own steps: in each closure, its copy of `optimizer.iterations` goes on from the value that it has
pulled. Two workers would write summaries with the same step numbers. So where the number of a summary follows from
`iterations`, that count is replaced by the number of the batch among the batches of all workers.

Threading: the thread that traces a step.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.python.ops import summary_ops_v2  # the default writer of a thread is not public

from tfps import step
from tfps.keras.tensor_identity import identity_of
from tfps.strategy.variables import DenseVariable
from tfps.training.copied_tensors import copy_tensor
from tfps.types import VariableKey

State: TypeAlias = dict[str, Any]
"""The default writer of a thread, its step and its condition."""

_STEP = 1
"""The input of an operation that writes a summary which is the number of its step."""


def summary_state() -> State:
    """Returns the default writer of this thread, with its step and its condition."""
    return dict(vars(summary_ops_v2._summary_state))


@contextlib.contextmanager
def summary_scope(state: State) -> Iterator[None]:
    """Makes the default writer of another thread that of this one: steps may be traced in another thread than `fit`."""
    mine = vars(summary_ops_v2._summary_state)
    before = dict(mine)
    mine.update(state)
    try:
        yield
    finally:
        mine.clear()
        mine.update(before)


def forget_name_scopes() -> None:
    """Lets the step under trace use the name scopes of the steps before it in this graph.

    TensorFlow would number them, and the scopes are part of the tags of summaries: "dense/rate", and "dense_1/rate" for
    the next step.
    """
    graph = tf.compat.v1.get_default_graph()
    operations = {op.name.lower() for op in graph.get_operations()}
    # The names of operations must stay unique. All other names are scopes.
    for name in [name for name in graph._names_in_use if name not in operations]:
        del graph._names_in_use[name]


def number_summaries(begin: int, counters: Sequence[DenseVariable]) -> bool:
    """Numbers the summaries of the step under trace; returns whether it writes any.

    Args:
        begin: the number of operations in the graph before the step.
        counters: the variables that count the steps of the model, one for each of its optimizers.
    """
    operations = tf.compat.v1.get_default_graph().get_operations()[begin:]
    writes = [op for op in operations if op.type.startswith("Write") and op.type.endswith("Summary")]
    current = step.current()
    if not writes or current is None or current.numbering is None:
        return bool(writes)
    keys = {identity_of(copy): counter.key for counter in counters for copy in current.handles_of(counter.key)}
    # Of each counter, the operations of this step that have counted by now.
    counted: dict[VariableKey, int] = {}
    reads: dict[str, tuple[VariableKey, int]] = {}
    for op in operations:
        key = keys.get(identity_of(op.inputs[0])) if op.type in ("ReadVariableOp", "AssignAddVariableOp") else None
        if key is not None and op.type == "ReadVariableOp":
            reads[op.outputs[0].name] = key, counted.get(key, 0)
        elif key is not None:
            counted[key] = counted.get(key, 0) + 1
    for op in writes:
        known = _numbered(op.inputs[_STEP], reads, current.numbering)
        if known:
            op._update_input(_STEP, copy_tensor(op.inputs[_STEP], known))
    return True


def _numbered(
    number: tf.Tensor, reads: dict[str, tuple[VariableKey, int]], numbering: step.Numbering
) -> dict[str, tf.Tensor]:
    """Returns the tensors that replace others in the computation of a step number; none if there is nothing to do.

    Args:
        number: the number of the step of a summary.
        reads: the counter of each read of a counter, and how often the step has counted before it.
        numbering: the numbers of the steps of the closure.
    """
    known: dict[str, tf.Tensor] = {}
    found = False
    waiting = [number]
    while waiting:
        tensor = waiting.pop()
        op = tensor.op
        key, counted = reads.get(tensor.name, (None, 0))
        if key is not None and key in numbering.pulled:
            # The steps of the closure before this one.
            before = tf.cast(tensor - numbering.pulled[key], tf.int64) - counted
            ours = tf.cast(numbering.number + before * numbering.stride + counted, tensor.dtype)
            known[tensor.name] = tf.where(numbering.stride > 0, ours, tensor)
            found = True
        elif op._is_stateful or (not op.inputs and op.type != "Const"):
            # It stays as it is.
            known[tensor.name] = tensor
        else:
            waiting += op.inputs
    return known if found else {}
