"""Outcomes of several methods on the same items, and the noise that items put into every difference of two of them.

Weights and clusters are taken out first: outcomes and weights are summed within a cluster, and a ratio of sums is
linearized, so that everything that follows sees plain means over units. Sources: Cochran, Sampling Techniques, 3rd
edition, 1977, chapter 6; Miller, Adding Error Bars to Evals, 2024 (arXiv:2411.00640), sections 2.2 and 4.2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import Floats, cluster_codes, summed
from harness.stats.uneven import residual_factors

Seeds = tuple[int, ...]  # positions of the seeds that are there
_SAME = 1e-9  # of values that are equal but for rounding
_SMALLEST, _LARGEST = 1e-60, 1e60  # of what is computed with: its fourth power is neither zero nor infinite
_NOT_NUMBERS = {"c": "complex numbers", "m": "durations", "M": "dates", "V": "records of several fields"}


@dataclass(frozen=True)
class Outcomes:
    """Checked outcomes of methods on the same units (items, or clusters of them).

    Attributes:
        names: the methods.
        values: by method, shape (seeds, units), scaled so that a score is a mean over the units; NaN for a lost seed.
        weights: shape (units,), with mean 1.
        deterministic: methods without seed noise; their single row holds for every seed.
        gap: distance of the two values of right-or-wrong outcomes, 1 for those of 0 and 1; 0 for graded outcomes.
        factors: by what the units' residuals are multiplied, shape (units,); 1 but for clusters of unequal size.
        degrees: degrees of freedom of a variance over the units.
        unseen: variance that one discordant item more would add to a difference of two right-or-wrong scores, times the
            mean size of a cluster; 0 for graded outcomes.
    """

    names: tuple[str, ...]
    values: tuple[Floats, ...]
    weights: Floats
    deterministic: frozenset[str]
    gap: float
    factors: Floats
    degrees: float
    unseen: float

    @property
    def units(self) -> int:
        """Return the number of items, or of clusters where items come in clusters."""
        return len(self.weights)

    @cached_property
    def seeds(self) -> tuple[Seeds, ...]:
        """Return the positions of each method's seeds; of a deterministic method none."""
        return tuple(
            () if name in self.deterministic else tuple(np.flatnonzero(~np.isnan(value[:, 0])).tolist())
            for name, value in zip(self.names, self.values, strict=True)
        )

    @cached_property
    def scores(self) -> Floats:
        """Return every score, shape (methods, seeds); NaN for a lost seed and for all but the first of a fixed row."""
        most = max(len(value) for value in self.values)
        table = np.full((len(self.names), most), np.nan)
        for row, value in zip(table, self.values, strict=True):
            row[: len(value)] = value.mean(axis=1)
        return table

    @cached_property
    def means(self) -> Floats:
        """Return each method's score, the mean over its seeds."""
        return np.asarray(np.nanmean(self.scores, axis=1))

    @property
    def item_covariance(self) -> Floats:
        """Return the covariance of the methods' scores that the items bring, shape (methods, methods)."""
        return self._over_all[0]

    def means_over(self, seeds: Seeds) -> list[float]:
        """Return each method's mean over some seeds; NaN where it lacks one of them."""
        if seeds not in self._cached_means:
            self._cached_means[seeds] = self.scores[:, list(seeds)].mean(axis=1).tolist()
        return self._cached_means[seeds]

    def item_variances(self, first: int, second: int, common: Seeds) -> tuple[float, float]:
        """Return the variance of a difference over the common seeds that items bring, and that of item x seed in it.

        The second is what the scores of single seeds show beyond their seed effects; it belongs to the seeds' part.
        Without common seeds both sides count with all of theirs.
        """
        if common or not (self.seeds[first] and self.seeds[second]):
            used = common or self.seeds[first] or self.seeds[second] or (0,)
            items, shared = self._common(used)
            total, noise = (float(m[first, first] + m[second, second] - 2 * m[first, second]) for m in (items, shared))
        else:
            items, shared = self._over_all
            total = float(items[first, first] + items[second, second] - 2 * items[first, second])
            noise = float(shared[first, first] + shared[second, second])
        return max(total - noise, 0.0) + self.unseen, max(noise, 0.0)

    def rise(self, first: int, second: int, common: Seeds) -> float:
        """Return how the variance that items bring to a difference grows with it; 0 for graded outcomes.

        It is the mean square of a unit's difference over its mean size, over the units, one wholly discordant unit
        added: gap / n where single runs answer n items, less where the units differ in part.
        """
        if not self.gap:
            return 0.0
        if common not in self._cached_rises:
            self._cached_rises[common] = self._rises(common)
        return float(self._cached_rises[common][first, second])

    def _rises(self, common: Seeds) -> Floats:
        """Return `rise` for every pair, shape (methods, methods), over the common seeds or else each method's own.

        NaN where a method lacks one of them.
        """
        rows = np.full((len(self.names), self.units), np.nan)
        for row, value, own in zip(rows, self.values, self.seeds, strict=True):
            used = (common if common and own else own) or (0,)
            if not own or {*used} <= {*own}:
                row[:] = value[list(used)].mean(axis=0)
        whole = self.gap**2 * float(self.weights @ self.weights) / self.units
        apart = [np.abs(rows - row) for row in rows]
        return (
            np.array(
                [
                    ((difference * difference).sum(axis=1) + whole) / (difference.sum(axis=1) + self.gap)
                    for difference in apart
                ]
            )
            / self.units
        )

    @cached_property
    def _cached_rises(self) -> dict[Seeds, Floats]:
        return {}

    @cached_property
    def _cached_means(self) -> dict[Seeds, list[float]]:
        return {}

    @cached_property
    def _over_all(self) -> tuple[Floats, Floats]:
        """Return the moments over all seeds of each method."""
        return self._moments([own or (0,) for own in self.seeds])

    @cached_property
    def _cached(self) -> dict[Seeds, tuple[Floats, Floats]]:
        return {}

    def _common(self, seeds: Seeds) -> tuple[Floats, Floats]:
        """Return the moments over these seeds alone; NaN where a method lacks one of them."""
        if seeds not in self._cached:
            self._cached[seeds] = self._moments([() if own and not {*seeds} <= {*own} else seeds for own in self.seeds])
        return self._cached[seeds]

    def _moments(self, used: Sequence[Seeds]) -> tuple[Floats, Floats]:
        """Return the covariances of scores over items, and the share of item x seed in them, over the given seeds."""
        units, most = self.units, max(len(seeds) for seeds in used)
        items = np.full((len(self.names), units), np.nan)
        shared = np.zeros((len(self.names), most, units))
        for index, (value, seeds) in enumerate(zip(self.values, used, strict=True)):
            if not seeds:
                continue
            rows = value[:1] if self.names[index] in self.deterministic else value[list(seeds)]
            centered = (rows - rows.mean(axis=1, keepdims=True) * self.weights) * self.factors
            items[index] = centered.mean(axis=0)
            if len(rows) > 1:
                shared[index, : len(rows)] = (centered - items[index]) / np.sqrt(len(rows) * (len(rows) - 1))
        spread = max(units - 1, 1) * units
        flat = shared.reshape(len(self.names), -1)
        return items @ items.T / spread, flat @ flat.T / spread


def checked(
    outcomes: Mapping[str, ArrayLike],
    weights: ArrayLike | None,
    clusters: ArrayLike | None,
    deterministic: Collection[str],
) -> Outcomes:
    """Check what a caller gave, and bring it to units.

    Raises:
        ValueError: fewer than two methods, other shapes than (seeds, items), different items, no finite seed, a
            partly missing seed, numbers too large or small to compute with, a deterministic row with several seeds or
            of an unknown name, or weights and clusters that do not fit.
    """
    if len(outcomes) < 2:
        raise ValueError(f"{len(outcomes)} methods: a comparison needs at least two")
    rows = {name: _rows(name, values) for name, values in outcomes.items()}
    counts = {name: row.shape[1] for name, row in rows.items()}
    if len({*counts.values()}) > 1:
        raise ValueError(f"items: {counts}; every method needs the same items in the same order")
    if unknown := sorted({str(name) for name in deterministic if name not in [*rows]}):  # it may be no key of a dict
        raise ValueError(f"deterministic: {', '.join(unknown)}: no such method; there are {', '.join(rows)}")
    if several := [name for name in deterministic if len(rows[name]) > 1]:
        raise ValueError(
            f"deterministic: {', '.join(sorted(several))} has several seeds; nothing was drawn means shape (1, items)"
        )
    items = next(iter(counts.values()))
    below = np.ones(items) if weights is None else _weights(weights, items)
    codes = np.arange(items) if clusters is None else cluster_codes(clusters, items)
    if not (counted := _counted([*rows.values()], below)).all():
        rows = {name: row[:, counted] for name, row in rows.items()}
        below, codes = below[counted], np.unique(codes[counted], return_inverse=True)[1]
        items = len(below)
    _check_unit([*rows.values()], below)
    gap = _gap([*rows.values()], below)
    sizes = np.ones(items)
    if clusters is not None:
        rows = {name: summed(row, codes) for name, row in rows.items()}
        below, sizes = summed(below[None], codes)[0], np.bincount(codes).astype(np.float64)
    scale = len(below) / below.sum()
    factors, degrees = residual_factors(sizes)
    return Outcomes(
        names=tuple(rows),
        values=tuple(row * scale for row in rows.values()),
        weights=below * scale,
        deterministic=frozenset(deterministic),
        gap=gap,
        factors=factors,
        degrees=degrees,
        unseen=gap**2 * float(sizes.mean()) / items**2,
    )


def _counted(rows: Sequence[Floats], below: Floats) -> np.ndarray:
    """Return which items are in a score: without weight and outcome an item shows nothing, and is no item of a sample.

    It would count among the degrees of freedom: of twelve items beside 400 without weight that is wrong in 13 % of the
    comparisons.
    """
    counted = below > 0
    if not counted.all():
        for row in rows:
            counted = counted | (np.nan_to_num(row) != 0).any(axis=0)
    return counted


def _check_unit(rows: Sequence[Floats], below: Floats) -> None:
    """Refuse numbers whose powers are zero or infinite in a computer.

    Raises:
        ValueError: outcomes, or outcomes over their weights, that are too large, or all too small and not all zero.
    """
    with np.errstate(over="ignore", divide="ignore"):
        least, mean, most = float(below[below > 0].min()), float(below.mean()), float(below.max())
        largest = max(float(np.nanmax(np.abs(row))) for row in rows)
        sizes = [size for size in (largest, largest / mean, mean, least / mean) if size]
    if not all(_SMALLEST <= size <= _LARGEST for size in sizes):
        weighing = "" if least == most == 1 else f", of items that weigh {least:.3g} to {most:.3g}"
        raise ValueError(
            f"outcomes of up to {largest:.3g}{weighing}: give them in a unit in which the largest and the weights lie "
            f"between {_SMALLEST:g} and {_LARGEST:g}"
        )


def _gap(rows: Sequence[Floats], below: Floats) -> float:
    """Return the distance of the two values of right-or-wrong outcomes; 0 for graded outcomes.

    They are 0 and 1, or any two others that some seed of a method shows both: -1 and 1, a share in percent, 1 and 0 for
    wrong and right. Values are per unit of weight.
    """
    if all(bool(((row == 0) | (row == below) | np.isnan(row)).all()) for row in rows):
        return 1.0
    counted = below > 0
    values = [row[~np.isnan(row[:, 0])][:, counted] / below[counted] for row in rows]
    low, high = min(float(value.min()) for value in values), max(float(value.max()) for value in values)
    if high - low <= (close := _SAME * max(abs(low), abs(high))):
        return 0.0
    two = all(bool(((value - low <= close) | (high - value <= close)).all()) for value in values)
    both = any(bool((np.ptp(value, axis=1) > (high - low) / 2).any()) for value in values)
    nothing = all(bool((np.nan_to_num(row[:, ~counted]) == 0).all()) for row in rows)
    return high - low if two and both and nothing else 0.0


def _rows(name: str, values: ArrayLike) -> Floats:
    array = _numbers(values, f"{name}: outcomes must be numbers in an array of shape (seeds, items)")
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name}: outcomes of shape {array.shape}; (seeds, items) is needed, at least one of each")
    lost = np.isnan(array)
    if (lost.any(axis=1) != lost.all(axis=1)).any() or np.isinf(array).any():
        raise ValueError(f"{name}: outcomes must be finite; a lost seed is a whole row of NaN")
    if lost.all():
        raise ValueError(f"{name}: every seed is lost; leave the method out")
    return array


def _weights(weights: ArrayLike, items: int) -> Floats:
    array = _numbers(weights, f"weights: {items} numbers are needed, one for each item")
    if array.shape != (items,) or not ((array >= 0) & (array < np.inf)).all() or not array.sum() > 0:
        raise ValueError(
            f"weights of shape {array.shape}: {items} non-negative, finite ones with a positive sum are needed"
        )
    return array


def _numbers(values: ArrayLike, needed: str) -> Floats:
    """Return an array of the numbers, NaN for those that are masked.

    Raises:
        ValueError: they are none; begins with what is needed.
    """
    try:
        given: np.ndarray = np.ma.asarray(values)
        if given.dtype.kind in _NOT_NUMBERS:
            raise ValueError(f"these are {_NOT_NUMBERS[given.dtype.kind]}")
        return np.asarray(np.ma.asarray(given, dtype=np.float64).filled(np.nan))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{needed}: {error}") from None
