"""Counts what a training step keeps in memory and computes, from its traced graph. Nothing is run.

**Activations** are the tensors of the forward pass that the backward pass reads. TensorFlow frees every other tensor of
the forward pass as soon as its last reader has run. Tensors that share a buffer, such as a tensor and its reshaped
form, count once. Variables and the batch itself do not count.

What nothing reads is not counted, as TensorFlow does not run it: the gradient of a batch, for example.

**A loop** keeps what one turn pushes on TensorFlow's lists for the backward pass, times the turns.

**Floating-point operations** are those of matrix products and convolutions, of all passes: a multiplication and an
addition count as two.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from tfps.choice.footprint import StepCounts
from tfps.types import Shape

_BACKWARD = "gradient_tape/"
"""TensorFlow's tapes put this in front of the names of operations that they record; once more for each outer tape."""
_VIEWS = frozenset(
    ("Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "StopGradient", "PreventGradient", "EnsureShape")
)
"""Operations whose outputs share the buffers of their inputs."""
_NO_BUFFERS = frozenset(("ReadVariableOp", "VarHandleOp", "Const", "Placeholder", "PlaceholderWithDefault"))
"""Operations whose outputs are variables, constants of the graph or the batch."""
_SHAPE_READERS = frozenset(("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "BroadcastGradientArgs"))
"""Operations that read the shape of a tensor and not its elements, so it need not be kept for them."""
_STRING_BYTES = 24
"""The size of TensorFlow's string object, without characters of its own."""


def count_step(
    graph: tf.Graph, results: Sequence[tf.Tensor], batch_size: int, tables: Collection[Shape] = ()
) -> StepCounts:
    """Counts a graph that holds a training step.

    Args:
        graph: the graph of a step whose inputs have known shapes.
        results: the tensors that the step computes, such as gradients. Assignments of variables count as results.
        batch_size: the size of dimensions that depend on the data.
        tables: the shapes of tables. Tensors of these shapes are updates of whole tables, which tfps does not make.
    """
    counter = _Counter(batch_size, tables)
    kept = counter.kept_bytes(_live(graph, results))
    work = counter.work(_live(graph, results))
    return StepCounts(
        int(kept),
        counter.largest_bytes,
        work.flops,
        round(work.operations),
        round(work.written_bytes),
        len(counter.guessed),
        counter.is_endless,
    )


class _Work(NamedTuple):
    flops: float = 0.0
    operations: float = 0.0
    written_bytes: float = 0.0

    def plus(self, other: "_Work", times: float = 1.0) -> "_Work":
        return _Work(*(mine + times * its for mine, its in zip(self, other, strict=True)))


class _Counter:
    """The counts of one graph and of the functions that it calls."""

    def __init__(self, batch_size: int, tables: Collection[Shape]) -> None:
        self._batch_size, self._tables = batch_size, set(tables)
        self.guessed: set[str] = set()
        self.largest_bytes = 0
        self.is_endless = False

    def kept_bytes(self, operations: Sequence[tf.Operation]) -> float:
        """Returns the bytes of the tensors that a later tape reads, each buffer once."""
        buffers: dict[int, tf.Tensor] = {}
        levels = _levels(operations)
        for operation in operations:
            if _BACKWARD not in operation.name or operation.type in _SHAPE_READERS:
                continue
            for tensor in operation.inputs:
                # An operation of the tape reads the gradient beside it, and tensors of the pass that it goes back over.
                if levels[tensor.op.name] < levels[operation.name]:
                    buffer = _buffer_of(tensor)
                    buffers[id(buffer)] = buffer
        sizes = [self._kept_of(buffer) for buffer in buffers.values() if buffer.op.type not in _NO_BUFFERS]
        self.largest_bytes = int(max(sizes, default=0))
        return sum(sizes)

    def _kept_of(self, tensor: tf.Tensor) -> float:
        """Returns the bytes of a kept tensor. A list of a loop has those of all its turns."""
        if tensor.dtype == tf.variant:
            return self._list_bytes(tensor)
        return 0 if tensor.dtype == tf.resource else self._bytes(tensor)

    def _list_bytes(self, tensor: tf.Tensor) -> float:
        """Returns the bytes that a list of tensors holds."""
        operation = tensor.op
        if operation.type == "TensorListFromTensor":
            return self._bytes(operation.inputs[0])
        if operation.type not in _LOOPS:
            return 0
        body = _function(operation, "body")
        # The result of the body at the same position is the list after one more turn.
        after = _buffer_of(body.outputs[tensor.value_index])
        if after.op.type not in ("TensorListPushBack", "TensorListSetItem"):
            return 0
        element = after.op.inputs[-1]
        # A list of lists belongs to a loop in this loop.
        size = self._list_bytes(_buffer_of(element)) if element.dtype == tf.variant else self._bytes(element)
        source = _buffer_of(element)
        # A list holds no copy of what it gets: of a variable nothing is added, of a tensor from outside one buffer.
        if source.op.type in _NO_BUFFERS and not _changes_in(body, source):
            return size if source.op.type == "Placeholder" else 0
        return size * self._turns(operation)

    def work(self, operations: Sequence[tf.Operation]) -> _Work:
        """Returns what some operations compute and write."""
        work = _Work()
        for operation in operations:
            times, bodies = self._bodies(operation)
            for body in bodies:
                work = work.plus(self.work(_live(body, body.outputs)), times)
            if operation.type in _NO_BUFFERS | _VIEWS | _SHAPE_READERS:
                continue
            count = _FLOPS.get(operation.type)
            flops = count(operation, self._elements) if count else 0.0
            work = work.plus(_Work(flops, 1, sum(map(self._written, operation.outputs))))
        return work

    def _written(self, tensor: tf.Tensor) -> int:
        is_table = tensor.shape.is_fully_defined() and tuple(tensor.shape) in self._tables
        return 0 if is_table or tensor.dtype in (tf.variant, tf.resource) else self._bytes(tensor)

    def _bodies(self, operation: tf.Operation) -> tuple[float, list[tf.Graph]]:
        """Returns how often an operation runs its functions, and their graphs."""
        if operation.type in _LOOPS:
            return self._turns(operation), [_function(operation, "body")]
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            return 1, [_function(operation, "f")]
        if operation.type in ("If", "StatelessIf"):
            # One of the two runs; the longer one is counted.
            branches = [_function(operation, name) for name in ("then_branch", "else_branch")]
            return 1, [max(branches, key=lambda branch: len(branch.get_operations()))]
        return 1, []

    def _turns(self, operation: tf.Operation) -> int:
        """Returns how often a loop runs its body: 1 if the graph does not say."""
        # The inputs of a loop begin with its counter and the most turns.
        limit = _static_value(operation.inputs[1]) if len(operation.inputs) > 1 else None
        if limit is None or limit.ndim or not 0 <= int(limit) < 2**31 - 1:
            self.is_endless = True
            return 1
        return int(limit)

    def _bytes(self, tensor: tf.Tensor) -> int:
        size = _STRING_BYTES if tensor.dtype == tf.string else tensor.dtype.size
        return self._elements(tensor) * size

    def _elements(self, tensor: tf.Tensor) -> int:
        """Returns the number of elements of a tensor. Unknown dimensions count as the batch size."""
        shape = tensor.shape
        if shape.is_fully_defined():
            return math.prod(shape.as_list())
        self.guessed.add(tensor.name)
        return self._batch_size if shape.rank is None else math.prod(size or self._batch_size for size in shape)


_LOOPS = ("While", "StatelessWhile")


def _live(graph: tf.Graph, results: Sequence[tf.Tensor]) -> list[tf.Operation]:
    """Returns the operations that TensorFlow runs for some results, inputs first."""
    waiting = [tensor.op for tensor in results if tensor.graph is graph]
    waiting += [operation for operation in graph.get_operations() if operation.op_def.is_stateful]
    needed: set[str] = set()
    while waiting:
        operation = waiting.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            waiting += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    # Operations are listed in the order in which they were made, so inputs come first.
    return [operation for operation in graph.get_operations() if operation.name in needed]


def _levels(operations: Sequence[tf.Operation]) -> dict[str, int]:
    """Returns the pass that each operation belongs to, by name: 0 forward, 1 backward, 2 a tape over that, and so on.

    What is computed from a gradient is of the backward pass too: sums of gradients have no name of a tape.
    """
    levels: dict[str, int] = {}
    for operation in operations:
        read = max((levels.get(tensor.op.name, 0) for tensor in operation.inputs), default=0)
        levels[operation.name] = max(read, operation.name.count(_BACKWARD))
    return levels


def _buffer_of(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor whose buffer a tensor shares; itself if it has its own."""
    while tensor.op.type in _VIEWS:
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    return tensor


def _static_value(tensor: tf.Tensor) -> np.ndarray[Any, Any] | None:
    """Returns the value of a tensor that does not depend on data; None if it does."""
    value = tf.get_static_value(tensor)
    # TensorFlow does not fold these, by which Keras finds the length of a loop.
    if value is None and tensor.op.type in ("Max", "Min", *_VIEWS):
        inner = _static_value(tensor.op.inputs[0])
        if inner is not None:
            value = inner.max() if tensor.op.type == "Max" else inner.min() if tensor.op.type == "Min" else inner
    return None if value is None else np.asarray(value)


def _function(operation: tf.Operation, name: str) -> tf.Graph:
    """Returns the graph of a function that an operation calls."""
    # There is no public way from the name of a function to its graph.
    graph: tf.Graph = operation.graph._get_function(operation.get_attr(name).name).graph
    return graph


def _changes_in(body: tf.Graph, argument: tf.Tensor) -> bool:
    """Returns whether a turn of a loop hands on another value of an argument than it got."""
    index = next((index for index, tensor in enumerate(body.inputs) if tensor is argument), None)
    return index is not None and _buffer_of(body.outputs[index]) is not argument


# Operation by operation: the floating-point operations, from the tensors of a graph.
_Elements: TypeAlias = Callable[[tf.Tensor], int]
_Count: TypeAlias = Callable[[tf.Operation, _Elements], float]
_Tensor: TypeAlias = Callable[[tf.Operation], tf.Tensor]


def _matmul(operation: tf.Operation, elements: _Elements) -> float:
    left = operation.inputs[0]
    attribute = next(name for name in ("transpose_a", "adj_x") if name in operation.node_def.attr)
    inner = left.shape[-2 if operation.get_attr(attribute) else -1]
    return 2.0 * elements(operation.outputs[0]) * (inner or 1)


def _einsum(operation: tf.Operation, elements: _Elements) -> float:
    """A product for each combination of indices: "abc,cd->abd" has a * b * c * d of them."""
    equation = operation.get_attr("equation").decode()
    sizes: dict[str, int] = {}
    for labels, tensor in zip(_labels(equation), [*operation.inputs, *operation.outputs], strict=True):
        # Dimensions of an ellipsis have no labels; they are found in the largest operand.
        sizes.update(zip(labels, (size or 1 for size in tensor.shape[-len(labels) :]), strict=False))
    named = math.prod(sizes.values())
    return 2.0 * named if "." not in equation else 2.0 * max(map(elements, operation.inputs)) * (named or 1) ** 0.5


def _labels(equation: str) -> Iterator[str]:
    return iter(equation.replace(".", "").replace("->", ",").split(","))


def _convolution(kernel: _Tensor, output: _Tensor) -> _Count:
    """Counts convolutions: each element of the output sees the part of the kernel that belongs to its channel."""

    def count(operation: tf.Operation, elements: _Elements) -> float:
        shape = kernel(operation).shape
        if not shape.is_fully_defined():
            return 0.0
        # A kernel is [..., in, out]; a depthwise one [..., channels, multiplier] meets one channel in each output.
        seen = shape[:-2] if operation.type.startswith("Depthwise") else shape[:-1]
        return 2.0 * elements(output(operation)) * math.prod(seen.as_list())

    return count


_FLOPS: dict[str, _Count] = {
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matmul),
    "Einsum": _einsum,
    **dict.fromkeys(
        ("Conv2D", "Conv3D", "DepthwiseConv2dNative"),
        _convolution(lambda operation: operation.inputs[1], lambda operation: operation.outputs[0]),
    ),
    # The gradients of a convolution make as many products. Their last input is the gradient of its output.
    **dict.fromkeys(
        ("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput"),
        _convolution(lambda operation: operation.inputs[1], lambda operation: operation.inputs[2]),
    ),
    **dict.fromkeys(
        ("Conv2DBackpropFilter", "Conv3DBackpropFilterV2", "DepthwiseConv2dNativeBackpropFilter"),
        _convolution(lambda operation: operation.outputs[0], lambda operation: operation.inputs[2]),
    ),
}
