"""What each format gives, beside the readers of TensorFlow or Python; and what is said of broken files."""

import csv
import gzip

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from tfps.data import blocks, files, record_blocks
from tfps.errors import ConfigError, SourceError

TYPES = {"a": "int64", "b": 0.5, "c": "-", "d": tf.int32}


def arrays(dataset):
    """The columns of a whole dataset."""
    elements = list(dataset.as_numpy_iterator())
    return {name: np.concatenate([element[name] for element in elements]) for name in elements[0]}


def error_of(dataset):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(dataset)
    return str(caught.value)


def random_rows(count, seed=0):
    draw = np.random.default_rng(seed)
    words = ["", "x", "long word", "ä", "0"]
    return [
        [int(draw.integers(-9, 10**12)), draw.choice(["", "1.5", "-2"]), draw.choice(words), int(draw.integers(9))]
        for _ in range(count)
    ]


@pytest.mark.parametrize(("format", "range_bytes"), [("csv", 200), ("tsv", 1000), ("csv", 1 << 20)])
def test_columns_are_those_of_a_reader_in_python(tmp_path, format, range_bytes):
    rows = random_rows(300)
    with open(tmp_path / "a", "w", newline="") as out:
        csv.writer(out, delimiter="\t" if format == "tsv" else ",").writerows(rows)
    found = arrays(files(tmp_path / "a", format, columns=TYPES, batch_size=7, range_bytes=range_bytes, read_ahead=1))
    assert found["a"].tolist() == [row[0] for row in rows]
    assert found["b"].tolist() == [float(row[1] or 0.5) for row in rows]
    assert found["c"].tolist() == [(row[2] or "-").encode() for row in rows]
    assert found["d"].tolist() == [row[3] for row in rows]
    assert [found[name].dtype for name in "abcd"] == [np.int64, np.float32, object, np.int32]


def test_headers_name_columns_in_any_order(tmp_path):
    (tmp_path / "1.csv").write_text("d,a,c,b\n" + "".join(f'{i},{i + 10},"x,{i}",\n' for i in range(50)))
    (tmp_path / "2.csv").write_text("a,b,c,d\n" + "".join(f"{i + 10},,y,{i}\n" for i in range(50)))
    for range_bytes in (20, 10_000):
        found = arrays(
            files(
                tmp_path / "*.csv", "csv", columns={"a": 0, "d": 0}, header=True, batch_size=9, range_bytes=range_bytes
            )
        )
        assert sorted(zip(found["a"], found["d"], strict=True)) == sorted([(i + 10, i) for i in range(50)] * 2)


def test_columns_that_are_not_read(tmp_path):
    (tmp_path / "a.csv").write_text("1,not a number,2\n")
    (element,) = files(tmp_path / "a.csv", "csv", columns={"a": 0, "b": None, "c": 0}).as_numpy_iterator()
    assert element == {"a": 1, "c": 2}


def test_defaults_that_are_words(tmp_path):
    (tmp_path / "a.csv").write_text(",,,,1\n")
    columns = {"a": "none", "b": b"int63", "c": "unknown", "d": "-", "e": np.dtype("int8")}
    (element,) = files(tmp_path / "a.csv", "csv", columns=columns).as_numpy_iterator()
    assert element == {"a": b"none", "b": b"int63", "c": b"unknown", "d": b"-", "e": 1}


def test_quotes_and_line_ends(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfs,n\r\n"say ""x""",1\r\n"",2\r\n,3')
    found = arrays(files(tmp_path / "a.csv", "csv", columns={"s": "none", "n": 0}, header=True, batch_size=8))
    assert found["s"].tolist() == [b'say "x"', b"", b"none"] and found["n"].tolist() == [1, 2, 3]
    # In files of tabs a quote is a character.
    (tmp_path / "a.tsv").write_bytes(b'5"\t1\n"\t2\n')
    found = arrays(files(tmp_path / "a.tsv", "tsv", columns={"s": "none", "n": 0}, batch_size=8))
    assert found["s"].tolist() == [b'5"', b'"']


def test_text_is_that_of_tensorflow(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\n\nthree ä\n\n\nno end".encode())
    expected = list(tf.data.TextLineDataset(str(tmp_path / "a.txt")).as_numpy_iterator())
    for range_bytes in (1, 5, 100):
        found = files(tmp_path / "a.txt", "text", range_bytes=range_bytes, read_ahead=1)
        assert list(found.as_numpy_iterator()) == expected
    with gzip.open(tmp_path / "a.txt.gz", "wb") as out:
        out.write((tmp_path / "a.txt").read_bytes())
    for range_bytes in (1, 5, 100):
        found = files(tmp_path / "a.txt.gz", "text", range_bytes=range_bytes, read_ahead=1)
        assert list(found.as_numpy_iterator()) == expected


@pytest.fixture(params=[True, False], ids=["library", "python"])
def split_way(request, monkeypatch):
    """Records are split by the library, and in Python where it is not built."""
    if request.param:
        # It must not need the other way.
        def fail(*_):
            raise AssertionError("a block was split in Python")

        monkeypatch.setattr(blocks, "read_records", fail)
    else:
        monkeypatch.setenv("TFPS_DISABLE_OPS", "1")


@pytest.mark.usefixtures("split_way")
@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_records_are_those_that_tensorflow_wrote(tmp_path, compression):
    draw = np.random.default_rng(1)
    records = [draw.bytes(int(size)) for size in draw.choice([0, 1, 100, 5000], 200)]
    name = str(tmp_path / ("a.tfrecord.gz" if compression else "a.tfrecord"))
    with tf.io.TFRecordWriter(name, compression or None) as out:
        for record in records:
            out.write(record)
    for range_bytes in (1, 999, 1 << 20):
        assert list(files(name, "tfrecord", range_bytes=range_bytes).as_numpy_iterator()) == records


@pytest.mark.parametrize("batch_size", [None, 4])
def test_records_become_features(tmp_path, batch_size):
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as out:
        for i in range(10):
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[i, -i]))
            label = tf.train.Feature(float_list=tf.train.FloatList(value=[i / 2]))
            example = tf.train.Example(features=tf.train.Features(feature={"x": feature, "y": label}))
            out.write(example.SerializeToString())
    spec = {"x": tf.io.FixedLenFeature([2], tf.int64), "y": tf.io.FixedLenFeature([], tf.float32)}
    found = files(tmp_path / "a", "tfrecord", features=spec, label="y", batch_size=batch_size)
    x = np.concatenate([np.reshape(features["x"], (-1, 2)) for features, _ in found.as_numpy_iterator()])
    y = np.concatenate([np.reshape(label, -1) for _, label in found.as_numpy_iterator()])
    assert x.tolist() == [[i, -i] for i in range(10)] and y.tolist() == [i / 2 for i in range(10)]


def test_features_that_records_do_not_have_are_named(tmp_path):
    feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
    example = tf.train.Example(features=tf.train.Features(feature={"x": feature, "y": feature}))
    for name, record in (("a", example.SerializeToString()), ("b", b"no example")):
        with tf.io.TFRecordWriter(str(tmp_path / name)) as out:
            out.write(record)
    (tmp_path / "0").write_bytes(b"")
    valid = "Valid: x: int64_list, y: int64_list."
    for spec, reason in (
        ({"zz": tf.io.FixedLenFeature([], tf.int64)}, "Received: .'zz'.; .*Feature: zz .*could not be found.*"),
        ({"x": tf.io.FixedLenFeature([], tf.float32)}, "Received: .'x'.; .*Data types don't match.*"),
    ):
        with pytest.raises(ConfigError, match="`features` must be what the records of .*/a' have. " + reason + valid):
            files([tmp_path / "0", tmp_path / "a"], "tfrecord", features=spec)
    with pytest.raises(ConfigError, match="the records of .*/b' have. .* Valid: files of tf.train.Example"):
        files(tmp_path / "b", "tfrecord", features={"x": tf.io.VarLenFeature(tf.int64)})
    (element,) = files(tmp_path / "a", "tfrecord", features={"x": tf.io.VarLenFeature(tf.int64)})
    assert element["x"].values.numpy().tolist() == [1]


def write_parquet(path, count=100, **arguments):
    table = pyarrow.table(
        {
            "id": pyarrow.array(range(count), pyarrow.int64()),
            "half": pyarrow.array([i / 2 for i in range(count)], pyarrow.float32()),
            "word": pyarrow.array([f"w{i % 7}" for i in range(count)]).dictionary_encode(),
            "pair": pyarrow.array([[i, i + 1] for i in range(count)], pyarrow.list_(pyarrow.int32(), 2)),
            "gaps": pyarrow.array([None if i % 3 else i for i in range(count)]),
            "list": pyarrow.array([[i] * (i % 3) for i in range(count)]),
        }
    )
    pyarrow.parquet.write_table(table, path, row_group_size=16, **arguments)
    return table


COLUMNS = {"id": "int64", "half": "float64", "word": tf.string, "gaps": -1}


@pytest.mark.parametrize("range_bytes", [1, 1500])
def test_parquet_columns(tmp_path, range_bytes):
    write_parquet(tmp_path / "a.parquet")
    found = arrays(
        files(tmp_path / "a.parquet", "parquet", columns=COLUMNS, batch_size=7, range_bytes=range_bytes, read_ahead=1)
    )
    assert found["id"].tolist() == list(range(100)) and found["half"].tolist() == [i / 2 for i in range(100)]
    assert found["word"].tolist() == [f"w{i % 7}".encode() for i in range(100)]
    assert found["gaps"].tolist() == [-1 if i % 3 else i for i in range(100)]
    pairs = files(tmp_path / "a.parquet", "parquet", columns=["pair"], batch_size=7, read_ahead=1)
    assert pairs.element_spec["pair"].shape.as_list() == [None, 2]
    assert arrays(pairs)["pair"].tolist() == [[i, i + 1] for i in range(100)]


def test_a_shuffle_gives_each_example_in_another_order_each_epoch(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{i}\n" for i in range(500)))
    dataset = files(tmp_path / "a.txt", "text", shuffle=100, seed=1, batch_size=32, range_bytes=100)
    epochs = [[int(one) for batch in dataset.as_numpy_iterator() for one in batch] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(500))
    assert epochs[0] != epochs[1] and epochs[0] != list(range(500))


def test_batches_have_their_size(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{i}\n" for i in range(100)))
    sizes = [len(batch) for batch in files(tmp_path / "a.txt", "text", batch_size=32, range_bytes=50)]
    assert sizes == [32, 32, 32, 4]
    kept = files(tmp_path / "a.txt", "text", batch_size=32, drop_remainder=True)
    assert [len(batch) for batch in kept] == [32, 32, 32] and kept.element_spec.shape.as_list() == [32]


def test_empty_files_have_no_examples(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("1\n")
    assert arrays(files(tmp_path / "*.csv", "csv", columns={"n": 0}, batch_size=2))["n"].tolist() == [1]
    assert list(files(tmp_path / "a.csv", "csv", columns={"n": 0}, batch_size=2)) == []


def test_an_empty_file_needs_no_header(tmp_path):
    for name, text in (("a.csv", ""), ("b.csv", "n\n1\n"), ("c.csv", ""), ("d.csv", "n")):
        (tmp_path / name).write_text(text)
    found = files(tmp_path / "*.csv", "csv", columns={"n": 0}, header=True, batch_size=2)
    assert arrays(found)["n"].tolist() == [1]
    assert list(files(tmp_path / "a.csv", "csv", columns={"n": 0}, header=True)) == []
    with gzip.open(tmp_path / "e.csv.gz", "wb") as out:
        out.write(b"\n1\n")
    with pytest.raises(SourceError, match="e.csv.gz' is broken at line 1: it is empty, but must have the names"):
        files(tmp_path / "e.csv.gz", "csv", columns={"n": 0}, header=True)


def test_a_name_that_a_header_has_twice_is_named(tmp_path):
    (tmp_path / "1.csv").write_text("a,b,a\n1,2,3\n")
    (tmp_path / "2.csv").write_text("a,b\n1,2\n")
    assert list(files(tmp_path / "1.csv", "csv", columns={"b": 0}, header=True).as_numpy_iterator()) == [{"b": 2}]
    with pytest.raises(ConfigError, match="the header has the column 'a' 2 times. Valid: .'b'.\\."):
        files(tmp_path / "1.csv", "csv", columns={"a": 0}, header=True)
    names = [tmp_path / "2.csv", tmp_path / "1.csv"]
    assert "at line 1: the header has the column 'a' 2 times" in error_of(
        files(names, "csv", columns={"a": 0}, header=True)
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7,8", "it has 2 fields instead of 3 (a, b, c)"),
        ("7,8,9,10", "it has 4 fields instead of 3 (a, b, c)"),
        ("x,8,9", "the column 'a' must be an int64. Received: 'x'"),
        (",8,9", "the column 'a' must not be empty: it has type int64 and no default. Valid: columns={'a': 0}"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, reason):
    lines = ["1,2,3"] * 100
    lines[77] = line
    (tmp_path / "a.csv").write_text("\n".join(lines))
    dataset = files(tmp_path / "a.csv", "csv", columns={"a": "int64", "b": 0, "c": ""}, range_bytes=40, batch_size=8)
    assert f"the file '{tmp_path}/a.csv' is broken at line 78: {reason}." in error_of(dataset)


def test_a_truncated_parquet_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-100])
    with pytest.raises(SourceError, match="cut.parquet' is broken at its footer: .*magic bytes"):
        files(tmp_path / "cut.parquet", "parquet", columns=["id"])
    # The third row group is damaged, and the footer is whole.
    column = pyarrow.parquet.read_metadata(tmp_path / "a.parquet").row_group(2).column(0)
    at = column.dictionary_page_offset or column.data_page_offset
    (tmp_path / "bad.parquet").write_bytes(whole[:at] + b"\xff" * 20 + whole[at + 20 :])
    dataset = files(tmp_path / "bad.parquet", "parquet", columns=["id"], range_bytes=1)
    assert f"the file '{tmp_path}/bad.parquet' is broken at row group 2: " in error_of(dataset)


def test_an_empty_cell_of_parquet_without_a_default_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    message = error_of(files(tmp_path / "a.parquet", "parquet", columns=["gaps"]))
    assert "is broken at row group 0: ValueError: the column 'gaps' is empty in row 1, and has no default" in message


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_broken_records_are_named(tmp_path, monkeypatch, disabled):
    monkeypatch.setenv("TFPS_DISABLE_OPS", disabled)
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as out:
        for _ in range(10):
            out.write(b"x" * 100)
    whole = (tmp_path / "a").read_bytes()
    for name, data, reason in (
        ("cut", whole[:-10], "byte 1044: a record is cut"),
        ("length", whole[:232] + b"\x01" + whole[233:], "byte 232: the checksum of a length is wrong"),
        ("data", whole[:250] + b"\x01" + whole[251:], "byte 232: the checksum of a record is wrong"),
    ):
        (tmp_path / name).write_bytes(data)
        assert f"the file '{tmp_path}/{name}' is broken at {reason}" in error_of(files(tmp_path / name, "tfrecord"))


def test_what_the_library_finds_does_not_pass_without_google_crc32c(tmp_path, monkeypatch):
    monkeypatch.setattr(record_blocks, "_fast_checksum", lambda: None)
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as out:
        out.write(b"x" * 100)
    whole = (tmp_path / "a").read_bytes()
    assert list(files(tmp_path / "a", "tfrecord").as_numpy_iterator()) == [b"x" * 100]
    (tmp_path / "b").write_bytes(whole[:50] + b"y" + whole[51:])
    assert "b' is broken at byte 0: the checksum of a record is wrong" in error_of(files(tmp_path / "b", "tfrecord"))


def test_a_cut_compressed_file_is_named(tmp_path):
    data = gzip.compress(np.random.default_rng(0).bytes(5000))
    (tmp_path / "a.gz").write_bytes(data[:-20])
    assert "a.gz' is broken at byte " in error_of(files(tmp_path / "a.gz", "text"))
    assert "the file ends before its data" in error_of(files(tmp_path / "a.gz", "text"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "json"}, "`format` must be one of 'csv', 'parquet', 'text', 'tfrecord', 'tsv'. Received: 'json'"),
        ({"format": "csv"}, "`columns` must be a mapping from the names of CSV columns"),
        ({"format": "csv", "columns": {"a": [1]}}, "`columns` must have a type or a default for 'a'. Received: .1."),
        *(
            ({"format": "csv", "columns": {"a": slip}}, f"for 'a'. Received: '{slip}', which looks like a type .* b'")
            for slip in (
                "int63",
                "int",
                "float",
                "double",
                "str",
                "Int64",
                "flot32",
                "strng",
                "i8",
                "tf.int64",
                "bool_",
            )
        ),
        ({"format": "csv", "columns": {"a": None}}, "`columns` must have a column that is read"),
        ({"format": "csv", "columns": {"z": 0}, "header": True}, "the header has no column 'z'. Valid: .'1', '2'."),
        ({"format": "csv", "columns": {"a": 0, "b": 0}, "label": "z"}, "`label` must be .* Received: 'z'. Valid: .'a'"),
        ({"format": "text", "label": "z"}, "`label` must be .* elements are strings"),
        ({"format": "text", "columns": ["a"]}, "`columns` are of CSV, TSV and Parquet. Received: format='text'"),
        ({"format": "text", "header": True}, "`header` is of CSV and TSV. Received: format='text'"),
        ({"format": "text", "delimiter": ","}, "`delimiter` is of CSV and TSV. Received: format='text'"),
        ({"format": "text", "features": {}}, "`features` are of TFRecord files. Received: format='text'"),
        ({"format": "tfrecord", "features": {}}, "`features` must have a feature. Received: {}. Valid: None"),
        ({"format": "tfrecord", "features": {"x": 3}}, "must map names to kinds. Received: 'x': 3. Valid: tf.io.Fixed"),
        ({"format": "tfrecord", "split": "range"}, '`split` must be "file" or "auto" for TFRecord'),
        ({"format": "text", "split": "line"}, "`split` must be one of 'auto', 'file', 'range'"),
        ({"format": "text", "batch_size": 0}, "`batch_size` must be an integer of at least 1. Received: 0"),
        ({"format": "text", "read_ahead": 0}, "`read_ahead`"),
        ({"format": "text", "range_bytes": 0}, "`range_bytes`"),
        ({"format": "text", "patience_s": 0}, "`patience_s`"),
        ({"format": "text", "compression": "zip"}, "`compression` must be one of 'auto', 'gzip', 'bz2', 'xz'"),
        ({"format": "text", "options": {"key": object()}}, "`options` must be what JSON has"),
        ({"format": "csv", "columns": {"a": 0}, "delimiter": "::"}, "`delimiter` must be one character"),
        ({"format": "text", "urls": []}, "`urls` must have a URL or a path"),
        ({"format": "text", "urls": 3}, "`urls` must be a URL, a path or a list. Received: 3"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    (tmp_path / "a").write_text("1,2\n")
    given = {"urls": tmp_path / "a", **arguments}
    with pytest.raises(ConfigError, match=message):
        files(given.pop("urls"), given.pop("format"), **given)


def test_columns_of_parquet_that_are_not_there(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="Received: 'none'. Valid: .'gaps', 'half', 'id'"):
        files(tmp_path / "a.parquet", "parquet", columns=["none"])
    with pytest.raises(ConfigError, match="must have types that TensorFlow has. Received: column 'list' .* list<"):
        files(tmp_path / "a.parquet", "parquet")


def test_a_type_that_a_column_of_parquet_cannot_have_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", 200)
    for name, wanted, kind in (("id", "string", "int64"), ("list", "int64", "list<"), ("pair", 0, "fixed_size_list<")):
        with pytest.raises(
            ConfigError, match=f"that column '{name}' of .* can become. Received: .* the file has {kind}"
        ):
            files(tmp_path / "a.parquet", "parquet", columns={name: wanted})
    message = error_of(files(tmp_path / "a.parquet", "parquet", columns={"id": "int8"}, range_bytes=1))
    assert f"the column 'id' of '{tmp_path}/a.parquet' must be what is wanted, int8. Received: int64, in row" in message
    assert "row group 8 (ArrowInvalid: Integer value 128 not in range" in message and "broken" not in message
    pairs = files(tmp_path / "a.parquet", "parquet", columns={"pair": "float64"}, read_ahead=1, batch_size=9)
    assert arrays(pairs)["pair"].tolist() == [[i, i + 1] for i in range(200)]


def test_a_column_that_a_parquet_file_has_twice_is_named(tmp_path):
    table = pyarrow.table([pyarrow.array([1]), pyarrow.array([2]), pyarrow.array([3])], names=["a", "a", "b"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert list(files(tmp_path / "a.parquet", "parquet", columns=["b"]).as_numpy_iterator()) == [{"b": 3}]
    assert "at its footer: it has 2 columns a" in error_of(files(tmp_path / "a.parquet", "parquet", columns=["a"]))


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_a_changed_bit_of_parquet_is_found_by_checksums(tmp_path, compression):
    table = pyarrow.table({"i": np.random.default_rng(0).integers(0, 2**60, 3000)})
    arguments = {"row_group_size": 1000, "use_dictionary": False, "compression": compression}
    pyarrow.parquet.write_table(table, tmp_path / "a", write_page_checksum=True, **arguments)
    data = bytearray((tmp_path / "a").read_bytes())
    data[pyarrow.parquet.read_metadata(tmp_path / "a").row_group(1).column(0).data_page_offset + 200] ^= 1
    (tmp_path / "a").write_bytes(data)
    message = error_of(files(tmp_path / "a", "parquet", columns=["i"], range_bytes=1))
    assert "is broken at row group 1: OSError: could not verify page integrity, CRC checksum" in message
