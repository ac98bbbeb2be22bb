"""tfps-plan, as typed: output, files and messages."""

import sys

import pytest

from tfps.cli.plan import main
from tfps.placement.model import Plan
from tfps.placement.planner import plan
from tfps.placement.spec import VariableSpec

pytest.importorskip("keras")

MODEL = """
import keras

def {name}():
    net = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(10_000_000, 16),
                            keras.layers.Flatten(), keras.layers.Dense(1)])
    net.compile("adam", "mse")
    return net

if __name__ == "__main__":
    raise SystemExit("training started")
"""
UNBUILT = """
import keras
net = keras.Sequential([keras.layers.Embedding(1000, 16), keras.layers.Flatten(), keras.layers.Dense(1)])
def inputs():
    return keras.Input((4,), dtype="int32")
"""


@pytest.fixture
def write(tmp_path):
    """A function: text -> path of a file that holds it."""

    def write(text, name="model.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def saved(tmp_path):
    """Path of a saved plan for two servers."""
    plan([VariableSpec("table", (1000, 8), is_table=True)], 2).save(tmp_path / "saved.json")
    return str(tmp_path / "saved.json")


@pytest.mark.parametrize("name", ["model", "build", "build_model", "make_model"])
def test_a_model_is_planned_saved_and_advised_on(write, name, tmp_path, capsys):
    assert (
        main([write(MODEL.format(name=name)), "--ps", "4", "--workers", "2", "--json", str(tmp_path / "p.json")]) == 0
    )
    printed = capsys.readouterr().out
    made = Plan.load(tmp_path / "p.json")
    assert made.num_servers == 4
    table = next(placement for placement in made if placement.spec.is_table)
    assert (table.spec.shape, table.spec.slots, table.spec.rows_per_step) == ((10_000_000, 16), 2, 2048)
    assert len(set(table.servers)) == 4
    assert table.spec.name in printed
    assert "a sparse model" in printed
    assert "With 2 workers" in printed


def test_a_model_in_a_variable_with_inputs_beside_it(write, capsys):
    assert main([write(UNBUILT), "--ps", "2", "--batch", "10"]) == 0
    assert "[1000, 16]" in capsys.readouterr().out


def test_a_named_function(write, capsys):
    path = write(MODEL.format(name="ctr"))
    assert main([path, "--ps", "2", "--function", "ctr"]) == 0
    assert main([path, "--ps", "2"]) == 1
    assert "must define one of ['model', 'build'" in capsys.readouterr().err


def test_a_saved_plan_is_shown_compared_and_drawn(saved, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main([saved, "--compare", saved, "--plot", str(tmp_path / "plan.png")]) == 0
    assert "The plans are equal." in capsys.readouterr().out
    assert (tmp_path / "plan.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.py", "--ps", "2"], "`model` must be a Python file or a saved plan. Received: 'none.py'"),
        (["none.json"], "`path` must be a readable plan. Received: 'none.json'"),
        (["none.py"], "`--ps` must be given"),
        (["none.py", "--ps", "0"], "`--ps` must be at least 1. Received: 0"),
        (["none.py", "--ps", "1", "--dense-exchange-every", "-3"], "`--dense-exchange-every` must be at least 1"),
        (["SAVED", "--ps", "3"], "`--ps` must be 2, as in"),
        (["SAVED", "--json", "/nonexistent/plan.json"], "must be files that can be written"),
    ],
)
def test_mistakes_are_named_in_one_line(args, message, saved, capsys):
    assert message in only_line(capsys, main([saved if arg == "SAVED" else arg for arg in args]))


def test_a_picture_of_no_known_format_is_named_in_one_line(saved, capsys):
    pytest.importorskip("matplotlib", reason="without it no format is asked for")
    assert "must be files that can be written" in only_line(capsys, main([saved, "--plot", "plan.xyz"]))


def test_a_picture_without_matplotlib_is_refused_in_one_line(saved, capsys, monkeypatch):
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    assert "pip install 'tfps[plot]'" in only_line(capsys, main([saved, "--plot", "plan.png"]))


def only_line(capsys, status):
    """The one line of a command that failed."""
    error = capsys.readouterr().err
    assert status == 1 and error.startswith("tfps-plan: ") and error.count("\n") == 1
    return error
