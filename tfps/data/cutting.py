"""`Cut`: cuts the files of a dataset into the parts that workers read."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tfps.data import parquet_blocks, parts
from tfps.data.blocks import Reading
from tfps.data.parts import Part
from tfps.data.stored_files import Access, StoredFile
from tfps.errors import ConfigError
from tfps.progress import progress

_FOOTERS = 16
"""The number of footers that are read at the same time."""

_ENDLESS = 1 << 62
"""The end of a part that goes to the end of its file."""


@dataclasses.dataclass(frozen=True)
class Cut:
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
