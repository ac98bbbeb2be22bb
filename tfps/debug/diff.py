"""`find_parting`: the first step and layer in which two dumps part.

Threading: any. No TensorFlow.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tfps.debug.layer_names import match_layers
from tfps.debug.reading import DumpReader
from tfps.debug.selection import WHAT_OF
from tfps.debug.step_file import LOSS, PARAMETER, Array, Entry, Value
from tfps.errors import DumpError

RTOL, ATOL = 1e-4, 1e-7
"""Tolerances above the noise of float32: sums in another order differ by 1e-7 at once and by more after some steps."""

_MOST_ROWS = 8
"""The most row ids that a difference names."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A value in which two runs differ.

    Args:
        layer: the path of the layer, in the first dump.
        kind: the kind of the value.
        name: its name in the layer.
        relative: the largest difference of two elements, divided by the largest element; infinite where a NaN or
            another shape faces a number.
        absolute: the largest difference.
        rows: the first ids of rows that differ, with the relative error of each; none for other values.
        note: what else differs: shapes, or the ids themselves; empty for nothing.
    """

    layer: str
    kind: str
    name: str
    relative: float
    absolute: float
    rows: Sequence[tuple[int, float]] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Alone:
    """Values that one dump has alone, of the steps that were compared.

    Args:
        dump: the dump, "first" or "second".
        values: their number.
        layers: the paths of their layers in the first dump, in the order of the step.
        is_explained: whether the other dump leaves them out by its settings.
    """

    dump: str
    values: int
    layers: Sequence[str]
    is_explained: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of comparing two dumps.

    Args:
        steps: the number of steps that were compared, up to the one in which they part.
        values: the number of values that were compared.
        first: the first pair of steps, each as (step, worker).
        last: the last pair.
        differences: the differences of the last pair, in the order of the step; none if the runs are equal.
        only_parameters: whether workers of one run share steps, so that only parameters could be compared.
        unpaired: the number of steps that only one of the dumps has.
        alone: the values that only one of the dumps has.
    """

    steps: int
    values: int
    first: tuple[tuple[int, int], tuple[int, int]]
    last: tuple[tuple[int, int], tuple[int, int]]
    differences: Sequence[Difference]
    only_parameters: bool
    unpaired: int
    alone: Sequence[Alone] = ()

    @property
    def is_equal(self) -> bool:
        """Whether the runs are equal in what both dumps have, and the settings of the dumps explain the rest."""
        return not self.differences and all(one.is_explained for one in self.alone)


def find_parting(ours: DumpReader, theirs: DumpReader, rtol: float = RTOL, atol: float = ATOL) -> Comparison:
    """Compares two dumps step by step, up to the first step in which they part.

    With the same workers, the steps of each worker are compared. Else a run of one worker is compared with the other
    step by step, whichever worker has trained it.

    Args:
        ours: the first dump.
        theirs: the second dump.
        rtol: the largest relative error of values that are equal.
        atol: the largest difference of values that are equal whatever their size.

    Raises:
        DumpError: a dump is broken, or they have nothing in common.
    """
    pairs, only_parameters = _pair_steps(ours, theirs)
    names = match_layers(ours.layers, theirs.layers)
    alone = _AloneCounts(ours, theirs, names)
    compared, unpaired = 0, len(ours.steps) + len(theirs.steps) - 2 * len(pairs)
    for number, (left, right) in enumerate(pairs, 1):
        kinds = {PARAMETER} if only_parameters else set(WHAT_OF)
        values = [one for one in ours.values(*left) if one.entry.kind in kinds]
        known = {one.entry.key: one for one in _renamed(theirs.values(*right), names) if one.entry.kind in kinds}
        alone.add(values, list(known.values()))
        common = [(one, known[one.entry.key]) for one in values if one.entry.key in known]
        if not common:
            raise DumpError(
                f"the dumps must have values in common. Received: step {left[0]} of {ours.path} and of {theirs.path}, "
                "which have none. Valid: dumps of the same layers and kinds."
            )
        compared += len(common)
        differences = [found for one, other in common if (found := compare(one, other, rtol, atol)) is not None]
        if differences or number == len(pairs):
            unpaired = 0 if only_parameters else unpaired
            return Comparison(
                number, compared, pairs[0], (left, right), differences, only_parameters, unpaired, alone.found()
            )
    raise AssertionError("there is at least one pair")


class _AloneCounts:
    """Counts the values that one of two dumps has alone.

    Args:
        ours: the first dump.
        theirs: the second dump.
        names: our path for each path of theirs.
    """

    def __init__(self, ours: DumpReader, theirs: DumpReader, names: Mapping[str, str]) -> None:
        self._layers = {"first": set(ours.layers), "second": {names.get(one, one) for one in theirs.layers}}
        self._headers = {"first": ours.header, "second": theirs.header}
        self._counts: dict[tuple[str, bool], dict[str, int]] = {}

    def add(self, ours: Sequence[Value], theirs: Sequence[Value]) -> None:
        """Counts the values of one step, all with our paths."""
        for dump, other, values, others in (("first", "second", ours, theirs), ("second", "first", theirs, ours)):
            known = {one.entry.key for one in others}
            for entry in (one.entry for one in values if one.entry.key not in known):
                counts = self._counts.setdefault((dump, self._leaves_out(other, entry)), {})
                counts[entry.layer] = counts.get(entry.layer, 0) + 1

    def found(self) -> list[Alone]:
        """Returns what was counted, those first that no setting explains."""
        order = sorted(self._counts.items(), key=lambda one: (one[0][1], one[0][0]))
        return [Alone(dump, sum(layers.values()), list(layers), why) for (dump, why), layers in order]

    def _leaves_out(self, dump: str, entry: Entry) -> bool:
        """Whether a dump leaves out a value by its settings."""
        header = self._headers[dump]
        is_chosen = header.get("all_layers", True) or entry.layer == LOSS or entry.layer in self._layers[dump]
        return WHAT_OF[entry.kind] not in header["what"] or not is_chosen


def compare(ours: Value, theirs: Value, rtol: float, atol: float) -> Difference | None:
    """Returns the difference of two values; None if they are equal within the tolerances."""
    entry, left, right = ours.entry, ours.values, theirs.values
    note, ids = "", None
    if ours.ids is not None and theirs.ids is not None:
        ids, at_left, at_right = np.intersect1d(ours.ids, theirs.ids, assume_unique=True, return_indices=True)
        if len(ids) < max(len(ours.ids), len(theirs.ids)):
            note = _describe_ids(ours.ids, theirs.ids)
        left, right = left[at_left], right[at_right]
    if left.shape != right.shape:
        note = f"shapes {list(left.shape)} and {list(right.shape)}"
        return Difference(entry.layer, entry.kind, entry.name, float("inf"), float("inf"), note=note)
    absolute, scale = _absolute(left, right), _scale(left, right)
    largest = float(absolute.max(initial=0.0))
    relative = _divide(largest, scale)
    is_equal = largest <= max(atol, rtol * scale)
    if is_equal and not note:
        return None
    rows: list[tuple[int, float]] = []
    if ids is not None and not is_equal:
        of_rows = absolute.reshape(len(ids), -1).max(axis=1, initial=0.0)
        bad = np.flatnonzero(of_rows > max(atol, rtol * scale))[:_MOST_ROWS]
        rows = [(int(ids[one]), _divide(float(of_rows[one]), scale)) for one in bad]
    return Difference(entry.layer, entry.kind, entry.name, float("inf") if note else relative, largest, rows, note)


def _absolute(left: Array, right: Array) -> Array:
    """Returns the difference of each element; infinite where only one is NaN, or infinities differ."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    is_same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(is_same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _scale(left: Array, right: Array) -> float:
    """Returns the largest finite element of both."""
    both = np.abs(np.concatenate([left.reshape(-1), right.reshape(-1)]).astype(np.float64))
    return float(both[np.isfinite(both)].max(initial=0.0))


def _divide(difference: float, scale: float) -> float:
    return 0.0 if difference == 0 else difference / scale if scale > 0 else float("inf")


def _describe_ids(ours: Array, theirs: Array) -> str:
    """Says which ids only one of two runs has."""
    sides = (("the first", np.setdiff1d(ours, theirs)), ("the second", np.setdiff1d(theirs, ours)))
    told = [f"{len(ids)} only in {side}: {', '.join(map(str, ids[:_MOST_ROWS]))}" for side, ids in sides if len(ids)]
    return f"row ids differ, {'; '.join(told)}"


def _pair_steps(ours: DumpReader, theirs: DumpReader) -> tuple[list[tuple[tuple[int, int], tuple[int, int]]], bool]:
    """Returns the pairs of steps to compare, and whether only their parameters can be."""
    if ours.workers == theirs.workers or not (len(ours.workers) == 1 or len(theirs.workers) == 1):
        pairs = [(one, one) for one in ours.steps if one in set(theirs.steps)]
        is_shared = False
    else:
        left, right = _by_step(ours), _by_step(theirs)
        pairs = [(left[step][0], right[step][0]) for step in sorted(left.keys() & right.keys())]
        # A synchronous step has a batch of every worker, so outputs and gradients are of other examples.
        is_shared = any(len(one[step]) > 1 for one in (left, right) for step in one)
    if not pairs:
        raise DumpError(
            f"the dumps must have steps in common. Received: {_describe_steps(ours)} in {ours.path}, "
            f"{_describe_steps(theirs)} in {theirs.path}."
        )
    return pairs, is_shared


def _by_step(dump: DumpReader) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for step, worker in dump.steps:
        found.setdefault(step, []).append((step, worker))
    return found


def _describe_steps(dump: DumpReader) -> str:
    if not dump.steps:
        return "no step"
    workers = ", ".join(map(str, dump.workers))
    return f"steps {dump.steps[0][0]} to {dump.steps[-1][0]} of worker {workers}"


def _renamed(values: Sequence[Value], names: Mapping[str, str]) -> Iterator[Value]:
    for value in values:
        entry = dataclasses.replace(value.entry, layer=names.get(value.entry.layer, value.entry.layer))
        yield dataclasses.replace(value, entry=entry)
