"""What may be said about a difference: tests, their adjustment for number, equivalence, tie letters.

The noises of items and seeds keep their own degrees of freedom: three seeds are not treated as three hundred. An
interval is value +- sqrt(sum of t_k^2 variance_k) over the parts of a `SeedEstimate`, and a p-value is the level at
which it just reaches zero; with one part both are Student's. Source: Howe, JASA 69, 1974, page 789, for a sum of two.
"""

import math
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import Part, SeedEstimate, as_vector, difference_over_seeds, over_seeds, paired_lists

Verdict = Literal["better", "worse", "equivalent", "not separable"]
LEVEL = 0.05
SEEDS_FOR_SIGN_FLIP = 6  # 2 / 2**5 is above the level, 2 / 2**6 is not
_MOST_FLIPPED = 20


class Comparison(NamedTuple):
    """One pair of methods: the difference and the tests of it, not yet adjusted for their number."""

    difference: SeedEstimate
    p: float
    test: str
    p_equivalence: float | None  # None where the difference has no standard error
    p_sign_flip: float | None  # None unless there are `SEEDS_FOR_SIGN_FLIP` paired seeds


def compare(a: ArrayLike, b: ArrayLike, margin: float, weights: ArrayLike | None = None, *, paired: bool) -> Comparison:
    """Compare two methods on the same items.

    Args:
        a: outcomes of shape (seeds, items).
        b: outcomes of shape (seeds, items).
        margin: the largest difference that counts as none, in the unit of the outcomes.
        weights: the items' weights; None for a plain mean.
        paired: whether row s of both sides is the same seed; a side with one row is then the same for every seed.

    Raises:
        ValueError: different items, no items, or a difference without a standard error (a single item).
    """
    first, second = np.atleast_2d(np.asarray(a, dtype=np.float64)), np.atleast_2d(np.asarray(b, dtype=np.float64))
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} items against {second.shape[1]}: paired numbers need the same items")
    found = over_seeds(first - second, weights) if paired else difference_over_seeds(first, second, weights)
    flipped = _seed_differences(first - second, weights) if paired else np.zeros(0)
    p = two_sided_p(found)
    if p is None:
        raise ValueError("one item shows no spread: a comparison needs at least two")
    test = "paired t"
    right_or_wrong = weights is None and {*first.ravel(), *second.ravel()} <= {0.0, 1.0}
    if right_or_wrong and len(first) == len(second) == 1:
        p, test = mcnemar_exact(first[0], second[0]), "exact McNemar"
    return Comparison(
        difference=found,
        p=p,
        test=test,
        p_equivalence=equivalence_p(_unseen_added(found, first.shape[1]) if right_or_wrong else found, margin),
        p_sign_flip=sign_flip_p(flipped) if len(flipped) >= SEEDS_FOR_SIGN_FLIP else None,
    )


def _unseen_added(estimate: SeedEstimate, items: int) -> SeedEstimate:
    """The estimate with the variance of three items more on which the two differ.

    Eight items on which two methods agree show no spread, and still do not show that they agree within a point: none
    seen among n is up to 3 / n of all, at the level of 5 %.

    Source: Hanley and Lippman-Hand, If Nothing Goes Wrong, Is Everything All Right?, JAMA 249, 1983.
    """
    (variance, degrees), *rest = estimate.parts
    return estimate._replace(parts=(Part(variance + 3 / items**2, degrees), *rest))


def _seed_differences(differences: np.ndarray, weights: ArrayLike | None) -> np.ndarray:
    below = np.ones(differences.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    return np.asarray(differences.sum(axis=1) / below.sum())


def confidence_interval(estimate: SeedEstimate, level: float = 1 - LEVEL) -> tuple[float, float] | None:
    """The two-sided interval; None without a standard error."""
    if not estimate.parts:
        return None
    half = math.sqrt(_squared_reach(estimate.parts, (1 - level) / 2))
    return estimate.value - half, estimate.value + half


def two_sided_p(estimate: SeedEstimate) -> float | None:
    """The p-value of "the value is zero"; None without a standard error."""
    if not estimate.parts:
        return None
    return min(1.0, 2 * _one_sided_p(abs(estimate.value), estimate.parts))


def equivalence_p(estimate: SeedEstimate, margin: float) -> float | None:
    """The p-value of "the value is not inside (-margin, margin)": two one-sided tests; None without a standard error.

    Source: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987.

    Raises:
        ValueError: the margin is not positive.
    """
    if margin <= 0:
        raise ValueError(f"margin={margin:g}: an equivalence margin must be positive")
    if not estimate.parts:
        return None
    return max(_one_sided_p(margin + side * estimate.value, estimate.parts) for side in (1, -1))


def not_worse_p(estimate: SeedEstimate, tolerance: float) -> float | None:
    """The p-value of "the value is below -tolerance", one-sided; None without a standard error."""
    return _one_sided_p(estimate.value + tolerance, estimate.parts) if estimate.parts else None


def sign_flip_p(differences: ArrayLike) -> float:
    """The exact two-sided p of "the differences are as likely negative as positive", over all flips of their signs.

    With n seeds it cannot be below 2 / 2**n: six are needed for p < 0.05. The items are taken as fixed.

    Raises:
        ValueError: no differences, or more than 20: a million flips are enough for any claim.
    """
    values = as_vector(differences, "the differences")
    if len(values) > _MOST_FLIPPED:
        raise ValueError(f"{len(values)} differences: at most {_MOST_FLIPPED} can be flipped in every way")
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= abs(values.sum()) * (1 - 1e-12)))


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """The exact two-sided p of McNemar's test that a and b gain as many answers as they lose against each other.

    Source: McNemar, 1947; exact, as a binomial test with p = 1/2 on the discordant pairs.

    Raises:
        ValueError: outcomes other than 0 and 1, different lengths, or no items.
    """
    first, second = paired_lists(a, b)
    if not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        raise ValueError("McNemar's test needs outcomes of 0 and 1: use paired_difference for graded ones")
    wins, losses = int(np.sum(first > second)), int(np.sum(first < second))
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5).pvalue)


def holm(p_values: Sequence[float], count: int | None = None) -> list[float]:
    """The p-values adjusted for their number, in the order given: each may be held against the level as it is.

    Args:
        p_values: those that were computed.
        count: the size of the family where more comparisons were open than were computed; the others count as p = 1.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    Raises:
        ValueError: a value outside [0, 1], or a count below the number of values.
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p-values lie between 0 and 1, given: {wrong}")
    family = len(p_values) if count is None else count
    if family < len(p_values):
        raise ValueError(f"count={count} is below the {len(p_values)} p-values given")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (family - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def tie_letters(count: int, separable: Collection[tuple[int, int]]) -> list[str]:
    """A compact letter display for `count` methods from best to worst: those that share a letter are not separable.

    Source: Piepho, J. Computational and Graphical Statistics 13, 2004: insert and absorb.

    Args:
        count: number of methods.
        separable: the pairs (i, j) that can be told apart.
    """
    columns: list[frozenset[int]] = [frozenset(range(count))] if count else []
    for one, other in sorted({(min(pair), max(pair)) for pair in separable}):
        split = []
        for column in columns:
            split += [column - {one}, column - {other}] if {one, other} <= column else [column]
        unique = list(dict.fromkeys(column for column in split if column))
        columns = [column for column in unique if not any(column < larger for larger in unique)]
    columns.sort(key=lambda column: sorted(column))
    return ["".join(_letter(i) for i, column in enumerate(columns) if method in column) for method in range(count)]


def _letter(index: int) -> str:
    """a, b, ..., z, a2, b2, ..."""
    turn, place = divmod(index, 26)
    return chr(ord("a") + place) + (str(turn + 1) if turn else "")


def _squared_reach(parts: Sequence[Part], tail: float) -> float:
    """The squared half width of an interval that leaves `tail` on each side."""
    from scipy.special import stdtrit  # Student's quantile without the checks of scipy.stats, fifty times as fast

    return float(sum(stdtrit(part.degrees_of_freedom, tail) ** 2 * part.variance for part in parts))


def _one_sided_p(distance: float, parts: Sequence[Part]) -> float:
    """The tail beyond `distance`: the level at which a one-sided interval of that length just reaches zero."""
    from scipy.optimize import brentq
    from scipy.special import stdtr

    known = [part for part in parts if part.variance > 0]
    if not known:
        return 0.5 if distance == 0 else float(distance < 0)
    if distance < 0:
        return 1 - _one_sided_p(-distance, parts)
    if len(known) == 1:
        return float(stdtr(known[0].degrees_of_freedom, -distance / math.sqrt(known[0].variance)))
    square = distance**2

    def beyond(log_tail: float) -> float:
        return _squared_reach(known, math.exp(log_tail)) - square

    lowest = -300.0  # below it the quantile of one degree of freedom, squared, is too large for a float
    if beyond(lowest) < 0:
        return math.exp(lowest)
    return math.exp(brentq(beyond, lowest, math.log(0.5)))
