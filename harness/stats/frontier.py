"""Pareto frontier of methods in quality and cost, and the probability of being on it. No score combines the two."""

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import EQUAL, Floats


def on_frontier(quality: ArrayLike, cost: ArrayLike) -> np.ndarray:
    """Return whether each method is on the frontier.

    It is there if no other is at least as good and at most as costly, and strictly better or cheaper.

    Args:
        quality: shape (..., methods), higher is better.
        cost: of a shape that broadcasts with it, lower is better.

    Returns:
        Booleans of shape (..., methods).
    """
    rounded = [np.round(np.asarray(sides, dtype=np.float64), EQUAL) for sides in (quality, cost)]
    good, dear = np.broadcast_arrays(*rounded)  # no method is better or cheaper by rounding alone
    optimal = np.ones(good.shape, dtype=bool)
    for method in range(good.shape[-1]):  # one method at a time: pairs of a thousand methods would not fit
        other_good, other_dear = good[..., method, None], dear[..., method, None]
        strictly = (other_good > good) | (other_dear < dear)
        optimal &= ~((other_good >= good) & (other_dear <= dear) & strictly)
    return optimal


def frontier_probabilities(draws: Floats, cost: ArrayLike) -> list[float]:
    """Return for each method the share of the draws in which it is on the frontier.

    Args:
        draws: qualities of shape (methods, draws), higher is better, drawn together (`bootstrap`).
        cost: lower is better; one number per method, taken as known, or drawn as the qualities are.
    """
    prices = np.asarray(np.round(np.asarray(cost, dtype=np.float64), EQUAL), dtype=np.float64)
    qualities = np.asarray(np.round(draws, EQUAL), dtype=np.float64)
    optimal = _by_rising_cost(qualities, prices) if prices.ndim == 1 else on_frontier(qualities.T, prices.T).T
    return [float(share) for share in optimal.mean(axis=1)]


def _by_rising_cost(draws: Floats, prices: Floats) -> np.ndarray:
    """Return `on_frontier` of shape (methods, draws) for known costs, in one pass without comparing pairs."""
    optimal = np.zeros(draws.shape, dtype=bool)
    best = np.full(draws.shape[1], -np.inf)
    for price in np.unique(prices):
        same = prices == price
        top = draws[same].max(axis=0)
        optimal[same] = (draws[same] > best) & (draws[same] >= top)
        best = np.maximum(best, top)
    return optimal
