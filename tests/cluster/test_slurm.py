"""Tasks of a real SLURM: a controller and four nodes on this machine, with state and ports of their own."""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests.cluster.launched import FIND, TRAIN, launch, run_command
from tfps.cluster import ports

# The two names of this machine, so that their tasks can connect; and two that `mpirun` takes for other machines.
NODES = (socket.gethostname().partition(".")[0], "localhost")
ELSEWHERE = ("one", "two")
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MpiParams=ports={ports[3]}-{last}
SlurmUser={user}
SlurmdUser={user}
ReturnToService=2
SelectType=select/cons_tres
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus}
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus}
PartitionName=all Nodes={host},localhost Default=YES State=UP OverSubscribe=YES
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[4]} CPUs={cpus}
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[5]} CPUs={cpus}
PartitionName=elsewhere Nodes=one,two State=UP OverSubscribe=YES
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment variables for commands of a running SLURM."""
    # Debian has daemons in /usr/sbin, which is on the PATH of root alone.
    path = os.environ["PATH"] + ":/usr/sbin"
    absent = [name for name in DAEMONS if shutil.which(name, path=path) is None]
    if absent:
        pytest.skip(f"needs SLURM: {', '.join(absent)} is not installed (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd starts the tasks of any user")
    # The path of a socket has at most 107 characters.
    folder = pathlib.Path(tmp_path_factory.mktemp("slurm"))
    environment = {"PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    _write_configuration(folder)
    with contextlib.ExitStack() as started:
        for command in _commands(folder):
            started.enter_context(_daemon(command, os.environ | environment, folder))
            if command[0] == "munged":
                _wait_until((folder / "munge.socket").exists, folder)
        _wait_until(lambda: run_command("sinfo", "-hNo", "%T", **environment)[1].split() == ["idle"] * 4, folder)
        yield environment


def _write_configuration(folder):
    (folder / "state").mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    chosen = [int(ports.reserve_address().rpartition(":")[2]) for _ in range(6)]
    names = {"host": NODES[0], "user": getpass.getuser(), "cpus": os.cpu_count()}
    text = CONFIGURATION.format(folder=folder, ports=chosen, last=chosen[3] + 20, **names)
    (folder / "slurm.conf").write_text(text)


def _commands(folder):
    files = {name: str(folder / f"munge.{name}") for name in ("socket", "pid", "log", "seed")}
    options = ["--force", "--foreground", f"--key-file={folder / 'key'}", f"--socket={files['socket']}"]
    yield ["munged", *options, *(f"--{name}-file={files[name]}" for name in ("pid", "log", "seed"))]
    yield ["slurmctld", "-D"]
    for node in NODES + ELSEWHERE:
        yield ["slurmd", "-D", "-N", node]


@contextlib.contextmanager
def _daemon(command, environment, folder):
    with open(folder / f"{command[0]}-{command[-1]}.out".replace("/", "-"), "wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _wait_until(condition, folder, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        outputs = "\n".join(path.read_text()[-1000:] for path in folder.glob("*.out"))
        assert time.monotonic() < deadline, outputs
        time.sleep(0.2)


def srun(slurm, ntasks, *command, resv_ports=0, options=()):
    # Without a number SLURM reserves as many ports as a node has tasks. Overcommit: more tasks than cores.
    options = [f"--resv-ports={resv_ports}", "--nodes=2", f"--ntasks={ntasks}", "--overcommit", "--quiet", *options]
    return run_command("srun", *options, *command, **slurm)


@pytest.mark.parametrize(
    ("distribution", "resv_ports", "different_ports"),
    # The nodes are one machine here. Ports that SLURM has reserved are reserved on each.
    [("block", 0, 6), ("cyclic", 0, 6), ("cyclic", 3, 3)],
)
def test_tasks_of_a_step_agree(slurm, distribution, resv_ports, different_ports):
    options = [f"--distribution={distribution}"]
    status, output, errors = srun(slurm, 6, sys.executable, "-c", FIND, resv_ports=resv_ports, options=options)
    assert status == 0, errors
    names, addresses, nodes, clusters = zip(*sorted(line.split("|") for line in output.splitlines()), strict=True)
    assert names == ("chief 0", "ps 0", "ps 1", "worker 0", "worker 1", "worker 2")
    assert [address.partition(":")[0] for address in addresses] == list(nodes)
    assert len(set(addresses)) == 6 and len(set(clusters)) == 1
    assert len({address.partition(":")[2] for address in addresses}) == different_ports
    assert set(nodes[1:3]) == set(NODES)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun (Debian: openmpi-bin)")
def test_mpirun_in_a_job_decides(slurm):
    """It starts a daemon on each node by `srun`: its processes have the variables of a SLURM step of two tasks."""
    options = ["--quiet", "--partition=elsewhere", "--nodes=2", "--ntasks=4", "--overcommit"]
    command = ["mpirun", "--oversubscribe", "--allow-run-as-root", "-n", "4", sys.executable, "-c", FIND]
    status, output, errors = run_command("salloc", *options, *command, **slurm)
    assert status == 0, errors
    names, addresses, nodes, clusters = zip(*sorted(line.split("|") for line in output.splitlines()), strict=True)
    assert names == ("chief 0", "ps 0", "ps 1", "worker 0")
    assert len(set(addresses)) == 4 and len(set(clusters)) == 1
    assert set(nodes) == set(ELSEWHERE)


def test_what_does_not_fit_is_refused_by_every_task(slurm):
    status, _, errors = srun(slurm, 4, *launch("--ps", "2", "--workers", "2", "train.py"))
    assert status == 2
    assert errors.count("must fit the tasks: 1 chief + servers + workers = 4 (SLURM_STEP_NUM_TASKS)") == 4


@pytest.mark.slow
@pytest.mark.parametrize("by", ["tfps-launch", "python"])
def test_trains(slurm, tmp_path, by):
    program = tmp_path / "train.py"
    program.write_text(TRAIN)
    command = launch("--workers", "2", str(program)) if by == "tfps-launch" else [sys.executable, str(program)]
    status, output, errors = srun(slurm, 4, *command)
    assert (status, output) == (0, "trained 1 2 80\n"), errors
    assert sum(errors.count(f" ends: the chief at {node}:") for node in NODES) == 3


@pytest.mark.slow
def test_the_status_of_the_program_is_that_of_srun(slurm, tmp_path):
    program = tmp_path / "train.py"
    program.write_text(TRAIN + "raise SystemExit(7)")
    assert srun(slurm, 3, *launch(str(program)))[0] == 7
