"""Formats bytes, runs of numbers and columns for people to read."""

from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(value: float) -> str:
    """Formats bytes with a decimal unit: 64000064 -> "64.0 MB"."""
    for unit in _UNITS:
        # The rounded value is compared, or 999.96 kB would print as "1000.0 kB".
        if round(value, 1) < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def format_ranges(values: Sequence[int]) -> str:
    """Formats numbers in order, with runs as ranges: [3, 0, 1, 2, 7] -> "0-3 7"."""
    # The first and last number of each run.
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and runs[-1][1] == value - 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns cells into lines: the first column to the left, the others to the right, with two spaces between them."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
