"""parse_lines: what is parsed, what is declined, and that no wrong argument reads beyond a line."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.parse_lines import ParsedColumn, ParsedOutput, parse_lines

OUTPUTS = [
    ParsedOutput("float32", (ParsedColumn(b"0.5"),), False),
    ParsedOutput("int64", (ParsedColumn(b"", 100, b"b="), ParsedColumn(b"?", 2**40)), True),
    ParsedOutput("string", (ParsedColumn(b"none"),), False),
]
TEXT = "w,1.5,x,y\n\n,,,\n"


def run(text=TEXT, fields=(3, 0, 1, 2), has_quotes=False, outputs=OUTPUTS):
    parsed, values = parse_lines(tf.constant(text), tf.constant(fields, tf.int32), outputs, ",", has_quotes)
    return bool(parsed), [value.numpy() for value in values]


def test_cells_go_to_their_outputs():
    parsed, (numbers, ids, words) = run()
    assert parsed and numbers.tolist() == [1.5, 0.5] and words.tolist() == [b"w", b"none"]
    expected = [tf.strings.to_hash_bucket_fast(s, n).numpy() for s, n in ((["b=x", "b="], 100), (["y", "?"], 2**40))]
    np.testing.assert_array_equal(ids, np.stack(expected, 1))
    # The cells of a line may come in any order, with some that are not read.
    again = run("x,0,w,y,1.5\n,,,,\n", (1, -1, 3, 2, 0))[1]
    assert all((a == b).all() for a, b in zip(again, (numbers, ids, words), strict=True))


@pytest.mark.parametrize("text", ["w,x,x,y\n", "w,1,x\n", "w,1,x,y,z\n", 'w,1,"x",y\n', "w,1,x,y\rz\n"])
def test_text_that_is_declined_has_no_rows(text):
    parsed, values = run(TEXT + text, has_quotes=True)
    assert not parsed and [value.shape for value in values] == [(0,), (0, 2), (0,)]


def test_no_text_has_no_rows():
    parsed, values = run("")
    assert parsed and [value.shape for value in values] == [(0,), (0, 2), (0,)]


@pytest.mark.parametrize("fields", [[], [0, 1, 2], [0, 1, 2, 3, 3], [0, 1, 2, 4], [0, 1, 2, 3, -2]])
def test_fields_must_have_each_column_once(fields):
    with pytest.raises(tf.errors.InvalidArgumentError, match="`fields` must"):
        run(fields=fields)


def test_bad_attributes_are_named():
    with pytest.raises(ConfigError, match="`dtype` must be one of .* Received: 'bool'"):
        ParsedOutput("bool", (ParsedColumn(None),), False)
    with pytest.raises(ConfigError, match="`columns` must be one, or several of a stack. Received: 2"):
        ParsedOutput("int8", (ParsedColumn(None),) * 2, False)
    column, bad = ParsedColumn(b"x"), ParsedColumn(b"", -1)
    for output, message in (
        (ParsedOutput("int8", (column,), False), "`defaults` must be numbers of their columns. Received: 'x'"),
        (ParsedOutput("int64", (bad,), False), "`buckets` must be at least 1. Received: -1"),
        (ParsedOutput("float32", (ParsedColumn(b"", 9),), False), "buckets must be int64. Received: float"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run("1\n", [0], outputs=[output])


def test_without_the_library_it_says_so(monkeypatch):
    monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    assert not library.available()
    with pytest.raises(ConfigError, match=r"must have the C\+\+ ops"):
        run()
