"""Results of comparing methods: pairs, the families that they are adjusted in, and all families together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.stats.basis import Scope

FamilyName = Literal["baseline", "best", "all"]
Verdict = Literal["better", "worse", "equivalent", "not significant", "no verdict"]


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
        adjusted_p: p-value adjusted for the family, no less than `p`. It rests on the pooled seed variance too, so that
            the order of a family's p-values need not be that of its adjusted ones.
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
        detectable: the true difference that this comparison detects with 80 % power at the family's level, with the
            variances measured here; that of right-or-wrong items is no less than this difference takes. None where
            nothing was measured, and where no difference of right-or-wrong scores is large enough.
        unlike: those of the two whose seeds scatter more than the other methods', so that their own variance is used.
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
        unlike: methods whose seeds scatter more than the others' (one-sided F test, 5 % for each), with the ratio
            of standard deviations. Their comparisons use their own seed variance and not the pool.
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
