"""Draws a plan as a picture. Needs matplotlib: `pip install tfps[plot]`."""

import pathlib
from typing import TYPE_CHECKING

from tfps.errors import LibraryError
from tfps.placement.model import Plan, ServerLoad, placement_loads
from tfps.placement.report import largest_to_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Title, field of `ServerLoad`, and the unit that one step of the axis stands for.
_PANELS = (
    ("memory with slots, MB", "bytes_with_slots", 1e6),
    ("rows asked for a step", "rows_per_step", 1.0),
    ("dense bytes a step, kB", "dense_bytes_per_step", 1e3),
)
_NAMED = 9
"""The number of variables with their own colour; all others are grey. Matplotlib's cycle has 10 colours."""


def draw(plan: Plan, path: str | pathlib.Path) -> None:
    """Writes a picture of the plan: memory, rows looked up and dense bytes of each server, by variable.

    Args:
        plan: the plan.
        path: the file to write; its suffix, such as .png or .svg, gives the format.

    Raises:
        LibraryError: matplotlib is not installed.
    """
    figure_class = _import_figure_class()
    # Each server needs 0.35 inches of height; titles and legend need 1.6.
    figure = figure_class(figsize=(12, 1.6 + 0.35 * plan.num_servers), layout="constrained")
    parts = _parts_by_field(plan)
    for axes, (title, field, unit) in zip(figure.subplots(1, len(_PANELS), sharey=True), _PANELS, strict=True):
        _draw_panel(axes, plan, parts[field], unit)
        axes.set_title(f"{title}\nlargest / mean {largest_to_mean(_totals(plan, field)):.2f}", fontsize=9)
    figure.axes[0].set_ylabel("parameter server")
    _draw_legend(figure, _largest_names(plan))
    figure.savefig(path)


def _import_figure_class() -> "type[Figure]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LibraryError("drawing a plan needs matplotlib, not found: pip install 'tfps[plot]'.") from error
    # `matplotlib.pyplot` would open windows and keep global state.
    return Figure


def _largest_names(plan: Plan) -> list[str]:
    """Returns the names of the variables that need the most memory."""
    by_size = sorted(plan, key=lambda placement: -placement.spec.bytes_with_slots)
    return [placement.spec.name for placement in by_size[:_NAMED]]


def _totals(plan: Plan, field: str) -> list[float]:
    return [getattr(load, field) for load in plan.loads()]


def _parts_by_field(plan: Plan) -> dict[str, dict[str, list[float]]]:
    """Returns, by field and then by variable (or "others"), the variable's load on each server, [num_servers]."""
    names = [*_largest_names(plan), "others"]
    parts = {field: {name: [0.0] * plan.num_servers for name in names} for _, field, _ in _PANELS}
    for placement in plan:
        name = placement.spec.name if placement.spec.name in names else "others"
        for load in placement_loads(placement):
            _add(parts, name, load)
    return parts


def _add(parts: dict[str, dict[str, list[float]]], name: str, load: ServerLoad) -> None:
    for field, by_name in parts.items():
        by_name[name][load.server] += getattr(load, field)


def _draw_panel(axes: "Axes", plan: Plan, by_name: dict[str, list[float]], unit: float) -> None:
    # The bars are stacked: each variable begins where the one before it ends.
    left = [0.0] * plan.num_servers
    for index, (name, values) in enumerate(by_name.items()):
        scaled = [value / unit for value in values]
        axes.barh(range(plan.num_servers), scaled, left=left, color=_colour(index, name), label=name)
        left = [start + width for start, width in zip(left, scaled, strict=True)]
    axes.set_yticks(range(plan.num_servers))
    # Server 0 at the top, as in the table of the plan.
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)


def _draw_legend(figure: "Figure", names: list[str]) -> None:
    # One legend for all panels, which show the same variables in the same colours.
    handles, _ = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, [*names, "others"], loc="outside lower center", ncols=4, fontsize=7)


def _colour(index: int, name: str) -> str:
    return "lightgrey" if name == "others" else f"C{index}"
