"""The board of `tfps-top`: a snapshot as text of a terminal.

Threading: one thread. Cost: some milliseconds a snapshot, in the process of the board.
"""

import dataclasses
import io
import time
from collections.abc import Iterator, Sequence

from tfps import jobs
from tfps.cli.keys import Keys
from tfps.cli.quantities import format_bytes, format_count, format_rate, format_seconds, format_share
from tfps.errors import ConfigError
from tfps.monitoring.feeds import Feed
from tfps.monitoring.snapshot import LossEvent, ServerState, Snapshot, TableState, TaskState

try:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as error:
    raise ConfigError('tfps-top needs rich: pip install "tfps[monitoring]". Valid without it: --json.') from error

_MOST_TABLES = 8
_MOST_LOSSES = 6
_WIDTH = 118
"""The width of a board that goes to a file."""
_STALE_S = 8.0
"""Seconds after which a board says that its figures are old."""
_COLOURS = {"up": "green", "lost": "bold red", "unknown": "yellow"}
_PHASES = {
    "idle": "between two calls of fit",
    "train": "training",
    "test": "evaluating",
    "predict": "predicting",
    "ended": "ENDED",
}


def board_text(snapshot: Snapshot) -> str:
    """Returns the board as plain text."""
    out = io.StringIO()
    Console(file=out, width=_WIDTH, force_terminal=False, color_system=None).print(board(snapshot, snapshot.at))
    return out.getvalue()


def watch(feed: Feed) -> int:
    """Shows a board in the terminal until the job ends or the user presses q or Ctrl-C; returns the exit status."""
    last: Snapshot | None = None
    quits = False
    try:
        with Live(Text(f"waiting for {feed.where} ..."), screen=True, auto_refresh=False) as live, Keys() as keys:
            for snapshot in feed.snapshots():
                last = snapshot or last
                if last is not None:
                    live.update(board(last, time.time()), refresh=True)
                if quits := keys.pressed("q"):
                    break
    except KeyboardInterrupt:
        quits = True
    console = Console()
    if last is None:
        console.print(f"{feed.where} has said nothing." if quits else f"{feed.where} has ended.")
        return int(not quits)
    # What the terminal showed is gone with its screen; the last board stays.
    console.print(board(last if quits else dataclasses.replace(last, phase="ended"), last.at))
    return 0


def board(snapshot: Snapshot, now: float) -> RenderableType:
    """Returns the board of a snapshot.

    Args:
        snapshot: the job.
        now: the second at which it is shown, to tell when it is old.
    """
    parts: list[RenderableType] = [*_head(snapshot, now), _tasks(snapshot.tasks)]
    if snapshot.servers:
        parts.append(_servers(snapshot.servers))
    if snapshot.tables:
        parts.append(_tables(snapshot.tables))
    parts += _checkpoint(snapshot)
    parts += _losses(snapshot.losses, snapshot.losses_count, snapshot.at)
    return Group(*parts)


def _head(snapshot: Snapshot, now: float) -> Iterator[Text]:
    """Yields the lines about the job as a whole."""
    clock = time.strftime("%H:%M:%S", time.localtime(snapshot.at))
    yield Text(
        f"{snapshot.name}  process {snapshot.pid} on {snapshot.host}  tfps {snapshot.version}  "
        f"runs for {format_seconds(snapshot.at - snapshot.began)}  {clock}",
        style="bold",
    )
    if now - snapshot.at > _STALE_S and snapshot.phase != "ended":
        yield Text(f"no news for {format_seconds(now - snapshot.at)}: the job may be stopped", style="bold red")
    yield Text(_describe_phase(snapshot), style="bold red" if snapshot.phase == "ended" else "cyan")
    if snapshot.metrics:
        values = (f"{name} {'not finite' if one is None else f'{one:.4g}'}" for name, one in snapshot.metrics.items())
        yield Text("  ".join(values))
    yield Text(
        f"{format_count(snapshot.steps)} steps ({format_rate(snapshot.steps_per_s)})  "
        f"{format_count(snapshot.examples)} examples ({format_rate(snapshot.examples_per_s)})"
        + (f"  {snapshot.unique_rows / snapshot.steps:,.0f} unique rows a step" if snapshot.unique_rows else "")
    )
    if snapshot.bottleneck is not None:
        yield Text.assemble(("pace: ", "bold"), snapshot.bottleneck.advice)


def _describe_phase(snapshot: Snapshot) -> str:
    """Returns what the program does: "training, asynchronous, epoch 2 of 3, step 120 of 500"."""
    words = [_PHASES[snapshot.phase]]
    if snapshot.mode:
        words.append(snapshot.mode)
    if snapshot.epoch is not None:
        words.append(f"epoch {snapshot.epoch + 1}" + (f" of {snapshot.epochs}" if snapshot.epochs else ""))
        of = f" of {format_count(snapshot.steps_per_epoch)}" if snapshot.steps_per_epoch else ""
        words.append(f"step {format_count(snapshot.epoch_step)}{of}")
    return ", ".join(words)


def _grid(title: str, columns: Sequence[str]) -> Table:
    """Returns a table whose first column is text and the others numbers."""
    grid = Table(box=None, pad_edge=False, header_style="bold", title=None)
    for number, name in enumerate((title, *columns)):
        grid.add_column(name, justify="right" if number else "left", no_wrap=True)
    return grid


def _tasks(tasks: Sequence[TaskState]) -> Table:
    columns = ("state", "cpu", "memory", "steps", "examples/s", "stale", "in/s", "out/s", "restarts", "pid", "host")
    grid = _grid("\ntask", [f"\n{name}" for name in columns])
    for task in tasks:
        cores = "-" if task.cpu_cores is None else f"{task.cpu_cores:.2f}/{task.cores}"
        grid.add_row(
            task.name,
            Text(task.status, style=_COLOURS[task.status]),
            cores,
            format_bytes(task.resident_bytes),
            format_count(task.steps) if task.job == jobs.WORKER else "",
            format_rate(task.examples_per_s, "") if task.job == jobs.WORKER else "",
            ("-" if task.staleness is None else str(task.staleness)) if task.job == jobs.WORKER else "",
            format_bytes(task.received_bytes_per_s),
            format_bytes(task.sent_bytes_per_s),
            str(task.restarts),
            "-" if task.pid is None else str(task.pid),
            task.host,
        )
    return grid


def _servers(servers: Sequence[ServerState]) -> Table:
    grid = _grid("\nserver", ["\nholds", "\npart of all", "\npart of traffic"])
    for server in servers:
        grid.add_row(
            f"ps {server.index}",
            format_bytes(server.stored_bytes),
            format_share(server.stored_share),
            format_share(server.traffic_share),
        )
    return grid


def _tables(tables: Sequence[TableState]) -> Table:
    grid = _grid(
        "\ntable, hottest first", [f"\n{name}" for name in ("rows", "bytes", "ids/step", "row bytes/s", jobs.PS)]
    )
    grid.add_column("\nnew, refused, evicted", justify="right")
    for table in tables[:_MOST_TABLES]:
        grows = (table.admitted, table.refused, table.evicted)
        grid.add_row(
            table.name,
            format_count(table.rows),
            format_bytes(table.bytes),
            "-" if table.ids_per_step is None else format_count(int(table.ids_per_step)),
            format_bytes(table.row_bytes_per_s),
            ",".join(map(str, table.servers)),
            ", ".join("-" if one is None else format_count(one) for one in grows) if table.grows else "",
        )
    if len(tables) > _MOST_TABLES:
        grid.add_row(f"and {len(tables) - _MOST_TABLES} more")
    return grid


def _checkpoint(snapshot: Snapshot) -> Iterator[Text]:
    if snapshot.drift:
        values = "  ".join(f"{name} {value:.4g}" for name, value in snapshot.drift.items())
        yield Text.assemble(("\ndrift: ", "bold"), values)
    saved = snapshot.checkpoint
    if saved is None:
        yield Text.assemble(("\ncheckpoint: ", "bold"), "none by this program")
        return
    age = format_seconds(max(0.0, snapshot.at - saved.at))
    yield Text.assemble(
        ("\ncheckpoint: ", "bold"), f"step {saved.step}, {age} ago, written in {saved.seconds:.1f} s: {saved.url}"
    )


def _losses(losses: Sequence[LossEvent], count: int, now: float) -> Iterator[Text]:
    if not count:
        yield Text.assemble(("losses of tasks: ", "bold"), "none")
        return
    yield Text(f"losses of tasks: {count}", style="bold red")
    for loss in losses[-_MOST_LOSSES:]:
        clock = time.strftime("%H:%M:%S", time.localtime(loss.at))
        back = "not back yet" if loss.back_at is None else f"back after {format_seconds(loss.back_at - loss.at)}"
        # The reason may have the path of a log and be long.
        yield Text(f"  {clock}  {loss.job} {loss.index}: {back}. {loss.why}", overflow="fold")
