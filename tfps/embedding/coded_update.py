"""The update of one server in fewer bytes: what a worker packs, and what the server makes of it.

A coded update is a float32 message of three or four parts with their sizes: the hyperparameters, the request, the
gradients, and the measures of rows that repeat. The server makes the message of `tfps.ops.apply_rows.pack_update` from
it, so row stores never see coded rows.
"""

import dataclasses

import tensorflow as tf

from tfps.embedding import wire
from tfps.embedding.messages import concat_with_sizes, split_by_sizes
from tfps.ops.apply_rows import pack_update
from tfps.ops.error_store import encode_with_errors
from tfps.ops.request_codec import decode_request, encode_request
from tfps.ops.row_codec import RowCodec, decode_rows, encode_rows
from tfps.ops.row_request import REPEATS


@dataclasses.dataclass(frozen=True)
class UpdateCodec:
    """Codes the updates of some tables of one kind on one server.

    Args:
        codec: the codec of the gradients.
        pieces: the number of pieces in a request to the server.
        dim: the width of a row.
        marked: whether rows that repeat have measures.
    """

    codec: RowCodec
    pieces: int
    dim: int
    marked: bool

    def encode(
        self,
        hyper: tf.Tensor,
        request: tf.Tensor,
        gradients: tf.Tensor,
        measures: tf.Tensor | None,
        store: tuple[tf.Tensor, tf.Tensor],
    ) -> tf.Tensor:
        """Returns the coded update; the arguments are those of `pack_update`, and the store of errors for "int8"."""
        gradients = tf.cast(gradients, tf.float32)
        if self.codec == "int8":
            places = wire.places_log2(self.dim)
            rows = encode_with_errors(store, places, request, gradients, self.pieces, self.codec, self.marked)
        else:
            rows = encode_rows(gradients, self.codec, stochastic=True)
        parts = [hyper, encode_request(request, self.pieces, self.marked), rows]
        if measures is not None:
            parts.append(encode_rows(measures, wire.MEASURES, stochastic=False))
        return concat_with_sizes(parts)

    def decode(self, message: tf.Tensor) -> tf.Tensor:
        """Returns the message of `pack_update`; called with the server as the device."""
        hyper, coded, rows, *measures = split_by_sizes(message, 4 if self.marked else 3)
        request = decode_request(coded, self.pieces, self.marked)
        count = tf.size(request, tf.int64) - self.pieces
        gradients = decode_rows(rows, count, self.dim, self.codec)
        if not self.marked:
            return pack_update(hyper, request, gradients)
        repeats = tf.math.count_nonzero(request >= REPEATS)
        return pack_update(hyper, request, gradients, decode_rows(measures[0], repeats, self.dim, wire.MEASURES))
