"""Each line of CSV is one row, or an error: quotes and carriage returns neither join lines nor break them."""

import csv
import random

import pytest

from tests.data.test_formats import arrays, error_of
from tfps.data import files
from tfps.data.columns import NUMBERS, Column
from tfps.data.csv_blocks import Table

STRINGS = tuple(Column(name, "string", "") for name in "ab")


def rows_of(text, has_quotes=True, delimiter=","):
    """The rows of lines by a reader of Python, line by line; None if a line is wrong."""
    rows = []
    for line in text.removesuffix("\n").split("\n"):
        line = line.removesuffix("\r")
        if "\r" in line:
            return None
        if not line:
            continue
        # A reader in an open quote takes the second line, too.
        reader = csv.reader([line + "\n", ""], delimiter=delimiter)
        fields = next(reader) if has_quotes else line.split(delimiter)
        if len(fields) != 2 or reader.line_num > 1:
            return None
        rows.append(fields)
    return rows


@pytest.mark.parametrize(("delimiter", "has_quotes"), [(",", True), (";", True), ("\t", True), ("\t", False)])
def test_lines_are_those_of_a_reader_in_python(delimiter, has_quotes):
    draw = random.Random(0)
    table = Table(("a", "b"), STRINGS, delimiter, has_quotes)
    good = 0
    for _ in range(4000):
        lines = ["".join(draw.choices(f'x"{delimiter}\r', (6, 3, 3, 0.1), k=draw.randint(0, 7))) for _ in range(3)]
        text = "".join(line + draw.choice(["\n", "\n", "\r\n"]) for line in lines)
        text = text if draw.random() < 0.7 else text.rstrip("\r\n")
        expected = rows_of(text, has_quotes, delimiter)
        good += bool(expected)
        try:
            columns = [column.to_pylist() for column in table.parse(text.encode())]
            found = [[cell.decode() for cell in row] for row in zip(*columns, strict=True)]
        except ValueError:
            found = None
        assert found == expected, text
    assert good > 50


@pytest.mark.parametrize(
    ("format", "text", "line", "reason"),
    [
        ("csv", '1,"x\n2,z\n3,y"\n4,k\n', 1, "a quote is not closed in its line"),
        ("csv", '0,y\n1,"a\nb"\n2,x\n', 2, "a quote is not closed in its line"),
        ("csv", '0,y\n1,"a\n\n', 2, "a quote is not closed in its line"),
        ("csv", '0,y\n1,"a\rb"\n', 2, r"it has a carriage return (\r)"),
        # The return makes the row that the quote takes away.
        ("csv", '0,y\n1,x\r2,y\n3,"x\n4,y"\n', 2, r"it has a carriage return (\r)"),
        ("tsv", "1\tx\r2\ty\n3\tz\n", 1, r"it has a carriage return (\r)"),
        ("tsv", "1\tx\r\n3\tz\r\r\n", 2, r"it has a carriage return (\r)"),
    ],
)
@pytest.mark.parametrize("range_bytes", [1, 1000])
def test_a_line_that_would_be_joined_or_broken_is_named(tmp_path, format, text, line, reason, range_bytes):
    (tmp_path / "a").write_bytes(text.encode())
    dataset = files(tmp_path / "a", format, columns={"i": "int64", "t": ""}, range_bytes=range_bytes)
    assert f"a' is broken at line {line}: {reason}" in error_of(dataset)


def test_a_quote_is_found_behind_the_block_of_a_parser(tmp_path):
    lines = [f"{i},{'v' * 50}\n" for i in range(20_000)]
    lines[15_000] = '15000,"v\n'
    (tmp_path / "a").write_text("".join(lines))
    assert "at line 15001: a quote is not" in error_of(files(tmp_path / "a", "csv", columns={"i": 0, "t": ""}))


def test_quotes_are_of_csv_with_any_delimiter(tmp_path):
    (tmp_path / "a").write_text('t;i\n"a;b";1\nx;2\n')
    found = arrays(files(tmp_path / "a", "csv", columns={"i": 0, "t": ""}, delimiter=";", header=True, batch_size=4))
    assert found["t"].tolist() == [b"a;b", b"x"] and found["i"].tolist() == [1, 2]


@pytest.mark.parametrize("text", ["1\n\n3\n", "1\n\n3", "1\r\n\r\n3\r\n"])
def test_an_empty_line_is_the_empty_cell_of_one_column(tmp_path, text):
    (tmp_path / "a").write_bytes(text.encode())
    for range_bytes in (1, 2, 100):
        found = files(tmp_path / "a", "csv", columns={"i": 0}, range_bytes=range_bytes, read_ahead=1, batch_size=8)
        assert arrays(found)["i"].tolist() == [1, 0, 3]
    assert "line 2: the column 'i' must not be empty" in error_of(files(tmp_path / "a", "csv", columns={"i": "int64"}))


def test_numbers_of_each_type_come_from_text(tmp_path):
    (tmp_path / "a").write_text(",".join(["1"] * len(NUMBERS)) + "\n")
    found = arrays(files(tmp_path / "a", "csv", columns={name: name for name in NUMBERS}, batch_size=2))
    assert {name: str(value.dtype) for name, value in found.items()} == {name: name for name in NUMBERS}
    assert all(value.tolist() == [1] for value in found.values())
