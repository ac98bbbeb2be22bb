"""`files`: a dataset of the examples in files anywhere, read by the workers themselves."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from tfps.checks import check_bool, check_choice, check_integer, check_list, check_number, check_type
from tfps.cluster import worker_functions
from tfps.data import blocks, parquet_blocks, parts
from tfps.data.blocks import BEGIN, END, VALUE, Reading
from tfps.data.columns import Column, make_column
from tfps.data.compression import KINDS
from tfps.data.csv_blocks import read_header
from tfps.data.packing import head_types, unpack
from tfps.data.parts import Part
from tfps.data.stored_files import Access, StoredFile, find_files, is_of_one_process
from tfps.errors import ConfigError
from tfps.progress import progress

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
    batch_size: int | None = None,
    drop_remainder: bool = False,
    shuffle: int | None = None,
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
        format: "text" (a string a line), "tfrecord" (a string a record), "csv", "tsv" or "parquet".
        columns: the columns of CSV, TSV and Parquet. A mapping from names to types ("int64", `tf.string`), where a cell
            must not be empty, or to defaults for empty cells (0, 0.0, ""), or to None for a column that is not read. Of
            a file without a header it has all columns in their order. For Parquet also a list of names; None for all.
        header: whether the first line of each CSV or TSV file has the names of its columns.
        delimiter: the character between the fields of a line; None for a comma, or a tab in TSV.
        features: what `tf.io.parse_example` makes of the records of TFRecord files; None for the records themselves.
        label: the column or feature that is the label. Elements are then pairs of a dictionary and the label.
        batch_size: the examples of an element; None for single examples, which are slower.
        drop_remainder: whether a last batch that is smaller is left out.
        shuffle: the number of examples from which the next one is drawn. Parts come in another order each epoch, too.
            None for the order of the files.
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
    order = _Order(
        None if batch_size is None else check_integer("batch_size", batch_size, at_least=1),
        check_bool("drop_remainder", drop_remainder),
        None if shuffle is None else check_integer("shuffle", shuffle, at_least=1),
        None if seed is None else check_integer("seed", seed),
        check_integer("read_ahead", read_ahead, at_least=1),
    )
    cut = _Cut(check_choice("split", split, _SPLITS), check_integer("range_bytes", range_bytes, at_least=1))
    if features is not None and kind != "tfrecord":
        raise ConfigError(f"`features` are of TFRecord files. Received: format={format!r}. Valid: None, or `columns`.")
    kinds = _check_compression(compression, kind)
    table = _TableArguments(kind, columns, check_bool("header", header), delimiter)
    found = find_files(_check_urls(urls), access)
    reading = table.reading(found, kinds, cut.range_bytes, access)
    wanted = cut.parts(found, reading)
    dataset = order.arrange(wanted, reading)
    return _with_label(_parse(dataset, features, order.batch_size), label)


@dataclasses.dataclass(frozen=True)
class _TableArguments:
    """The arguments about columns.

    Args:
        format: see `files`.
        columns: see `files`.
        header: see `files`.
        delimiter: see `files`.
    """

    format: str
    columns: Mapping[str, object] | Sequence[str] | None
    header: bool
    delimiter: str | None

    def reading(
        self, found: Sequence[StoredFile], kinds: Mapping[str, str], block_bytes: int, access: Access
    ) -> Reading:
        """Returns how the files are read."""
        is_csv = self.format in ("csv", "tsv")
        delimiter = self.delimiter or ("\t" if self.format == "tsv" else ",")
        if len(delimiter) != 1 or delimiter in '\r\n"':
            raise ConfigError(f"`delimiter` must be one character. Received: {self.delimiter!r}.")
        chosen: tuple[Column, ...] = VALUE
        names: tuple[str, ...] = ()
        format_ = "csv" if is_csv else self.format
        if is_csv:
            described = self._described()
            names = tuple(described)
            chosen = tuple(column for column in described.values() if column is not None)
        elif self.format == "parquet":
            wanted = None if self.columns is None else self._wanted()
            chosen = parquet_blocks.choose(parquet_blocks.columns_of(found[0], access), wanted, found[0].url)
        elif self.columns is not None:
            raise ConfigError(f"`columns` are of CSV, TSV and Parquet. Received: format={self.format!r}.")
        if not chosen:
            raise ConfigError(f"`columns` must have a column that is read. Received: {self.columns!r}.")
        how = Reading(format_, chosen, names, delimiter, self.header and is_csv, kinds, block_bytes, access)
        if how.header:
            _check_header(found[0], how)
        return how

    def _described(self) -> dict[str, Column | None]:
        """Returns the columns of CSV."""
        mapping = check_type(
            "columns", self.columns, Mapping, 'a mapping from the names of CSV columns to types or defaults, {"a": 0}'
        )
        return {str(name): make_column(name, wanted) for name, wanted in mapping.items()}

    def _wanted(self) -> dict[str, Column | None]:
        """Returns the columns of Parquet."""
        if isinstance(self.columns, Mapping):
            made = {name: make_column(name, wanted) for name, wanted in self.columns.items()}
            return {name: column for name, column in made.items() if column is not None}
        names = check_list("columns", self.columns, "a list of names, or a mapping from names to types or defaults")
        return {str(name): None for name in names}


def _check_header(file: StoredFile, how: Reading) -> None:
    """Raises the error of a wrong header here, and not on a worker."""
    names = read_header(Part(file, 0, file.size), how.delimiter, how.reader(file))
    missing = {column.name for column in how.columns} - set(names)
    if missing:
        raise ConfigError(
            f"`columns` must be of the file {file.url!r}. Received: {sorted(missing)}. Valid: {list(names)}."
        )


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How files are cut into parts.

    Args:
        split: see `files`.
        range_bytes: see `files`.
    """

    split: str
    range_bytes: int

    def parts(self, found: Sequence[StoredFile], how: Reading) -> list[Part]:
        """Returns the parts of all files, in order."""
        if how.format == "parquet":
            return self._of_parquet(found, how.access)
        compressed = [file for file in found if how.compression_of(file)]
        if self.split == "range" and (how.format == "tfrecord" or compressed):
            which = compressed[0].url if compressed else found[0].url
            raise ConfigError(
                f'`split` must be "file" or "auto" for TFRecord and compressed files. Received: "range", for {which!r}.'
            )
        by_file = self.split == "file" or how.format == "tfrecord"
        made = []
        for file in found:
            if file in compressed:
                # How long the content is shows when it is read.
                made += [Part(file, 0, _ENDLESS)] if file.size else []
            else:
                made += parts.whole([file]) if by_file else parts.by_bytes([file], self.range_bytes)
        return made

    def _of_parquet(self, found: Sequence[StoredFile], access: Access) -> list[Part]:
        def cut(file: StoredFile) -> list[Part]:
            sizes = parquet_blocks.group_bytes(parquet_blocks.footer(file, access))
            largest = sum(sizes) if self.split == "file" else self.range_bytes
            return parts.by_groups(file, sizes, largest)

        made: list[Part] = []
        # A store answers each request late, and many at the same time.
        with progress("reading footers", len(found), "files") as bar, ThreadPoolExecutor(_FOOTERS) as pool:
            for own in pool.map(cut, found):
                made += own
                bar.add()
        return made


_FOOTERS = 16
"""The number of footers that are read at the same time."""

_ENDLESS = 1 << 62
"""The end of a part that goes to the end of its file."""


@dataclasses.dataclass(frozen=True)
class _Order:
    """How examples follow one another.

    Args:
        batch_size: see `files`.
        drop_remainder: see `files`.
        shuffle: see `files`.
        seed: see `files`.
        read_ahead: see `files`.
    """

    batch_size: int | None
    drop_remainder: bool
    shuffle: int | None
    seed: int | None
    read_ahead: int

    def arrange(self, wanted: Sequence[Part], how: Reading) -> tf.data.Dataset:
        """Returns the dataset of the columns of parts, of strings if there is one without a name of a user."""
        # Names alone: each worker gets its own part of this list.
        names = tf.data.Dataset.from_tensor_slices(tf.constant([part.to_json() for part in wanted], tf.string))
        if self.shuffle is not None and wanted:
            names = names.shuffle(len(wanted), self.seed)
        on_chief = bool(wanted) and is_of_one_process(wanted[0].file.url, how.access)
        read = names.interleave(
            lambda part: _read(part, how, on_chief),
            cycle_length=self.read_ahead,
            num_parallel_calls=self.read_ahead,
            deterministic=True,
        )
        if self.shuffle is not None:
            read = read.unbatch().shuffle(self.shuffle, self.seed)
            return read if self.batch_size is None else read.batch(self.batch_size, self.drop_remainder)
        if self.batch_size is None:
            return read.unbatch()
        return read.rebatch(self.batch_size, self.drop_remainder)


def _read(part: tf.Tensor, how: Reading, on_chief: bool) -> tf.data.Dataset:
    """Returns the dataset of the blocks of a part."""
    text = tf.constant(how.to_json())
    types = [tf.int64, *head_types(how.columns)]

    def step(offset: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        inputs = [part, text, offset]
        if on_chief:
            after, *arrays = tf.numpy_function(blocks.read_block, inputs, types)
        else:
            after, *arrays = worker_functions.call(blocks.__name__, "read_block", inputs, types)
        return tf.ensure_shape(after, []), (offset, *unpack(how.columns, arrays))

    steps = tf.data.Dataset.range(tf.int64.max).scan(tf.constant(BEGIN, tf.int64), step)
    read = steps.take_while(lambda offset, *_: offset != END).map(lambda _, *arrays: _element(how, arrays))
    # A range may have no begin of a line.
    return read.filter(lambda element: tf.shape(tf.nest.flatten(element)[0])[0] > 0)


def _element(how: Reading, arrays: Sequence[tf.Tensor]) -> tf.Tensor | dict[str, tf.Tensor]:
    if how.columns == VALUE and how.format in ("text", "tfrecord"):
        return arrays[0]
    return {column.name: array for column, array in zip(how.columns, arrays, strict=True)}


def _parse(dataset: tf.data.Dataset, features: Mapping[str, Any] | None, batch_size: int | None) -> tf.data.Dataset:
    """Parses the records of TFRecord."""
    if features is None:
        return dataset
    parse = tf.io.parse_single_example if batch_size is None else tf.io.parse_example
    return dataset.map(lambda records: parse(records, dict(features)), num_parallel_calls=2, deterministic=True)


def _with_label(dataset: tf.data.Dataset, label: str | None) -> tf.data.Dataset:
    """Makes pairs of columns and the label."""
    if label is None:
        return dataset
    spec = dataset.element_spec
    if not isinstance(spec, dict) or label not in spec:
        valid = sorted(spec) if isinstance(spec, dict) else "None, since elements are strings"
        raise ConfigError(f"`label` must be a column or feature. Received: {label!r}. Valid: {valid}.")
    return dataset.map(lambda element: ({key: element[key] for key in element if key != label}, element[label]))


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
