"""The ratio of best learning rates: exact on a parabola, covering under noise, open where a grid ends too early."""

import numpy as np
import pytest

from harness.stats.best_rate import Profile, rate_ratio

GRID = tuple(1e-4 * 10 ** (i / 2) for i in range(7))


def profile(random, best, *, seeds=3, items=80, seed_sd=0.01, item_sd=0.5, grid=GRID):
    """Losses that fall and rise as a parabola over the logarithm of the rate, about an item's own level."""
    level = random.normal(3, item_sd, items)
    losses = []
    for rate in grid:
        curve = 0.1 * np.log(rate / best) ** 2
        seed = random.normal(0, seed_sd, (seeds, 1))
        losses.append(level + curve + seed + random.normal(0, 0.05, (seeds, items)))
    return Profile(grid, tuple(losses))


def test_without_noise_the_ratio_is_exact():
    random = np.random.default_rng(1)
    lora, full = (profile(random, best, seed_sd=0, item_sd=0) for best in (4e-3, 4e-4))
    smooth = [Profile(p.rates, tuple(np.full((2, 5), 0.1 * np.log(r / b) ** 2) for r in p.rates))
              for p, b in ((lora, 4e-3), (full, 4e-4))]  # fmt: skip
    found = rate_ratio(*smooth, None, 0.05)
    assert (found.value, found.low, found.high) == pytest.approx((10, 10, 10), rel=1e-9)
    assert found.why == ""


def test_the_interval_covers_the_true_ratio():
    hits, widths, repeats = 0, [], 150
    for seed in range(repeats):
        random = np.random.default_rng(seed)
        found = rate_ratio(profile(random, 4e-3), profile(random, 4e-4), None, 0.05)
        hits += found.low <= 10 <= found.high
        widths.append(found.high / found.low)
    assert hits / repeats >= 0.95 - 2.6 * (0.05 * 0.95 / repeats) ** 0.5
    assert np.median(widths) < 3


def test_a_best_rate_beyond_the_grid_leaves_the_interval_open():
    random = np.random.default_rng(2)
    found = rate_ratio(profile(random, 1.0), profile(random, 4e-4), None, 0.05)
    assert found.high == np.inf
    assert found.low > 50
    assert found.why.startswith("the highest rate of the first has the lowest loss in 100 % of the resamples")
    assert not found.inside
    other = rate_ratio(profile(random, 4e-3), profile(random, 1e-6), None, 0.05)
    assert other.high == np.inf
    assert other.why.startswith("the lowest rate of the second has the lowest loss in ")


def test_few_noisy_seeds_open_the_interval_of_a_best_rate_inside_the_grid():
    """Rates beyond the grid would not close it; more seeds do."""
    random = np.random.default_rng(4)
    few, many = (
        [profile(random, best, seeds=seeds, seed_sd=0.15) for best in (4e-3, 4e-4)] for seeds in (3, 60)
    )  # fmt: skip
    open_, closed = rate_ratio(*few, None, 0.0045), rate_ratio(*many, None, 0.0045)
    assert (open_.inside, closed.inside) == (True, True)
    assert open_.high == np.inf
    assert "resamples" in open_.why
    assert closed.high < np.inf
    assert closed.why == ""


def test_a_diverged_trial_closes_the_grid():
    random = np.random.default_rng(3)
    lora = profile(random, 0.05)
    assert rate_ratio(lora, profile(random, 4e-4), None, 0.05).low > 10
    cut = Profile(lora.rates, (*lora.losses[:-1], None))
    found = rate_ratio(cut, profile(random, 4e-4), None, 0.05)
    assert found.high < np.inf
    assert found.why == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Profile((1e-4, 1e-3), (np.ones((1, 2)),) * 2), "a best rate needs at least three"),
        (Profile((1e-3, 1e-4, 1e-2), (np.ones((1, 2)),) * 3), "the rates must ascend"),
        (Profile((1e-4, 1e-3, 1e-2), (None,) * 3), "no trial completed"),
    ],
)
def test_what_has_no_best_rate_is_refused(given, says):
    good = profile(np.random.default_rng(0), 1e-3)
    with pytest.raises(ValueError, match=says):
        rate_ratio(good, given, None, 0.05)
