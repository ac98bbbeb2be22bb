"""An endless input of one small file for each worker, so that no worker reads the batches of others.

Of an input without files each worker reads all batches and keeps its own, so with many workers and cheap steps reading
would be all they do.
"""

import atexit
import pathlib
import shutil
import tempfile

import numpy as np
import tensorflow as tf

_EXAMPLES = 4096
"""Examples of a file, which is read again and again."""


def read_ids_by_file(files: int, ids: int, rows: int, batch: int) -> tf.data.Dataset:
    """Returns a dataset of batches of ids that are drawn evenly, int64 [batch, ids].

    Args:
        files: the number of files, at least as many as workers.
        ids: the ids of an example.
        rows: the ids are below this number.
        batch: the examples of a batch.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tfps-input-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    generator = np.random.default_rng(7)
    names = [str(folder / f"{number:04}") for number in range(files)]
    for name in names:
        pathlib.Path(name).write_bytes(generator.integers(0, rows, (_EXAMPLES, ids), np.int64).tobytes())
    # A record is a batch, because reading must not cost more than the step.
    size = 8 * ids * batch
    data = tf.data.Dataset.from_tensor_slices(names).interleave(
        lambda name: tf.data.FixedLengthRecordDataset(name, size).repeat(), cycle_length=files
    )
    data = data.map(lambda record: tf.reshape(tf.io.decode_raw(record, tf.int64), [batch, ids]))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    return data.with_options(options)
