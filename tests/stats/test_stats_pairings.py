"""Bounds over every pairing of items, held against a count of all of them."""

import math
import time
from itertools import product

import numpy as np
import pytest

from harness.stats.pairings import mcnemar_p, pairing_bounds, rounded_bounds


def by_enumeration(right_a, right_b, items):
    """Every pairing of every pair of counts: discordant items and p, summed by numpy."""
    pairings = {}
    for a, b in product(range(right_a[0], right_a[1] + 1), range(right_b[0], right_b[1] + 1)):
        for both in range(max(0, a + b - items), min(a, b) + 1):
            ours, theirs = a - both, b - both
            total = ours + theirs
            weights = np.array([math.comb(total, k) for k in range(min(ours, theirs) + 1)], dtype=float)
            pairings.setdefault(total, []).append(min(1.0, 2 * weights.sum() / 2.0**total))
    return pairings


def test_bounds_behind_rounded_scores_hold_over_every_count_and_pairing():
    drawn = np.random.default_rng(0)
    checked = 0
    for items in (7, 13, 24):
        for _ in range(80):
            ends = [
                (int(low), min(items, int(low) + int(width))) for low, width in drawn.integers(0, (items, 4), (2, 2))
            ]
            every = by_enumeration(*ends, items)
            bounds = rounded_bounds(*ends, items)
            values = [p for ps in every.values() for p in ps]
            assert bounds.lowest == pytest.approx(min(values))
            assert bounds.highest == pytest.approx(max(values))
            reached = [total for total, ps in every.items() if min(ps) <= 0.05]
            assert bounds.most_discordant == max(reached, default=None)
            checked += 1
    assert checked == 240


def test_bounds_of_many_items_take_no_time():
    start = time.perf_counter()
    for right in range(5000, 5200, 10):
        pairing_bounds(right, 5100, 10042)
    assert time.perf_counter() - start < 2
    assert mcnemar_p(632 - 600, 617 - 600) == pytest.approx(2 * sum(math.comb(49, k) for k in range(18)) / 2**49)
