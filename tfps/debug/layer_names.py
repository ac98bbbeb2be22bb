"""Matches the layers of two programs that build one model: Keras numbers layers without a name in each program.

Threading: any. No TensorFlow.
"""

import re
from collections.abc import Mapping, Sequence

_NUMBER = re.compile(r"_\d+(?=/|$)")


def without_numbers(path: str) -> str:
    """Returns the path of a layer without the numbers that Keras gives: "tower_1/dense_2" is "tower/dense"."""
    return _NUMBER.sub("", path)


def match_layers(ours: Sequence[str], theirs: Sequence[str]) -> Mapping[str, str]:
    """Returns our path for each path of theirs, both in the order of their model.

    Paths that differ in numbers alone are matched by their order, if all of them can be. Else a path is itself.
    """
    plain = [[without_numbers(path) for path in paths] for paths in (ours, theirs)]
    if set(ours) != set(theirs) and plain[0] == plain[1]:
        return dict(zip(theirs, ours, strict=True))
    return {path: path for path in theirs}
