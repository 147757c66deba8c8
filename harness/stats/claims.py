"""Sign-flip test over seeds."""

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
