"""Intervals of a sum of two noises, and of right-or-wrong outcomes that few items tell apart: exact coverage."""

import numpy as np
import pytest
import scipy.stats

from harness import stats
from harness.stats.reach import Noise


def _misses(degrees, share, level):
    """Return how often the test of two noises is wrong, the seeds' share of the variance given: by quadrature."""
    quantiles = (np.arange(4000) + 0.5) / 4000
    estimated = share * scipy.stats.chi2.ppf(quantiles, degrees) / degrees
    items = np.full_like(estimated, 1 - share)
    noise = Noise(
        np.stack([items, estimated]),
        np.stack([np.full_like(items, 1e9), np.full_like(items, degrees)]),
        np.zeros_like(items),
        1000,
    )
    return float(np.mean(2 * scipy.stats.norm.sf(noise.half_widths(level))))


@pytest.mark.parametrize("level", [0.05, 0.01])
@pytest.mark.parametrize(("degrees", "fewest"), [(1, 0.1), (2, 0.4), (3, 0.6), (6, 0.75), (22, 0.9)])
def test_two_noises_miss_at_their_level_at_any_share(degrees, fewest, level):
    rates = [_misses(degrees, share, level) / level for share in np.linspace(0.05, 1, 20)]
    assert max(rates) <= 1.04
    assert min(rates) >= fewest
    assert rates[-1] == pytest.approx(1, abs=4e-3)
    assert level != 0.05 or max(rates) <= 1.004


@pytest.mark.parametrize("degrees", [1.0, 2.0, 5.0])
def test_more_noise_never_narrows_an_interval(degrees):
    variances = np.stack([np.linspace(0, 3, 200), np.ones(200)])
    noise = Noise(variances, np.array([[99.0], [degrees]]) * np.ones(200), np.zeros(200), 100)
    for level in (0.05, 0.001):
        assert (np.diff(noise.half_widths(level)) >= 0).all()


def test_a_p_value_is_the_level_whose_interval_just_touches_zero():
    rng = np.random.default_rng(1)
    noise = Noise(rng.gamma(1, size=(2, 50)), np.array([[299.0], [3.0]]) * np.ones((2, 50)), np.zeros(50), 300)
    distances = rng.gamma(2, size=50)
    for place, p in enumerate(noise.p_values(distances)):
        if p > 1e-6:
            assert noise.half_widths(float(p))[place] == pytest.approx(distances[place], rel=1e-6)


def _pair(first, second, seeds=1, items=300):
    """Return the comparison of two models that differ in `first` items one way and in `second` the other way."""
    a, b = np.zeros((2, seeds, items))
    a[:, :first] = 1
    b[:, first : first + second] = 1
    outcomes = {"a": a, "b": b, "c": np.zeros((seeds, items))} if seeds == 2 else {"a": a, "b": b}
    return stats.compare_methods(outcomes, families=("all",)).families["all"].pairs[0]


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("items", [20, 300, 1319])
@pytest.mark.parametrize("discordant", [0, 1, 2, 4])
def test_a_few_discordant_items_have_no_narrower_interval_than_clopper_and_pearsons(seeds, items, discordant):
    """All on one side, so that the share of discordant items is the difference, and its exact interval is known."""
    pair = _pair(discordant, 0, seeds, items)
    exact = scipy.stats.binomtest(discordant, items).proportion_ci(0.95, method="exact")
    assert pair.interval[1] >= exact.high * 0.98  # which misses less often than 5 %
    assert pair.interval[0] <= exact.low
    assert pair.interval[1] - pair.interval[0] <= 3 * exact.high


def test_nothing_different_has_the_ends_of_the_score_interval():
    low, high = _pair(0, 0).interval
    square = scipy.stats.t.isf(0.025, 299) ** 2
    assert (low, high) == pytest.approx((-square / (300 + square), square / (300 + square)))


@pytest.mark.parametrize("items", [30, 300])
def test_intervals_cover_at_any_few_discordant_items(items):
    """Exact: every outcome of two runs with its multinomial probability."""
    most = 13
    ends = {(b, c): _pair(b, c, items=items).interval for b in range(most) for c in range(most)}
    truths = [(mean, share * mean) for mean in (0.5, 1.0, 2.0, 3.0, 3.5, 4.0) for share in (0.0, 0.2, 1.0)]
    assert len(truths) == 18
    for first, second in truths:
        p, q = first / items, second / items
        covered = sum(
            scipy.stats.multinomial.pmf([b, c, items - b - c], items, [p, q, 1 - p - q]) * (low <= p - q <= high)
            for (b, c), (low, high) in ends.items()
        )
        assert covered >= 0.95, (first, second)


@pytest.mark.parametrize(("methods", "rerun"), [(2, 0.0), (4, 0.0), (4, 0.01)])
def test_intervals_of_three_seeds_cover_where_few_items_tell_two_methods_apart(methods, rerun):
    rng = np.random.default_rng(3)
    items, gap, covered = 300, 0.0105, []
    for _ in range(400):
        right = rng.uniform(size=items) < 0.6
        answers = np.repeat(right[None], methods, axis=0)
        answers[0] |= rng.uniform(size=items) < gap / 0.4  # right where the others are wrong
        outcomes = {}
        for method, row in zip("abcd", answers, strict=False):
            flipped = rng.uniform(size=(3, items)) < rerun
            outcomes[method] = (row ^ flipped).astype(float)
        low, high = stats.compare_methods(outcomes, families=("all",)).pair("a", "b").interval
        covered.append(low <= gap * (1 - 2 * rerun) <= high)
    assert np.mean(covered) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 400)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("clusters", [False, True])
def test_agreement_of_weighted_or_clustered_answers_is_no_proof_either(weights, clusters):
    items = 120
    right = np.tile([1.0, 0.0], (3, items // 2))
    heavy = np.where(np.arange(items) % 3 == 0, 4.0, 1.0) if weights else None
    outcomes = right * heavy if weights else right
    groups = np.arange(items) // np.where(np.arange(items) < 60, 10, 2) if clusters else None
    pair = stats.compare_methods(
        {"a": outcomes, "b": outcomes}, margin=0.02, weights=heavy, clusters=groups, families=("all",)
    ).pair("a", "b")
    assert pair.verdict == "not significant"
    assert pair.interval[1] >= 3.69 / items


def test_shares_of_right_answers_differ_by_one_at_most():
    pair = _pair(5, 0, items=5)
    assert pair.interval[1] == 1.0
    assert pair.interval[0] > 0
    assert pair.adjusted_interval[0] >= -1.0


@pytest.mark.parametrize("discordant", [0, 1, 3])
@pytest.mark.parametrize("items", [20, 30, 100, 300])
def test_the_detectable_difference_takes_the_discordant_items_that_it_needs(items, discordant):
    """Exact: two runs that differ so much, all items one way, are called different in about 80 % of the outcomes.

    The few discordant items that were measured do not bound the noise of a larger difference.
    """
    effect = _pair(discordant, discordant, items=items).detectable
    assert effect > 2 * discordant / items
    counts = np.arange(items + 1)
    chances = scipy.stats.binom.pmf(counts, items, effect)
    seen = [int(count) for count in counts[chances > 1e-6]]
    power = sum(chances[count] * (_pair(count, 0, items=items).adjusted_p < 0.05) for count in seen)
    assert 0.77 <= power <= 0.96


def test_no_difference_is_detectable_where_none_is_large_enough():
    assert _pair(1, 1, items=3).detectable is None
    assert _pair(1, 1, items=30).detectable < 1


@pytest.mark.parametrize("seeds", [1, 3])
def test_graded_outcomes_detect_what_their_measured_variance_gives(seeds):
    rng = np.random.default_rng(5)
    pair = stats.compare_methods({name: rng.normal(size=(seeds, 200)) for name in "ab"}, families=("all",)).pair(
        "a", "b"
    )
    if seeds == 1:
        quantiles = scipy.stats.t.isf([0.025, 0.2], 199)
        assert pair.detectable == pytest.approx(quantiles.sum() * pair.standard_error)
    assert pair.detectable > (pair.adjusted_interval[1] - pair.adjusted_interval[0]) / 2


@pytest.mark.parametrize("items", [30, 100, 300])
def test_a_plan_has_the_noise_of_the_difference_that_it_asks_for(items):
    """Methods that were assumed to disagree on 1 % of the items cannot differ by more: then all that differ count."""
    plan = stats.Plan(items, 1, 0.01, 0.0, 0.0)
    effect = stats.smallest_effect(plan)
    assert effect > 0.01
    counts = np.arange(items + 1)
    chances = scipy.stats.binom.pmf(counts, items, effect)
    seen = [int(count) for count in counts[chances > 1e-6]]
    power = sum(chances[count] * (_pair(count, 0, items=items).p < 0.05) for count in seen)
    assert 0.77 <= power <= 0.92
    graded = stats.Plan(items, 1, 0.01, 0.0, 0.0, right_or_wrong=False)
    assert stats.smallest_effect(graded) == pytest.approx(0.1 * 2.8 / items**0.5, rel=0.05)
