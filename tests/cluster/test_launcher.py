"""`tfps-launch` with real processes: prefixed lines, an exit status that tells, nothing left behind."""

import contextlib
import json
import os
import signal
import time

import pytest

from tfps.cli import launch
from tfps.cluster import ports
from tfps.cluster.launcher import LaunchPlan, program_command
from tfps.errors import ConfigError

LAUNCH = "import sys; from tfps.cli.launch import main; sys.exit(main(sys.argv[1:]))"
PROGRAM = """
import os, signal, sys, time
from tfps.cluster import reach, tf_config
config = tf_config.from_environment()
reach.wait_for_servers(config.cluster)
print("args", sys.argv[1:], config.name, config.cluster.num_ps, config.cluster.num_workers)
print("to stderr", file=sys.stderr)
print("ready", flush=True)
{end}
"""


@pytest.fixture
def program(tmp_path):
    def write(end=""):
        path = tmp_path / "train.py"
        path.write_text(PROGRAM.format(end=end))
        return str(path)

    return write


def command(*arguments):
    return ["-c", LAUNCH, *arguments]


def test_runs_the_program_as_chief(run, program, tmp_path):
    logs = tmp_path / "logs"
    path = program("sys.exit(7)")
    launched = run(command("--ps", "2", "--workers", "1", "--log-dir", str(logs), "--", path, "--epochs", "3"))
    assert launched.wait() == 7
    lines = launched.out.read_text().splitlines()
    assert "[chief 0] args ['--epochs', '3'] chief 0 2 1" in lines
    assert "[chief 0] to stderr" in launched.err.read_text().splitlines()
    assert "tfps: chief 0 ended with status 7" in launched.err.read_text()
    assert "to stderr" in (logs / "chief-0.log").read_text()
    assert {path.name for path in logs.iterdir()} >= {"ps-0.log", "ps-1.log", "worker-0.log"}


def test_defaults_are_said(run, program):
    launched = run(command(program()))
    assert launched.wait() == 0, launched.output()
    assert "TF_CONFIG is unset: starting 1 parameter server(s) and 2 worker(s)" in launched.output()
    assert "chief 0 1 2" in launched.output()


def test_dead_server_is_named(run, program, processes, tmp_path):
    launched = run(
        command("--ps", "1", "--workers", "1", "--log-dir", str(tmp_path / "logs"), program("time.sleep(600)")),
        TFPS_MAX_RESTARTS="0",
    )
    launched.wait_for("ready")
    everything = processes.descendants(launched.process.pid)
    victim = next(pid for pid in everything if log_of(pid).endswith("worker-0.log"))
    wait_until_it_reported(victim, launched.process.pid)
    with open(tmp_path / "logs" / "worker-0.log", "a") as log:
        log.write("last words\n")
    time.sleep(0.3)
    signal_process(victim)
    assert launched.wait() == 1
    assert "error: worker 0 (process" in launched.output() and "SIGKILL" in launched.output()
    assert "[worker 0] last words" in launched.output()
    assert processes.wait_until_gone(everything)


def test_a_worker_that_dies_is_done_without(run, program, processes, tmp_path):
    """The program goes on with the other, and its status is the launcher's; without that one it ends."""
    logs = tmp_path / "logs"
    wait = "import time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.1)\nsys.exit(3)"
    launched = run(
        command("--ps", "1", "--workers", "2", "--log-dir", str(logs), "--", program(wait), str(tmp_path / "go")),
        TFPS_MAX_RESTARTS="0",
    )
    launched.wait_for("ready")
    everything = processes.descendants(launched.process.pid)
    victim = next(pid for pid in everything if log_of(pid).endswith("worker-1.log"))
    wait_until_it_reported(victim, launched.process.pid)
    signal_process(victim)
    launched.wait_for("the other workers continue: worker 1")
    (tmp_path / "go").touch()
    assert launched.wait() == 3
    assert "chief 0 ended with status 3" in launched.output()


def test_a_worker_and_the_program_are_started_again(run, program, processes, tmp_path):
    """The program that a signal ends gets new servers; the one that ends by itself is not started again."""
    end = (
        "open(sys.argv[1], 'a').write('x')\n"
        "first = os.path.getsize(sys.argv[1]) == 1\n"
        "while not os.path.exists(sys.argv[2]): time.sleep(0.1)\n"
        "os.kill(os.getpid(), signal.SIGKILL) if first else sys.exit(3)"
    )
    logs = tmp_path / "logs"
    names = [str(tmp_path / "starts"), str(tmp_path / "go")]
    launched = run(command("--ps", "1", "--workers", "1", "--log-dir", str(logs), "--", program(end), *names))
    launched.wait_for("ready")
    everything = processes.descendants(launched.process.pid)
    victim = next(pid for pid in everything if log_of(pid).endswith("worker-0.log"))
    wait_until_it_reported(victim, launched.process.pid)
    signal_process(victim)
    launched.wait_for("worker 0 is started again: worker 0 (process")
    (tmp_path / "go").touch()
    assert launched.wait() == 3
    assert "the program is started again, with new servers: chief 0 was ended by SIGKILL" in launched.output()
    assert (tmp_path / "starts").read_text() == "xx"


def log_of(pid):
    try:
        return os.readlink(f"/proc/{pid}/fd/1")
    except OSError:
        return ""


def wait_until_it_reported(pid, launcher):
    """Waits until a server has reported to the launcher that it started, after which it closes their pipe.

    It can be dialled a moment earlier. One that ends in that moment never started, as far as the launcher knows.
    """
    deadline = time.monotonic() + 30
    while pipes_of(pid, os.O_WRONLY) & pipes_of(launcher, os.O_RDONLY):
        assert time.monotonic() < deadline, f"process {pid} did not report within 30 s"
        time.sleep(0.05)


def pipes_of(pid, mode):
    """Returns the pipes that a process has open for reading or for writing."""
    pipes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        # The process may close it meanwhile.
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/fdinfo/{name}") as info:
            flags = int(next(line for line in info if line.startswith("flags:")).split()[1], 8)
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("pipe:") and flags & os.O_ACCMODE == mode:
                pipes.add(target)
    return pipes


def signal_process(pid, number=signal.SIGKILL):
    os.kill(pid, number)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_nothing_is_left_running(run, program, processes, number):
    launched = run(command("--ps", "1", "--workers", "1", program("time.sleep(600)")))
    launched.wait_for("ready")
    everything = processes.descendants(launched.process.pid)
    assert len(everything) == 4  # chief, zygote, ps, worker
    launched.process.send_signal(number)
    assert launched.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    assert processes.wait_until_gone(everything)


def test_program_may_tidy_up_after_a_ctrl_c(run, program):
    tidy = "try: time.sleep(600)\nexcept KeyboardInterrupt: time.sleep(0.5); print('tidied')"
    launched = run(command("--ps", "1", "--workers", "1", program(tidy)))
    launched.wait_for("ready")
    launched.process.send_signal(signal.SIGINT)
    assert launched.wait() == 130
    assert "[chief 0] tidied" in launched.output() and "stopped by SIGINT" in launched.output()


def test_role_ps_serves_without_the_program(run):
    chief, worker, ps = (ports.reserve_address() for _ in range(3))
    config = {"cluster": {"chief": [chief], "worker": [worker], "ps": [ps]}, "task": {"type": "ps", "index": 0}}
    launched = run(command("no_such_file.py"), TF_CONFIG=json.dumps(config), TFPS_JOIN_TIMEOUT_S="1")
    assert launched.wait() == 1
    assert f"ps 0 waited 1 s (TFPS_JOIN_TIMEOUT_S) for the chief at {chief}" in launched.output()


def test_role_chief_becomes_the_program(run, tmp_path):
    path = tmp_path / "train.py"
    path.write_text("import sys; print('program', sys.argv[1:]); sys.exit(4)")
    config = {"cluster": {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]}, "task": {"type": "chief", "index": 0}}
    launched = run(command(str(path), "--x"), TF_CONFIG=json.dumps(config))
    assert launched.wait() == 4
    assert "program ['--x']" in launched.output()


@pytest.mark.parametrize(
    ("tf_config", "arguments", "words"),
    [
        ("{", ["train.py"], "TF_CONFIG: it must be JSON"),
        (None, [], "`program` must be given"),
        (None, ["no_such_file.py"], "`program` must be a file that exists. Received: 'no_such_file.py'"),
        (None, ["no-such-command"], "a command on the PATH. Received: 'no-such-command'"),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]}, "task": {"type": "ps", "index": 0}}',
            ["--ps", "2", "train.py"],
            "`--ps` and `--workers` must be left out if TF_CONFIG names the cluster (this is its ps 0)",
        ),
    ],
)
def test_wrong_settings(monkeypatch, capsys, tf_config, arguments, words):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if tf_config is not None:
        monkeypatch.setenv("TF_CONFIG", tf_config)
    assert launch.main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_wrong_counts(monkeypatch, capsys, value):
    with pytest.raises(SystemExit) as caught:
        launch.main([f"--workers={value}", "train.py"])
    assert caught.value.code == 2
    assert f"flag --workers={value}: must be an integer of at least 1. Received: '{value}'" in capsys.readouterr().err


def test_plan_checks_itself():
    with pytest.raises(ConfigError, match="`num_ps` must be at least 1. Received: 0"):
        LaunchPlan(("python3",), num_ps=0)


def test_commands_run_as_they_are():
    assert program_command(["sh", "-c", "true"]) == ["sh", "-c", "true"]
