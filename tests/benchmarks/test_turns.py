"""Two programs in turns: who may take part, and that a side in another checkout runs that one's code."""

import argparse
import sys

import pytest

from benchmarks.turns import compare, in_checkout, opponent

# A program that takes turns, with a result that says in which directory its package was found.
PROGRAM = "from benchmarks.turns import take_turns; from benchmarks.speed import SPEED; take_turns(lambda: SPEED)"


def checkout(directory, speed):
    """A directory with a `benchmarks` package whose results are always `speed` examples a second."""
    package = directory / "benchmarks"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "ctr_dnn.py").touch()
    (package / "turns.py").write_text(
        "import json, sys\n"
        "def take_turns(measure):\n"
        "    print('turn: {}', flush=True)\n"
        "    for _ in sys.stdin: print('turn: ' + json.dumps(measure()), flush=True)\n"
    )
    result = {"examples_per_s": speed, "cpu_ms_per_1000_examples": {"chief": 1000 / speed}}
    (package / "speed.py").write_text(f"SPEED = {result}\n")
    return str(directory)


def test_two_checkouts_are_compared(tmp_path):
    command = [sys.executable, "-c", PROGRAM]
    sides = {name: in_checkout(checkout(tmp_path / name, speed), command) for name, speed in (("a", 300), ("b", 200))}
    found = compare(sides, rounds=3)
    assert found["of"] == "a / b" and found["ratio"] == 1.5 and found["cpu_ratio"] == round(200 / 300, 3)
    assert [len(results) for results in found["turns"].values()] == [3, 3]


def test_an_opponent_is_a_contender_or_a_checkout(tmp_path):
    assert opponent("stock-loop", ["stock-loop"], "ctr_dnn") == "stock-loop"
    assert opponent(checkout(tmp_path / "other", 1), ["stock-loop"], "ctr_dnn") == str(tmp_path / "other")
    with pytest.raises(argparse.ArgumentTypeError, match=r"stock-loop.*checkout.*Received: 'stock'"):
        opponent("stock", ["stock-loop"], "ctr_dnn")
