"""Detectable differences: before the runs from assumptions, after them from measured variances, by the test in use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import Floats
from harness.stats.outcomes import checked
from harness.stats.reach import Noise
from harness.stats.seeds import moderated, own_variances, seed_variances, welch
from harness.stats.simultaneous import adjustment

if TYPE_CHECKING:
    from harness.stats.pairs import Pair

LEVEL, POWER = 0.05, 0.8
_DRAWS = 4000
_MOST_SEEDS = 1000
_MOST_METHODS = 40  # simulated at most; the adjustment counts all of them


@dataclass(frozen=True)
class Plan:
    """Methods with the same seeds on the same items, and how noisy they are assumed to be.

    Attributes:
        items: items of the task.
        seeds: seeds of each method.
        disagreement: share of the items that one run of each of two methods answers differently; for graded outcomes
            the variance of that difference per item. A difference of right-or-wrong scores takes at least as many
            items, and has their noise.
        rerun_disagreement: the same of two seeds of one method.
        seed_deviation: standard deviation of a method's score between seeds, beyond what the items explain.
        methods: methods that are compared with each other.
        right_or_wrong: False for graded outcomes and losses.
    """

    items: int
    seeds: int
    disagreement: float
    rerun_disagreement: float
    seed_deviation: float
    methods: int = 2
    right_or_wrong: bool = True

    def __post_init__(self) -> None:
        if self.items < 2 or self.seeds < 1 or self.methods < 2:
            raise ValueError(
                f"items={self.items}, seeds={self.seeds}, methods={self.methods}: at least two items, one seed and "
                "two methods are needed"
            )
        if not 0 <= self.rerun_disagreement <= self.disagreement < math.inf or self.disagreement == 0:
            raise ValueError(
                f"disagreement={self.disagreement:g}, rerun_disagreement={self.rerun_disagreement:g}: the first is "
                "positive, the second lies between 0 and the first, since two methods differ at least as much as two "
                "seeds of one do"
            )
        if self.right_or_wrong and self.disagreement > 1:
            raise ValueError(f"disagreement={self.disagreement:g}: a share of the items is at most 1")
        if not 0 <= self.seed_deviation < math.inf:
            raise ValueError(f"seed_deviation={self.seed_deviation:g}: a standard deviation is finite and not negative")

    @property
    def item_variance(self) -> float:
        """Return the variance of a difference that the items bring."""
        single = self.rerun_disagreement if self.seeds > 1 else 0.0  # with one seed it is part of the items' noise
        return (self.disagreement - single) / self.items

    @property
    def score_variance(self) -> float:
        """Return the variance over seeds of one method's score, single answers' noise included."""
        return self.seed_deviation**2 + self.rerun_disagreement / (2 * self.items)

    @property
    def standard_error(self) -> float:
        """Return the standard error of a difference; of two single runs without the seeds."""
        return math.sqrt(self.item_variance + (2 * self.score_variance / self.seeds if self.seeds > 1 else 0.0))

    @property
    def verdicts(self) -> bool:
        """Return whether the design allows a verdict at all: one run a side is compared as two runs."""
        return self.seeds != 2 or self.methods > 2


def power(plan: Plan, effect: float, level: float = LEVEL, *, adjusted: bool = False) -> float:
    """Return the probability that a true difference of `effect` between two methods is called significant.

    It is the test of `compare_methods`, with its variances drawn 4,000 times: one comparison, or with `adjusted` one
    of all pairs of the plan's methods. Where the effect of right-or-wrong scores takes more items than the methods were
    assumed to disagree on, its own noise counts. With one seed it is about two runs, and sees nothing of seeds.
    """
    from scipy.special import ndtr

    if not plan.verdicts:
        return 0.0
    if plan.right_or_wrong and (least := abs(effect) - effect**2) > plan.disagreement:
        plan = replace(plan, disagreement=least)
    half, error = _half_widths(plan, level, adjusted), plan.standard_error
    return float(np.mean(ndtr((effect - half) / error) + ndtr((-effect - half) / error)))


def smallest_effect(plan: Plan, wanted: float = POWER, level: float = LEVEL, *, adjusted: bool = False) -> float:
    """Return the smallest true difference that is detected with the wanted probability, to three digits.

    Raises:
        ValueError: the design makes no verdict.
    """
    if not plan.verdicts:
        raise ValueError("two seeds of two methods make no verdict: take three seeds, or a third method")
    low, high = 0.0, plan.standard_error
    while power(plan, high, level, adjusted=adjusted) < wanted:
        low, high = high, 2 * high
    while high - low > 5e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(plan, middle, level, adjusted=adjusted) >= wanted else (middle, high)
    return high


def seeds_needed(
    plan: Plan, effect: float, wanted: float = POWER, level: float = LEVEL, *, adjusted: bool = False
) -> int | None:
    """Return the fewest seeds that detect the effect with the wanted probability; None where the items hide it."""

    def seen(seeds: int) -> bool:
        return power(replace(plan, seeds=seeds), effect, level, adjusted=adjusted) >= wanted

    if not seen(_MOST_SEEDS):
        return None
    low, high = 1, 2  # one seed is another statement, about two runs
    while not seen(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def needed_for_equivalence(
    pair: Pair, margin: float, items: int, wanted: float = POWER
) -> tuple[int | None, int | None]:
    """Return how many items, and how many seeds, would show two equal methods to be equivalent.

    From the variances of a measured comparison, each with the other number as it is; None where that is not enough.

    Args:
        pair: a measured comparison.
        margin: the largest difference that counts as none.
        items: items that it rests on.
        wanted: the probability.
    """
    from scipy.special import ndtri

    if not pair.standard_error > 0:
        return None, None
    half = (pair.adjusted_interval[1] - pair.adjusted_interval[0]) / 2
    reach = half / pair.standard_error + float(ndtri((1 + wanted) / 2))
    most = (margin / reach) ** 2
    seeds = max(pair.standard_error**2 - pair.item_variance, 0.0)
    more_items = math.ceil(items * pair.item_variance / (most - seeds)) if most > seeds else None
    more_seeds = math.ceil(pair.seeds * seeds / (most - pair.item_variance)) if most > pair.item_variance else None
    return more_items, more_seeds if pair.seeds else None


@lru_cache(maxsize=256)
def _half_widths(plan: Plan, level: float, adjusted: bool) -> Floats:
    """Return drawn half-widths of the interval that the test inverts, shape (draws,)."""
    degrees = (plan.methods - 1) * (plan.seeds - 1)
    single, sharing = level, 1
    if adjusted and plan.methods > 2:
        single, sharing = _family_level(plan, level, degrees), plan.methods + 1
    items = np.full(_DRAWS if plan.seeds > 1 else 1, plan.item_variance)
    free = np.full_like(items, plan.items - 1.0)
    if plan.seeds == 1:
        return _noise(plan, items[None], free[None]).half_widths(single)
    floor = plan.rerun_disagreement / (plan.items * plan.seeds)
    methods = min(plan.methods, _MOST_METHODS)
    random = np.random.default_rng(1)
    table = random.standard_normal((_DRAWS, methods, plan.seeds)) * math.sqrt(plan.score_variance)
    table -= table.mean(axis=1, keepdims=True)
    spread = table.var(axis=2, ddof=1)
    together = spread.sum(axis=1) / (methods - 1)
    pooled = _noise(
        plan,
        np.stack([items, np.maximum(2 * together / plan.seeds, floor)]),
        np.stack([free, np.full_like(items, degrees)]),
    )
    if plan.methods == 2:
        return pooled.half_widths(single)
    made = moderated(own_variances(spread, together), np.full(methods, plan.seeds - 1.0), together, degrees)
    own, own_free = made.variances[:, :2], made.degrees[:, :2]
    alone = _noise(
        plan,
        np.stack([items, np.maximum(own.sum(axis=1) / plan.seeds, floor)]),
        np.stack([free, np.minimum(welch(own, own_free), degrees)]),
    )
    half = alone.half_widths(level / sharing)
    return np.maximum(pooled.half_widths(single), half) if adjusted else half


def _noise(plan: Plan, variances: Floats, degrees: Floats) -> Noise:
    return Noise(variances, degrees, np.zeros(variances.shape[1]), plan.items)


def _family_level(plan: Plan, level: float, degrees: float) -> float:
    """Return the level of one comparison where all pairs of the plan's methods are a family."""
    seeds = 2 * plan.score_variance / plan.seeds if plan.seeds > 1 else 0.0
    pairs = np.array([(i, j) for i in range(plan.methods) for j in range(i + 1, plan.methods)])
    share = seeds / (seeds + plan.item_variance)
    return adjustment(np.eye(plan.methods), pairs, share, degrees).single_level(level)


@dataclass(frozen=True)
class MeasuredNoise:
    """The noise that finished runs show, as a `Plan` takes it; None where one seed shows nothing of it.

    Attributes:
        disagreement: as in `Plan`.
        rerun_disagreement: as in `Plan`.
        seed_deviation: the estimate; zero where it was cut, since the scores varied less than single answers do.
        seed_deviation_limit: upper 80 % limit of the same, the number to plan with: few seeds show little of their
            variance, and an estimate of zero is not an absence of noise.
        degrees: degrees of freedom of the estimate; 0 with one seed.
        right_or_wrong: whether every outcome is 0 or 1, so that the disagreements are shares of the items.
    """

    disagreement: float
    rerun_disagreement: float | None
    seed_deviation: float | None
    seed_deviation_limit: float | None
    degrees: float
    right_or_wrong: bool


def measured_noise(
    outcomes: Mapping[str, ArrayLike], weights: ArrayLike | None = None, clusters: ArrayLike | None = None
) -> MeasuredNoise:
    """Return the noise of methods on the same items, from the comparison of every pair.

    Source of planning with an upper limit: Browne, On the use of a pilot sample for sample size determination,
    Statistics in Medicine 14, 1995.

    Args:
        outcomes: by method, shape (seeds, items), as in `compare_methods`.
        weights: as in `compare_methods`.
        clusters: as in `compare_methods`; disagreements then are those of independent items with the same noise.

    Raises:
        ValueError: no two methods share a seed, or as `compare_methods`.
    """
    data = checked(outcomes, weights, clusters, ())
    count = np.asarray(next(iter(outcomes.values()))).shape[1]
    variance = seed_variances(data.scores, np.zeros(len(data.names), dtype=bool), paired=True)
    runs, single = [], []  # of each pair: variance per item of the difference of two runs, and of two seeds
    for a in range(len(data.names)):
        for b in range(a):
            common = tuple(seed for seed in data.seeds[a] if seed in data.seeds[b])
            if common:
                brought, noise = data.item_variances(a, b, common)
                runs.append((brought - data.unseen + noise * len(common)) * count)
                if len(common) > 1:  # a single seed leaves its noise among that of the items
                    single.append(noise * count * len(common))
    if not runs:
        raise ValueError("no two methods share a seed: their noise cannot be measured")
    disagreement, right_or_wrong = float(np.mean(runs)), data.gap == 1.0
    if variance.degrees <= 0 or not single:
        return MeasuredNoise(disagreement, None, None, None, 0.0, right_or_wrong)
    rerun = min(float(np.mean(single)), disagreement)
    answers = rerun / (2 * count)
    return MeasuredNoise(
        disagreement=disagreement,
        rerun_disagreement=rerun,
        seed_deviation=max(variance.pooled - answers, 0.0) ** 0.5,
        seed_deviation_limit=_upper_limit(variance.pooled, variance.degrees, answers) ** 0.5,
        degrees=variance.degrees,
        right_or_wrong=right_or_wrong,
    )


def _upper_limit(total: float, degrees: float, answers: float, level: float = 0.8) -> float:
    """Return the upper limit of a variance beyond that of answers, from an estimate of their sum.

    It is the quantile of the fiducial distribution of the sum, given that it is no less than the answers' part: never
    zero where anything varies, and the usual limit where the estimate is clear of zero.
    """
    from scipy.special import chdtr, chdtri

    if answers <= 0:
        return total * degrees / float(chdtri(degrees, level))
    total = max(total, 1e-9 * answers)
    possible = float(chdtr(degrees, total * degrees / answers))
    return max(total * degrees / float(chdtri(degrees, 1 - (1 - level) * possible)) - answers, 0.0)
