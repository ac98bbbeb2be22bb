"""The BUILD file names every C++ source of the tree in the target it belongs to, and no file that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = {str(p.relative_to(ROOT)) for p in ROOT.glob("tfps_ops/**/*") if p.suffix in (".cc", ".h", ".inc")}


def listed():
    """Target -> the C++ files it names."""
    targets = re.split(r"\n(?=cc_\w+\()", (ROOT / "BUILD").read_text())[1:]
    return {re.search(r'name = "(.*?)"', t)[1]: re.findall(r'"(tfps_ops/[^"]*)"', t) for t in targets}


def test_every_source_is_listed_once_and_exists():
    named = [source for sources in listed().values() for source in sources]
    assert sorted(named) == sorted(SOURCES)


def test_targets_split_as_the_tree_does():
    targets = listed()
    assert all(s.startswith("tfps_ops/core/") for s in targets["core"])
    assert all(s.endswith(("_test.cc", "testing.h")) for s in targets["core_test"])
    assert {Path(s).parts[1] for s in targets["tfps/ops/_tfps_ops_2_21.so"]} == {"kernels", "ops", "sockets", "stores"}


def test_the_core_includes_no_tensorflow():
    core = [ROOT / s for s in SOURCES if s.startswith("tfps_ops/core/")]
    assert core
    assert not [p for p in core if re.search(r'#include [<"](tensorflow|absl|tsl)/', p.read_text())]
