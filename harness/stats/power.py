"""What a comparison can see: before the runs from assumptions, after them from what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.stats.estimate import Part

LEVEL, POWER = 0.05, 0.8
_DRAWS = 20_000
_MOST_SEEDS = 1000


@dataclass(frozen=True)
class Plan:
    """Two methods with the same seeds on the same items, and how noisy they are assumed to be.

    The difference of one item with one seed is effect + seed + item + noise; the variances of the three are below.
    """

    items: int
    seeds: int
    disagreement: float  # share of the items that one run of each method answers differently
    rerun_disagreement: float  # share of the items that two seeds of one method answer differently
    seed_deviation: float  # standard deviation of a method's score between seeds, beyond what the items explain

    def __post_init__(self) -> None:
        if self.items < 2 or self.seeds < 1:
            raise ValueError(f"items={self.items}, seeds={self.seeds}: at least two items and one seed are needed")
        if not 0 <= self.rerun_disagreement <= self.disagreement <= 1 or self.disagreement == 0:
            raise ValueError(
                f"disagreement={self.disagreement:g}, rerun_disagreement={self.rerun_disagreement:g}: the first lies "
                "between 0 and 1, the second between 0 and the first, since two methods differ at least as much as "
                "two seeds of one do"
            )
        if self.seed_deviation < 0:
            raise ValueError(f"seed_deviation={self.seed_deviation:g}: a standard deviation cannot be negative")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The variance of the mean difference: items, and seeds where there are several to see it."""
        item = (self.disagreement - self.rerun_disagreement + self.rerun_disagreement / self.seeds) / self.items
        seed = 2 * self.seed_deviation**2 / self.seeds
        found = (Part(item, self.items - 1),)
        return found if self.seeds == 1 else (*found, Part(seed, self.seeds - 1))


def power(plan: Plan, effect: float, level: float = LEVEL) -> float:
    """The probability that the test calls a true difference of `effect` one, two-sided at the level.

    With one seed a side it is the exact McNemar test, computed; it sees differences between two trained models, and
    nothing of the noise between seeds. With several it is the t test over items and seeds, by 20,000 seeded draws of
    its variances.
    """
    return _power_of_mcnemar(plan, effect, level) if plan.seeds == 1 else _power_of_t(plan, effect, level)


def smallest_effect(plan: Plan, wanted: float = POWER, level: float = LEVEL) -> float:
    """The smallest true difference that is seen with the wanted probability, to three digits.

    Raises:
        ValueError: not even the largest difference that this disagreement allows would be seen.
    """
    most = plan.disagreement if plan.seeds == 1 else 1.0
    if power(plan, most, level) < wanted:
        raise ValueError(
            f"{plan.items} items and {plan.seeds} seeds see no difference with probability {wanted:g}: take more"
        )
    low, high = 0.0, most
    while high - low > 5e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(plan, middle, level) >= wanted else (middle, high)
    return high


def seeds_needed(plan: Plan, effect: float, wanted: float = POWER, level: float = LEVEL) -> int | None:
    """The fewest seeds that see the effect with the wanted probability; None where the items alone hide it."""
    seeds = 2
    if power(replace(plan, seeds=_MOST_SEEDS), effect, level) < wanted:
        return None
    while power(replace(plan, seeds=seeds), effect, level) < wanted:
        seeds *= 2
    low, high = seeds // 2, seeds  # one seed is another test, which sees no noise between seeds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(replace(plan, seeds=middle), effect, level) >= wanted else (middle, high)
    return high


def detectable(parts: Sequence[Part], level: float = LEVEL, wanted: float = POWER) -> float | None:
    """The true difference that a measured noise lets be seen with the wanted probability; None where there is none."""
    from scipy.stats import t

    if not any(part.variance > 0 for part in parts):
        return None
    reach = [(t.isf(level / 2, df) + t.isf(1 - wanted, df)) ** 2 * variance for variance, df in parts]
    return math.sqrt(sum(reach))


def _power_of_t(plan: Plan, effect: float, level: float) -> float:
    """Student's quantile of each noise, with variances as they would be estimated."""
    from scipy.stats import norm, t

    random = np.random.default_rng(1)
    items, seeds = plan.parts
    noise = plan.rerun_disagreement / (plan.items * plan.seeds)
    item = items.variance * random.chisquare(items.degrees_of_freedom, _DRAWS) / items.degrees_of_freedom
    between = (seeds.variance + noise) * random.chisquare(seeds.degrees_of_freedom, _DRAWS) / seeds.degrees_of_freedom
    seed = np.maximum(between - noise, 0)
    reach = np.sqrt(
        item * t.isf(level / 2, items.degrees_of_freedom) ** 2 + seed * t.isf(level / 2, seeds.degrees_of_freedom) ** 2
    )
    error = math.sqrt(items.variance + seeds.variance)
    return float(np.mean(norm.sf((reach - effect) / error) + norm.cdf((-reach - effect) / error)))


def _power_of_mcnemar(plan: Plan, effect: float, level: float) -> float:
    """Over every likely number of discordant pairs, the chance of a count that the exact test rejects."""
    from scipy.stats import binom

    rate = plan.disagreement
    share = (1 + min(abs(effect) / rate, 1.0)) / 2  # of the discordant pairs, those that the better method wins
    low, high = (int(found) for found in binom.interval(1 - 1e-9, plan.items, rate))
    counts = np.arange(max(low, 1), high + 1)
    critical = binom.ppf(level / 2, counts, 0.5) - 1  # the largest count with a tail of at most level / 2
    critical += binom.cdf(critical + 1, counts, 0.5) <= level / 2
    rejected = binom.cdf(critical, counts, share) + binom.sf(counts - critical - 1, counts, share)
    return float(np.sum(binom.pmf(counts, plan.items, rate) * rejected))
