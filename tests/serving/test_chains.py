"""The way from one version to another, beside a search through all of them."""

import itertools

import numpy as np

from tfps.serving.chains import find_route
from tfps.serving.versions import DELTA, FULL, Current, Entry


def entry(kind, number, parent, chain="a"):
    return Entry(kind, number, parent, chain, "0")


def current(*entries, number=None, chain="a"):
    return Current(number or max((one.number for one in entries), default=0), chain, entries)


def deltas(first, last, chain="a"):
    return [entry(DELTA, number, number - 1, chain) for number in range(first, last + 1)]


def names(route):
    return route.entries and [one.name for one in route.entries]


def test_the_ways_of_a_chain():
    found = current(entry(FULL, 1, None), *deltas(2, 4), entry(FULL, 4, 3), *deltas(5, 6))
    assert names(find_route(found, None, None)) == ["full-4", "delta-5", "delta-6"]
    assert names(find_route(found, 6, "a")) == []
    assert names(find_route(found, 2, "a")) == ["delta-3", "delta-4", "delta-5", "delta-6"]
    assert not find_route(found, 2, "a").gap
    assert names(find_route(current(), None, None)) is None


def test_gaps_are_named():
    found = current(entry(FULL, 4, 3), *deltas(5, 6))
    behind = find_route(found, 2, "a")
    assert names(behind) == ["full-4", "delta-5", "delta-6"] and behind.missing == 4 and "version 4" in behind.gap
    lost = find_route(found.without({"delta-5"}), 4, "a")
    assert lost.entries is None and lost.missing == 5 and "version 5" in lost.gap
    back = find_route(found, 8, "a")
    assert names(back)[0] == "full-4" and "goes back from 8 to 6" in back.gap


def test_another_chain():
    found = current(*deltas(2, 3), entry(FULL, 4, 3, "b"), *deltas(5, 5, "b"), chain="b")
    assert names(find_route(found, 3, "a")) == ["full-4", "delta-5"] and not find_route(found, 3, "a").gap
    assert "version 5 is of another chain" in find_route(found, 5, "a").gap


def test_a_broken_list_has_no_ring():
    ring = current(entry(DELTA, 2, 3), entry(DELTA, 3, 2), entry(FULL, 1, None), number=3)
    assert find_route(ring, None, None).entries is None


def reachable(found, number):
    """All ways from a version, or from any full one, to the newest, by trying all orders of deltas."""
    starts = (
        [(number, ())] if number is not None else [(one.number, (one,)) for one in found.entries if one.kind == FULL]
    )
    for at, way in starts:
        steps = [one for one in found.entries if one.kind == DELTA and one.number > at]
        for count in range(len(steps) + 1):
            for chosen in itertools.combinations(steps, count):
                ends = [at, *(one.number for one in chosen)]
                if ends[-1] == found.number and all(
                    one.parent == end for one, end in zip(chosen, ends[:-1], strict=True)
                ):
                    yield (*way, *chosen)


def test_a_way_is_found_where_there_is_one():
    rng = np.random.default_rng(0)
    for _ in range(300):
        entries = [
            one
            for one in [entry(FULL, 1, None), *deltas(2, 4), entry(FULL, 4, 3), *deltas(5, 6)]
            if rng.random() < 0.75
        ]
        if not entries:
            continue
        found = current(*entries, number=6)
        for number in (None, *range(1, 7)):
            ways = list(reachable(found, number))
            route = find_route(found, number, "a")
            if number is not None and ways:
                assert tuple(route.entries) == ways[0] and not route.gap
                continue
            anew = list(reachable(found, None))
            # The newest full version that leads there.
            best = max(anew, key=lambda way: way[0].number, default=None)
            assert (route.entries and tuple(route.entries)) == best
            assert bool(route.gap) == (number is not None)
