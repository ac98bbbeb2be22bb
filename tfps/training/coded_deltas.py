"""The dense deltas of one server in fewer bytes, with error feedback: nothing that rounding takes is lost.

A worker keeps what rounding took from the deltas of a push, and adds it to those of the next one. So all that it has
sent is all that its steps have moved, less the one error that it keeps. Deltas are coded in blocks of 64 elements, each
with its own scale in "int8". What "int8" does to variables that are not trained could turn the sign of a sum of squares,
so these cross as "bfloat16". Moving averages do too, without feedback, because they forget the errors by themselves.
Values of other types, and values that replace what a server has, cross as they are.

Example: 130 deltas are 3 blocks, of which the last is filled up with zeros: 384 bytes as "bfloat16", 198 as "int8",
instead of 520.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfps.embedding import wire
from tfps.ops.row_codec import RowCodec, coded_floats, decode_rows, encode_rows
from tfps.strategy.variables import DenseVariable
from tfps.types import VariableKey

_BLOCK = 64
"""A scale costs 2 bytes: 3 % of a block. Larger blocks would round small elements beside large ones more coarsely."""


class Coding(NamedTuple):
    """How the lanes of a variable are coded.

    Args:
        codec: the codec.
        feedback: whether the worker keeps what rounding takes for the next push.
    """

    codec: RowCodec
    feedback: bool


@dataclasses.dataclass(frozen=True)
class CodedDeltas:
    """Codes the message of one server, whose lanes begin with those of its variables.

    Args:
        sizes: the lanes of each variable, in the order of the message.
        codings: how the lanes of each variable are coded; None for as they are.
        name: the beginning of the names of the worker's variables that have the errors.
    """

    sizes: tuple[int, ...]
    codings: tuple[Coding | None, ...]
    name: str

    def encode(self, message: tf.Tensor) -> tf.Tensor:
        """Returns a message in fewer bytes; the worker keeps what rounding takes."""
        *parts, rest = tf.split(message, [*self.sizes, -1])
        coded = []
        for coding in self._used:
            values = tf.concat([part for part, one in zip(parts, self.codings, strict=True) if one == coding], 0)
            coded.append(values if coding is None else self._encode(values, coding))
        return tf.concat([*coded, rest], 0)

    def decode(self, coded: tf.Tensor) -> tf.Tensor:
        """Returns the message again, with rounded deltas; called with the server as the device."""
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
            dtype=tf.float32, shape=[elements], shared_name=f"{self.name}_{coding.codec}", name="errors"
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
    variables: Sequence[DenseVariable], sizes: Sequence[int], summed: set[VariableKey], averages: set[VariableKey], name: str
) -> CodedDeltas | None:
    """Returns how the closure under trace codes the message to a server; None if it crosses as it is.

    Args:
        variables: the variables of the server, in the order of the message.
        sizes: the lanes of each.
        summed: the keys of those that the server adds to.
        averages: the keys of those that are moving averages.
        name: a name for the message, such as the device of the server.
    """
    if wire.current() == wire.FLOAT32:
        return None
    codings = tuple(_coding(variable, variable.key in summed, variable.key in averages) for variable in variables)
    if not any(codings):
        return None
    # Every graph that pushes to the same variables finds the same errors by this name.
    keys = zlib.crc32(repr([name, *((v.key, coding) for v, coding in zip(variables, codings, strict=True))]).encode())
    return CodedDeltas(tuple(sizes), codings, f"tfps_wire_dense_{keys:08x}_{sum(sizes)}")


def _coding(variable: DenseVariable, is_sum: bool, is_average: bool) -> Coding | None:
    """Returns how a variable is coded."""
    if variable.dtype != tf.float32 or not (is_sum or is_average) or not variable.shape.num_elements():
        return None
    if is_average:
        return Coding("bfloat16", feedback=False)
    return Coding("int8" if wire.current() == "int8" and variable.trainable else "bfloat16", feedback=True)


def _blocks(elements: int) -> int:
    return math.ceil(elements / _BLOCK)


def _encode(values: tf.Tensor, elements: int, codec: RowCodec) -> tf.Tensor:
    filled = tf.pad(values, [[0, _blocks(elements) * _BLOCK - elements]])
    return encode_rows(tf.reshape(filled, [-1, _BLOCK]), codec, stochastic=False)


def _decode(coded: tf.Tensor, elements: int, codec: RowCodec) -> tf.Tensor:
    blocks = decode_rows(coded, tf.constant(_blocks(elements), tf.int64), _BLOCK, codec)
    return tf.reshape(blocks, [-1])[:elements]
