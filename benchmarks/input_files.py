"""Files of a made click log in each format, and the readers that `benchmarks.input` compares."""

import gzip
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH, BUCKETS = 512, 1_000_000
NUMBERS = [f"i{k}" for k in range(13)]
WORDS = [f"c{k}" for k in range(26)]
_NAMES = ["label", *NUMBERS, *WORDS]
_PARTS = 8
"""Files of TFRecord: a worker reads one whole."""
_EMPTY = 0.1
"""The part of the cells that is empty, as in Criteo's log."""


def write_files(folder: pathlib.Path, lines: int, seed: int = 0) -> None:
    """Writes one table of Criteo's shape as TSV, gzip'd TSV, CSV, Parquet and TFRecord.

    Args:
        folder: where; the files are a.tsv, a.tsv.gz, a.csv, a.parquet, and 0.tfrecord to 7.tfrecord.
        lines: the number of lines.
        seed: the seed of the cells.
    """
    import pyarrow
    import pyarrow.parquet

    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, lines)
    numbers = [_with_gaps(draw, draw.geometric(0.02, lines).astype(str)) for _ in NUMBERS]
    # Words are hexadecimal, some far more frequent than others.
    words = [_with_gaps(draw, np.char.mod("%08x", draw.zipf(1.2, lines) * 2654435761 % 2**32)) for _ in WORDS]
    cells = [labels.astype(str), *numbers, *words]
    rows = [list(row) for row in zip(*(column.tolist() for column in cells), strict=True)]
    text = "".join("\t".join(row) + "\n" for row in rows).encode()
    (folder / "a.tsv").write_bytes(text)
    (folder / "a.csv").write_bytes(text.replace(b"\t", b","))
    (folder / "a.tsv.gz").write_bytes(gzip.compress(text, 6))
    floats = [np.where(column == "", "0", column).astype(np.float32) for column in numbers]
    table = pyarrow.table(dict(zip(_NAMES, [labels.astype(np.float32), *floats, *words], strict=True)))
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=20_000)
    for part in range(_PARTS):
        own = slice(part, None, _PARTS)
        _write_records(folder / f"{part}.tfrecord", labels[own], np.stack(floats, 1)[own], rows[own])


def _with_gaps(draw: np.random.Generator, cells: Any) -> Any:
    return np.where(draw.random(len(cells)) < _EMPTY, "", cells)


def _write_records(path: pathlib.Path, labels: Any, floats: Any, rows: list[list[str]]) -> None:
    """Writes a record for each line: the label, the numbers as one list, the words as another."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as out:
        for label, numbers, row in zip(labels, floats, rows, strict=True):
            feature = {
                "label": tf.train.Feature(float_list=tf.train.FloatList(value=[label])),
                "numbers": tf.train.Feature(float_list=tf.train.FloatList(value=numbers)),
                "words": tf.train.Feature(bytes_list=tf.train.BytesList(value=[cell.encode() for cell in row[14:]])),
            }
            out.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def tfps_table(path: pathlib.Path, format: str, **settings: Any) -> Any:
    """Reads CSV, TSV or Parquet by `tfps.data.files`: numbers and buckets, [batch, columns] each, and labels."""
    import tfps

    hashed = {name: tfps.data.Hash(BUCKETS) for name in WORDS}
    columns = {"label": 0.0, **dict.fromkeys(NUMBERS, 0.0), **hashed}
    stack = {"ids": WORDS, "numbers": NUMBERS}
    return tfps.data.files(path, format, columns=columns, label="label", stack=stack, batch_size=BATCH, **settings)


def tfps_records(folder: pathlib.Path) -> Any:
    """Reads TFRecord by `tfps.data.files`, parsed and hashed in batches."""
    import tensorflow as tf

    import tfps

    dataset = tfps.data.files(folder / "*.tfrecord", "tfrecord", features=_features(tf), batch_size=BATCH)
    return dataset.map(lambda example: _from_record(tf, example))


def stock_records(folder: pathlib.Path) -> Any:
    """Reads TFRecord by TensorFlow alone, parsed and hashed in batches."""
    import tensorflow as tf

    dataset = tf.data.TFRecordDataset(sorted(map(str, folder.glob("*.tfrecord")))).batch(BATCH)
    return dataset.map(lambda records: _from_record(tf, tf.io.parse_example(records, _features(tf))))


def stock_csv(path: pathlib.Path) -> Any:
    """Reads TSV by `CsvDataset`, which parses line by line; batches are hashed."""
    import tensorflow as tf

    defaults = [0.0] * 14 + [""] * 26
    dataset = tf.data.experimental.CsvDataset(str(path), defaults, field_delim="\t", use_quote_delim=False).batch(BATCH)
    return dataset.map(lambda *columns: _from_columns(tf, columns))


def stock_lines(path: pathlib.Path) -> Any:
    """Reads TSV by `TextLineDataset`; batches are parsed by `decode_csv` and hashed."""
    import tensorflow as tf

    defaults = [[0.0]] * 14 + [[""]] * 26

    def parse(lines: Any) -> Any:
        columns = tf.io.decode_csv(lines, defaults, field_delim="\t", use_quote_delim=False)
        return _from_columns(tf, columns)

    return tf.data.TextLineDataset(str(path)).batch(BATCH).map(parse)


def _from_columns(tf: Any, columns: Any) -> Any:
    ids = tf.strings.to_hash_bucket_fast(tf.stack(columns[14:], axis=1), BUCKETS)
    return {"ids": ids, "numbers": tf.stack(columns[1:14], axis=1)}, columns[0]


def _from_record(tf: Any, example: Any) -> Any:
    ids = tf.strings.to_hash_bucket_fast(example["words"], BUCKETS)
    return {"ids": ids, "numbers": example["numbers"]}, example["label"]


def _features(tf: Any) -> dict[str, Any]:
    shapes = {"label": ([], tf.float32), "numbers": ([13], tf.float32), "words": ([26], tf.string)}
    return {name: tf.io.FixedLenFeature(*kind) for name, kind in shapes.items()}


READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    "tsv": lambda folder: tfps_table(folder / "a.tsv", "tsv"),
    "tsv, shuffle": lambda folder: tfps_table(folder / "a.tsv", "tsv", shuffle=20_000),
    "tsv, shuffle_group=16": lambda folder: tfps_table(folder / "a.tsv", "tsv", shuffle=20_000, shuffle_group=16),
    "csv": lambda folder: tfps_table(folder / "a.csv", "csv"),
    "tsv.gz": lambda folder: tfps_table(folder / "a.tsv.gz", "tsv"),
    "parquet": lambda folder: tfps_table(folder / "a.parquet", "parquet"),
    "tfrecord": lambda folder: tfps_records(folder),
    "TFRecordDataset": lambda folder: stock_records(folder),
    "TextLineDataset": lambda folder: stock_lines(folder / "a.tsv"),
    "CsvDataset": lambda folder: stock_csv(folder / "a.tsv"),
}
"""A reader of the folder that `write_files` made, by name. Readers of TensorFlow are named after its datasets."""
