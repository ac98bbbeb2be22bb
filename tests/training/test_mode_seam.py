"""Who runs closures does not know which mode it has: shared code neither names a mode nor imports from one."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tfps"
MODES = ("allreduce", "asynchronous", "geo", "synchronous")
SHARED = [
    *sorted((PACKAGE / "training").glob("*.py")),
    *sorted((PACKAGE / "runtime").glob("*.py")),
    *sorted((PACKAGE / "keras").glob("functions*.py")),
]
NAMED = re.compile(r"\b(geo|AllReduce|a?synchronous(ly)?|sync|GeoMode|SyncMode)\b", re.IGNORECASE)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SHARED, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_shared_code_names_no_mode(path):
    found = [line for line in path.read_text().splitlines() if NAMED.search(line)]
    assert not found


@pytest.mark.parametrize("mode", MODES)
def test_modes_do_not_import_each_other(mode):
    others = tuple(f"tfps.training.{other}" for other in MODES if other != mode)
    for path in (PACKAGE / "training" / mode).glob("*.py"):
        assert not [name for name in imported(path) if name.startswith(others)], path.name
