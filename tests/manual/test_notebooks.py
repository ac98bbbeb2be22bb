"""The notebooks of the manual run from their first cell to their last."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    for package in ("nbconvert", "ipykernel"):
        pytest.importorskip(package, reason=f"a notebook needs {package} to run: pip install .[test]")
    command = ["-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--output-dir", tmp_path, notebook]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / notebook.name).is_file()
