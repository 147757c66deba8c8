"""Sums of scores: their intervals cover under seed and item noise, and equal those of a comparison for two methods."""

import numpy as np
import pytest
import scipy.stats

from harness.stats import compare_methods
from harness.stats.contrast import contrast, score_interval

SHARES = {"lora": 0.6, "full": 0.55, "dora": 0.58}


def outcomes(random, seeds=4, items=400, seed_sd=0.01, base=0.4):
    """Right or wrong answers of three methods and the base, with seed effects and common difficult items."""
    easy = random.normal(0, 0.15, items)
    made = {
        name: (random.random((seeds, items)) < np.clip(share + easy + random.normal(0, seed_sd, (seeds, 1)), 0, 1))
        for name, share in SHARES.items()
    }
    made["base"] = random.random((1, items)) < np.clip(base + easy, 0, 1)
    return {name: values.astype(float) for name, values in made.items()}


def test_a_difference_is_that_of_the_comparison():
    made = outcomes(np.random.default_rng(1))
    found = contrast(made, {"lora": 1.0, "full": -1.0}, 0.01, deterministic=["base"])
    other = compare_methods(made, baseline="full", level=0.01, deterministic=["base"]).pair("lora", "full", "baseline")
    assert found.interval == other.interval
    assert found.value == other.difference == pytest.approx(made["lora"].mean() - made["full"].mean())


@pytest.mark.parametrize(
    ("factors", "truth"),
    [
        ({"lora": 1.0, "full": -0.5, "base": -0.5}, 0.6 - 0.5 * 0.55 - 0.5 * 0.4),
        ({"lora": 1.0}, 0.6),
        ({"lora": -1.0, "full": 2.0}, 2 * 0.55 - 0.6),
        ({"lora": 1.0, "dora": 1.0, "full": -1.0, "base": -1.0}, 0.6 + 0.58 - 0.55 - 0.4),
    ],
)
def test_the_interval_of_a_sum_covers(factors, truth):
    hits, repeats = 0, 300
    for seed in range(repeats):
        found = contrast(outcomes(np.random.default_rng(seed)), factors, 0.05, deterministic=["base"])
        assert found.interval is not None
        hits += found.interval[0] <= truth <= found.interval[1]
    assert hits / repeats >= 0.95 - 2.6 * (0.05 * 0.95 / repeats) ** 0.5


def test_one_seed_has_no_interval():
    found = contrast(outcomes(np.random.default_rng(1), seeds=1), {"lora": 1.0, "full": -1.0}, 0.05)
    assert found.interval is None
    assert found.why


def test_a_lost_seed_is_left_out():
    made = outcomes(np.random.default_rng(2))
    made["full"][1] = np.nan
    found = contrast(made, {"lora": 1.0, "full": -0.5}, 0.05, deterministic=["base"])
    kept = [0, 2, 3]
    assert found.seeds == 3
    assert found.value == pytest.approx(made["lora"][kept].mean() - 0.5 * made["full"][kept].mean())


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.02), (5, 0.02)])
def test_the_interval_of_one_score_covers(seeds, seed_sd):
    random = np.random.default_rng(8)
    repeats, covered = 400, 0
    for _ in range(repeats):
        easy = random.normal(0, 0.1, 300)
        share = np.clip(0.6 + easy - easy.mean() + random.normal(0, seed_sd, (seeds, 1)), 0, 1)
        low, high = score_interval((random.random((seeds, 300)) < share).astype(float))
        covered += low <= 0.6 <= high
    assert covered / repeats >= 0.95 - 2 * (0.05 * 0.95 / repeats) ** 0.5


def test_the_interval_of_one_score_is_wilsons_where_nothing_is_right():
    n = 200
    low, high = score_interval(np.zeros((1, n)))
    expected = scipy.stats.binomtest(0, n).proportion_ci(method="wilson")
    assert low == 0.0
    assert high == pytest.approx(expected.high, rel=0.02)
    assert score_interval(np.full((3, 50), 0.7)) is None
