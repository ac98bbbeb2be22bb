"""The ids that layers with tables that grow take: integers, and strings by their fingerprint."""

from typing import Any

import keras
import tensorflow as tf

from tfps.errors import UnsupportedError


def fingerprint(strings: tf.Tensor) -> tf.Tensor:
    """Returns the id of each string, int64 of the same shape: FarmHash Fingerprint64 of its bytes.

    The same number comes from `FARM_FINGERPRINT` of BigQuery and from `farmhash.fingerprint64` of other languages.
    With n different strings, two share an id with a probability of about n**2 / 2**65: 3 in 100 for a billion.
    """
    # Eight bytes of uint8 for each string become one int64. `tf.fingerprint` takes vectors, hence the two reshapes.
    return tf.reshape(tf.bitcast(tf.fingerprint(tf.reshape(strings, [-1])), tf.int64), tf.shape(strings))


def check_dtype(dtype: str) -> None:
    """Refuses ids that are no integers or strings."""
    if dtype != "string" and not dtype.startswith(("int", "uint", "bool")):
        raise UnsupportedError(
            f"`inputs` must be integers or strings from the input on. Received: {dtype}, which rounds large ids; "
            'float32 is what Keras gives to an input without a dtype. Valid: keras.Input(..., dtype="int64").'
        )


def as_ids(inputs: Any) -> Any:
    """Returns ids as int64, in the kind of tensor that they came in."""
    if isinstance(inputs, tf.SparseTensor):
        return tf.SparseTensor(inputs.indices, as_ids(inputs.values), inputs.dense_shape)
    if isinstance(inputs, tf.RaggedTensor):
        return inputs.with_flat_values(as_ids(inputs.flat_values))
    if inputs.dtype == tf.string:
        return fingerprint(inputs)
    check_dtype(inputs.dtype.name)
    return tf.cast(inputs, tf.int64)


@keras.saving.register_keras_serializable("tfps")
class NotEmpty(keras.Operation):
    """Compares strings with the empty one, for a mask: Keras itself compares numbers alone in a model's graph."""

    def call(self, strings: tf.Tensor) -> tf.Tensor:
        """Returns which strings are not empty."""
        return tf.not_equal(strings, "")

    def compute_output_spec(self, strings: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the shape of the mask."""
        return keras.KerasTensor(strings.shape, dtype="bool")
