"""The features of the records of TFRecord files."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps.checks import check_type
from tfps.data.blocks import Reading
from tfps.data.parts import Part
from tfps.data.record_blocks import read_records
from tfps.data.stored_files import StoredFile
from tfps.errors import ConfigError

_KINDS = (
    *(tf.io.FixedLenFeature, tf.io.FixedLenSequenceFeature, tf.io.VarLenFeature),
    *(tf.io.SparseFeature, tf.io.RaggedFeature),
)
_FIRST_BYTES = 1 << 16
"""What is read of a file for its first record."""


def check_features(features: object, format: str) -> dict[str, Any] | None:
    """Returns the features that a user wants; None for records.

    Raises:
        ConfigError: they are not what TensorFlow parses, or the files have no records.
    """
    if features is None:
        return None
    if format != "tfrecord":
        raise ConfigError(f"`features` are of TFRecord files. Received: format={format!r}. Valid: None, or `columns`.")
    valid = ", ".join(f"tf.io.{kind.__name__}" for kind in _KINDS)
    checked = dict(check_type("features", features, Mapping, "a mapping from the names of features to their kinds"))
    if not checked:
        raise ConfigError("`features` must have a feature. Received: {}. Valid: None, for the records themselves.")
    for name, kind in checked.items():
        if not isinstance(name, str) or not isinstance(kind, _KINDS):
            raise ConfigError(f"`features` must map names to kinds. Received: {name!r}: {kind!r}. Valid: {valid}.")
    return checked


def check_first_record(found: Sequence[StoredFile], how: Reading, features: Mapping[str, Any]) -> None:
    """Checks that the first record of the files has the features: here, and not on a worker.

    Raises:
        ConfigError: it has not.
        SourceError: it cannot be read.
    """
    file = next((one for one in found if one.size), None)
    if file is None:
        return
    records = read_records(Part(file, 0, file.size), 0, _FIRST_BYTES, how.reader(file)).records
    if not records:
        return
    try:
        # A user may make datasets within a graph.
        with tf.init_scope():
            tf.io.parse_single_example(records[0], dict(features))
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        text = " ".join(str(getattr(error, "message", error)).split())
        raise ConfigError(
            f"`features` must be what the records of {file.url!r} have. Received: {sorted(features)}; the first "
            f"record: {text.rstrip('.')}. Valid: {_features_of(records[0])}."
        ) from None


def _features_of(record: bytes) -> str:
    """Returns the names and kinds of the features of a record, for messages."""
    try:
        known = tf.train.Example.FromString(record).features.feature
    # protobuf has an error of its own, which TensorFlow does not show.
    except Exception:
        return "files of tf.train.Example; `features=None` for other records"
    kinds = {name: known[name].WhichOneof("kind") or "empty" for name in sorted(known)}
    return ", ".join(f"{name}: {kind}" for name, kind in kinds.items()) or "None, since it has no feature"


def parse_records(
    dataset: tf.data.Dataset, features: Mapping[str, Any] | None, batch_size: int | None
) -> tf.data.Dataset:
    """Parses the records of TFRecord."""
    if features is None:
        return dataset
    parse = tf.io.parse_single_example if batch_size is None else tf.io.parse_example
    return dataset.map(lambda records: parse(records, dict(features)), num_parallel_calls=2, deterministic=True)
