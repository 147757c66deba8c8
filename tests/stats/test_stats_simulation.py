"""The statistics against simulated experiments with fixed seeds: error rates, coverage, width and power.

Generators and cells are those of the benchmark, which has the whole grid; here are the corners that are hardest, with
enough repeats to fail on a seed variance that is cut at zero (38 % false reports in the first cell), on an unpooled one
(power .44), and on an adjustment for the comparisons of an observed best that forgets that it was chosen.
"""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from harness import stats
from tests.bench import validity
from tests.bench._generators import Cell

ITEMS = 200


def _at_most(level, repeats):
    return level + 2.6 * np.sqrt(level * (1 - level) / repeats)


@pytest.mark.parametrize(
    "cell",
    [
        Cell(methods=12, seeds=3, seed_points=2.0),
        Cell(methods=12, seeds=2, seed_points=2.0, shared=0.9),
        Cell(methods=4, seeds=2, seed_points=2.0),
        Cell(methods=4, seeds=3, items=30, seed_points=0.5),
        Cell(methods=4, seeds=3, items=260, outcome="loss"),
        Cell(methods=4, seeds=3, items=260, cluster=10, outcome="graded"),
    ],
    ids=str,
)
def test_every_family_keeps_its_level(cell):
    repeats = 250
    measured = validity.simulate(cell, repeats)
    assert {"baseline", "best", "all"} <= measured.families.keys()
    for family, rate in measured.families.items():
        assert rate <= _at_most(0.05, repeats), family
    assert measured.single <= _at_most(0.05, repeats)
    assert measured.contradictions == 0


def test_a_method_unlike_the_others_does_not_break_the_families():
    repeats = 250
    measured = validity.simulate(Cell(methods=12, seeds=3, seed_points=1.0, odd=3.0), repeats)
    for rate in measured.families.values():
        assert rate <= _at_most(0.05, repeats)
    assert measured.first <= _at_most(0.08, repeats)
    assert measured.unlike > 0.3


def test_pooled_seeds_detect_three_points():
    repeats = 400
    measured = validity.simulate(Cell(methods=4, seeds=3, seed_points=1.0, gap=3.0, base=False), repeats)
    assert measured.first >= 0.65 - 2 * np.sqrt(0.65 * 0.35 / repeats)
    assert measured.coverage >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / repeats)
    assert measured.width <= 1.2


@pytest.mark.parametrize("seed_points", [0.0, 2.0])
def test_one_seed_makes_no_verdict_about_methods(seed_points):
    measured = validity.simulate(Cell(methods=4, seeds=1, seed_points=seed_points), 60)
    assert measured.families == {"baseline": 0.0, "best": 0.0, "all": 0.0}


def test_two_single_runs_are_called_different_at_the_level():
    """One seed and no seed effects: the statement about two runs is tested against the same two models in truth."""
    repeats = 400
    measured = validity.simulate(Cell(methods=2, seeds=1, seed_points=0.0, items=260, base=False), repeats)
    assert measured.runs_differ <= _at_most(0.05, repeats)


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


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_mean_over_tasks_covers_where_a_seed_moves_all_tasks(seeds):
    """Seed effects that five tasks share: drawn for each task alone they would cover 85 to 90 %."""
    rng = np.random.default_rng(25 + seeds)
    repeats, covered = 600, 0
    for _ in range(repeats):
        effects = rng.normal(0, 0.02, size=(seeds, 1))
        item = [rng.normal(0.6, 0.4, size=400) for _ in range(5)]
        tables = [one + effects + rng.normal(0, 0.2, size=(seeds, 400)) for one in item]
        scores = np.stack([one.mean(axis=1) for one in tables], axis=1)
        draws = np.stack(
            [stats.bootstrap([one.mean(axis=0)[None]], draws=600, seed=i)[0] for i, one in enumerate(tables)]
        )
        draws = draws[None] + stats.seed_draws([scores], [tuple(range(seeds))], draws=600)
        low, high = stats.percentile_interval(draws[0].mean(axis=0))
        covered += low <= 0.6 <= high
    assert covered / repeats >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("methods", [2, 4])
def test_planted_differences_are_detected_with_the_computed_power(methods):
    plan = stats.Plan(1319, 3, 0.097, 0.048, 0.01, methods=methods)
    repeats = 400
    cell = Cell(methods=methods, seeds=3, seed_points=1.0, gap=3.0, base=False)
    measured = validity.simulate(cell, repeats)
    expected = stats.power(plan, 0.03)
    assert 0.3 < expected < 0.9
    assert measured.first == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / repeats))


@pytest.mark.parametrize(("seeds", "adjusted"), [(1, False), (3, False), (3, True)])
def test_the_smallest_effect_is_detected_with_the_wanted_power(seeds, adjusted):
    plan = stats.Plan(1319, seeds, 0.1, 0.05, 0.003, methods=4)
    effect = stats.smallest_effect(plan, adjusted=adjusted)
    assert stats.power(plan, effect, adjusted=adjusted) == pytest.approx(0.8, abs=0.005)
    assert stats.power(plan, 0.9 * effect, adjusted=adjusted) < 0.8


def test_the_seeds_needed_are_the_fewest_that_suffice():
    plan = stats.Plan(1319, 1, 0.1, 0.05, 0.01)
    needed = stats.seeds_needed(plan, 0.03)
    assert needed is not None
    assert needed > 2
    powers = [stats.power(stats.Plan(1319, seeds, 0.1, 0.05, 0.01), 0.03) for seeds in (needed - 1, needed)]
    assert powers[0] < 0.8 <= powers[1]
    assert stats.seeds_needed(plan, 0.001) is None
    assert stats.power(stats.Plan(1319, 2, 0.1, 0.05, 0.01), 0.5) == 0.0


def test_the_noise_of_a_plan_is_measured_back():
    from tests.bench._generators import draw

    rng = np.random.default_rng(28)
    cell = Cell(methods=6, seeds=6, seed_points=1.0, base=False)
    measured = [stats.measured_noise(draw(cell, rng).outcomes) for _ in range(20)]
    assert np.mean([one.disagreement for one in measured]) == pytest.approx(0.097, rel=0.05)
    assert np.mean([one.rerun_disagreement for one in measured]) == pytest.approx(0.048, rel=0.08)
    assert np.mean([one.seed_deviation for one in measured]) == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize(("methods", "seeds"), [(2, 3), (4, 3), (4, 5)])
def test_a_seed_deviation_that_was_cut_at_zero_is_not_planned_as_no_noise(methods, seeds):
    """The upper limit covers the true deviation in 80 % of the experiments, those with an estimate of zero included."""
    from tests.bench._generators import draw

    rng = np.random.default_rng(29)
    cell = Cell(methods=methods, seeds=seeds, seed_points=0.3, base=False)
    measured = [stats.measured_noise(draw(cell, rng).outcomes) for _ in range(400)]
    cut = [noise for noise in measured if noise.seed_deviation == 0]
    assert len(cut) > 40
    assert all(noise.seed_deviation_limit > 0.0005 for noise in cut)
    assert np.mean([noise.seed_deviation_limit >= 0.003 for noise in measured]) >= 0.8 - 2 * (0.8 * 0.2 / 400) ** 0.5
    clear = stats.measured_noise(draw(replace(cell, seed_points=3.0), rng).outcomes)
    degrees = (methods - 1) * (seeds - 1)
    usual = clear.seed_deviation * (degrees / scipy.stats.chi2.ppf(0.2, degrees)) ** 0.5
    assert clear.seed_deviation_limit == pytest.approx(usual, rel=0.02)


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
