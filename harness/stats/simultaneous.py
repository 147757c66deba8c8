"""One level for a whole family of comparisons: the distribution of the smallest of their p-values, simulated.

Comparisons share methods, items and a pooled seed variance, so that they are far from independent; a simulated maximum
of |t| uses that, and never does worse than Bonferroni. It is a single step: the adjusted p-value and the simultaneous
interval are the same test, and cannot contradict each other. Draws are seeded: equal data give equal numbers.
Source: Hothorn, Bretz and Westfall, Biometrical Journal 50, 2008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.stats.estimate import Floats

_DRAWS = 4096
_BLOCKS = 16  # of the draws: one of them stays in the processor's cache
MOST_SIMULATED = 400  # comparisons; beyond it Bonferroni: the maximum of more gains little and takes long
_LEVELS = np.exp(np.linspace(np.log(1e-5), 0.0, 33))  # per comparison, at which the family's level is tabulated
_FEWEST_BEYOND = 40  # draws that are significant at a level, for an error of it below a sixth
_SEED = 20061


@dataclass(frozen=True)
class Adjustment:
    """The family's level as a function of the level of each comparison: tabulated, and below the table Bonferroni's."""

    comparisons: int
    log_single: Floats
    log_family: Floats

    def p_values(self, single: Floats) -> Floats:
        """Return the adjusted p-values."""
        safe = np.clip(np.asarray(single, dtype=np.float64), 1e-300, 1.0)
        table = np.exp(np.interp(np.log(safe), self.log_single, self.log_family))
        below = np.log(safe) < self.log_single[0]
        adjusted = np.where(single <= 0, 0.0, np.where(below, np.minimum(self.comparisons * safe, table), table))
        return np.asarray(np.maximum(adjusted, single))

    def single_level(self, family: float) -> float:
        """Return the level of each comparison at which the family keeps to `family`, the inverse of `p_values`."""
        if math.log(family) < self.log_family[0]:
            return family / self.comparisons
        return min(family, float(np.exp(np.interp(math.log(family), self.log_family, self.log_single))))


def adjustment(covariance: Floats, pairs: np.ndarray, seed_share: float, seed_degrees: float) -> Adjustment:
    """Return the adjustment of a family of differences.

    Args:
        covariance: of the errors of the methods' scores, shape (methods, methods).
        pairs: shape (comparisons, 2), the methods of each difference.
        seed_share: the share of seeds in the variance of a difference.
        seed_degrees: degrees of freedom of their pooled variance.
    """
    count = len(pairs)
    bound = count * _LEVELS
    family = bound
    if 1 < count <= MOST_SIMULATED:
        simulated = _simulated(covariance, pairs, seed_share, seed_degrees)
        few = simulated * _DRAWS < _FEWEST_BEYOND
        last = simulated[~few].min(initial=1.0)  # where fewer draws say anything: Bonferroni, and no more than this
        family = np.minimum(bound, np.where(few, last, np.maximum(simulated, _LEVELS)))
    family = np.maximum.accumulate(np.minimum(family, 1.0)) * np.linspace(1 - 1e-9, 1.0, len(_LEVELS))
    return Adjustment(count, np.log(_LEVELS), np.log(family))


def _simulated(covariance: Floats, pairs: np.ndarray, share: float, degrees: float) -> Floats:
    """Return the share of draws in which some comparison is significant, at each of the levels."""
    from scipy.special import ndtri, stdtrit

    most = _largest(covariance, pairs)
    squares = most**2
    z = ndtri(_LEVELS / 2) ** 2
    if share <= 0 or degrees <= 0:
        return np.array([np.count_nonzero(squares > bound) for bound in z]) / _DRAWS
    rounded = float(f"{degrees:.2g}")  # few distinct values, for the cache
    t = stdtrit(rounded, _LEVELS / 2) ** 2
    ratios = _ratios(rounded)
    alone = share * ratios
    total = alone + 1 - share
    more = alone**1.5 / np.sqrt(total)  # the half-width of `Noise`, where the items' quantile is the normal one
    bounds = (
        np.maximum(items * total + (seeds - items) * more, seeds * alone) for seeds, items in zip(t, z, strict=True)
    )
    return np.array([np.count_nonzero(squares > bound) for bound in bounds]) / _DRAWS


def _largest(covariance: Floats, pairs: np.ndarray) -> Floats:
    """Return draws of the largest standardized difference of the pairs, shape (draws,)."""
    used, places = np.unique(pairs, return_inverse=True)
    values, vectors = np.linalg.eigh(covariance[np.ix_(used, used)])
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T  # the symmetric one: no library's choice of vectors
    first, second = places.reshape(-1, 2).T
    contrasts = root[first] - root[second]
    scales = np.sqrt((contrasts**2).sum(axis=1, keepdims=True))
    least = 1e-6 * scales.max()  # rounding has a direction of its own
    contrasts = np.divide(contrasts, scales, out=np.zeros_like(contrasts), where=scales > least).astype(np.float32)
    blocks = (contrasts @ normal.T for normal in np.split(_normals(len(used)), _BLOCKS))
    return np.concatenate([np.abs(drawn, out=drawn).max(axis=0) for drawn in blocks]).astype(np.float64)


@lru_cache(maxsize=4)
def _normals(methods: int) -> np.ndarray:
    return np.random.default_rng([_SEED, methods]).standard_normal((_DRAWS, methods), dtype=np.float32)


@lru_cache(maxsize=256)
def _ratios(degrees: float) -> Floats:
    """Return draws of a chi-square variable over its degrees of freedom."""
    from scipy.special import gammaincinv

    uniform = np.random.default_rng(_SEED).uniform(size=_DRAWS)
    return np.asarray(gammaincinv(degrees / 2, uniform) * 2 / degrees)
