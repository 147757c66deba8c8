"""Compare methods on the same items over seeds, in families, with one test: the function that every claim rests on.

A difference has two noises. That of the items is estimated for every pair, with n - 1 degrees of freedom, fewer where
clusters of items are unequal (see `harness.stats.uneven`). That of the seeds is estimated twice, since two or three
seeds show little:

- *pooled*: the method x seed variance of all methods together, (k - 1)(S - 1) degrees of freedom;
- *own*: that of the two methods alone, moderated by the pool, which counts as at most two degrees of freedom. Where an
  F test finds a method's seeds to scatter more than the others', its own variance is used as it is, and the result
  names the method.

The variance of a difference is the sum of both noises, and each keeps its own quantile of Student's t (see
`harness.stats.reach`). Two right-or-wrong scores that few items tell apart have the interval of a score test. With two
methods both seed variances are one. The unadjusted p-value and interval use the own variance. Those of a family
need both: the pooled one at the level of a simulated maximum over the family, and the own one adjusted for the
comparisons that share a method.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import SupportsFloat, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import EQUAL
from harness.stats.families import Members, Settings, tested
from harness.stats.outcomes import Outcomes, checked
from harness.stats.pairs import FamilyName, MethodComparison
from harness.stats.seeds import seed_variances

LEVEL = 0.05
FAMILIES: tuple[FamilyName, ...] = ("baseline", "best", "all")
Name = TypeVar("Name", bound=str)


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
        outcomes: by method, an array of shape (seeds, items): right or wrong (any two values, such as 0 and 1 or 0 and
            100), graded, or a loss. Items are in the same order everywhere. A lost seed is a whole row of NaN (or
            masked); a method with fewer seeds has fewer rows.
        baseline: the method that the family "baseline" compares the others with.
        families: "baseline" (each against the baseline; absent without one), "best" (each against the best, a
            deterministic baseline left out) and "all" (every pair). Each is adjusted on its own.
        level: of each family.
        margin: the largest difference that counts as none, for verdicts of equivalence; positive and finite.
        clusters: shape (items,), a label for each item where items are not independent (passage, subject); a few that
            hold most items leave few degrees of freedom.
        weights: shape (items,), the denominators of a ratio of sums, such as the answer tokens of a loss in nats: a
            score is sum(outcomes) / sum(weights). For a weighted mean give the outcomes times their weights. An item
            whose weight and outcomes are zero is left out, as one that was not asked. Few items with most of the weight
            make the test liberal: it is wrong in 5 to 8 % of the cases with 50 items whose weights are lognormal with a
            deviation of 1, and in 5 % with 200.
        deterministic: methods in which nothing was drawn, such as the untouched base model: shape (1, items) and no
            seed noise, unlike a method that was run once.
        paired_seeds: whether row s is the same seed for every method; pairs then use the seeds that both have.
        higher_is_better: False for a loss.

    Returns:
        The families with their pairs, in the order of the outcomes. The order changes no number; of methods with
        equal scores (to about twelve digits) the first is the best, which chooses the pairs of the family "best". The
        adjustment is simulated in the order of the names: another name may move an adjusted p-value in its second
        digit. Two different single seeds, one seed a side and two seeds without another method to borrow the variance
        from make no verdict, and the pair says why.

    Raises:
        ValueError: arguments that do not fit, see the message.
    """
    families, deterministic = _listed("families", families), _listed("deterministic", deterministic)
    level, margin = _number("level", level), None if margin is None else _number("margin", margin)
    _check(outcomes, baseline, families, level, margin)
    for name, switch in (("paired_seeds", paired_seeds), ("higher_is_better", higher_is_better)):
        if not isinstance(switch, bool | np.bool_):
            raise ValueError(f"{name}={switch!r}: True or False is needed")
    data = checked({name: outcomes[name] for name in sorted(outcomes)}, weights, clusters, deterministic)
    order = [data.names.index(name) for name in outcomes]
    fixed = np.array([name in data.deterministic for name in data.names])
    variance = seed_variances(data.scores, fixed, paired=paired_seeds)
    sign = 1.0 if higher_is_better else -1.0
    candidates = [i for i in order if data.names[i] != baseline or not fixed[i]]
    unit = _unit(data)
    best = max(candidates, key=lambda i: sign * round(float(data.means[i]) / unit, EQUAL))
    members = _members(order, None if baseline is None else data.names.index(baseline), best, candidates)
    unlike = variance.unlike()
    wanted = {name: members[name] for name in families if members[name].pairs}
    return MethodComparison(
        families=tested(data, variance, wanted, Settings(level, margin, sign)),
        level=level,
        margin=margin,
        scores={data.names[i]: float(data.means[i]) for i in order},
        best=data.names[best],
        seed_deviation=variance.pooled**0.5 if variance.degrees > 0 else None,
        unlike={data.names[i]: unlike[i] for i in order if i in unlike},
    )


def _check(
    outcomes: Mapping[str, ArrayLike],
    baseline: str | None,
    families: Sequence[FamilyName],
    level: float,
    margin: float | None,
) -> None:
    if not isinstance(outcomes, Mapping) or not all(isinstance(name, str) for name in outcomes):
        raise ValueError("outcomes: a dict is needed, from the name of each method to an array of shape (seeds, items)")
    if baseline is not None and baseline not in [*outcomes]:  # it may be no key of a dict
        raise ValueError(f"baseline={baseline!r}: no such method; there are {', '.join(outcomes)}")
    if unknown := [name for name in families if name not in FAMILIES]:
        raise ValueError(f"families: {', '.join(map(str, unknown))}: no such family; there are {', '.join(FAMILIES)}")
    if not 0 < level < 0.5:
        raise ValueError(f"level={level:g}: it lies between 0 and 0.5, such as 0.05")
    if margin is not None and not 0 < margin < float("inf"):
        raise ValueError(f"margin={margin:g}: an equivalence margin must be positive and finite")


def _listed(name: str, given: Iterable[Name]) -> tuple[Name, ...]:
    """Return the names of a list, or of an iterator, which can be read once.

    Raises:
        ValueError: a single name, or nothing that holds names.
    """
    if isinstance(given, str):
        raise ValueError(f"{name}={given!r}: a list of names is needed, such as [{given!r}]")
    if not isinstance(given, Iterable):
        raise ValueError(f"{name}={given!r}: a list of names is needed, and an empty one for none")
    return tuple(given)


def _number(name: str, given: SupportsFloat) -> float:
    """Return a number as Python's.

    Raises:
        ValueError: it is none.
    """
    try:
        if not isinstance(given, str | bytes | bool | np.bool_):
            return float(given)
    except OverflowError:  # an integer that no floating-point number holds
        return float("inf")
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name}={given!r}: a number is needed, such as 0.05")


def _unit(data: Outcomes) -> float:
    """Return a power of two near the size of the outcomes: scores that are equal but for rounding are so in it."""
    size = max(float(np.nanmean(np.abs(values))) for values in data.values)
    return 2.0 ** math.frexp(size)[1]


def _members(
    order: Sequence[int], baseline: int | None, best: int, candidates: Sequence[int]
) -> dict[FamilyName, Members]:
    """Return the comparisons of each family, and those that its adjustment covers."""
    every = [*combinations(order, 2)]
    against = [] if baseline is None else [(i, baseline) for i in order if i != baseline]
    return {
        "baseline": Members(against, against),
        "best": Members([(i, best) for i in candidates if i != best], [*combinations(candidates, 2)]),
        "all": Members(every, every),
    }
