"""`tfps-top` on jobs that are not there: what it shows, how it finds them, how it ends."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.terminals import Terminal
from tests.monitoring.jobs_for_tests import full_snapshot

pytest.importorskip("rich", reason="needs rich")

from rich.console import Console

from tfps.cli.board import Board, board_text
from tfps.cli.quantities import format_bytes, format_count, format_rate, format_seconds, format_share
from tfps.monitoring.snapshot import Snapshot

ROOT = pathlib.Path(__file__).parents[2]
TOP = ["-m", "tfps.cli.top"]
JOB = """
import dataclasses, sys, time
sys.path.insert(0, {root!r})
from tests.monitoring.jobs_for_tests import full_snapshot
from tfps.monitoring.collector import Collector
from tfps.monitoring.publishing import Publisher
at = full_snapshot().at
def make():
    # As on a busy machine.
    time.sleep({slow})
    # Seconds pass in the job, so that no board finds it old.
    return full_snapshot(at=time.time(), name={name!r})
collector = Collector(make, every_s=0.1)
publisher = Publisher(collector)
print("ready", flush=True)
if sys.stdin.readline().strip() == "end":
    collector.close()
    publisher.close()
    time.sleep(20)
"""


@pytest.fixture
def env(tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TFPS_")}
    return {
        **kept,
        "XDG_RUNTIME_DIR": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "118",
    }


@pytest.fixture
def start(env):
    """Starts a program that publishes snapshots."""
    programs = []

    def run(name="train.py", slow=0):
        code = JOB.format(root=str(ROOT), name=name, slow=slow)
        programs.append(
            subprocess.Popen(
                [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        assert programs[-1].stdout.readline() == "ready\n"
        return programs[-1]

    yield run
    for program in programs:
        program.kill()
        program.wait()


@pytest.fixture
def terminal(env):
    with contextlib.ExitStack() as stack:

        def run(*arguments):
            opened = Terminal([*TOP, *arguments], env)
            stack.callback(opened.close)
            return opened

        yield run


def top(env, *arguments):
    return subprocess.run([sys.executable, *TOP, *arguments], env=env, capture_output=True, text=True, timeout=60)


def test_a_board_has_it_all():
    text = board_text(full_snapshot())
    for words in (
        "train.py  process 4711 on node-1  tfps 0.1.0  runs for 10.5 s",
        "training, geo, epoch 2 of 3, step 20 of 500",
        "loss 0.25  auc not finite",
        "520 steps (12.5/s), 12 of them taken back by a checkpoint  33,280 examples (800/s)  100 unique rows a step",
        "pace: The parameter servers are the bottleneck. Add servers.",
        "drift: geo_delta_norm 0.5",
        "cache: hit rate 75 %, 60 % in all  2.16 MB did not cross (54 kB/s)",
        "checkpoint: step 500, 5.5 s ago, written in 0.5 s: /run/ckpt-500",
        "losses of tasks: 2",
        "worker 0: back after 3.0 s. killed",
        "worker 1: not back yet. gone",
    ):
        assert words in text, words
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    row = ["worker", "0", "up", "1.00/4", "1", "GB", "260", "400", "3", "2", "MB", "1", "MB", "1", "99", "node-2"]
    assert lines["worker 0"] == row
    assert lines["worker 1"] == ["worker", "1", "lost", "-", "-", "260", "-", "-", "-", "-", "0", "-"]
    assert lines["chief 0"] == ["chief", "0", "up", "0.50/2", "900", "MB", "-", "-", "0", "4711", "node-1"]
    assert lines["users/embeddings"] == ["users/embeddings", "100,000", "12.8", "MB", "512", "4.5", "MB", "0,1"]
    assert lines["items/embeddings"] == [
        "items/embeddings",
        "90",
        "9",
        "kB",
        "512",
        "4.5",
        "MB",
        "0",
        "100,",
        "5,",
        "10",
    ]
    assert ["6.4", "MB", "50", "%", "60", "%"] in [line[2:] for line in lines.values() if line[:1] == ["ps"]]


def test_a_board_of_a_job_of_which_little_is_known():
    text = board_text(Snapshot(1.0, 0.0, "a.py", 1, "h", "0"))
    assert "between two calls of fit" in text and "losses of tasks: none" in text and "none by this program" in text


def test_a_board_of_many_tables_has_the_hottest():
    tables = tuple(full_snapshot().tables[:1] * 11)
    assert "and 3 more" in board_text(full_snapshot(tables=tables))


def test_names_of_a_user_are_no_markup():
    text = board_text(full_snapshot(name="[red]x[/red]", metrics={"[bold]": 1.0}))
    assert "[red]x[/red]" in text and "[bold] 1" in text


def test_what_could_control_a_terminal_is_not_printed():
    evil = "\x1b[31mX\x1b]0;owned\x07\x9b1m\u202e\nnext"
    task = dataclasses.replace(full_snapshot().tasks[0], host=f"[red]{evil}[/nope]")
    table = dataclasses.replace(full_snapshot().tables[0], name=f"users[clicks]/{evil} :smile:")
    loss = dataclasses.replace(full_snapshot().losses[0], why=evil)
    limit = dataclasses.replace(full_snapshot().bottleneck, advice=evil)
    text = board_text(
        full_snapshot(
            name=evil,
            mode=evil,
            metrics={evil: 1.0},
            drift={"geo" + evil: 1.0},
            tasks=(task,),
            tables=(table,),
            losses=(loss,),
            bottleneck=limit,
            checkpoint=dataclasses.replace(full_snapshot().checkpoint, url=evil),
        )  # fmt: skip
    )
    assert all(one.isprintable() or one == "\n" for one in text)
    assert "[red]?[31mX" in text and "[/nope]" in text and "users[clicks]/" in text and ":smile:" in text


def test_a_moment_that_no_calendar_has():
    for at in (9e18, -9e18):
        assert "train.py  process 4711" in board_text(full_snapshot(at=at))


def screen(columns, rows, **changed):
    """The lines that a terminal of this size shows of a board."""
    console = Console(width=columns, height=rows, color_system=None)
    with console.capture() as shown:
        console.print(Board(full_snapshot(**changed), full_snapshot().at, is_short=True))
    return shown.get().splitlines()[:rows]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 118, 160])
def test_names_and_numbers_are_whole_in_a_terminal_of_any_width(columns):
    tasks = tuple(
        dataclasses.replace(task, pid=1_234_567, steps=20_123_456 if task.job == "worker" else 0, restarts=11)
        for task in full_snapshot().tasks
    )
    lines = screen(columns, 60, tasks=tasks)
    by_name = {line[:8]: line for line in lines}
    assert "1234567" in by_name["worker 0"] and "20,123,456" in by_name["worker 1"] and "lost" in by_name["worker 1"]
    # An ellipsis is where a text was cut that may be long, and never in a table.
    assert not any("…" in line for line in lines[lines.index("") :])
    (place,) = [place for place, line in enumerate(lines) if line.startswith("table, hottest first")]
    assert lines[place + 1].startswith("users/embeddings") and "100,000" in lines[place + 1]
    if columns >= 100:
        assert "12.8 MB" in lines[place + 1]
    assert ("host" in by_name["task    "]) == (columns >= 100)


def test_a_terminal_of_24_lines_shows_what_must_not_be_missed():
    advice = "The workers are the bottleneck, and this is why: " + "many words " * 40
    losses = tuple(dataclasses.replace(full_snapshot().losses[1], why="gone " * 60, at=990.0 + one) for one in range(9))
    limit = dataclasses.replace(full_snapshot().bottleneck, advice=advice)
    lines = screen(80, 24, bottleneck=limit, losses=losses, losses_count=9)
    assert all(len(line) <= 80 for line in lines)
    starts = [line.split(":")[0] for line in lines]
    at = starts.index("pace")
    assert lines[at].startswith("pace: The workers are the bottleneck") and lines[at + 1].endswith("…")
    assert starts[at + 2 : at + 4] == ["checkpoint", "losses of tasks"]
    assert sum("worker 1: not back yet. gone" in line for line in lines) == 4
    assert any(line.startswith("worker 1") for line in lines)


def test_what_geo_says_is_there_once():
    shown = board_text(full_snapshot(metrics={"loss": 0.25, "geo_delta_norm": 0.5}))
    assert shown.count("geo_delta_norm") == 1


def test_it_waits_for_a_job(start, env):
    began = time.monotonic()
    shown = top(env, "--once", "--wait", "1")
    assert shown.returncode == 1 and "no job of this user runs" in shown.stderr and time.monotonic() - began > 1
    waiting = subprocess.Popen(
        [sys.executable, *TOP, "--once", "--wait", "60"], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        time.sleep(1.5)
        assert waiting.poll() is None
        start()
        assert waiting.communicate(timeout=40)[0].startswith("train.py") and waiting.returncode == 0
    finally:
        waiting.kill()
        waiting.wait()


def test_quantities():
    shown = [format_bytes(one) for one in (None, 0, 999, 1_000, 99_949, 123_456, 12_866_580, 2.5e9, 7e15)]
    assert shown == ["-", "0 B", "999 B", "1 kB", "99.9 kB", "123 kB", "12.9 MB", "2.5 GB", "7e+03 TB"]
    assert [format_rate(one) for one in (None, 0.25, 99.94, 7_900.4)] == ["-", "0.25/s", "99.9/s", "7,900/s"]
    assert [format_seconds(one) for one in (0, 8.24, 60, 3_723)] == ["0.0 s", "8.2 s", "0:01:00", "1:02:03"]
    assert [format_share(one) for one in (None, 0.5)] == ["-", "50 %"] and format_count(96_000) == "96,000"


def test_the_only_job_is_shown_once(start, env):
    job = start()
    for arguments in ((), (str(job.pid),)):
        shown = top(env, "--once", *arguments)
        assert shown.returncode == 0 and shown.stderr == ""
        assert shown.stdout.startswith("train.py  process 4711") and "losses of tasks: 2" in shown.stdout
        # A log file gets no colours.
        assert "\x1b" not in shown.stdout


def test_json(start, env):
    start()
    shown = top(env, "--once", "--json")
    read = Snapshot.from_json(shown.stdout)
    assert read == full_snapshot(at=read.at) and shown.returncode == 0
    lines = subprocess.Popen([sys.executable, *TOP, "--json"], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert [json.loads(lines.stdout.readline())["steps"] for _ in range(3)] == [520] * 3
        # As `| head` does.
        lines.stdout.close()
        assert lines.wait(20) == 0
    finally:
        lines.kill()
        lines.wait()


def test_several_jobs_are_listed(start, env):
    one, other = start("one.py"), start("other.py", slow=1.2)
    shown = top(env, "--once")
    assert shown.returncode == 1 and "several jobs run here; name one of them:" in shown.stderr
    for job, name in ((one, "one.py"), (other, "other.py")):
        assert f"  {job.pid}  {name}: train, 520 steps, 3 tasks, for " in shown.stderr
    assert "other.py" in top(env, "--once", str(other.pid)).stdout


def test_no_job(env, tmp_path):
    shown = top(env, "--once")
    assert shown.returncode == 1
    assert (
        "no job of this user runs on this machine (no socket of a running job in "
        f"{tmp_path}/tfps or {tmp_path}/tfps-{os.getuid()})" in shown.stderr
    )
    shown = top(env, "--once", "1")
    assert shown.returncode == 1 and "process 1 is no job of this user on this machine" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.py"], "`job` must be a process id, or http://host:port without a path. Received: 'train.py'."),
        (["ftp://host:1"], "`job` must be http://host:port without a path. Received: 'ftp://host:1'."),
        (["http://[::1"], "`job` must be http://host:port without a path. Received: 'http://[::1'."),
        (["--wait", "-1"], "wait"),
        (["1", "2"], "one job must be given at most. Received: ['1', '2']."),
        (["--colour"], "colour"),
    ],
)
def test_wrong_arguments(env, arguments, words):
    shown = top(env, *arguments)
    assert shown.returncode == 2 and words in shown.stderr


def test_a_board_needs_a_terminal(start, env):
    start()
    shown = top(env)
    assert shown.returncode == 2 and "a board needs a terminal" in shown.stderr and "--once" in shown.stderr


def test_without_rich_it_says_what_to_install(start, env):
    start()
    code = "import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None; from tfps.cli.top import main; "
    run = [sys.executable, "-c", code + "sys.exit(main(sys.argv[1:]))"]
    shown = subprocess.run([*run, "--once"], env=env, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 2 and 'needs rich: pip install "tfps[monitoring]"' in shown.stderr
    shown = subprocess.run([*run, "--once", "--json"], env=env, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and json.loads(shown.stdout)["steps"] == 520


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_a_key_ends_the_board_and_not_the_job(start, terminal, key):
    job, board = start(), terminal()
    board.wait_for("losses of tasks: 2")
    assert "\x1b[?1049h" in board._data.decode()
    board.press("x")
    time.sleep(0.7)
    assert board.process.poll() is None
    board.press(key)
    assert board.wait() == 0 and job.poll() is None
    # The last board stays in the terminal.
    after = board._data.decode().rpartition("\x1b[?1049l")[2]
    assert "train.py" in after and "ENDED" not in after


def test_a_board_of_a_strategy_that_ends_says_so(start, terminal):
    job, board = start(), terminal()
    board.wait_for("losses of tasks: 2")
    job.stdin.write("end\n")
    job.stdin.flush()
    assert board.wait() == 0
    assert "ENDED" in board.text and job.poll() is None


def test_a_board_of_a_program_that_is_killed_says_so(start, terminal):
    job, board = start(), terminal(str(start().pid))
    del job
    job = start("other.py")
    other = terminal(str(job.pid))
    for one in (board, other):
        one.wait_for("losses of tasks: 2")
    job.send_signal(signal.SIGKILL)
    job.wait(10)
    assert other.wait() == 0 and "ENDED" in other.text
    # The board of another job goes on.
    assert board.process.poll() is None and "ENDED" not in board.text


def test_a_job_that_stands_still_is_called_so():
    snapshot, console = full_snapshot(), Console(width=118)
    for age_s, is_old in ((1.0, False), (30.0, True)):
        with console.capture() as shown:
            console.print(Board(snapshot, snapshot.at + age_s))
        assert ("no news for 30.0 s: the job may be stopped" in shown.get()) == is_old


def test_help(env):
    shown = top(env, "--help")
    assert shown.returncode == 0 and "--once" in shown.stdout and "http://host:9100" in shown.stdout
