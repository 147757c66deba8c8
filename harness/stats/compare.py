"""Compare methods on the same items over seeds, in families, with one test: the function that every claim rests on.

A difference has two noises. That of the items is estimated for every pair, with n - 1 degrees of freedom. That of the
seeds is estimated twice, since two or three seeds show little:

- *pooled*: the method x seed variance of all methods together, (k - 1)(S - 1) degrees of freedom;
- *own*: that of the two methods alone, in which the pool counts as at most one degree of freedom of each, so that a
  method whose seeds scatter more than the others' is not judged by theirs (Smyth, Statistical Applications in Genetics
  and Molecular Biology 3, 2004, has the moderated variance).

The unadjusted p-value and interval use the own variance. Those of a family need both: the pooled one at the level of a
simulated maximum over the family, and the own one adjusted for the comparisons that share a method.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.basis import Basis, Scope, basis_of
from harness.stats.estimate import Floats
from harness.stats.joint import Joint
from harness.stats.outcomes import Outcomes, checked
from harness.stats.seeds import SeedVariance, seed_variances
from harness.stats.simultaneous import Adjustment, adjustment

FamilyName = Literal["baseline", "best", "all"]
Verdict = Literal["better", "worse", "equivalent", "not significant", "no verdict"]

LEVEL, POWER = 0.05, 0.8
FAMILIES: tuple[FamilyName, ...] = ("baseline", "best", "all")
_UNSEEN = 3  # discordant items that a small sample may have missed, for a claim that two methods are alike
_WHOLE = (float("-inf"), float("inf"))


@dataclass(frozen=True)
class Pair:
    """One comparison of two methods; every number is that of `a` minus `b`, in the unit of the outcomes.

    Attributes:
        a: the first method.
        b: the second method.
        difference: score of `a` minus score of `b`, on the seeds that the comparison uses.
        interval: confidence interval of this comparison alone.
        adjusted_interval: simultaneous confidence interval, adjusted for the family; it excludes zero exactly where
            `adjusted_p` is below the level.
        p: two-sided p-value of this comparison alone.
        adjusted_p: p-value adjusted for the family.
        verdict: the statement about the methods at the family's level. "better" means better than `b`.
        why: why there is no verdict; "" where there is one.
        pooled: where the seed variance comes from.
        scope: "methods", or "runs" where one seed a side says nothing about the methods: interval and p-value then
            hold for these two runs.
        runs_differ: whether the two runs differ significantly at the family's level; None unless `scope` is "runs".
        equivalence_p: adjusted p-value of the test that the two differ by the margin or more; None without a margin.
        noninferiority_p: adjusted one-sided p-value of the test that `a` is worse than `b` by the margin or more.
        seeds: seeds (pairs of seeds where they are shared) that the comparison rests on; 0 without seeds.
        standard_error: from the pooled seed variance.
        item_variance: the share of the items in its square; the rest is that of the seeds.
        detectable: the true difference that this comparison detects with 80 % power at the family's level.
        unlike: those of the two whose seed variance is unlike that of the other methods.
    """

    a: str
    b: str
    difference: float
    interval: tuple[float, float]
    adjusted_interval: tuple[float, float]
    p: float
    adjusted_p: float
    verdict: Verdict
    why: str
    pooled: str
    scope: Scope
    runs_differ: bool | None
    equivalence_p: float | None
    noninferiority_p: float | None
    seeds: int
    standard_error: float
    item_variance: float
    detectable: float | None
    unlike: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Comparisons that are adjusted together.

    Attributes:
        name: "baseline", "best" or "all".
        pairs: each other method against the baseline, or against the best; or every pair in the order of the methods.
        comparisons: how many comparisons the adjustment covers. The best is chosen from the same outcomes, so that
            its family covers every pair that could have been chosen.
        single_level: the level of one comparison at which the family keeps to its own.
    """

    name: FamilyName
    pairs: tuple[Pair, ...]
    comparisons: int
    single_level: float


@dataclass(frozen=True)
class MethodComparison:
    """Result of comparing methods by their outcomes.

    Attributes:
        families: by name; a family without a comparison is absent.
        level: of each family.
        margin: the largest difference that counts as none; None where equivalence is not tested.
        scores: each method's mean over its seeds.
        best: the method with the best score; a deterministic baseline does not count.
        seed_deviation: standard deviation of the method x seed effect, pooled over the methods, single answers' noise
            left in; None without two seeds of any method.
        unlike: methods whose own seed deviation is more than twice the others' (one-sided F test, 5 % over all
            methods), with the ratio.
    """

    families: Mapping[FamilyName, Family]
    level: float
    margin: float | None
    scores: Mapping[str, float]
    best: str
    seed_deviation: float | None
    unlike: Mapping[str, float]

    def pair(self, a: str, b: str, family: FamilyName = "all") -> Pair:
        """Return the comparison of `a` with `b`.

        Raises:
            KeyError: the family has no such pair in this order.
        """
        for pair in self.families[family].pairs:
            if (pair.a, pair.b) == (a, b):
                return pair
        raise KeyError(f"{a} against {b} in the family {family!r}")


def compare_methods(
    outcomes: Mapping[str, ArrayLike],
    *,
    baseline: str | None = None,
    families: Sequence[FamilyName] = FAMILIES,
    level: float = LEVEL,
    margin: float | None = None,
    clusters: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    deterministic: Collection[str] = (),
    paired_seeds: bool = True,
    higher_is_better: bool = True,
) -> MethodComparison:
    """Compare methods that answered the same items, each with one or several seeds.

    Args:
        outcomes: by method, an array of shape (seeds, items): right or wrong, graded, or a loss. Items are in the same
            order everywhere. A lost seed is a whole row of NaN; a method with fewer seeds has fewer rows.
        baseline: the method that the family "baseline" compares the others with.
        families: "baseline" (each against the baseline; absent without one), "best" (each against the best, a
            deterministic baseline left out) and "all" (every pair). Each is adjusted on its own.
        level: of each family.
        margin: the largest difference that counts as none, for verdicts of equivalence.
        clusters: shape (items,), a label for each item where items are not independent (passage, subject).
        weights: shape (items,), the denominators of a ratio of sums, such as the answer tokens of a loss in nats.
        deterministic: methods in which nothing was drawn, such as the untouched base model: shape (1, items) and no
            seed noise, unlike a method that was run once.
        paired_seeds: whether row s is the same seed for every method; pairs then use the seeds that both have.
        higher_is_better: False for a loss.

    Returns:
        The families with their pairs. Two different single seeds, one seed a side and two seeds without another
        method to borrow the variance from make no verdict, and the pair says why.

    Raises:
        ValueError: arguments that do not fit, see the message.
    """
    _check(outcomes, baseline, families, level, margin)
    data = checked(outcomes, weights, clusters, deterministic)
    fixed = np.array([name in data.deterministic for name in data.names])
    variance = seed_variances(data.scores, fixed, paired=paired_seeds)
    comparer = _Comparer(data, variance, level, margin, 1.0 if higher_is_better else -1.0)
    candidates = [i for i, name in enumerate(data.names) if name != baseline or name not in data.deterministic]
    best = max(candidates, key=lambda i: comparer.sign * data.means[i])
    everyone = [*range(len(data.names))]
    first = None if baseline is None else data.names.index(baseline)
    wanted: dict[FamilyName, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {
        "best": ([(i, best) for i in candidates if i != best], [*combinations(candidates, 2)]),
        "all": ([*combinations(everyone, 2)], [*combinations(everyone, 2)]),
    }
    if first is not None:
        against = [(i, first) for i in everyone if i != first]
        wanted["baseline"] = (against, against)
    pooled = variance.degrees > 0
    return MethodComparison(
        families={name: comparer.family(name, *wanted[name]) for name in families if wanted.get(name, ([], []))[0]},
        level=level,
        margin=margin,
        scores=dict(zip(data.names, data.means.tolist(), strict=True)),
        best=data.names[best],
        seed_deviation=variance.pooled**0.5 if pooled else None,
        unlike={data.names[i]: ratio for i, ratio in variance.unlike().items()},
    )


def _check(
    outcomes: Mapping[str, ArrayLike],
    baseline: str | None,
    families: Sequence[FamilyName],
    level: float,
    margin: float | None,
) -> None:
    if baseline is not None and baseline not in outcomes:
        raise ValueError(f"baseline={baseline!r}: no such method; there are {', '.join(outcomes)}")
    if unknown := [name for name in families if name not in FAMILIES]:
        raise ValueError(f"families: {', '.join(map(str, unknown))}: no such family; there are {', '.join(FAMILIES)}")
    if not 0 < level < 0.5:
        raise ValueError(f"level={level:g}: it lies between 0 and 0.5, such as 0.05")
    if margin is not None and not margin > 0:
        raise ValueError(f"margin={margin:g}: an equivalence margin must be positive")


class _Comparer:
    """The pairs of one set of outcomes."""

    def __init__(self, data: Outcomes, variance: SeedVariance, level: float, margin: float | None, sign: float) -> None:
        self.data, self.variance, self.level, self.margin, self.sign = data, variance, level, margin, sign
        self.unlike = variance.unlike()
        self.bases: dict[tuple[int, int], Basis] = {}
        self.adjustments: dict[tuple[tuple[tuple[int, int], ...], float, float], Adjustment] = {}

    def family(
        self, name: FamilyName, members: Sequence[tuple[int, int]], covered: Sequence[tuple[int, int]]
    ) -> Family:
        """Return a family's pairs; `covered` are all the comparisons that its adjustment is for."""
        bases = [self._basis(*pair) for pair in members]
        adjusted = self._adjustment(bases, tuple(covered))
        joint = Joint(bases, self.data.units, adjusted, _sharing(covered, self.data))
        pairs = self._pairs(members, joint)
        return Family(name, tuple(pairs), len(covered), adjusted.single_level(self.level))

    def _pairs(self, members: Sequence[tuple[int, int]], joint: Joint) -> Iterator[Pair]:
        values = np.array([basis.difference for basis in joint.bases])
        columns = [
            *joint.p_values(np.abs(values)),
            *joint.half_widths(self.level),
            joint.detectable(self.level, POWER),
            joint.pooled.standard_errors,
            *self._margin_p(values, joint),
        ]
        for pair, basis, *numbers in zip(members, joint.bases, *(column.tolist() for column in columns), strict=True):
            yield self._pair(pair, basis, *numbers)

    def _pair(self, pair: tuple[int, int], basis: Basis, *numbers: float) -> Pair:
        p, p_adjusted, half, half_adjusted, detectable, error, p_alike, p_not_worse = numbers
        measured, stated = basis.measured, basis.measured and not basis.why
        p, p_adjusted = (p, p_adjusted) if measured else (1.0, 1.0)
        p_alike, p_not_worse = (p_alike, p_not_worse) if stated else (1.0, 1.0)
        ends = [(basis.difference - reach, basis.difference + reach) for reach in (half, half_adjusted)]
        a, b = (self.data.names[method] for method in pair)
        return Pair(
            a=a,
            b=b,
            difference=basis.difference,
            interval=ends[0] if measured else _WHOLE,
            adjusted_interval=ends[1] if measured else _WHOLE,
            p=p,
            adjusted_p=p_adjusted,
            verdict=self._verdict(basis, p_adjusted, p_alike),
            why=basis.why,
            pooled=basis.source,
            scope=basis.scope,
            runs_differ=p_adjusted < self.level if basis.scope == "runs" else None,
            equivalence_p=None if self.margin is None else p_alike,
            noninferiority_p=None if self.margin is None else p_not_worse,
            seeds=basis.seeds,
            standard_error=error,
            item_variance=basis.items,
            detectable=detectable if measured else None,
            unlike=tuple(self.data.names[method] for method in pair if method in self.unlike),
        )

    def _verdict(self, basis: Basis, p: float, p_alike: float) -> Verdict:
        if basis.why:
            return "no verdict"
        if p < self.level:
            return "better" if self.sign * basis.difference > 0 else "worse"
        return "equivalent" if p_alike < self.level else "not significant"

    def _margin_p(self, values: Floats, joint: Joint) -> tuple[Floats, Floats]:
        """Return the adjusted p-values of a difference of the margin or more, either way and to the worse side.

        A few items without disagreement show no spread: up to 3 / n of all items could still disagree. Source: Hanley
        and Lippman-Hand, JAMA 249, 1983.
        """
        if self.margin is None:
            return np.ones(len(values)), np.ones(len(values))
        wider = replace(joint, unseen=_UNSEEN * self.data.unseen)
        p = []
        for room in (self.margin - np.abs(values), self.margin + self.sign * values):
            adjusted = wider.p_values(np.maximum(room, 0.0))[1]
            p.append(np.where(room > 0, adjusted, 1.0))
        return p[0], p[1] / 2  # the second is one-sided

    def _adjustment(self, bases: Sequence[Basis], covered: tuple[tuple[int, int], ...]) -> Adjustment:
        seeded = [(basis.items, *basis.pooled) for basis in bases if basis.pooled is not None and basis.pooled[1] > 0]
        share = float(np.median([seed / (seed + items) for items, seed, _ in seeded if seed + items > 0] or [0.0]))
        degrees = float(np.median([degrees for _, _, degrees in seeded] or [0.0]))
        if (covered, share, degrees) not in self.adjustments:
            self.adjustments[covered, share, degrees] = adjustment(self._errors(), np.array(covered), share, degrees)
        return self.adjustments[covered, share, degrees]

    def _errors(self) -> np.ndarray:
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

    def _basis(self, a: int, b: int) -> Basis:
        if (a, b) not in self.bases:
            self.bases[a, b] = basis_of(self.data, self.variance, a, b)
        return self.bases[a, b]


def _sharing(covered: Sequence[tuple[int, int]], data: Outcomes) -> int:
    """Return the adjustment for the pairs' own variances; 1 where no method has two comparisons.

    It is the number of comparisons that share a method, plus two, since a moderated variance is still too small where a
    method is unlike the others.
    """
    shared = np.bincount(np.array(covered).ravel(), minlength=len(data.names))
    most = max(
        (int(n) for n, name in zip(shared, data.names, strict=True) if name not in data.deterministic), default=0
    )
    return most + 2 if most > 1 else 1
