"""`make wheel` makes a wheel that works in an environment that has nothing else."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]
MINOR = ".".join(tf.__version__.split(".")[:2])


def output(*command, cwd=ROOT):
    """Runs a command without the variables of this environment, and returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TFPS_", "TF_"))}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment(tmp_path):
    output("make", "wheel", f"TENSORFLOWS={MINOR}", f"DIST={tmp_path}", f"PYTHON={sys.executable}")
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-manylinux_2_" in wheel.name, "TensorFlow loads the library, so any Python will do"
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".so")] == [f"tfps/ops/_tfps_ops_{MINOR.replace('.', '_')}.so"]
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("tfps/**/*.py")} | {"tfps/py.typed"}
    assert {name for name in names if name.endswith((".py", "py.typed"))} == sources

    output(sys.executable, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv/bin"
    output(programs / "pip", "install", "--quiet", wheel, f"tensorflow~={MINOR}.0")
    shutil.copy(ROOT / "tests/release/first_steps.py", tmp_path)
    assert "trained" in output(programs / "python", "first_steps.py", cwd=tmp_path)
    assert "--workers" in output(programs / "tfps-launch", "--help", cwd=tmp_path)
