"""The statistics tested against themselves: coverage, false alarms and power, simulated with fixed seeds."""

import numpy as np
import pytest

from harness import stats

ITEMS = 200


def _outcomes(rng, methods, seeds, between_seeds, items=ITEMS):
    """Right and wrong answers of shape (methods, seeds, items), all methods equally good in truth: .55."""
    item = rng.normal(0, 0.25, size=items)
    own = rng.normal(0, 0.05, size=(methods, 1, items))
    seed = rng.normal(0, between_seeds, size=(methods, seeds, 1))
    return (rng.uniform(size=(methods, seeds, items)) < np.clip(0.55 + item + own + seed, 0, 1)).astype(float)


@pytest.mark.parametrize(("seeds", "between_seeds"), [(1, 0.0), (3, 0.02), (5, 0.02)])
def test_bootstrap_intervals_cover_95_percent(seeds, between_seeds):
    """Graded outcomes, whose true mean is known exactly, over items and seeds that are both a sample."""
    rng = np.random.default_rng(10 + seeds)
    repeats, covered = 2500, 0
    for _ in range(repeats):
        outcomes = rng.normal(0, 0.4, size=ITEMS) + rng.normal(0, between_seeds, size=(seeds, 1))
        outcomes = outcomes + rng.normal(0, 0.3, size=(seeds, ITEMS))
        low, high = stats.percentile_interval(stats.bootstrap([outcomes], draws=600)[0])
        covered += low <= 0 <= high
    assert covered / repeats == pytest.approx(0.95, abs=0.015)


def test_intervals_of_a_loss_per_token_cover_95_percent():
    rng = np.random.default_rng(20)
    tokens = rng.integers(1, 12, size=(2000, ITEMS))
    nats = tokens * rng.gamma(4.0, 0.3, size=(2000, ITEMS))
    intervals = [
        stats.percentile_interval(stats.bootstrap([one], weights, draws=600)[0])
        for one, weights in zip(nats, tokens, strict=True)
    ]
    assert np.mean([low <= 1.2 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_against_a_calls_a_difference_in_at_most_5_percent(seeds):
    rng = np.random.default_rng(30 + seeds)
    repeats, alarms = 600, 0
    for _ in range(repeats):
        a, b = _outcomes(rng, 2, seeds, 0.02)
        # with one seed the test is of these two trained models: their difference in truth must be none
        a, b = (a, b) if seeds > 1 else _outcomes(rng, 2, 1, 0.0)
        alarms += stats.compare(a, b, 0.01, paired=True).p < 0.05
    assert alarms / repeats <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / repeats)


def test_a_family_of_equal_methods_raises_an_alarm_in_at_most_5_percent():
    rng = np.random.default_rng(40)
    repeats, alarms = 150, 0
    for _ in range(repeats):
        every = _outcomes(rng, 4, 3, 0.02)
        pairs = [(i, j) for i in range(4) for j in range(i)]
        p = stats.holm([stats.compare(every[i], every[j], 0.01, paired=True).p for i, j in pairs])
        alarms += min(p) < 0.05
    assert alarms / repeats <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / repeats)


def test_planted_differences_are_found_at_the_computed_power():
    """One seed: the exact McNemar test, answers that differ on a share of the items."""
    plan = stats.Plan(items=500, seeds=1, disagreement=0.2, rerun_disagreement=0.0, seed_deviation=0.0)
    effect = 0.05
    rng = np.random.default_rng(50)
    kinds = rng.choice(3, size=(1000, 500), p=[(0.2 + effect) / 2, (0.2 - effect) / 2, 0.8])
    found = np.mean([stats.mcnemar_exact(row == 0, row == 1) < 0.05 for row in kinds])
    expected = stats.power(plan, effect)
    assert 0.5 < expected < 0.9
    assert found == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / 1000))


def test_planted_differences_over_seeds_are_found_at_the_computed_power():
    """Three seeds: a difference of each item and seed with the three noises of the plan."""
    plan = stats.Plan(items=400, seeds=3, disagreement=0.12, rerun_disagreement=0.05, seed_deviation=0.006)
    effect = 0.055
    rng = np.random.default_rng(60)
    repeats, found = 600, 0
    for _ in range(repeats):
        item = rng.normal(0, np.sqrt(0.07), size=400)
        seed = rng.normal(0, np.sqrt(2) * 0.006, size=(3, 1))
        noise = rng.normal(0, np.sqrt(0.05), size=(3, 400))
        found += stats.compare(effect + item + seed + noise, np.zeros((1, 400)), 0.01, paired=True).p < 0.05
    expected = stats.power(plan, effect)
    assert 0.5 < expected < 0.95
    assert found / repeats == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / repeats))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_smallest_effect_is_seen_with_the_wanted_power(seeds):
    plan = stats.Plan(items=1319, seeds=seeds, disagreement=0.1, rerun_disagreement=0.05, seed_deviation=0.003)
    effect = stats.smallest_effect(plan)
    assert stats.power(plan, effect) == pytest.approx(0.8, abs=0.005)
    assert stats.power(plan, 0.9 * effect) < 0.8


def test_the_seeds_needed_are_the_fewest_that_suffice():
    plan = stats.Plan(items=1319, seeds=1, disagreement=0.1, rerun_disagreement=0.05, seed_deviation=0.01)
    needed = stats.seeds_needed(plan, 0.03)
    assert needed is not None
    assert needed > 2
    powers = [stats.power(stats.Plan(1319, seeds, 0.1, 0.05, 0.01), 0.03) for seeds in (needed - 1, needed)]
    assert powers[0] < 0.8 <= powers[1]
    assert stats.seeds_needed(plan, 0.001) is None


def test_what_was_measured_says_what_could_have_been_seen():
    """The minimum detectable effect of a table is the one that the plan computes for the same noise."""
    plan = stats.Plan(items=1319, seeds=4, disagreement=0.1, rerun_disagreement=0.05, seed_deviation=0.0)
    assert stats.detectable(plan.parts[:1]) == pytest.approx(stats.smallest_effect(plan), rel=0.06)
    assert stats.detectable(()) is None
    assert stats.detectable((stats.Part(0.0, 10),)) is None


def test_draws_are_the_same_twice_and_paired_by_item():
    rng = np.random.default_rng(70)
    a = rng.normal(size=(2, 100))
    assert (stats.bootstrap([a]) == stats.bootstrap([a])).all()
    one, other = rng.normal(size=(1, 100)), rng.normal(size=(1, 100))
    both = stats.bootstrap([one, other])
    assert both[0] - both[1] == pytest.approx(stats.bootstrap([one - other])[0], abs=1e-9)


def test_a_thousand_methods_are_resampled_in_seconds():
    outcomes = np.random.default_rng(80).integers(0, 2, size=(1000, 1, 1000)).astype(float)
    assert stats.bootstrap(list(outcomes), draws=1000).shape == (1000, 1000)
