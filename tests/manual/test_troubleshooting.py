"""Every message that docs/troubleshooting.md quotes is one that the sources of tfps can raise or log."""

import ast
import builtins
import functools
import pathlib
import re

import pytest

from tests.test_public_api import PUBLIC

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
_HOLE = "\0"


def quoted():
    """The messages of the first column of each table."""
    table = ""
    for line in PAGE.splitlines():
        cell = re.match(r"\| (.*?) \|", line)
        table = (table or line) if cell or line.startswith("|") else ""
        if cell and table.startswith("| message"):
            yield from (two or one for two, one in re.findall(r"`` (.*?) ``|`([^`]+)`", cell.group(1)))


@functools.cache
def texts():
    """Every string of the sources; what an f-string or a format inserts is one character."""
    found = []
    for path in sorted((ROOT / "tfps").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else _HOLE for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[.\d]*[a-z]", _HOLE, node.value))
    return found


def has_in_order(text, fragments):
    """Whether a text has these fragments one after the other."""
    start = 0
    for fragment in fragments:
        start = text.find(fragment, start)
        if start < 0:
            return False
        start += len(fragment)
    return True


def test_the_page_quotes_messages():
    assert len(list(quoted())) > 40


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_exists(message):
    fragments = [part.strip(" ") for part in message.split("...")]
    assert any(has_in_order(text, fragments) for text in texts()), message


def test_every_class_of_errors_is_named_with_what_it_is():
    import tfps.errors

    rows = re.findall(r"^\| (`\w+Error`.*?) \| (`\w+`.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+Error)`", f"{row[0]} {row[2]}")}
    assert named == PUBLIC["tfps.errors"] - {"TfpsError"}
    for names, bases, _ in rows:
        kinds = [getattr(tfps.errors, name) for name in re.findall(r"\w+", names)]
        bases = [getattr(builtins, name) for name in re.findall(r"\w+", bases)]
        assert all(issubclass(kind, bases[-1 if number else 0]) for number, kind in enumerate(kinds))


def test_a_message_that_does_not_exist_is_found_out():
    with pytest.raises(AssertionError):
        test_a_quoted_message_exists("The chief ... is made of cheese.")
