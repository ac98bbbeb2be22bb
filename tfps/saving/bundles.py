"""Reads and writes TensorFlow tensor bundles on a device: a server's own files, or those of the chief.

Threading: any thread; each call runs its operations on the device and returns when they are done.
"""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tfps.errors import CheckpointError
from tfps.saving.manifest import SavedFile, files_of

IDS = "ids"
"""The tensor with the ids of the rows of a part."""


def write(device: str, prefix: str, names: Sequence[str], tensors: Sequence[tf.Tensor]) -> None:
    """Writes a bundle on a device. Tensors that are elsewhere cross to it.

    Args:
        device: the device that writes.
        prefix: the path of the bundle, as that device sees it.
        names: the names of the tensors in the bundle.
        tensors: their values.
    """
    # It makes the folder, and writes to a name of its own that it then renames.
    with _on(device):
        tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)


def read(device: str, prefix: str, names: Sequence[str], dtypes: Sequence[tf.DType]) -> list[tf.Tensor]:
    """Reads tensors of a bundle on a device; they stay there.

    Args:
        device: the device that reads.
        prefix: the path of the bundle, as that device sees it.
        names: the names of the tensors.
        dtypes: their dtypes.

    Raises:
        CheckpointError: the bundle is broken.
    """
    try:
        with _on(device):
            return list(
                tf.raw_ops.RestoreV2(
                    prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), dtypes=dtypes
                )
            )
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError, tf.errors.NotFoundError, ValueError) as error:
        raise CheckpointError(f"{prefix} is broken: {first_line(error)}") from None
    except (tf.errors.InvalidArgumentError, tf.errors.InternalError) as error:
        raise CheckpointError(f"{prefix} is not what was written: {first_line(error)}") from None


def fingerprints(device: str, prefix: str) -> list[str]:
    """Returns the fingerprint of both files of a bundle, as a device reads them: 16 hexadecimal digits each.

    Raises:
        CheckpointError: the device cannot read a file.
    """
    # TensorFlow's operations alone: servers run no Python.
    found = []
    for path in files_of(prefix):
        try:
            with _on(device):
                content = tf.reshape(tf.io.read_file(path), [1])
                found.append(tf.raw_ops.Fingerprint(data=content, method="farmhash64").numpy().tobytes().hex())
        except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError) as error:
            raise CheckpointError(f"cannot read {path}: {first_line(error)}") from None
    return found


def check(device: str, prefix: str, files: Sequence[SavedFile]) -> None:
    """Checks that a bundle has the content that was written.

    Args:
        device: the device that reads it.
        prefix: the path of the bundle.
        files: its two files, as the manifest has them.

    Raises:
        CheckpointError: a file has another content.
    """
    for path, found, file in zip(files_of(prefix), fingerprints(device, prefix), files, strict=True):
        if found != file.farmhash64:
            raise CheckpointError(
                f"{path} is broken or of another checkpoint: its content does not match its checksum."
            )


def sees(device: str, path: str, token: str) -> bool:
    """Whether a device finds a file with a text at a path: whether it shares a file system with the chief."""
    try:
        with _on(device):
            return tf.io.read_file(path).numpy() == token.encode()
    except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.FailedPreconditionError):
        return False


@contextlib.contextmanager
def _on(device: str) -> Iterator[None]:
    """Runs operations on a device, whatever the device around: that of a server would complete the chief's name."""
    with tf.device(None), tf.device(device):
        yield


def first_line(error: Exception) -> str:
    """Returns the useful part of an error of TensorFlow."""
    text = str(error).splitlines()[0]
    # Example: "{{function_node ...}} TensorBundle at ...: Checksum does not match: ... [Op:RestoreV2]".
    return text.rpartition("}} ")[2].partition(" [Op:")[0]
