"""Nobody goes around `Table` and `RowStore`: what a shard is made of is known to the implementations alone."""

import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "tfps"
# Those that keep rows in variables; `table.py` hands the plan's entry on to whoever makes the stores.
IMPLEMENTATION = {
    *("embedding/sharded_table.py", "embedding/variable_row_store.py", "embedding/local_table.py"),
    "replicas/rows.py",  # a table that is a variable of this process
}
BEYOND = r"VariableRowStore|RowVariable|placement\.shards|gather_rows\(|[^_]apply_rows\(|touched_rows\(|watch_rows\("
# `routing.shards` and `rule.shards` are a number, and an input has shards of its own.
SHARDS = r"(?<!routing)(?<!rule)(?<!source)\.shards\b"
USERS = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if (name := str(path.relative_to(PACKAGE))) not in IMPLEMENTATION and not name.startswith(("placement/", "ops/"))
]


@pytest.mark.parametrize("path", USERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tables_are_used_by_their_interface(path):
    text = path.read_text()
    assert not re.findall(BEYOND, text)
    if path.parent.name != "inputs":
        assert not re.findall(SHARDS, text)


def test_the_implementation_is_what_the_pattern_looks_for():
    """Or the test above would find nothing whatever the code is."""
    text = "".join((PACKAGE / name).read_text() for name in IMPLEMENTATION)
    assert set(re.findall(BEYOND, text)) >= {"VariableRowStore", "placement.shards", "gather_rows(", "touched_rows("}
    assert re.findall(SHARDS, text)
    assert USERS and "ShardedTable" in text
