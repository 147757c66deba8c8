"""The value of one difference, the variances that it rests on, and how far a statement about it may go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harness.stats.estimate import Floats
from harness.stats.outcomes import Outcomes, Seeds
from harness.stats.seeds import SeedVariance

Scope = Literal["methods", "runs"]
Variance = tuple[float, float]  # with its degrees of freedom

_ROUNDING = 1e-12  # of a number that is the difference of two larger ones
FEWEST_ALONE = 3  # seeds that make a verdict without another method to borrow the variance from


@dataclass(frozen=True)
class Basis:
    """Numbers that one difference rests on.

    Attributes:
        difference: first minus second, on the seeds in use.
        items: variance that the items bring.
        rise: how that variance grows with the true difference; see `Outcomes.rise`.
        pooled: the seeds' variance from all methods, and its degrees of freedom; None without seed noise.
        own: the seeds' variance of the two alone; None where `pooled` is that, where one of them has no two seeds, or
            where neither items nor seeds of the two show a spread.
        seeds: seeds in use; pairs of them where they are shared.
        scope: whether the numbers are about methods or about two runs.
        why: why the numbers make no verdict about methods; "" where they do.
        source: where the seed variance comes from.
        measured: whether there are numbers at all.
    """

    difference: float
    items: float
    rise: float
    pooled: tuple[float, float] | None
    own: tuple[float, float] | None
    seeds: int
    scope: Scope
    why: str
    source: str
    measured: bool = True


def basis_of(data: Outcomes, variance: SeedVariance, a: int, b: int) -> Basis:
    """Return the basis of the difference of methods `a` and `b`."""
    fixed = [data.names[m] in data.deterministic for m in (a, b)]
    if data.units < 2:
        return _nothing(data, a, b, "a single item (or cluster) has no spread")
    if all(fixed):
        made = _fixed(data, a, b)
    elif any(fixed):
        made = _against_fixed(data, variance, a, b, seeded=a if fixed[1] else b)
    else:
        common = tuple(s for s in data.seeds[a] if s in data.seeds[b]) if variance.paired else ()
        single = 1 in (len(data.seeds[a]), len(data.seeds[b]))
        paired = len(common) > 1 or (common and single)
        made = _paired(data, variance, a, b, common) if paired else _unpaired(data, variance, a, b)
    spread = data.item_covariance[a, a] + data.item_covariance[b, b]
    least = max(_ROUNDING * spread, _ROUNDING**2 * max(data.means[a] ** 2, data.means[b] ** 2))
    if made.measured and made.items + (made.pooled[0] if made.pooled else 0.0) <= least:
        return _nothing(data, a, b, "the difference is the same on every item and seed: there is no spread to judge by")
    if made.own and made.items + made.own[0] <= least:
        return replace(made, own=None)  # seeds of these two that happen to agree do not show that seeds change nothing
    return made


def _fixed(data: Outcomes, a: int, b: int) -> Basis:
    items, _ = data.item_variances(a, b, ())
    difference = float(data.means[a] - data.means[b])
    return Basis(difference, items, data.rise(a, b, ()), None, None, 0, "methods", "", "neither has seed noise")


def _against_fixed(data: Outcomes, variance: SeedVariance, a: int, b: int, seeded: int) -> Basis:
    """Return the basis of a method against a row without seeds: the seeds' shared part does not cancel."""
    seeds = data.seeds[seeded]
    count, name = len(seeds), data.names[seeded]
    items, noise = data.item_variances(a, b, seeds)
    rise = data.rise(a, b, seeds)
    difference = float(data.means[a] - data.means[b])
    if count == 1 and variance.total_degrees == 0:
        return _runs(difference, items, rise, f"{name} has one seed")
    pooled = (max(variance.total / count, noise), variance.total_degrees)
    source = _source(data, variance.replicated, variance.total_degrees)
    if count == 1:
        return Basis(difference, items, rise, pooled, None, 1, "methods", _single(name, source), source)
    several = variance.several > 1
    own = (max(float(variance.raw[seeded]) / count, noise), count - 1.0) if several else None
    enough = count >= FEWEST_ALONE or several
    return Basis(difference, items, rise, pooled, own, count, "methods", "" if enough else _TWO_SEEDS, source)


def _paired(data: Outcomes, variance: SeedVariance, a: int, b: int, common: Seeds) -> Basis:
    """Return the basis of two methods on the seeds that they share: what seeds do to both cancels."""
    count = len(common)
    used = data.means_over(common)
    difference = used[a] - used[b]
    items, noise = data.item_variances(a, b, common)
    rise = data.rise(a, b, common)
    if count == 1 and variance.degrees == 0:
        return _runs(difference, items, rise, "each has one seed")
    pooled = (max(2 * variance.pooled / count, noise), variance.degrees)
    source = _source(data, variance.pooling, variance.degrees)
    if count == 1:
        single = next(data.names[m] for m in (a, b) if len(data.seeds[m]) == 1)
        return Basis(difference, items, rise, pooled, None, 1, "methods", _single(single, source), source)
    several = int(variance.pooling.sum())
    own = _moderated(variance, (a, b), (1 / count, 1 / count), noise) if several > 2 else None
    why = _too_few(several, count)
    return Basis(difference, items, rise, pooled, own, count, "methods", why, source)


def _unpaired(data: Outcomes, variance: SeedVariance, a: int, b: int) -> Basis:
    """Return the basis of two methods without common seeds: each side's seeds add all of their variance."""
    shares = (1 / len(data.seeds[a]), 1 / len(data.seeds[b]))
    fewest = min(len(data.seeds[a]), len(data.seeds[b]))
    if variance.total_degrees == 0:
        return _nothing(data, a, b, "each has one seed, and not the same one: give both the same seed, or several")
    items, noise = data.item_variances(a, b, ())
    rise = data.rise(a, b, ())
    difference = float(data.means[a] - data.means[b])
    pooled = (max(variance.total * sum(shares), noise), variance.total_degrees)
    source = _source(data, variance.replicated, variance.total_degrees)
    if fewest == 1:
        single = next(data.names[m] for m in (a, b) if len(data.seeds[m]) == 1)
        return Basis(difference, items, rise, pooled, None, 1, "methods", _single(single, source), source)
    if variance.paired:
        own = _own(variance.raw, variance.counts - 1, (a, b), shares, noise)
    else:
        own = _moderated(variance, (a, b), shares, noise)
    return Basis(difference, items, rise, pooled, own, fewest, "methods", _too_few(variance.several, fewest), source)


def _own(
    variances: Floats, degrees: Floats, pair: tuple[int, int], shares: tuple[float, float], noise: float
) -> Variance:
    """Return the seed variance of two methods alone, no less than single answers' noise, and its degrees of freedom.

    Source of the latter: Welch, Biometrika 34, 1947.
    """
    parts = [float(variances[method]) * share for method, share in zip(pair, shares, strict=True)]
    free = [float(degrees[method]) for method in pair]
    total = sum(parts)
    below = sum(part**2 / df for part, df in zip(parts, free, strict=True))
    return max(total, noise), total**2 / below if below > 0 else min(free)


def _moderated(variance: SeedVariance, pair: tuple[int, int], shares: tuple[float, float], noise: float) -> Variance:
    """Return the pair's moderated seed variance, with no more degrees of freedom than the pool has."""
    made = variance.moderated
    total, degrees = _own(made.variances, made.degrees, pair, shares, noise)
    return total, min(degrees, variance.degrees)


def _too_few(several: int, seeds: int) -> str:
    return "" if seeds >= FEWEST_ALONE or several > 2 else _TWO_SEEDS


def _runs(difference: float, items: float, rise: float, seeds: str) -> Basis:
    why = f"{seeds}, so that the numbers are about these runs and not about the methods"
    return Basis(difference, items, rise, None, None, 1, "runs", why, "")


def _nothing(data: Outcomes, a: int, b: int, why: str) -> Basis:
    return Basis(float(data.means[a] - data.means[b]), 0.0, 0.0, None, None, 0, "methods", why, "", measured=False)


def _single(name: str, source: str) -> str:
    return f"{name} has one seed, and its seed variance is borrowed ({source})"


def _source(data: Outcomes, lenders: np.ndarray, degrees: float) -> str:
    whose = f"pooled over {lenders.sum()} methods"
    if lenders.sum() < 3:
        names = [name for name, lends in zip(data.names, lenders, strict=True) if lends]
        whose = f"from {' and '.join(names)}"
    return f"seed variance {whose}, {degrees:.3g} degree{'' if degrees == 1 else 's'} of freedom"


_TWO_SEEDS = "two seeds, and no other method of the comparison to borrow the seed variance from"
