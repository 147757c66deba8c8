"""Tests and adjustments against scipy and statsmodels on the same inputs, and against values known by construction."""

import itertools

import numpy as np
import pytest
import scipy.stats
import statsmodels.stats.contingency_tables
import statsmodels.stats.multitest
import statsmodels.stats.weightstats

from harness import stats
from harness.stats import Part, SeedEstimate


def _graded(seed, items=80, gap=0.2):
    rng = np.random.default_rng(seed)
    return rng.normal(gap, 1, size=(1, items)), rng.normal(0, 1, size=(1, items))


def test_one_seed_is_the_paired_t_test_with_its_interval():
    a, b = _graded(1)
    found = stats.compare(a, b, margin=0.3, paired=True)
    expected = scipy.stats.ttest_rel(a[0], b[0])
    assert found.p == pytest.approx(expected.pvalue)
    assert stats.confidence_interval(found.difference) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.test == "paired t"


@pytest.mark.parametrize("margin", [0.05, 0.3, 1.0])
def test_equivalence_is_statsmodels_tost(margin):
    a, b = _graded(2, gap=0.05)
    expected = statsmodels.stats.weightstats.ttost_paired(a[0], b[0], -margin, margin)[0]
    assert stats.compare(a, b, margin, paired=True).p_equivalence == pytest.approx(expected)


@pytest.mark.parametrize(("items", "shown"), [(8, False), (200, False), (280, False), (310, True)])
def test_agreement_on_a_few_items_is_no_equivalence(items, shown):
    answers = np.tile([[1.0, 0.0]], items // 2)
    assert (stats.compare(answers, answers, margin=0.01, paired=True).p_equivalence < 0.05) is shown


def test_mcnemar_and_holm_are_statsmodels():
    rng = np.random.default_rng(3)
    a, b = (rng.uniform(size=(2, 200)) < [[0.55], [0.45]]).astype(float)
    table = [[int(np.sum((a == i) & (b == j))) for j in (1, 0)] for i in (1, 0)]
    expected = statsmodels.stats.contingency_tables.mcnemar(table, exact=True).pvalue
    found = stats.compare([a], [b], 0.01, paired=True)
    assert (found.p, found.test) == (pytest.approx(expected), "exact McNemar")
    values = [0.01, 0.04, 0.03, 0.005, 0.8]
    assert stats.holm(values) == pytest.approx(statsmodels.stats.multitest.multipletests(values, method="holm")[1])
    padded = statsmodels.stats.multitest.multipletests([*values, 1, 1, 1], method="holm")[1][:5]
    assert stats.holm(values, count=8) == pytest.approx(padded)


def test_sign_flips_are_scipys_permutation_test_and_six_seeds_are_needed():
    differences = np.array([0.4, 0.1, 0.3, -0.05, 0.2, 0.25, 0.15])
    expected = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert stats.sign_flip_p(differences) == pytest.approx(expected.pvalue)
    assert stats.sign_flip_p(np.ones(5)) == 2 / 2**5 > 0.05
    assert stats.sign_flip_p(np.ones(6)) == 2 / 2**6 < 0.05
    rng = np.random.default_rng(4)
    for seeds, known in ((5, False), (6, True)):
        a, b = rng.normal(1, 0.1, size=(seeds, 30)), rng.normal(0, 0.1, size=(seeds, 30))
        assert (stats.compare(a, b, 0.01, paired=True).p_sign_flip is not None) == known
        assert stats.compare(a, b, 0.01, paired=False).p_sign_flip is None


def test_two_noises_have_their_own_quantiles():
    t = scipy.stats.t
    found = SeedEstimate(0.02, None, (Part(1e-4, 499), Part(4e-5, 2)))
    half = np.sqrt(t.isf(0.025, 499) ** 2 * 1e-4 + t.isf(0.025, 2) ** 2 * 4e-5)
    assert stats.confidence_interval(found) == pytest.approx((0.02 - half, 0.02 + half))
    assert stats.two_sided_p(found._replace(value=half)) == pytest.approx(0.05)


def test_a_base_is_the_same_for_every_seed():
    rng = np.random.default_rng(5)
    tuned, base = rng.normal(0.3, 1, size=(3, 60)), rng.normal(0, 1, size=(1, 60))
    one = stats.compare(tuned, base, 0.1, paired=True)
    three = stats.compare(tuned, np.repeat(base, 3, axis=0), 0.1, paired=True)
    assert one == three


def _cliques(count, separable):
    """Every largest set of methods that cannot be told apart, by trying all subsets."""
    sets = [
        set(members)
        for size in range(1, count + 1)
        for members in itertools.combinations(range(count), size)
        if not any(pair in separable for pair in itertools.combinations(members, 2))
    ]
    return {frozenset(one) for one in sets if not any(one < other for other in sets)}


def test_tie_letters_are_shared_exactly_by_those_that_are_not_separable():
    rng = np.random.default_rng(6)
    for count in (1, 2, 5, 6):
        for _ in range(20):
            pairs = {pair for pair in itertools.combinations(range(count), 2) if rng.uniform() < 0.5}
            letters = stats.tie_letters(count, pairs)
            for pair in itertools.combinations(range(count), 2):
                assert bool(set(letters[pair[0]]) & set(letters[pair[1]])) == (pair not in pairs)
            columns = {frozenset(i for i in range(count) if letter in letters[i]) for letter in set("".join(letters))}
            assert columns <= _cliques(count, pairs)
    assert stats.tie_letters(3, {(0, 2)}) == ["a", "ab", "b"]


def test_the_interquartile_mean_is_scipys_and_ranks_share_ties():
    scores = np.random.default_rng(7).uniform(size=(3, 8))
    assert stats.interquartile_mean(scores) == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=1))
    assert stats.interquartile_mean([0.0, 1.0, 2.0, 3.0, 100.0]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)
    found = stats.across_tasks([[0.9, 0.5], [0.8, 0.5]], np.zeros((2, 2, 10)))
    assert [one.rank.value for one in found] == [1.25, 1.75]
    assert [one.mean.value for one in found] == pytest.approx([0.7, 0.65])


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
        (lambda: stats.equivalence_p(SeedEstimate(0.0, None), 0.0), "margin must be positive"),
        (lambda: stats.compare([[1.0, 0.0]], [[1.0]], 0.1, paired=True), "2 items against 1"),
        (lambda: stats.compare([[1.0]], [[0.0]], 0.1, paired=True), "at least two"),
        (lambda: stats.sign_flip_p(np.ones(21)), "at most 20"),
        (lambda: stats.holm([0.1, 0.2], count=1), "below the 2"),
        (lambda: stats.bootstrap([np.ones((1, 3)), np.ones((1, 4))]), "same ones"),
        (lambda: stats.Plan(1, 1, 0.1, 0.0, 0.0), "at least two items"),
        (lambda: stats.Plan(100, 3, 0.1, 0.2, 0.0), "the first lies between"),
        (lambda: stats.Plan(100, 3, 0.1, 0.1, -1.0), "cannot be negative"),
        (lambda: stats.smallest_effect(stats.Plan(4, 1, 0.5, 0.1, 0.0)), "take more"),
    ],
)
def test_wrong_input_says_what_is_needed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
