"""`TableArguments`: what a user says about the columns of files, and how the files are read by it."""

import dataclasses
from collections.abc import Mapping, Sequence

from tfps.checks import check_list, check_type
from tfps.data import parquet_blocks
from tfps.data.blocks import RECORD, VALUE, Reading, wrong_names
from tfps.data.columns import Column, make_column
from tfps.data.csv_blocks import read_header
from tfps.data.parts import Part
from tfps.data.stored_files import Access, StoredFile
from tfps.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class TableArguments:
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
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '\r\n"':
            raise ConfigError(
                f"`delimiter` must be one character of ASCII, no quote and no line break. Received: {self.delimiter!r}."
            )
        if not is_csv and (self.header or self.delimiter is not None):
            name = "header" if self.header else "delimiter"
            raise ConfigError(f"`{name}` is of CSV and TSV. Received: format={self.format!r}.")
        chosen: tuple[Column, ...] = RECORD if self.format == "tfrecord" else VALUE
        names: tuple[str, ...] = ()
        format_ = "csv" if is_csv else self.format
        if is_csv:
            described = self._described()
            names = tuple(described)
            chosen = tuple(column for column in described.values() if column is not None)
        elif self.format == "parquet":
            wanted = None if self.columns is None else self._wanted()
            chosen = parquet_blocks.choose(parquet_blocks.types_of(found[0], access), wanted, found[0].url)
        elif self.columns is not None:
            raise ConfigError(f"`columns` are of CSV, TSV and Parquet. Received: format={self.format!r}.")
        if not chosen:
            raise ConfigError(f"`columns` must have a column that is read. Received: {self.columns!r}.")
        quotes, header = self.format == "csv", self.header and is_csv
        how = Reading(format_, chosen, names, delimiter, quotes, header, kinds, block_bytes, access)
        first = next((file for file in found if file.size), None)
        # An empty file has no examples, so it needs no header.
        if how.header and first is not None:
            _check_header(first, how)
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
    names = read_header(Part(file, 0, file.size), how.delimiter, how.has_quotes, how.reader(file))
    if wrong := wrong_names(how.columns, names):
        given = [column.name for column in how.columns]
        raise ConfigError(
            f"`columns` must be names that the header of {file.url!r} has once. Received: {given}; the "
            f"header has {wrong}. Valid: {sorted(name for name in names if names.count(name) == 1)}."
        )
