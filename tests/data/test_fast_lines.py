"""Lines that C++ parses, beside pyarrow's reader and an obvious one in Python, on seeded hostile input."""

import gzip
import itertools
import math

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from tfps.data import Hash, blocks, files
from tfps.errors import ConfigError

COLUMNS = {
    "label": "float32",
    "n0": 0,
    "skipped": None,
    "n1": -1.5,
    "n2": np.float64(0.25),
    "small": np.int8(7),
    "word": "none",
    "c0": Hash(1000),
    "c1": Hash(2**40, prefix="c1=", empty="?"),
}
STACK = {"ids": ["c1", "c0"], "numbers": ["n1", "label"]}


@pytest.fixture
def no_slow(monkeypatch):
    """The slow reader must not be needed."""

    def fail(*_):
        raise AssertionError("the block was declined")

    monkeypatch.setattr(blocks, "parse_lines", fail)


def cells_of(draw, is_hostile):
    """The cells of one line, for `COLUMNS`."""
    floats = ["0", "-0", "7", "1.5", "-2.25e3", "16777217", "0.1", ".5", "5.", "1e-40", "nan", "NaN", "-inf", "1e30"]
    floats += [repr(float(draw.normal())), str(draw.integers(-(10**17), 10**17)), " 3 "]
    odd = ["+1", "1e400", "Infinity", "-nan", "123456789012345678901234567890", "0x10", "1e", "x"]
    words = ["", "a", "b c", "ä€", "\xa0", 'quo"te', "w" * int(draw.integers(0, 200)), "\x00"]
    integers = [
        "",
        "0",
        "-7",
        "007",
        str(draw.integers(-(10**17), 10**17)),
        *(["9" * 19, "1.0", "+5", "0x1f"] * is_hostile),
    ]
    floats += odd * is_hostile
    pick = [floats, integers, words, ["", *floats], ["", *floats], ["", "1", "-128", "127"], words, words, words]
    return [str(draw.choice(np.array(one, object))) for one in pick]


def as_lists(dataset):
    """All elements, with NaN as a string, so that they can be compared."""

    def plain(value):
        return "nan" if isinstance(value, float) and math.isnan(value) else value

    columns = {}
    for element in dataset.as_numpy_iterator():
        for name, values in element.items():
            columns.setdefault(name, []).extend(
                [plain(one) for one in row] if np.ndim(row) else plain(row) for row in values.tolist()
            )
    return columns


def both(monkeypatch, *args, **settings):
    """What the two readers make of the same files: columns, or the text of the error."""
    found = []
    for disabled in ("0", "1"):
        monkeypatch.setenv("TFPS_DISABLE_OPS", disabled)
        dataset = files(*args, **settings)
        try:
            found.append(as_lists(dataset))
        except tf.errors.InvalidArgumentError as error:
            found.append(str(error).partition("tfps source error: ")[2].partition(" :end")[0])
    return found


def write(path, lines, ends, last=b"\n"):
    path.write_bytes(
        b"".join(line + end for line, end in itertools.zip_longest(lines, ends)).removesuffix(b"\n") + last
    )


@pytest.mark.parametrize(("seed", "format"), [(1, "tsv"), (2, "csv")])
def test_values_are_those_of_the_slow_reader_and_of_python(tmp_path, monkeypatch, no_slow, seed, format):
    draw = np.random.default_rng(seed)
    tab = "\t" if format == "tsv" else ","
    rows = [cells_of(draw, False) for _ in range(400)]
    if format == "csv":
        rows = [[cell.replace('"', "'") for cell in row] for row in rows]
    lines = [tab.join(row).encode() for row in rows]
    ends = [draw.choice(np.array([b"\n", b"\r\n", b"\n\n\r\n"], object)) for _ in lines]
    write(tmp_path / "a", lines, ends, draw.choice(np.array([b"", b"\n"], object)))
    (tmp_path / "b").write_bytes(b"")
    settings = {"columns": COLUMNS, "stack": STACK, "batch_size": 7, "range_bytes": 2000, "read_ahead": 1}
    paths = [tmp_path / "a", tmp_path / "b"]
    dataset = files(paths, format, **settings)
    found = as_lists(dataset)
    by_name = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    words = {"c0": by_name["c0"], "c1": [f"c1={word or '?'}" for word in by_name["c1"]]}
    ids = [tf.strings.to_hash_bucket_fast(words[name], COLUMNS[name].buckets).numpy().tolist() for name in ("c1", "c0")]
    assert found["ids"] == [list(pair) for pair in zip(*ids, strict=True)]
    assert found["word"] == [(word or "none").encode() for word in by_name["word"]]
    assert found["n0"] == [int(cell or 0) for cell in by_name["n0"]]
    assert found["small"] == [int(cell or 7) for cell in by_name["small"]]
    monkeypatch.undo()
    fast, slow = both(monkeypatch, paths, format, **settings)
    assert fast == slow == found
    assert [*found] == ["numbers", "n0", "n2", "small", "word", "ids"]


@pytest.mark.parametrize("seed", range(4))
def test_hostile_lines_give_the_same_values_or_the_same_error(tmp_path, monkeypatch, seed):
    draw = np.random.default_rng(seed)
    # Few odd cells, so that some files have no error, and where they have one it is in some line.
    rows = [cells_of(draw, draw.random() < 0.02) for _ in range(60)]
    lines = ["\t".join(row) for row in rows]
    broken = {0: "1\t2", 1: lines[9] + "\tmore", 2: lines[9].replace("\t", "\r", 1)}.get(seed)
    if broken is not None:
        lines[30] = broken
    write(tmp_path / "a", [line.encode() for line in lines], [b"\r\n"] * 60, b"")
    # One block or many.
    settings = {"batch_size": 60, "range_bytes": 700 if seed % 2 else 1 << 20, "read_ahead": 1}
    fast, slow = both(monkeypatch, tmp_path / "a", "tsv", columns=COLUMNS, stack=STACK, **settings)
    assert fast == slow
    if broken is not None:
        assert f"the file '{tmp_path}/a' is broken at line " in fast


def test_an_error_has_the_file_the_line_and_the_column(tmp_path):
    good = "1\t2\tab\n" * 500
    columns = {"label": "float32", "n": 0, "c": Hash(10)}
    for line, reason in (
        ("1\tx\tab\n", "the column 'n' must be an int64. Received: 'x'"),
        ("\t2\tab\n", "the column 'label' must not be empty"),
        ("1\t2\n", "it has 2 fields instead of 3 (label, n, c)"),
    ):
        (tmp_path / "a").write_text(good + line + good)
        dataset = files(tmp_path / "a", "tsv", columns=columns, batch_size=9, range_bytes=1000)
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            list(dataset)
        assert f"the file '{tmp_path}/a' is broken at line 501: {reason}" in str(caught.value)


def test_quotes_headers_and_marks(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbfc,n\r\n"a,b",1\r\nx,2')
    (tmp_path / "b").write_bytes(b"n,other,c\n3,,x\n")
    columns = {"n": 0, "c": Hash(100)}
    expected = {"n": [1, 2, 3], "c": tf.strings.to_hash_bucket_fast(["a,b", "x", "x"], 100).numpy().tolist()}
    fast, slow = both(
        monkeypatch, [tmp_path / "a", tmp_path / "b"], "csv", columns=columns, header=True, batch_size=2, read_ahead=1
    )
    assert fast == slow == expected


def test_a_header_and_a_mark_are_read_fast(tmp_path, no_slow):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfc,n\nx,2\n")
    found = as_lists(files(tmp_path / "a", "csv", columns={"n": 0}, header=True, batch_size=2))
    assert found == {"n": [2]}
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf5,x\n")
    assert as_lists(files(tmp_path / "b", "csv", columns={"n": 0, "c": None}, batch_size=2)) == {"n": [5]}


def test_compressed_files_are_read_fast(tmp_path, no_slow):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"".join(b"%d\tx\n" % i for i in range(3000))))
    found = as_lists(files(tmp_path / "a.gz", "tsv", columns={"n": 0, "c": Hash(9)}, batch_size=100, range_bytes=999))
    assert found["n"] == list(range(3000))


def test_integers_of_64_bits_are_read(tmp_path, monkeypatch):
    columns = {"i": 2**62, "u": "uint64"}
    (tmp_path / "a").write_text(f"{2**63 - 1}\t{2**64 - 1}\n{-(2**63)}\t0\n\t1\n")
    fast, slow = both(monkeypatch, tmp_path / "a", "tsv", columns=columns, batch_size=9)
    assert fast == slow == {"i": [2**63 - 1, -(2**63), 2**62], "u": [2**64 - 1, 0, 1]}


def test_types_that_the_op_has_not_are_read_slowly(tmp_path):
    (tmp_path / "a").write_text("true,1.5,x\n")
    columns = {"b": "bool", "h": "float16", "c": Hash(9)}
    found = as_lists(files(tmp_path / "a", "csv", columns=columns, batch_size=1))
    assert found == {"b": [True], "h": [1.5], "c": tf.strings.to_hash_bucket_fast(["x"], 9).numpy().tolist()}


def test_parquet_has_buckets_and_stacks(tmp_path):
    table = pyarrow.table({"a": ["x", None, "z"], "b": ["1", "2", ""], "n": [1.0, 2.0, 3.0]})
    pyarrow.parquet.write_table(table, tmp_path / "p")
    columns = {"a": Hash(50, "a=", "?"), "b": Hash(50), "n": "float32"}
    found = as_lists(files(tmp_path / "p", "parquet", columns=columns, stack={"ids": ["b", "a"]}, batch_size=3))
    a = tf.strings.to_hash_bucket_fast(["a=x", "a=?", "a=z"], 50).numpy()
    b = tf.strings.to_hash_bucket_fast(["1", "2", ""], 50).numpy()
    assert found == {"ids": np.stack([b, a], 1).tolist(), "n": [1, 2, 3]}


def test_single_examples_and_a_label_beside_a_stack(tmp_path):
    (tmp_path / "a").write_text("1\t5\tx\n")
    columns = {"y": 0.0, "n": 0.0, "c": Hash(9)}
    (element,) = files(tmp_path / "a", "tsv", columns=columns, stack={"x": ["n"]}, label="y").as_numpy_iterator()
    assert element[1] == 1 and element[0]["x"].tolist() == [5] and element[0]["x"].dtype == np.float32
    (element,) = files(tmp_path / "a", "tsv", columns=columns, stack={"y": ["y"]}, label="y").as_numpy_iterator()
    assert element[1].tolist() == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stack": ["a"]}, "`stack` must be a mapping from names to lists of columns"),
        ({"stack": {"s": "ab"}}, "`stack`"),
        ({"stack": {"s": []}}, "`stack` must be .* Received: 's': .."),
        ({"stack": {3: ["a"]}}, "`stack` must be .* Received: 3"),
        ({"stack": {"s": ["a", "z"]}}, "`stack` must have columns that are read. Received: 'z'. Valid: a, b, c"),
        ({"stack": {"s": ["a", "a"]}}, "`stack` must have each column once. Received: 'a' again, in 's'"),
        ({"stack": {"s": ["a"], "t": ["a"]}}, "`stack` must have each column once. Received: 'a' again, in 't'"),
        ({"stack": {"s": ["a", "b"]}}, "must have one type. Received: 's' of .'a': 'int64', 'b': 'float32'."),
        (
            {"stack": {"b": ["a"]}},
            "the names of `stack` must differ from those of the columns beside it. Received: 'b'",
        ),
        (
            {"format": "text", "columns": None, "stack": {"s": ["a"]}},
            "`stack` is of CSV, TSV and Parquet. Received: format='text'",
        ),
        ({"shuffle_group": 0}, "`shuffle_group` must be an integer of at least 1. Received: 0"),
        ({"shuffle": 4, "seed": 2**63}, "`seed` must be an integer from "),
        ({"shuffle_group": 4}, "`shuffle_group` must be 1 without `shuffle`. Received: 4"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    (tmp_path / "a").write_text("1,2,x\n")
    given = {"format": "csv", "columns": {"a": 0, "b": 0.0, "c": Hash(9)}, **arguments}
    with pytest.raises(ConfigError, match=message):
        files(tmp_path / "a", given.pop("format"), **given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "`buckets` must be an integer of at least 1. Received: 0"),
        ((1.5,), "`buckets` must be an integer"),
        ((2**63,), "`buckets` must be at most"),
        ((9, 3), "`prefix` must be a string. Received: 3"),
        ((9, "", None), "`empty` must be a string. Received: None"),
    ],
    ids=str,
)
def test_bad_hashes_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Hash(*arguments)


def rows_by_epoch(path, epochs=1, **settings):
    dataset = files(path, "tsv", columns={"n": 0, "c": Hash(9)}, batch_size=20, shuffle=200, **settings)
    return [np.concatenate([one["n"] for one in dataset.as_numpy_iterator()]).tolist() for _ in range(epochs)]


@pytest.mark.parametrize("settings", [{"shuffle": 200, "shuffle_group": 8}, {}])
def test_tensorflow_logs_no_errors_about_slices(tmp_path, capfd, settings):
    (tmp_path / "a").write_text("".join(f"{i}\tx\n\n" for i in range(1003)))
    columns = {"n": 0, "c": Hash(9)}
    dataset = files(tmp_path / "a", "tsv", columns=columns, batch_size=20, range_bytes=1000, **settings)
    assert sum(len(element["n"]) for element in dataset) == 1003
    assert "RefCount" not in capfd.readouterr().err


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_a_shuffle_by_groups_has_each_example_once(tmp_path, monkeypatch, disabled):
    monkeypatch.setenv("TFPS_DISABLE_OPS", disabled)
    (tmp_path / "a").write_text("".join(f"{i}\tx\n" for i in range(1003)))
    settings = {"shuffle_group": 8, "range_bytes": 2000, "seed": 3}
    first, second = rows_by_epoch(tmp_path / "a", 2, **settings)
    assert sorted(first) == sorted(second) == list(range(1003))
    # Another order in each epoch; the same with the same seed; another one with another seed.
    assert first != second and first != sorted(first)
    assert rows_by_epoch(tmp_path / "a", 2, **settings) == [first, second]
    assert rows_by_epoch(tmp_path / "a", **settings | {"seed": 4}) != [first]
    # Neighbours in the file are hardly neighbours in a batch.
    close = sum(abs(a - b) == 1 for a, b in itertools.pairwise(first))
    assert close < 100
