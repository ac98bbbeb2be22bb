"""`files`: a dataset of the examples in files anywhere, read by the workers themselves."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps.checks import check_bool, check_choice, check_integer, check_list, check_number, check_seed, check_type
from tfps.data.block_graphs import make_block_graph
from tfps.data.blocks import Reading
from tfps.data.compression import KINDS
from tfps.data.cutting import Cut
from tfps.data.features import check_features, check_first_record, parse_records
from tfps.data.outputs import Output, make_outputs
from tfps.data.pipeline import Order, with_label
from tfps.data.stored_files import Access, find_files, is_of_one_process
from tfps.data.table_arguments import TableArguments
from tfps.errors import ConfigError

FORMATS = ("csv", "parquet", "text", "tfrecord", "tsv")
_SPLITS = ("auto", "file", "range")


def files(
    urls: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    format: str,
    *,
    columns: Mapping[str, object] | Sequence[str] | None = None,
    header: bool = False,
    delimiter: str | None = None,
    features: Mapping[str, Any] | None = None,
    label: str | None = None,
    stack: Mapping[str, Sequence[str]] | None = None,
    batch_size: int | None = None,
    drop_remainder: bool = False,
    shuffle: int | None = None,
    shuffle_group: int = 1,
    seed: int | None = None,
    split: str = "auto",
    range_bytes: int = 8 << 20,
    read_ahead: int = 4,
    compression: str | None = "auto",
    patience_s: float = 300.0,
    options: Mapping[str, Any] | None = None,
) -> tf.data.Dataset:
    """Returns a dataset of the examples in files: of a disk, `s3://`, `gs://`, `webhdfs://`, `https://`, by fsspec.

    The files are listed once, here. Their content is read by whoever runs the dataset: each worker its own files or
    ranges of files, in `fit`, `evaluate` and `predict`. An epoch has each example once, also when a worker is lost.

    Args:
        urls: a URL, a path, or a pattern with `*`, `**`, `?` and `[...]`; or a list of these.
        format: "text" (a string a line), "tfrecord" (a string a record), "csv", "tsv" or "parquet". Fields of "csv" may
            be between quotes, those of "tsv" not. A line is one example, so no field has a line break.
        columns: the columns of CSV, TSV and Parquet. A mapping from names to types ("int64", `tf.string`), where a cell
            must not be empty, to defaults for empty cells (0, 0.0, ""), to a `tfps.data.Hash`, whose strings become
            buckets, or to None for a column that is not read. A
            default that looks like a type is given as bytes (b"int"); as a string it is refused as a slip. Of a file
            without a header it has all columns in their order. For Parquet also a list of names; None for all.
        header: whether the first line of each CSV or TSV file has the names of its columns.
        delimiter: the character between the fields of a line; None for a comma, or a tab in TSV.
        features: what `tf.io.parse_example` makes of the records of TFRecord files; None for the records themselves.
        label: the column or feature that is the label. Elements are then pairs of a dictionary and the label.
        stack: names of columns that become one tensor, [batch, columns], by the name of that: {"ids": ["c0", "c1"]}.
            They have one type. Other columns stay by themselves. Of CSV, TSV and Parquet.
        batch_size: the examples of an element; None for single examples, which are slower.
        drop_remainder: whether a last batch that is smaller is left out.
        shuffle: the number of examples from which the next one is drawn. Parts come in another order each epoch, too.
            None for blocks of `read_ahead` parts in turns, in each epoch alike; of one part, in the order of the files.
        shuffle_group: the number of examples that a shuffle moves together, drawn at random from one block, the same in
            each epoch. 1 moves each by itself, which costs several times more; 16 is a good value for large data.
        seed: the seed of the order.
        split: what is divided between workers: whole files ("file"), or ranges ("range"): of lines, or of row groups
            of Parquet. "auto": ranges where the format has them. TFRecord and compressed files are read whole.
        range_bytes: the largest range, and the bytes that are read at a time.
        read_ahead: the number of parts that are read at the same time.
        compression: "gzip", "bz2" or "xz", None, or "auto" for what the end of a name says. Not for Parquet.
        patience_s: the seconds in which a request must succeed. Until then it is repeated, with growing pauses.
        options: what fsspec needs to open the file system, such as keys, as JSON has it. Workers get it too.

    Returns:
        A dataset of strings; or of dictionaries of columns, [batch, ...] or scalars; or of pairs with the label.

    Raises:
        ConfigError: an argument breaks its rule, a pattern has no file, or what opens such URLs is not installed.
        SourceError: a store does not answer or refuses, or a file has no such content.
    """
    access = Access(_check_options(options), check_number("patience_s", patience_s, above=0))
    kind = check_choice("format", format, FORMATS)
    order = Order(
        None if batch_size is None else check_integer("batch_size", batch_size, at_least=1),
        check_bool("drop_remainder", drop_remainder),
        None if shuffle is None else check_integer("shuffle", shuffle, at_least=1),
        _check_group(shuffle_group, shuffle),
        None if seed is None else check_seed("seed", seed),
        check_integer("read_ahead", read_ahead, at_least=1),
    )
    cut = Cut(check_choice("split", split, _SPLITS), check_integer("range_bytes", range_bytes, at_least=1))
    wanted_features = check_features(features, kind)
    kinds = _check_compression(compression, kind)
    table = TableArguments(kind, columns, check_bool("header", header), delimiter)
    found = find_files(_check_urls(urls), access)
    reading = table.reading(found, kinds, cut.range_bytes, access)
    outputs = _outputs(kind, reading, stack)
    wanted = cut.parts(found, reading)
    if wanted_features is not None:
        check_first_record(found, reading, wanted_features)
    on_chief = bool(wanted) and is_of_one_process(wanted[0].file.url, access)
    dataset = order.arrange(wanted, make_block_graph(reading, outputs, on_chief))
    return with_label(parse_records(dataset, wanted_features, order.batch_size), label)


def _check_group(shuffle_group: object, shuffle: int | None) -> int:
    group = check_integer("shuffle_group", shuffle_group, at_least=1)
    if group > 1 and shuffle is None:
        raise ConfigError(f"`shuffle_group` must be 1 without `shuffle`. Received: {group}.")
    return group


def _outputs(format: str, how: Reading, stack: object) -> tuple[Output, ...] | None:
    """Returns what an element has; None for strings."""
    if format not in ("text", "tfrecord"):
        return make_outputs(how.columns, stack)
    if stack is not None:
        raise ConfigError(f"`stack` is of CSV, TSV and Parquet. Received: format={format!r}.")
    return None


def _check_urls(urls: object) -> list[str]:
    given: list[Any] = [urls]
    if not isinstance(urls, str | os.PathLike):
        given = check_list("urls", urls, "a URL, a path or a list")
    if not given:
        raise ConfigError("`urls` must have a URL or a path. Received: [].")
    for one in given:
        check_type("urls", one, (str, os.PathLike), "URLs or paths")
    # Workers may have another current folder.
    return [one if "://" in one else os.path.abspath(os.path.expanduser(one)) for one in map(os.fspath, given)]


def _check_compression(compression: object, format: str) -> dict[str, str]:
    """Returns the compressions by the ends of names."""
    if compression is None or format == "parquet":
        return {}
    kind = check_choice("compression", compression, ("auto", *KINDS.values()))
    return dict(KINDS) if kind == "auto" else {"": kind}


def _check_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(check_type("options", {} if options is None else options, Mapping, "a mapping"))
    try:
        # Copied, so that the dataset keeps what it was made with.
        copied: dict[str, Any] = json.loads(json.dumps(given))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`options` must be what JSON has, since workers get it too. Received: {error}.") from None
    return copied
