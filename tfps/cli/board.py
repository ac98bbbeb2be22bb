"""The board of `tfps-top`: a snapshot as text of a terminal.

What must not be missed comes first: a terminal of 24 lines shows no more. Columns that have no room are left out,
whole, the least important first. Names and numbers are never cut.

Threading: one thread. Cost: some milliseconds a snapshot, in the process of the board.
"""

import dataclasses
import io
import time
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from tfps.cli.board_tables import server_grid, table_grid, task_grid
from tfps.cli.keys import Keys
from tfps.cli.quantities import (
    format_bytes,
    format_clock,
    format_count,
    format_rate,
    format_seconds,
    format_share,
    printable,
)
from tfps.monitoring.feeds import Feed
from tfps.monitoring.snapshot import CacheState, LossEvent, Snapshot

_MOST_LOSSES = 6
_LINES_A_LOSS = 6
"""A terminal has so many lines for each loss that it shows."""
_PACE_LINES = 2
_WIDTH = 118
"""The width of a board that goes to a file."""
_STALE_S = 8.0
"""Seconds after which a board says that its figures are old."""
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
    Console(file=out, width=_WIDTH, force_terminal=False, color_system=None).print(Board(snapshot, snapshot.at))
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
                    live.update(Board(last, time.time(), is_short=True), refresh=True)
                if quits := keys.pressed("q"):
                    break
    except KeyboardInterrupt:
        quits = True
    console = Console()
    if last is None:
        console.print(Text(f"{feed.where} has said nothing." if quits else f"{feed.where} has ended."))
        return int(not quits)
    # What the terminal showed is gone with its screen; the last board stays.
    console.print(Board(last if quits else dataclasses.replace(last, phase="ended"), last.at))
    return 0


class Board:
    """The board of a snapshot, as rich prints it: it asks for the width that there is.

    All that comes from the job is printed as it is, without markup, and without characters that control a terminal.

    Args:
        snapshot: the job.
        now: the second at which it is shown, to tell when it is old.
        is_short: whether long texts are cut and few losses shown, so that a screen has room for the rest.
    """

    def __init__(self, snapshot: Snapshot, now: float, is_short: bool = False) -> None:
        self._snapshot, self._now, self._is_short = snapshot, now, is_short

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the parts of the board, for rich."""
        snapshot, width = self._snapshot, options.max_width
        yield from _head(snapshot, self._now)
        if snapshot.bottleneck is not None:
            yield self._pace(snapshot.bottleneck.advice, console, width)
        yield _checkpoint(snapshot)
        yield from self._losses(console)
        yield from (Text(""), task_grid(snapshot.tasks, width))
        if snapshot.servers:
            yield from (Text(""), server_grid(snapshot.servers, width))
        if snapshot.tables:
            yield from (Text(""), table_grid(snapshot.tables, width))

    def _pace(self, advice: str, console: Console, width: int) -> Text:
        text = Text.assemble(("pace: ", "bold"), printable(advice))
        lines = text.wrap(console, width)
        if not self._is_short or len(lines) <= _PACE_LINES:
            return text
        last = lines[_PACE_LINES - 1]
        last.rstrip()
        last.truncate(width - 1)
        last.append("…")
        return Text("\n").join(lines[:_PACE_LINES])

    def _losses(self, console: Console) -> Iterator[Text]:
        losses, count = self._snapshot.losses, self._snapshot.losses_count
        if not count:
            yield Text.assemble(("losses of tasks: ", "bold"), "none")
            return
        yield Text(f"losses of tasks: {count}", style="bold red")
        most = max(1, min(_MOST_LOSSES, console.height // _LINES_A_LOSS)) if self._is_short else _MOST_LOSSES
        for loss in losses[-most:]:
            yield _describe_loss(loss, self._is_short)


def _head(snapshot: Snapshot, now: float) -> Iterator[Text]:
    """Yields the lines about the job as a whole."""
    clock = format_clock(snapshot.at)
    yield Text(
        printable(f"{snapshot.name}  process {snapshot.pid} on {snapshot.host}  tfps {snapshot.version}  ")
        + f"runs for {format_seconds(snapshot.at - snapshot.began)}  {clock}",
        style="bold",
    )
    if now - snapshot.at > _STALE_S and snapshot.phase != "ended":
        yield Text(f"no news for {format_seconds(now - snapshot.at)}: the job may be stopped", style="bold red")
    yield Text(_describe_phase(snapshot), style="bold red" if snapshot.phase == "ended" else "cyan")
    # What GEO says of its windows is among the logs, and has a line of its own.
    metrics = {name: value for name, value in snapshot.metrics.items() if name not in snapshot.drift}
    if metrics:
        values = (f"{name} {'not finite' if one is None else f'{one:.4g}'}" for name, one in metrics.items())
        yield Text(printable("  ".join(values)))
    if snapshot.drift:
        drift = "  ".join(f"{name} {value:.4g}" for name, value in snapshot.drift.items())
        yield Text.assemble(("drift: ", "bold"), printable(drift))
    again = f", {format_count(snapshot.repeated_steps)} of them taken back by a checkpoint"
    yield Text(
        f"{format_count(snapshot.steps)} steps ({format_rate(snapshot.steps_per_s)})"
        f"{again if snapshot.repeated_steps else ''}  "
        f"{format_count(snapshot.examples)} examples ({format_rate(snapshot.examples_per_s)})"
        + (f"  {snapshot.unique_rows / snapshot.steps:,.0f} unique rows a step" if _has_rows(snapshot) else "")
    )
    if snapshot.cache is not None:
        yield _describe_cache(snapshot.cache)


def _describe_cache(cache: CacheState) -> Text:
    """Returns the line about rows that workers keep."""
    rate = "" if cache.saved_bytes_per_s is None else f" ({format_bytes(cache.saved_bytes_per_s)}/s)"
    return Text.assemble(
        ("cache: ", "bold"),
        f"hit rate {format_share(cache.hit_rate)}, {format_share(cache.found_rows / cache.asked_rows)} in all  "
        f"{format_bytes(cache.saved_bytes)} did not cross{rate}",
    )


def _has_rows(snapshot: Snapshot) -> bool:
    return snapshot.unique_rows > 0 and snapshot.steps > 0


def _describe_phase(snapshot: Snapshot) -> str:
    """Returns what the program does: "training, asynchronous, epoch 2 of 3, step 120 of 500"."""
    words = [_PHASES[snapshot.phase]]
    if snapshot.mode:
        words.append(printable(snapshot.mode))
    if snapshot.epoch is not None:
        words.append(f"epoch {snapshot.epoch + 1}" + (f" of {snapshot.epochs}" if snapshot.epochs else ""))
        of = f" of {format_count(snapshot.steps_per_epoch)}" if snapshot.steps_per_epoch else ""
        words.append(f"step {format_count(snapshot.epoch_step)}{of}")
    return ", ".join(words)


def _checkpoint(snapshot: Snapshot) -> Text:
    saved = snapshot.checkpoint
    if saved is None:
        return Text.assemble(("checkpoint: ", "bold"), "none by this program")
    age = format_seconds(max(0.0, snapshot.at - saved.at))
    said = f"step {saved.step}, {age} ago, written in {saved.seconds:.1f} s: {saved.url}"
    return Text.assemble(("checkpoint: ", "bold"), printable(said))


def _describe_loss(loss: LossEvent, is_short: bool) -> Text:
    clock = format_clock(loss.at)
    back = "not back yet" if loss.back_at is None else f"back after {format_seconds(loss.back_at - loss.at)}"
    # The reason may have the path of a log and be long. On a screen its end is what may be missing.
    said = printable(f"  {clock}  {loss.job} {loss.index}: {back}. {loss.why}")
    return Text(said, no_wrap=is_short, overflow="ellipsis" if is_short else "fold")
