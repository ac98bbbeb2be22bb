"""`tfps-plan --strategy`, as typed."""

import json

import pytest

from tfps.cli.plan import main

pytest.importorskip("keras")

MODEL = """
import keras

def build():
    net = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(10_000_000, 16),
                            keras.layers.Flatten(), keras.layers.Dense(1)])
    net.compile("adam", "mse")
    return net
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def test_the_machines_of_the_flags_decide(model, tmp_path, capsys):
    saved = tmp_path / "why.json"
    common = ["--strategy", model, "--batch", "256", "--cores", "8", "--host_bytes", "64e9"]
    for flags, choice in (
        (["--cards", "0"], "OneDeviceStrategy"),
        (["--cards", "2", "--card-bytes", "1e9"], "ParameterServerStrategy"),
    ):
        assert main([*common, *flags, "--json", str(saved)]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"Strategy: {choice}") and "Step of 256 examples" in printed
        assert json.loads(saved.read_text())["choice"] == choice


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strategy", "none.py"], "`model` must be a Python file"),
        (["--strategy", "MODEL", "--batch", "0"], "`--batch` must be at least 1"),
        (["--strategy", "MODEL", "--cards", "0", "--cores", "0"], "`cores` must be an integer of at least 1"),
        (
            ["--strategy", "MODEL", "--cards", "1", "--card-bytes", "1e5"],
            "`card_bytes` must hold one replica without its tables",
        ),
        (["--strategy", "MODEL", "--ps", "2"], "`--ps` must be left out with --strategy"),
        (["--strategy", "saved.json"], "`model` must be a Python file"),
        (["MODEL", "--ps", "2", "--hosts", "4"], "`--hosts` must come with --strategy"),
    ],
)
def test_mistakes_are_named_in_one_line(args, message, model, capsys):
    assert main([model if arg == "MODEL" else arg for arg in args]) == 1
    error = capsys.readouterr().err
    assert error.startswith("tfps-plan: ") and error.count("\n") == 1 and message in error
