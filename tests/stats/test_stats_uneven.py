"""Clusters of unequal size: the test keeps its level where few of them hold most items."""

import numpy as np
import pytest

from harness.stats import compare_methods
from harness.stats.uneven import residual_factors

SIZES = {
    "half in one": [60] + [1] * 60,
    "falling": [int(60 * 0.8**place) + 1 for place in range(20)],
    "few": [40, 30, 20, 10, 5, 5],
    "prompts": [10] + [1] * 90,
    "mixed": [1, 2, 3, 5, 8] * 10,
}


def quadratic_form(sizes, alike=0.1):
    """Return (factors, degrees) from the matrix of the corrected variance, a quadratic form of the clusters' means."""
    sizes = np.asarray(sizes, dtype=float)
    shares, count = sizes / sizes.sum(), len(sizes)
    covariance = np.diag((1 + (sizes - 1) * alike) / sizes)
    away = np.eye(count) - np.outer(np.ones(count), shares)  # a cluster's mean less that over all
    left = np.diag(away @ covariance @ away.T)
    corrected = away.T @ np.diag(shares**2 * np.diag(covariance) / left) @ away @ covariance
    assert np.trace(corrected) == pytest.approx(shares**2 @ np.diag(covariance))  # the variance is unbiased
    factors = np.sqrt((1 - 1 / count) * np.diag(covariance) / left)
    return factors, np.trace(corrected) ** 2 / np.trace(corrected @ corrected)


@pytest.mark.parametrize("name", SIZES)
def test_factors_and_degrees_are_those_of_the_quadratic_form(name):
    factors, degrees = residual_factors(np.array(SIZES[name], dtype=float))
    expected, free = quadratic_form(SIZES[name])
    assert factors == pytest.approx(expected)
    assert degrees == pytest.approx(free)
    assert 1 <= degrees < len(SIZES[name]) - 1


@pytest.mark.parametrize("size", [1, 7])
def test_clusters_of_one_size_are_plain(size):
    factors, degrees = residual_factors(np.full(30, float(size)))
    assert (factors == 1).all()
    assert degrees == 29
    nearly = residual_factors(np.array([100.0] * 29 + [101.0]))
    assert nearly[0] == pytest.approx(factors, abs=0.001)
    assert nearly[1] == pytest.approx(29, abs=0.01)


@pytest.mark.parametrize("alike", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("name", SIZES)
def test_the_test_keeps_its_level_at_any_sizes(name, alike):
    """Two equal methods, whose difference is shared by the items of a cluster; the plain test is wrong up to 35 %."""
    rng = np.random.default_rng([len(name), int(100 * alike)])
    codes = np.repeat(np.arange(len(SIZES[name])), SIZES[name])
    repeats, wrong = 300, 0
    for _ in range(repeats):
        shared = rng.normal(size=len(SIZES[name]))[codes] * alike**0.5
        difference = shared + rng.normal(size=len(codes)) * (1 - alike) ** 0.5
        pair = compare_methods(
            {"a": difference[None], "b": np.zeros((1, len(codes)))},
            deterministic=["a", "b"],
            clusters=codes,
            families=("all",),
        ).pair("a", "b")
        wrong += pair.p < 0.05
    assert wrong / repeats <= 0.05 + 2.6 * (0.05 * 0.95 / repeats) ** 0.5


def test_one_item_more_in_one_cluster_changes_little():
    rng = np.random.default_rng(5)
    codes = np.append(np.repeat(np.arange(50), 4), 0)
    values = {name: rng.normal(size=(3, 201)) for name in "abc"}
    even = compare_methods({name: rows[:, :-1] for name, rows in values.items()}, clusters=codes[:-1]).pair("a", "b")
    uneven = compare_methods(values, clusters=codes).pair("a", "b")
    assert uneven.standard_error == pytest.approx(even.standard_error, rel=0.03)
