"""The tables of the board of `tfps-top`: tasks, servers, embedding tables.

A table has all columns that the terminal has room for. Others are left out, those that matter least first. What is
shown is never cut: where even the columns that must stay have no room, they are folded.
"""

import dataclasses
from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from tfps import jobs
from tfps.cli.quantities import format_bytes, format_count, format_rate, format_share, printable
from tfps.monitoring.snapshot import ServerState, TableState, TaskState

_MOST_TABLES = 8
_COLOURS = {"up": "green", "lost": "bold red", "unknown": "yellow"}
_GAP = 2
"""Spaces between two columns."""


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column.

    Args:
        title: its title.
        cells: the text of each row.
        keep: how much it matters; the column with the least is left out first, and one with None never.
        styles: the style of each cell; none if empty.
    """

    title: str
    cells: Sequence[str]
    keep: int | None = None
    styles: Sequence[str] = ()

    @property
    def width(self) -> int:
        """The cells of a terminal that it takes."""
        return max(cell_len(text) for text in (self.title, *self.cells))


def _grid(columns: Sequence[_Column], width: int) -> Table:
    """Returns a table of the columns that have room; the first is text, the others numbers."""
    shown = list(columns)
    while sum(one.width + _GAP for one in shown) - _GAP > width:
        may_go = [one for one in shown if one.keep is not None]
        if not may_go:
            break
        shown.remove(min(may_go, key=lambda one: one.keep or 0))
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for number, one in enumerate(shown):
        grid.add_column(Text(one.title), justify="right" if number else "left", overflow="fold")
    for row in range(len(columns[0].cells)):
        # `Text`, because rich would read "[name]" in a string as markup.
        grid.add_row(*(Text(one.cells[row], style=one.styles[row] if one.styles else "") for one in shown))
    return grid


def task_grid(tasks: Sequence[TaskState], width: int) -> Table:
    """Returns the table of the tasks.

    Args:
        tasks: the tasks.
        width: the cells that a line of the terminal has.
    """

    def of_worker(task: TaskState, text: str) -> str:
        return text if task.job == jobs.WORKER else ""

    columns = [
        _Column("task", [printable(task.name) for task in tasks]),
        _Column("state", [task.status for task in tasks], styles=[_COLOURS[task.status] for task in tasks]),
        _Column("cpu", [_cores(task) for task in tasks], 8),
        _Column("memory", [format_bytes(task.resident_bytes) for task in tasks], 6),
        _Column("steps", [of_worker(task, format_count(task.steps)) for task in tasks]),
        _Column("examples/s", [of_worker(task, format_rate(task.examples_per_s, "")) for task in tasks], 7),
        _Column("stale", [of_worker(task, _number(task.staleness)) for task in tasks], 3),
        _Column("in/s", [format_bytes(task.received_bytes_per_s) for task in tasks], 5),
        _Column("out/s", [format_bytes(task.sent_bytes_per_s) for task in tasks], 4),
        _Column("restarts", [str(task.restarts) for task in tasks], 1),
        _Column("pid", [_number(task.pid) for task in tasks]),
        _Column("host", [printable(task.host) for task in tasks], 2),
    ]
    return _grid(columns, width)


def _cores(task: TaskState) -> str:
    return "-" if task.cpu_cores is None else f"{task.cpu_cores:.2f}/{_number(task.cores)}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def server_grid(servers: Sequence[ServerState], width: int) -> Table:
    """Returns the table of what servers hold and move; see `task_grid`."""
    columns = [
        _Column("server", [f"{jobs.PS} {server.index}" for server in servers]),
        _Column("holds", [format_bytes(server.stored_bytes) for server in servers], 1),
        _Column("part of all", [format_share(server.stored_share) for server in servers]),
        _Column("part of traffic", [format_share(server.traffic_share) for server in servers]),
    ]
    return _grid(columns, width)


def table_grid(tables: Sequence[TableState], width: int) -> Table:
    """Returns the table of embedding tables; see `task_grid`."""
    shown = tables[:_MOST_TABLES]
    ids = ["-" if table.ids_per_step is None else format_count(int(table.ids_per_step)) for table in shown]
    columns = [
        _Column("table, hottest first", [printable(table.name) for table in shown]),
        _Column("rows", [format_count(table.rows) for table in shown]),
        _Column("bytes", [format_bytes(table.bytes) for table in shown], 4),
        _Column("ids/step", ids, 3),
        _Column("row bytes/s", [format_bytes(table.row_bytes_per_s) for table in shown], 5),
        _Column(jobs.PS, [",".join(map(str, table.servers)) for table in shown], 1),
        _Column("new, refused, evicted", [_growth(table) for table in shown], 2),
    ]
    grid = _grid(columns, width)
    if len(tables) > _MOST_TABLES:
        grid.add_row(f"and {len(tables) - _MOST_TABLES} more")
    return grid


def _growth(table: TableState) -> str:
    grows = (table.admitted, table.refused, table.evicted)
    return ", ".join("-" if one is None else format_count(one) for one in grows) if table.grows else ""
