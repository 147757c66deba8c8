"""Known values, scipy's, and a seeded simulation: a standard error is right if it is the spread of repetitions."""

import math

import numpy as np
import pytest
import scipy.stats

from harness import stats


def test_mean_and_standard_error_are_scipys():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    mean, error = stats.mean_and_standard_error(values)
    assert mean == pytest.approx(0.6)
    assert error == pytest.approx(scipy.stats.sem(values))


def test_one_item_shows_no_spread():
    assert stats.mean_and_standard_error([0.5]) == (0.5, None)


def test_paired_difference_is_that_of_the_differences():
    a, b = np.array([1.0, 1, 0, 1, 1]), np.array([0.0, 1, 0, 0, 1])
    mean, error = stats.paired_difference(a, b)
    assert mean == pytest.approx(0.4)
    assert error == pytest.approx(scipy.stats.sem(a - b))


def test_a_ratio_with_ones_is_a_mean():
    values = np.random.default_rng(0).normal(size=50)
    assert stats.ratio(values, np.ones(50)) == pytest.approx(stats.mean_and_standard_error(values))


def test_mcnemar_counts_only_discordant_pairs():
    # 1 against 7 discordant pairs: 2 * (C(8,0) + C(8,1)) / 2**8
    a = [1] * 1 + [0] * 7 + [1] * 20 + [0] * 5
    b = [0] * 1 + [1] * 7 + [1] * 20 + [0] * 5
    assert stats.mcnemar_exact(a, b) == pytest.approx(18 / 256)
    assert stats.mcnemar_exact(b, a) == pytest.approx(18 / 256)
    assert stats.mcnemar_exact([1, 0], [1, 0]) == 1.0


def test_holm_gives_the_published_adjustment():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.paired_difference([1, 0], [1]), "2 items against 1"),
        (lambda: stats.mean_and_standard_error([]), "at least one number"),
        (lambda: stats.mcnemar_exact([0.5], [1]), "0 and 1"),
        (lambda: stats.ratio([1.0], [0.0]), "positive sum"),
        (lambda: stats.holm([1.5]), "between 0 and 1"),
        (lambda: stats.over_seeds([1.0, 2.0]), "seeds, items"),
        (lambda: stats.difference_over_seeds([[1.0]], [[1.0, 2.0]]), "same items"),
    ],
)
def test_wrong_input_says_what_is_needed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_delta_method_agrees_with_repetition():
    rng = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(3000):
        tokens = rng.integers(1, 40, size=80)
        nats = tokens * rng.gamma(4.0, 0.3, size=80)
        estimate = stats.ratio(nats, tokens)
        values.append(estimate.value)
        errors.append(estimate.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.05)
    assert np.mean(values) == pytest.approx(1.2, rel=0.01)


def test_the_paired_ratio_agrees_with_repetition_and_is_sharper_than_the_unpaired_one():
    rng = np.random.default_rng(2)
    values, errors, unpaired = [], [], []
    for _ in range(3000):
        tokens = rng.integers(1, 40, size=80)
        base = tokens * rng.gamma(4.0, 0.3, size=80)
        tuned = 0.9 * base + tokens * rng.normal(0, 0.05, size=80)
        estimate = stats.paired_ratio_difference(tuned, base, tokens)
        values.append(estimate.value)
        errors.append(estimate.standard_error)
        unpaired.append(math.hypot(stats.ratio_standard_error(tuned, tokens), stats.ratio_standard_error(base, tokens)))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.05)
    assert np.mean(errors) < 0.5 * np.mean(unpaired)


def test_two_noises_cover_repetition_and_one_seed_shows_only_items():
    rng = np.random.default_rng(3)
    values, errors = [], []
    for _ in range(2000):
        skill = rng.uniform(0.2, 0.8, size=100)
        seeds = rng.normal(0, 0.05, size=(6, 1))
        outcomes = (rng.uniform(size=(6, 100)) < np.clip(skill + seeds, 0, 1)).astype(float)
        estimate = stats.over_seeds(outcomes)
        values.append(estimate.value)
        errors.append(estimate.standard_error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.05)
    one = stats.over_seeds(outcomes[:1])
    assert one.standard_error == pytest.approx(scipy.stats.sem(outcomes[0]))
    assert [part.degrees_of_freedom for part in one.parts] == [99]


def test_p_of_a_difference_with_one_seed_is_the_paired_t_test():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.2, 1, size=(1, 60)), rng.normal(0, 1, size=(1, 60))
    p = stats.two_sided_p(stats.difference_over_seeds(a, b))
    assert p == pytest.approx(scipy.stats.ttest_rel(a[0], b[0]).pvalue)
    assert stats.two_sided_p(stats.difference_over_seeds(a, a)) == 1.0
    assert stats.two_sided_p(stats.over_seeds([[1.0]])) is None


def test_the_false_alarm_rate_with_three_seeds_keeps_to_the_level():
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(500):
        skill = rng.uniform(0.2, 0.8, size=60)
        sides = [
            (rng.uniform(size=(3, 60)) < np.clip(skill + rng.normal(0, 0.05, size=(3, 1)), 0, 1)).astype(float)
            for _ in range(2)
        ]
        alarms += stats.two_sided_p(stats.difference_over_seeds(*sides)) < 0.05
    assert alarms / 500 <= 0.05


@pytest.mark.parametrize(("count", "total"), [(0, 1319), (1, 3), (3, 3), (40, 60)])
def test_the_interval_of_a_proportion_is_statsmodels_and_never_empty(count, total):
    from statsmodels.stats.proportion import proportion_confint

    from harness.stats import wilson_interval

    low, high = wilson_interval(count, total)
    assert (low, high) == pytest.approx(proportion_confint(count, total, method="wilson"))
    assert low < high
