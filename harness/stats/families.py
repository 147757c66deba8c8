"""The tests of all families of one comparison: bases and p-values once for every pair, adjusted in each family."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.stats.basis import Basis, basis_of
from harness.stats.estimate import Floats
from harness.stats.joint import FamilyTest, Joint
from harness.stats.outcomes import Outcomes
from harness.stats.pairs import Family, FamilyName, Pair, Verdict
from harness.stats.seeds import SeedVariance
from harness.stats.simultaneous import MOST_SIMULATED, Adjustment, adjustment

POWER = 0.8
_WHOLE = (float("-inf"), float("inf"))

Places = tuple[int, int]  # positions of the two methods of a pair


class Members(NamedTuple):
    """The comparisons of a family, and all those that its adjustment is for."""

    pairs: Sequence[Places]
    covered: Sequence[Places]


@dataclass(frozen=True)
class Settings:
    """Level of a family, equivalence margin, and the sign of a better score: 1 where higher is better, else -1."""

    level: float
    margin: float | None
    sign: float


class _Numbers(NamedTuple):
    """The numbers of one pair, as tested in a family."""

    p: float
    adjusted_p: float
    low: float
    high: float
    adjusted_low: float
    adjusted_high: float
    detectable: float
    standard_error: float
    equivalence_p: float
    noninferiority_p: float


def tested(
    data: Outcomes, variance: SeedVariance, wanted: Mapping[FamilyName, Members], settings: Settings
) -> dict[FamilyName, Family]:
    """Return the families with their verdicts."""
    pairs = [*dict.fromkeys(pair for members in wanted.values() for pair in members.pairs)]
    comparer = _Comparer(data, variance, settings, pairs)
    return {name: comparer.family(name, members) for name, members in wanted.items()}


class _Comparer:
    """The pairs of one set of outcomes, each tested once for all families."""

    def __init__(self, data: Outcomes, variance: SeedVariance, settings: Settings, pairs: Sequence[Places]) -> None:
        self.data, self.variance, self.settings = data, variance, settings
        self.unlike = variance.unlike()
        self.places = {pair: place for place, pair in enumerate(pairs)}
        self.bases = [basis_of(data, variance, *pair) for pair in pairs]
        self._based = {_sorted(pair): basis for pair, basis in zip(pairs, self.bases, strict=True)}
        self.joint = Joint(self.bases, data.units, data.degrees)
        self.p = self.joint.p_values(np.abs(self.joint.differences))
        self.alone = self.joint.intervals(settings.level)
        self.room = self._room(self.joint.differences)
        self.room_p = [self.joint.p_values(np.maximum(room, 0.0), settings.margin or 0.0) for room in self.room]
        self.errors = self._errors()
        self.most = data.gap or float("inf")  # shares of right answers differ by at most 1

    def family(self, name: FamilyName, members: Members) -> Family:
        """Return a family's pairs with their verdicts."""
        places = np.array([self.places[pair] for pair in members.pairs])
        adjusted = self._adjustment(members.covered)
        test = FamilyTest(self.joint, places, adjusted, _sharing(members, self.data, self.unlike))
        pairs = [self._pair(pair, numbers) for pair, numbers in zip(members.pairs, self._numbers(test), strict=True)]
        return Family(name, tuple(pairs), len(members.covered), adjusted.single_level(self.settings.level))

    def _numbers(self, test: FamilyTest) -> Iterator[_Numbers]:
        level = self.settings.level
        alone, adjusted = self.alone[:, test.places], test.intervals(level)
        columns = [
            *test.p_values(self.p),
            *alone,
            np.minimum(adjusted[0], alone[0]),  # rounding alone would make it the narrower one
            np.maximum(adjusted[1], alone[1]),
            test.detectable(level, POWER),
            test.standard_errors,
            *self._margin_p(test),
        ]
        return map(_Numbers, *(column.tolist() for column in columns))

    def _pair(self, pair: Places, numbers: _Numbers) -> Pair:
        basis = self.bases[self.places[pair]]
        measured, stated = basis.measured, basis.measured and not basis.why
        adjusted_p = numbers.adjusted_p if measured else 1.0
        alike = numbers.equivalence_p if stated else 1.0
        margin = self.settings.margin is not None
        a, b = (self.data.names[method] for method in pair)
        return Pair(
            a=a,
            b=b,
            difference=basis.difference,
            interval=self._interval(basis, numbers.low, numbers.high),
            adjusted_interval=self._interval(basis, numbers.adjusted_low, numbers.adjusted_high),
            p=numbers.p if measured else 1.0,
            adjusted_p=adjusted_p,
            verdict=self._verdict(basis, adjusted_p, alike),
            why=basis.why,
            pooled=basis.source,
            scope=basis.scope,
            runs_differ=adjusted_p < self.settings.level if basis.scope == "runs" else None,
            equivalence_p=alike if margin else None,
            noninferiority_p=(numbers.noninferiority_p if stated else 1.0) if margin else None,
            seeds=basis.seeds,
            standard_error=numbers.standard_error,
            item_variance=basis.items,
            detectable=numbers.detectable if measured and numbers.detectable <= self.most else None,
            unlike=tuple(self.data.names[method] for method in pair if method in self.unlike),
        )

    def _interval(self, basis: Basis, low: float, high: float) -> tuple[float, float]:
        if not basis.measured:
            return _WHOLE
        return max(low, -self.most), min(high, self.most)

    def _verdict(self, basis: Basis, p: float, p_alike: float) -> Verdict:
        if basis.why:
            return "no verdict"
        if p < self.settings.level:
            return "better" if self.settings.sign * basis.difference > 0 else "worse"
        return "equivalent" if p_alike < self.settings.level else "not significant"

    def _room(self, differences: Floats) -> list[Floats]:
        """Return the distances to the margin, the nearer end and the worse end; nothing without a margin."""
        margin = self.settings.margin
        if margin is None:
            return []
        return [margin - np.abs(differences), margin + self.settings.sign * differences]

    def _margin_p(self, test: FamilyTest) -> list[Floats]:
        """Return the adjusted p-values of a difference of the margin or more, either way and to the worse side.

        A few items without disagreement show no spread: the variance is the one that a difference of the margin has.
        """
        if not self.room:
            return [np.ones(len(test.places))] * 2
        p = [
            np.where(room[test.places] > 0, test.p_values(both)[1], 1.0)
            for room, both in zip(self.room, self.room_p, strict=True)
        ]
        return [p[0], p[1] / 2]  # the second is one-sided

    def _adjustment(self, covered: Sequence[Places]) -> Adjustment:
        """Return the adjustment for all covered comparisons, the same whatever is asked for and in which order."""
        if len(covered) > MOST_SIMULATED:
            return adjustment(self.errors, np.array(covered), 0.0, 0.0)
        pairs = sorted(map(_sorted, covered))
        bases = [self._based.get(pair) or basis_of(self.data, self.variance, *pair) for pair in pairs]
        seeded = [(basis.items, *basis.pooled) for basis in bases if basis.pooled is not None and basis.pooled[1] > 0]
        share = float(np.median([seed / (seed + items) for items, seed, _ in seeded if seed + items > 0] or [0.0]))
        degrees = float(np.median([degrees for _, _, degrees in seeded] or [0.0]))
        return adjustment(self.errors, np.array(pairs), share, degrees)

    def _errors(self) -> Floats:
        """Return the covariance of the errors of the methods' scores, items and seeds."""
        counts = self.variance.counts
        covariance = self.data.item_covariance.copy()
        drawn = counts > 0
        if self.variance.degrees > 0:
            covariance[drawn, drawn] += self.variance.pooled / counts[drawn]
            if self.variance.paired:
                block = max(self.variance.total - self.variance.pooled, 0.0) / counts[drawn].max()
                covariance[np.ix_(drawn, drawn)] += block
        return covariance


def _sorted(pair: Places) -> Places:
    return (min(pair), max(pair))


def _sharing(members: Members, data: Outcomes, unlike: Collection[int]) -> Floats:
    """Return the adjustment of each pair for its own variance.

    It is the number of comparisons that share a method, plus two, since a moderated variance is still too small where a
    method is unlike the others. Where no method has two comparisons it is one, and two for a method that is unlike the
    others: its own variance then is the only guard against it, beside the pool's against the rest of the family.
    """
    shared = np.bincount(np.array(members.covered).ravel(), minlength=len(data.names))
    seeded = [int(n) for n, name in zip(shared, data.names, strict=True) if name not in data.deterministic]
    most = max(seeded, default=0)
    if most > 1:
        return np.full(len(members.pairs), most + 2.0)
    several = len(members.covered) > 1
    return np.array([2.0 if several and not set(pair).isdisjoint(unlike) else 1.0 for pair in members.pairs])
