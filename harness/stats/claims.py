"""Sign-flip test over seeds, and the letters of a compact letter display."""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import as_vector

SEEDS_FOR_SIGN_FLIP = 6  # 2 / 2**5 is above the level, 2 / 2**6 is not
MOST_FLIPPED = 20


def sign_flip_p(differences: ArrayLike) -> float:
    """Return the exact two-sided p-value of symmetry about zero, over all flips of the differences' signs.

    With n seeds it cannot be below 2 / 2**n: six are needed for p < 0.05. The items are taken as fixed.

    Raises:
        ValueError: no differences, or more than 20: a million flips are enough for any claim.
    """
    values = as_vector(differences, "the differences")
    if len(values) > MOST_FLIPPED:
        raise ValueError(f"{len(values)} differences: at most {MOST_FLIPPED} can be flipped in every way")
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= abs(values.sum()) * (1 - 1e-12)))


def tie_letters(count: int, different: Collection[tuple[int, int]]) -> list[str]:
    """Return a compact letter display for `count` methods from best to worst.

    Methods that share a letter do not differ significantly. Source: Piepho, J. Computational and Graphical Statistics
    13, 2004: insert and absorb.

    Args:
        count: number of methods.
        different: the pairs (i, j) that differ significantly.
    """
    columns: list[frozenset[int]] = [frozenset(range(count))] if count else []
    for first, second in sorted({(min(pair), max(pair)) for pair in different}):
        split = []
        for column in columns:
            split += [column - {first}, column - {second}] if {first, second} <= column else [column]
        unique = list(dict.fromkeys(column for column in split if column))
        columns = [column for column in unique if not any(column < larger for larger in unique)]
    columns.sort(key=lambda column: sorted(column))
    return ["".join(_letter(i) for i, column in enumerate(columns) if method in column) for method in range(count)]


def _letter(index: int) -> str:
    """Return the letter of a column: a, b, ..., z, a2, b2, ..."""
    turn, place = divmod(index, 26)
    return chr(ord("a") + place) + (str(turn + 1) if turn else "")
