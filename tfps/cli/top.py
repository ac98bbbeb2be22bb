"""tfps-top: shows a running job in the terminal: its tasks, rates, tables, checkpoints, losses, and what sets the pace.

    tfps-top                       the job of this user on this machine
    tfps-top 4711                  the job whose chief is process 4711
    tfps-top http://host:9100      the job whose chief has this metrics port
    tfps-top --once                one board as text, for logs
    tfps-top --json                a line of JSON every two seconds; with --once, one line
    tfps-top --wait 60             waits up to 60 seconds for a job to appear

Every program that makes a strategy can be watched. A board costs it 5 ms of CPU every two seconds, beside its training,
and nothing is paid without one. The keys q and Ctrl-C end the board, not the job.
"""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

from absl import flags

from tfps.cli.command import USAGE_ERROR, Command
from tfps.cli.quantities import printable
from tfps.errors import ClusterError, ConfigError, TfpsError
from tfps.monitoring.feeds import Feed, HttpFeed, SocketFeed
from tfps.monitoring.runtime_folder import find_folders, find_sockets
from tfps.monitoring.snapshot import Snapshot

COMMAND = Command("tfps-top", "[flags] [PID|http://HOST:PORT]", __doc__ or "", intermixed=True)
_ONCE = flags.DEFINE_boolean("once", False, "Show one board as text and end.", flag_values=COMMAND.flags)
_JSON = flags.DEFINE_boolean("json", False, "Print snapshots as JSON, a line each.", flag_values=COMMAND.flags)
_WAIT = flags.DEFINE_float(
    "wait", 0.0, "Seconds to wait for a job to appear.", lower_bound=0.0, flag_values=COMMAND.flags
)
_FIRST_S = 5.0
"""Seconds that each job of a list has for its first snapshot."""
_LOOK_S = 0.5
_RATES_S = 8.0
"""Seconds that `--once` waits for a snapshot with rates, which need two readings."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs tfps-top.

    Args:
        argv: the arguments without the name of the command; None for the arguments of the process.

    Returns:
        0, or 1 after a message on standard error.

    Raises:
        SystemExit: with status 0 after `--help`, 2 after a message that names a wrong argument or flag.
    """
    return _run(COMMAND.parse([COMMAND.name, *(sys.argv[1:] if argv is None else argv)]))


def run() -> None:
    """Runs `main` as an absl program, which ends the process. The installed script calls this."""
    COMMAND.run(_run)


def _run(arguments: list[str]) -> int:
    if len(arguments) > 2:
        COMMAND.fail(f"one job must be given at most. Received: {arguments[1:]}.")
    try:
        with _await_feed(arguments[1] if len(arguments) == 2 else None, _WAIT.value) as feed:
            return _show(feed)
    except ConfigError as error:
        print(f"tfps-top: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except TfpsError as error:
        print(f"tfps-top: {error}", file=sys.stderr)
        return 1
    # Ctrl-C ends the board.
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # `tfps-top --json | head` closes the pipe early. Without this line the flush at exit fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _await_feed(job: str | None, wait_s: float) -> Feed:
    """Opens the snapshots of a job, and waits for it if it is not there yet; see `open_feed`.

    Args:
        job: the job.
        wait_s: the most seconds to wait.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            feed = open_feed(job)
            feed.check()
            return feed
        except ClusterError:
            # Of several jobs the user has to choose; time does not.
            if time.monotonic() >= deadline or (job is None and len(dict(find_sockets())) > 1):
                raise
        time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))


def open_feed(job: str | None) -> Feed:
    """Opens the snapshots of a job.

    Args:
        job: the process id of its chief, or the URL of its metrics port; None for the only job of this user here.

    Raises:
        ConfigError: `job` is neither.
        ClusterError: there is no such job, or there are several.
    """
    if job is not None and "://" in job:
        return HttpFeed(job)
    if job is not None and not job.isdecimal():
        raise ConfigError(f"`job` must be a process id, or http://host:port without a path. Received: {job!r}.")
    found = [(pid, path) for pid, path in find_sockets() if job is None or pid == int(job)]
    if not found:
        folders = " or ".join(map(str, find_folders()))
        which = "no job of this user runs" if job is None else f"process {job} is no job of this user"
        raise ClusterError(
            f"{which} on this machine (no socket of a running job in {folders}). A job appears there when its "
            "strategy is made. Valid: a program with a ParameterServerStrategy; http://host:port, the metrics port of "
            "its chief; --wait, for a job that is still to begin."
        )
    # A program has one strategy at a time. While one takes the place of another, both may be there for a moment.
    by_process = dict(found)
    if len(by_process) > 1:
        lines = [f"  {pid}  {_describe(path)}" for pid, path in sorted(by_process.items())]
        raise ClusterError("several jobs run here; name one of them:\n" + "\n".join(lines))
    return SocketFeed(*by_process.values())


def _describe(path: pathlib.Path) -> str:
    """Returns a line about a job for the list of jobs."""
    deadline = time.monotonic() + _FIRST_S
    with contextlib.suppress(TfpsError), SocketFeed(path) as feed:
        for snapshot in feed.snapshots():
            if snapshot is not None:
                up = len([task for task in snapshot.tasks if task.status == "up"])
                age_s = max(0, int(snapshot.at - snapshot.began))
                return (
                    f"{printable(snapshot.name)}: {snapshot.phase}, {snapshot.steps} steps, {up} tasks, for {age_s} s"
                )
            if time.monotonic() > deadline:
                break
    return "does not answer"


def _show(feed: Feed) -> int:
    if _JSON.value:
        for snapshot in _with_rates(feed) if _ONCE.value else feed.snapshots():
            if snapshot is not None:
                print(snapshot.to_json(), flush=True)
        return 0
    # Imported late: JSON needs no rich.
    try:
        from tfps.cli.board import board_text, watch
    except ModuleNotFoundError as error:
        raise ConfigError('tfps-top needs rich: pip install "tfps[monitoring]". Valid without it: --json.') from error

    if not _ONCE.value and sys.stdout.isatty():
        return watch(feed)
    if not _ONCE.value:
        raise ConfigError("a board needs a terminal. Received: a file or a pipe. Valid: --once, or --json.")
    for snapshot in _with_rates(feed):
        print(board_text(snapshot), end="")
    return 0


def _with_rates(feed: Feed) -> Iterator[Snapshot]:
    """Yields one snapshot: the first with rates, or the last that came in time.

    Raises:
        ClusterError: the job says nothing.
    """
    deadline, last = time.monotonic() + _RATES_S, None
    for snapshot in feed.snapshots():
        last = snapshot or last
        if (snapshot is not None and snapshot.steps_per_s is not None) or time.monotonic() > deadline:
            break
    if last is None:
        raise ClusterError(f"{feed.where} says nothing: it may be stopped, or be starting.")
    yield last


if __name__ == "__main__":
    run()
