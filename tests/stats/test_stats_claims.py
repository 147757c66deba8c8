"""Permutation, frontiers and means over tasks against scipy, and against values known by construction."""

import numpy as np
import pytest
import scipy.stats

from harness import stats


def test_sign_flips_are_scipys_permutation_test_and_six_seeds_are_needed():
    differences = np.array([0.4, 0.1, 0.3, -0.05, 0.2, 0.25, 0.15])
    expected = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert stats.sign_flip_p(differences) == pytest.approx(expected.pvalue)
    assert stats.sign_flip_p(np.ones(5)) == 2 / 2**5 > 0.05
    assert stats.sign_flip_p(np.ones(6)) == 2 / 2**6 < 0.05


def test_the_interquartile_mean_is_scipys_and_ranks_share_ties():
    scores = np.random.default_rng(7).uniform(size=(3, 8))
    assert stats.interquartile_mean(scores) == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=1))
    assert stats.interquartile_mean([0.0, 1.0, 2.0, 3.0, 100.0]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)
    found = stats.across_tasks([[0.9, 0.5], [0.8, 0.5]], np.zeros((2, 2, 10)))
    assert [one.rank.value for one in found] == [1.25, 1.75]
    assert [one.mean.value for one in found] == pytest.approx([0.7, 0.65])


def test_scores_that_are_equal_but_for_rounding_are_level():
    """Three seeds with as many right answers together: the means of their shares differ in the last bit."""
    first, second = ((158 / 260 + 156 / 260 + 155 / 260) / 3, (159 / 260 + 155 / 260 + 155 / 260) / 3)
    assert first != second
    scores = np.array([[first, 0.5], [second, 0.5], [0.1, 0.1]])
    across = stats.across_tasks(scores, np.repeat(scores[..., None], 10, axis=2))
    assert [one.rank.value for one in across] == [1.5, 1.5, 3.0]
    assert [one.rank.high for one in across] == [1.5, 1.5, 3.0]
    assert stats.average_ranks(scores).average.tolist() == [1.5, 1.5, 3.0]
    for order in ([first, second], [second, first]):
        assert stats.on_frontier(order, [1.0, 2.0]).tolist() == [True, False]
        assert stats.on_frontier([1.0, 2.0], order).tolist() == [False, True]
        assert stats.frontier_probabilities(np.repeat(np.array(order)[:, None], 10, axis=1), [1.0, 2.0]) == [1.0, 0.0]


def test_the_frontier_is_what_no_other_beats():
    quality, cost = np.array([0.5, 0.7, 0.6, 0.7, 0.4]), np.array([1.0, 3.0, 2.0, 4.0, 1.0])
    assert stats.on_frontier(quality, cost).tolist() == [True, True, True, False, False]
    assert stats.on_frontier([1.0, 1.0], [2.0, 2.0]).tolist() == [True, True]  # neither beats the other
    draws = np.array([[0.5, 0.5, 0.9, 0.5], [0.6, 0.4, 0.6, 0.5]])
    assert stats.frontier_probabilities(draws, [1.0, 2.0]) == [1.0, 0.25]
    many = np.random.default_rng(8).integers(0, 4, size=(6, 200)).astype(float)
    prices = np.array([1.0, 2.0, 2.0, 3.0, 3.0, 4.0])  # ties in both
    expected = stats.on_frontier(many.T, prices).mean(axis=0)
    assert stats.frontier_probabilities(many, prices) == pytest.approx(expected.tolist())
    assert stats.frontier_probabilities(many, np.repeat(prices[:, None], 200, axis=1)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.sign_flip_p(np.ones(21)), "at most 20"),
        (lambda: stats.bootstrap([np.ones((1, 3)), np.ones((1, 4))]), "same ones"),
        (lambda: stats.Plan(1, 1, 0.1, 0.0, 0.0), "at least two items"),
        (lambda: stats.Plan(10, 3, 0.1, 0.0, 0.0, methods=1), "two methods are needed"),
        (lambda: stats.Plan(100, 3, 0.1, 0.2, 0.0), "lies between 0 and the first"),
        (lambda: stats.Plan(100, 3, 0.1, 0.1, -1.0), "finite and not negative"),
        (lambda: stats.Plan(100, 3, 0.1, 0.1, float("nan")), "finite and not negative"),
        (lambda: stats.Plan(100, 3, float("inf"), 0.1, 0.0), "lies between 0 and the first"),
        (lambda: stats.Plan(100, 3, 1.5, 0.1, 0.0), "a share of the items is at most 1"),
        (lambda: stats.smallest_effect(stats.Plan(400, 2, 0.5, 0.1, 0.0)), "take three seeds"),
    ],
)
def test_wrong_input_says_what_is_needed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
