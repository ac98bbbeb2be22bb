"""Who may import whom. The order is that of docs/architecture.md; anything else is a cycle in the making."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfps"
# Modules that stand below every package: they import only each other, in this order, and everyone may import them.
BASE = ("jobs", "errors", "types", "checks", "env", "version", "step", "files", "progress", "stages")
ALLOWED = {
    "serving": set(),
    "monitoring": set(),
    "placement": set(),
    "ops": set(),
    "cluster": {"monitoring", "ops"},  # a server loads the library, or it could not run the graphs it is sent
    "embedding": {"cluster", "ops", "placement"},
    "choice": {"cluster", "placement"},
    "nn": {"embedding", "ops", "placement"},
    "runtime": {"cluster", "monitoring"},
    "inputs": {"cluster", "runtime"},
    "data": {"cluster", "ops"},
    "strategy": {"cluster", "embedding", "inputs", "monitoring", "ops", "placement", "runtime"},
    "saving": {"cluster", "embedding", "ops", "placement", "runtime", "serving", "strategy"},
    "replicas": {"cluster", "embedding", "ops", "placement", "strategy"},
    "training": {"cluster", "embedding", "inputs", "ops", "placement", "runtime", "strategy"},
    "diagnosis": {"cluster", "embedding", "placement", "runtime", "strategy"},
}
# Any of the above; nothing below imports these.
TOP = (
    *("keras", "cli", "__init__", "optimizers", "layers", "models", "text", "api", "callbacks", "checkpoint"),
    *("admission", "eviction", "streaming", "metrics", "debug"),
)
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    """The package or top-level module a file belongs to: tfps/ops/library.py -> ops."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """Full names of the modules a file imports, wherever in it: tfps.ops.library for `from tfps.ops import library`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path):
    return {name.split(".")[1] for name in imported(path) if name.startswith("tfps.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    part = part_of(path)
    above_base = ALLOWED.get(part, {*ALLOWED, *TOP}) | {part, *BASE}
    allowed = set(BASE[: BASE.index(part)]) if part in BASE else above_base
    assert ours(path) <= allowed, f"tfps/{part} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_keras_internals_are_named_in_one_file(path):
    if path != PACKAGE / "keras" / "_compat.py":
        assert not [name for name in imported(path) if name.startswith("keras.src")]


@pytest.mark.parametrize("path", sorted((PACKAGE / "placement").glob("*.py")), ids=lambda p: p.name)
def test_placement_knows_no_tensorflow(path):
    assert not [name for name in imported(path) if name.split(".")[0] in ("tensorflow", "keras")]


def test_every_package_has_a_place_in_the_order():
    parts = {part_of(path) for path in FILES}
    assert parts <= {*BASE, *ALLOWED, *TOP}, "add the new package to ALLOWED, BASE or TOP"
