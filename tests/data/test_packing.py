"""Strings that travel as one come out as they went in."""

import numpy as np
import pyarrow
import pytest
import tensorflow as tf

from tfps.data.columns import Column
from tfps.data.packing import head_types, join, pack, unpack

COLUMNS = (
    Column("a", "string"),
    Column("n", "int64"),
    Column("b", "string"),
    Column("record", "string", is_opaque=True),
    Column("pair", "float32", width=2),
)
WORDS = [b"", b"\n", b"x", b"two\nlines\n", b"\xff\x00", b"a" * 50]


@pytest.mark.parametrize("rows", [0, 1, 2, 57])
@pytest.mark.parametrize("words", [WORDS, [b""], [b"x"]], ids=len)
def test_columns_come_out_as_they_went_in(rows, words):
    draw = np.random.default_rng(rows)
    strings = [[words[i] for i in draw.integers(0, len(words), rows)] for _ in range(3)]
    numbers, pairs = draw.integers(0, 9, rows), draw.random((rows, 2), np.float32)
    a, b, record = (pyarrow.array(one, pyarrow.binary()) for one in strings)
    flat = pyarrow.array(pairs.reshape(-1), pyarrow.float32())
    cells = [a, pyarrow.array(numbers), b, record, pyarrow.FixedSizeListArray.from_arrays(flat, 2)]
    packed = [
        tf.convert_to_tensor(one, kind) for one, kind in zip(pack(COLUMNS, cells), head_types(COLUMNS), strict=True)
    ]
    found = unpack(COLUMNS, packed)
    assert [one.numpy().tolist() for one in (found[0], found[2], found[3])] == strings
    assert found[1].numpy().tolist() == numbers.tolist() and found[4].numpy().tolist() == pairs.tolist()


def test_a_separator_is_in_none_of_the_strings():
    joined = join([pyarrow.array([b"a\nb", b"c"]), pyarrow.array([b"\n", b""])])
    assert joined.separator not in b"a\nb c" and joined.data.split(joined.separator) == [b"a\nb", b"c", b"\n", b""]
    assert join([pyarrow.array([b"a", b"b"])]).data == b"a\nb"
