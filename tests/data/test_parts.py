"""Cutting files: each line, row group and byte is in one part."""

import numpy as np
import pytest

from tfps.data.compression import read_decompressed
from tfps.data.lines import line_number, read_lines
from tfps.data.parts import Part, by_bytes, by_groups, whole
from tfps.data.stored_files import Access, StoredFile, find_files


def file_of(size, name="memory://a"):
    return StoredFile(name, size, "")


def reader(data):
    return lambda begin, end: data[begin:end]


def lines_of(data, range_bytes, block_bytes):
    """All lines, by ranges and blocks of them."""
    found = []
    for part in by_bytes([file_of(len(data))], range_bytes):
        offset = part.begin
        while offset >= 0:
            lines = read_lines(part, offset, block_bytes, reader(data))
            assert not lines.data or data[lines.begin :].startswith(lines.data)
            found += lines.data.splitlines(keepends=True)
            offset = lines.next
    return found


@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n\n", b"no end"])
@pytest.mark.parametrize("seed", range(3))
def test_each_line_is_read_once_however_a_file_is_cut(seed, last):
    draw = np.random.default_rng(seed)
    lengths = draw.choice([0, 1, 2, 3, 7, 40], 60)
    data = b"\n".join(bytes(draw.integers(97, 123, length, dtype=np.uint8)) for length in lengths) + last
    for range_bytes in (1, 2, 3, 5, 16, 50, len(data), 10 * len(data)):
        for block_bytes in (1, 4, 33, 1000):
            assert lines_of(data, range_bytes, block_bytes) == data.splitlines(keepends=True)


def test_a_line_longer_than_what_is_read_at_a_time():
    data = b"a" * 200_000 + b"\n" + b"b" * 150_000
    assert lines_of(data, 1000, 500) == data.splitlines(keepends=True)


def test_lines_have_numbers():
    data = b"a\nbb\n\nccc"
    assert [line_number(offset, reader(data)) for offset in (0, 2, 5, 6)] == [1, 2, 3, 4]


def test_ranges_cover_a_file_evenly():
    parts = by_bytes([file_of(10), file_of(0), file_of(3)], 4)
    assert [(part.begin, part.end) for part in parts] == [(0, 3), (3, 6), (6, 10), (0, 3)]
    assert [(part.begin, part.end) for part in whole([file_of(10), file_of(0)])] == [(0, 10)]


def test_row_groups_stay_whole_and_small_ones_come_together():
    parts = by_groups(file_of(99), [5, 5, 30, 1, 1, 1], 10)
    assert [(part.begin, part.end) for part in parts] == [(0, 2), (2, 3), (3, 6)]
    assert by_groups(file_of(99), [], 10) == []


def test_a_part_is_the_same_after_its_way_to_a_worker():
    part = Part(StoredFile('s3://b/"ä".tsv', 10**15, '"etag"'), 3, 1 << 62)
    assert Part.from_json(part.to_json().encode()) == part


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz"])
def test_compressed_files_are_read_from_any_offset(tmp_path, kind):
    import bz2
    import gzip
    import lzma

    compress = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind]
    data = np.random.default_rng(0).integers(0, 9, 50_000, dtype=np.uint8).tobytes()
    # Two files behind one another are one file, as of `cat`.
    (tmp_path / "a").write_bytes(compress(data[:20_000]) + compress(data[20_000:]))
    access = Access({}, 10)
    (file,) = find_files([str(tmp_path / "a")], access)
    for begin, end in ((0, 100), (100, 30_000), (30_000, 99_999), (7, 9), (50_000, 50_001)):
        assert read_decompressed(file, kind, begin, end, access) == data[begin:end]
