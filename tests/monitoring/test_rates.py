"""Rates over the last seconds."""

import random

import pytest

from tfps.monitoring.rates import Rates


def test_a_rate_needs_two_values():
    rates = Rates()
    assert rates.rate("a", 5, 1.0) is None
    assert rates.rate("a", 15, 3.0) == 5.0
    assert rates.rate("b", 1, 3.0) is None


def test_rates_are_over_the_window():
    drawn, rates, seen, count = random.Random(1), Rates(window_s=6.0), [], 0
    for number in range(200):
        count += drawn.randrange(50)
        seen.append((number * 2.0, count))
        rate = rates.rate("a", count, number * 2.0)
        # The slow twin: the last three gaps of two seconds.
        (then, before), (now, after) = seen[max(0, len(seen) - 4)], seen[-1]
        assert rate == (pytest.approx((after - before) / (now - then)) if number else None)


def test_a_process_that_was_started_again_counts_anew():
    rates = Rates()
    rates.rate("a", 100, 0.0)
    assert rates.rate("a", 10, 2.0) is None
    assert rates.rate("a", 30, 4.0) == 10.0


def test_what_is_not_known_has_no_rate():
    rates = Rates()
    rates.rate("a", 100, 0.0)
    assert rates.rate("a", None, 2.0) is None
    assert rates.rate("a", 200, 4.0) is None


def test_no_time_has_passed():
    rates = Rates()
    rates.rate("a", 1, 5.0)
    assert rates.rate("a", 2, 5.0) is None
