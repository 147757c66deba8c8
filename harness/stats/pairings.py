"""Bounds on a paired test where only the two scores are known, over every way in which the items may be paired."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PairingBounds:
    """Exact McNemar p-values that two counts of right answers on the same items allow.

    Attributes:
        lowest: where every item that the worse run got right was right in the better one too.
        highest: where as many items as possible are right in one run alone.
        most_discordant: the largest number of items, right in one run alone, with p at or below the level; None where
            no pairing reaches it.
        items: of the test.
    """

    lowest: float
    highest: float
    most_discordant: int | None
    items: int


def pairing_bounds(right_a: int, right_b: int, items: int, level: float = 0.05) -> PairingBounds:
    """Return the bounds for two runs with these numbers of right answers on the same items.

    The difference of the scores fixes b - c, and the p-value grows with b + c: McNemar, Psychometrika 12, 1947.

    Raises:
        ValueError: a count is not between zero and the number of items.
    """
    if not (0 <= right_a <= items and 0 <= right_b <= items):
        raise ValueError(f"{right_a} and {right_b} right answers of {items} items")
    difference = abs(right_a - right_b)
    fewest = max(0, right_a + right_b - items)  # items that both got right, at least
    most_ties = min(right_a, right_b) - fewest  # c at its largest
    lowest, highest = mcnemar_p(difference, 0), mcnemar_p(difference + most_ties, most_ties)
    low, high = -1, most_ties  # bisection for the largest c that is significant
    while low < high:
        middle = (low + high + 1) // 2
        if mcnemar_p(difference + middle, middle) <= level:
            low = middle
        else:
            high = middle - 1
    return PairingBounds(lowest, highest, difference + 2 * low if low >= 0 else None, items)


def rounded_bounds(
    right_a: tuple[int, int], right_b: tuple[int, int], items: int, level: float = 0.05
) -> PairingBounds:
    """Return the bounds where each count lies between a smallest and a largest one, as behind a rounded score.

    Of the counts with one difference, those nearest to half of the items leave most room for disagreement.

    Raises:
        ValueError: a count is not between zero and the number of items.
    """
    (least_a, most_a), (least_b, most_b) = right_a, right_b
    every = []
    for difference in range(least_a - most_b, most_a - least_b + 1):
        least, most = max(least_b, least_a - difference), min(most_b, most_a - difference)
        b = min(max((items - difference) // 2, least), most)
        every.append(pairing_bounds(b + difference, b, items, level))
    reached = [bounds.most_discordant for bounds in every if bounds.most_discordant is not None]
    return PairingBounds(
        min(bounds.lowest for bounds in every),
        max(bounds.highest for bounds in every),
        max(reached, default=None),
        items,
    )


def mcnemar_p(b: int, c: int) -> float:
    """Return the exact two-sided p-value of b and c items that are right in one run alone."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))
