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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.paired_difference([1, 0], [1]), "2 items against 1"),
        (lambda: stats.mean_and_standard_error([]), "at least one number"),
        (lambda: stats.ratio([1.0], [0.0]), "positive sum"),
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


@pytest.mark.parametrize(("count", "total"), [(0, 1319), (1, 3), (3, 3), (40, 60)])
def test_the_interval_of_a_proportion_is_statsmodels_and_never_empty(count, total):
    from statsmodels.stats.proportion import proportion_confint

    from harness.stats import wilson_interval

    low, high = wilson_interval(count, total)
    assert (low, high) == pytest.approx(proportion_confint(count, total, method="wilson"))
    assert low < high


def test_items_that_share_a_passage_are_one_unit():
    """Ten copies of each answer know no more than the answers themselves."""
    alone = np.random.default_rng(3).normal(size=(3, 40))
    copies = np.repeat(alone, 10, axis=1)
    labels = [str(item // 10) for item in range(400)]
    expected, naive = stats.over_seeds(alone), stats.over_seeds(copies)
    found = stats.over_seeds(*stats.clustered(copies, None, labels))
    assert found.value == pytest.approx(expected.value)
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert naive.standard_error < 0.8 * expected.standard_error
    values, sizes = stats.clustered(alone, None, None)
    assert sizes is None and np.array_equal(values, alone)
    with pytest.raises(ValueError, match=r"clusters of shape \(3,\): one for each of the 40 items"):
        stats.clustered(alone, None, ["a", "b", "c"])


def test_weights_are_summed_within_a_cluster():
    tokens = np.array([2.0, 3.0, 5.0, 1.0])
    nats = np.array([[4.0, 3.0, 10.0, 2.0]])
    values, sizes = stats.clustered(nats, tokens, ["a", "a", "b", "c"])
    assert values.tolist() == [[7.0, 10.0, 2.0]] and sizes.tolist() == [5.0, 5.0, 1.0]
    assert stats.over_seeds(values, sizes).value == pytest.approx(nats.sum() / tokens.sum())
