"""The dense variables of one server in fewer bytes: the values that it sends, and the deltas that it gets.

Deltas have error feedback: a worker keeps what rounding took from the deltas of a push, and adds it to those of the
next one. So all that it has sent is all that its steps have moved, less the one error that it keeps. With "int8",
variables that are not trained cross as "bfloat16", because rounding could turn the sign of a sum of squares; and so do
all values that servers send. Moving averages have no feedback, because they forget errors by themselves. Small
variables, values of other types, and values that replace what a server has, cross as they are.

Elements are coded in blocks of 64, each with its own scale in "int8". Example: 130 deltas are 3 blocks, of which the
last is filled up with zeros: 384 bytes as "bfloat16", 198 as "int8", instead of 520.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfps.embedding import wire
from tfps.ops.row_codec import RowCodec, coded_floats, decode_rows, encode_rows
from tfps.strategy.variables import DenseVariable
from tfps.training.lanes import lanes
from tfps.types import VariableKey

_BLOCK = 64
"""A scale costs 2 bytes: 3 % of a block. Larger blocks would round small elements beside large ones more coarsely.

Variables with fewer elements, such as a learning rate, cross as they are.
"""


class Coding(NamedTuple):
    """How the lanes of a variable are coded.

    Args:
        codec: the codec.
        feedback: whether the sender keeps what rounding takes for the next message.
    """

    codec: RowCodec
    feedback: bool


@dataclasses.dataclass(frozen=True)
class CodedMessage:
    """Codes a float32 message that begins with the lanes of some variables.

    Args:
        sizes: the lanes of each variable, in the order of the message.
        codings: how the lanes of each variable are coded; None for as they are.
        name: the beginning of the names of the sender's variables that have the errors.
    """

    sizes: tuple[int, ...]
    codings: tuple[Coding | None, ...]
    name: str

    def encode(self, message: tf.Tensor) -> tf.Tensor:
        """Returns a message in fewer bytes; the sender keeps what rounding takes."""
        *parts, rest = tf.split(message, [*self.sizes, -1])
        coded = []
        for coding in self._used:
            values = tf.concat([part for part, one in zip(parts, self.codings, strict=True) if one == coding], 0)
            coded.append(values if coding is None else self._encode(values, coding))
        return tf.concat([*coded, rest], 0)

    def decode(self, coded: tf.Tensor) -> tf.Tensor:
        """Returns the message again, with rounded elements; called with the receiver as the device."""
        sizes = {coding: self._sizes_of(coding) for coding in self._used}
        floats = [
            sum(of) if coding is None else coded_floats(_blocks(sum(of)), _BLOCK, coding.codec)
            for coding, of in sizes.items()
        ]
        *sections, rest = tf.split(coded, [*floats, -1])
        parts: dict[Coding | None, Iterator[tf.Tensor]] = {}
        for (coding, of), section in zip(sizes.items(), sections, strict=True):
            values = section if coding is None else _decode(section, sum(of), coding.codec)
            parts[coding] = iter(tf.split(values, of))
        return tf.concat([*(next(parts[coding]) for coding in self.codings), rest], 0)

    @property
    def _used(self) -> list[Coding | None]:
        """The codings, each once, in the order of the coded message."""
        return list(dict.fromkeys(self.codings))

    def _sizes_of(self, coding: Coding | None) -> list[int]:
        return [size for size, one in zip(self.sizes, self.codings, strict=True) if one == coding]

    def _encode(self, values: tf.Tensor, coding: Coding) -> tf.Tensor:
        """Codes the lanes of all variables with one coding."""
        elements = sum(self._sizes_of(coding))
        if not coding.feedback:
            return _encode(values, elements, coding.codec)
        handle = tf.raw_ops.VarHandleOp(
            dtype=tf.float32,
            shape=[elements],
            shared_name=f"{self.name}_{coding.codec}{wire.ERRORS_SUFFIX}",
            name="errors",
        )
        # A worker that took the place of another has no errors yet.
        errors = tf.cond(
            tf.raw_ops.VarIsInitializedOp(resource=handle),
            lambda: tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32),
            lambda: tf.zeros([elements]),
        )
        errors = tf.ensure_shape(errors, [elements])
        # Servers ignore the push before the first span of a closure, which moves nothing: the errors wait for the next.
        moved = tf.reduce_any(tf.not_equal(values, 0.0))
        sums = values + tf.where(moved, errors, 0.0)
        coded = _encode(sums, elements, coding.codec)
        left = sums - _decode(coded, elements, coding.codec)
        # What is not finite is sent as it is, and must not come back with the next push.
        left = tf.where(tf.math.is_finite(left), left, 0.0)
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.where(moved, left, errors))
        return coded


def coded_deltas(
    variables: Sequence[DenseVariable],
    summed: Collection[VariableKey],
    averages: Collection[VariableKey],
    name: str,
) -> CodedMessage | None:
    """Returns how the closure under trace codes a worker's message to a server; None if it crosses as it is.

    Args:
        variables: the variables of the server, in the order of the message.
        summed: the keys of those that the server adds to.
        averages: the keys of those that are moving averages.
        name: a name for the message, such as the device of the server.
    """
    trained: RowCodec = "int8" if wire.current() == "int8" else "bfloat16"

    def coding(variable: DenseVariable) -> Coding | None:
        if variable.key in averages:
            return Coding("bfloat16", feedback=False)
        if variable.key in summed:
            return Coding(trained if variable.trainable else "bfloat16", feedback=True)
        return None

    return _coded(variables, coding, name)


def coded_values(variables: Sequence[DenseVariable]) -> CodedMessage | None:
    """Returns how the closure under trace codes the values that a server sends; None if they cross as they are.

    They are rounded to the nearest, so a value that nobody changes reads the same each time.
    """
    return _coded(variables, lambda _: Coding("bfloat16", feedback=False), "values")


def _coded(
    variables: Sequence[DenseVariable], coding: Callable[[DenseVariable], Coding | None], name: str
) -> CodedMessage | None:
    """Makes the message of some variables, with this coding for those that are large enough and float32."""
    if wire.current() == wire.FLOAT32:
        return None
    codings = tuple(
        coding(variable) if variable.dtype == tf.float32 and variable.shape.num_elements() >= _BLOCK else None
        for variable in variables
    )
    if not any(codings):
        return None
    sizes = tuple(lanes(variable.shape.num_elements(), variable.dtype) for variable in variables)
    content = [name, *((v.key, one) for v, one in zip(variables, codings, strict=True))]
    return CodedMessage(sizes, codings, wire.name_of_errors(f"dense_{sum(sizes)}", content))


def _blocks(elements: int) -> int:
    return math.ceil(elements / _BLOCK)


def _encode(values: tf.Tensor, elements: int, codec: RowCodec) -> tf.Tensor:
    filled = tf.pad(values, [[0, _blocks(elements) * _BLOCK - elements]])
    return encode_rows(tf.reshape(filled, [-1, _BLOCK]), codec, stochastic=False)


def _decode(coded: tf.Tensor, elements: int, codec: RowCodec) -> tf.Tensor:
    blocks = decode_rows(coded, tf.constant(_blocks(elements), tf.int64), _BLOCK, codec)
    return tf.reshape(blocks, [-1])[:elements]
