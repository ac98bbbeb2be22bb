"""Processes of a real `mpirun` of Open MPI."""

import shutil
import sys

import pytest

from tests.cluster.launched import FIND, TRAIN, launch, run_command

pytestmark = pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun (Debian: openmpi-bin)")


def mpirun(count, *command, **environment):
    # More processes than cores, and tests that run as root in a container.
    options = ["--oversubscribe", "--allow-run-as-root", "-n", str(count)]
    return run_command("mpirun", *options, *command, **environment)


def test_processes_agree():
    status, output, errors = mpirun(4, sys.executable, "-c", FIND)
    assert status == 0, errors
    names, addresses, _, clusters = zip(*sorted(line.split("|") for line in output.splitlines()), strict=True)
    assert names == ("chief 0", "ps 0", "ps 1", "worker 0")
    assert len(set(addresses)) == 4 and len(set(clusters)) == 1


def test_what_does_not_fit_is_refused():
    status, _, errors = mpirun(4, *launch("--ps", "2", "--workers", "2", "train.py"))
    assert status == 2
    assert "must fit the tasks: 1 chief + servers + workers = 4 (OMPI_COMM_WORLD_SIZE)" in errors


def test_a_library_that_is_not_there_is_named(tmp_path):
    """One task fails, as in a container without Open MPI; the others are told, and do not wait for ever."""
    (tmp_path / "libmpi.so.40").write_text("no library")
    status, _, errors = mpirun(3, *launch("train.py"), LD_LIBRARY_PATH=str(tmp_path))
    assert status != 0
    assert "Open MPI did not exchange the addresses" in errors


@pytest.mark.slow
@pytest.mark.parametrize("by", ["tfps-launch", "python"])
def test_trains(tmp_path, by):
    program = tmp_path / "train.py"
    program.write_text(TRAIN)
    command = launch("--workers", "2", str(program)) if by == "tfps-launch" else [sys.executable, str(program)]
    status, output, errors = mpirun(4, *command)
    assert (status, output) == (0, "trained 1 2 80\n"), errors
    assert errors.count(" ends: the chief at 127.0.0.1:") == 3


@pytest.mark.slow
def test_the_status_of_the_program_is_that_of_mpirun(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(TRAIN + "raise SystemExit(7)")
    assert mpirun(3, *launch(str(program)))[0] == 7
