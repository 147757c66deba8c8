"""`compare_methods` against closed forms, scipy and its own promises: what it claims, refuses and borrows."""

import numpy as np
import pytest
import scipy.stats

from harness import stats


def _graded(seed, shapes, items=300, seed_sd=0.3):
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=items)
    return {
        name: skill
        + rng.normal(0, 0.5, size=items)
        + rng.normal(0, seed_sd, size=(seeds, 1))
        + rng.normal(size=(seeds, items))
        for name, seeds in shapes.items()
    }


def test_a_pair_alone_has_the_seeds_own_t_interval_beside_that_of_the_items():
    """Closed form: Student's quantiles of seeds and items, the items' variance less the item x seed noise."""
    outcomes = _graded(1, {"a": 4, "b": 4})
    pair = stats.compare_methods(outcomes).families["all"].pairs[0]
    d = outcomes["a"] - outcomes["b"]
    seeds, items = d.shape
    by_seed, by_item = d.mean(axis=1), d.mean(axis=0)
    rest = d - by_seed[:, None] - by_item + d.mean()
    noise = (rest**2).sum() / ((seeds - 1) * (items - 1)) / (items * seeds)
    part = {"seeds": max(by_seed.var(ddof=1) / seeds, noise), "items": max(by_item.var(ddof=1) / items - noise, 0)}
    reach = lambda tail: np.sqrt(  # noqa: E731
        scipy.stats.t.isf(tail, seeds - 1) ** 2 * part["seeds"]
        + scipy.stats.t.isf(tail, items - 1) ** 2 * part["items"]
    )
    assert pair.difference == pytest.approx(d.mean())
    assert pair.interval == pytest.approx((d.mean() - reach(0.025), d.mean() + reach(0.025)))
    assert reach(pair.p / 2) == pytest.approx(abs(d.mean()))
    assert (pair.adjusted_p, pair.adjusted_interval) == (pytest.approx(pair.p), pytest.approx(pair.interval))
