"""Splits bytes of TFRecord files into records in C++.

There is no twin of TensorFlow ops: where the library is not built, `tfps.data` splits records in Python.
"""

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library


def split_records(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the records in bytes of a TFRecord file, and checks their checksums.

    Args:
        data: a string scalar that begins with a record.

    Returns:
        Whether all checksums are right, a bool scalar; the data of each whole record up to the first wrong checksum,
        [records]; and where the last of them ends, an int64 scalar.

    Raises:
        ConfigError: the library is not built.
    """
    ops = library.load()
    if ops is None:
        raise ConfigError(
            "`split_records` must have the C++ ops. Received: no library. Valid: tfps.ops.library.available()"
        )
    valid, records, end = ops.tfps_split_records(bytes=data)
    return valid, records, end
