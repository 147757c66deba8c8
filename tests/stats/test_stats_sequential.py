"""Sequential looks: levels that keep the error over all looks, held against another library and another generator."""

import numpy as np
import pytest
from scipy.stats import studentized_range

from harness.stats import compare_methods
from harness.stats.sequential import look_levels, spent


def paths(random, first, most, methods, draws):
    """Two-sided p-values of the range of equal methods at every look, from scipy's studentized range."""
    scores = random.standard_t(30, (draws, methods, most))  # nearly normal, from another family
    found = []
    for seeds in range(first, most + 1):
        known = scores[:, :, :seeds]
        means = known.mean(axis=2)
        rest = known - means[:, :, None] - known.mean(axis=1, keepdims=True) + known.mean(axis=(1, 2), keepdims=True)
        degrees = (methods - 1) * (seeds - 1)
        error = np.sqrt((rest**2).sum(axis=(1, 2)) / degrees / seeds)
        grid = np.linspace(0, 60, 400)
        tail = studentized_range.sf(grid, methods, degrees)
        found.append(np.interp(np.ptp(means, axis=1) / error, grid, tail))
    return np.array(found).T


@pytest.mark.parametrize(("first", "most", "methods"), [(3, 8, 2), (3, 8, 4), (2, 5, 3)])
def test_all_looks_together_keep_the_error(first, most, methods):
    levels = look_levels(first, most, methods)
    crossed = paths(np.random.default_rng(4), first, most, methods, 20_000) < np.array(levels)
    error = (0.05 * 0.95 / 20_000) ** 0.5
    for look in range(len(levels)):
        so_far = crossed[:, : look + 1].any(axis=1).mean()
        allowed = spent((first + look) / most, 0.05)
        assert so_far <= allowed + 3 * error
        assert so_far >= 0.85 * allowed - 3 * error  # nothing is given away


def test_levels_use_that_looks_depend_on_each_other():
    levels = look_levels(3, 12, 4)
    assert len(levels) == 10
    assert levels[0] == pytest.approx(spent(3 / 12, 0.05), rel=0.02)
    assert sum(levels) > 1.5 * 0.05  # a plain division of the error would have to sum to it
    assert max(levels) < 0.05
    assert spent(1.0, 0.05) == pytest.approx(0.05)


def test_looks_need_seeds():
    for first, most in ((1, 5), (5, 5), (6, 5)):
        with pytest.raises(ValueError, match="at least two seeds at first are needed"):
            look_levels(first, most, 3)


def equal_methods(random, methods, seeds, items, seed_sd):
    """Right or wrong answers of methods that are equally good: seeds and items move them, items more."""
    hard = random.normal(0, 0.2, items)
    chance = 0.6 + hard + random.normal(0, seed_sd, (methods, seeds, 1))
    return (random.random((methods, seeds, items)) < np.clip(chance, 0, 1)).astype(float)


def false_verdicts(repeats, *, methods=4, first=3, most=6, items=150, seed_sd=0.02):
    """Share of sweeps of equal methods in which some look makes a verdict, through the public function."""
    levels = look_levels(first, most, methods)
    wrong = 0
    for seed in range(repeats):
        values = equal_methods(np.random.default_rng([seed, methods]), methods, most, items, seed_sd)
        for look, level in enumerate(levels):
            outcomes = {str(m): values[m, : first + look] for m in range(methods)}
            family = compare_methods(outcomes, families=("best",), level=level).families["best"]
            if any(pair.verdict in ("better", "worse") for pair in family.pairs):
                wrong += 1
                break
    return wrong / repeats


@pytest.mark.parametrize("seed_sd", [0.0, 0.03])
def test_stopping_when_it_is_decided_keeps_the_family(seed_sd):
    repeats = 250
    assert false_verdicts(repeats, seed_sd=seed_sd) <= 0.05 + 2.6 * (0.05 * 0.95 / repeats) ** 0.5


def test_looking_without_a_rule_would_not():
    """The same looks, each at 5 %: the simulation sees what the rule prevents."""
    levels = look_levels(3, 12, 2)
    crossed = paths(np.random.default_rng(5), 3, 12, 2, 20_000)
    assert (crossed < 0.05).any(axis=1).mean() > 0.12 > 2 * (crossed < np.array(levels)).any(axis=1).mean()
