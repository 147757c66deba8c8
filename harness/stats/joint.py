"""The tests of a family of differences: each needs the pooled variance and, where it is known, the pair's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.stats.basis import Basis
from harness.stats.estimate import Floats
from harness.stats.reach import Noise
from harness.stats.simultaneous import Adjustment


@dataclass(frozen=True)
class Joint:
    """Differences that are adjusted together.

    Attributes:
        bases: what each difference rests on.
        units: items, or clusters.
        adjusted: the family's adjustment, for the pooled variance.
        sharing: the adjustment for the pairs' own variances, from the comparisons that share a method.
        unseen: variance added for items that a small sample may have missed.
    """

    bases: Sequence[Basis]
    units: int
    adjusted: Adjustment
    sharing: int
    unseen: float = 0.0

    @cached_property
    def _owned(self) -> np.ndarray:
        return np.array([basis.own is not None for basis in self.bases])

    @cached_property
    def pooled(self) -> Noise:
        """Return the noise with the pooled seed variance."""
        return self._noise([basis.pooled for basis in self.bases])

    @cached_property
    def own(self) -> Noise:
        """Return the noise with each pair's own seed variance; without seeds where that is not known."""
        return self._noise([basis.own for basis in self.bases])

    def p_values(self, distances: Floats) -> tuple[Floats, Floats]:
        """Return the two-sided p-values of distances from zero: of one comparison, and adjusted for the family."""
        pooled, own = self.pooled.p_values(distances), self.own.p_values(distances)
        family = self.adjusted.p_values(pooled)
        shared = np.minimum(self.sharing * own, 1.0)
        return np.where(self._owned, own, pooled), np.where(self._owned, np.maximum(family, shared), family)

    def half_widths(self, level: float) -> tuple[Floats, Floats]:
        """Return the half-widths that invert these tests: of one comparison, and of all of the family at once."""
        alone = np.where(self._owned, self.own.half_widths(level), self.pooled.half_widths(level))
        family = self.pooled.half_widths(self.adjusted.single_level(level))
        shared = self.own.half_widths(level / self.sharing)
        return alone, np.where(self._owned, np.maximum(family, shared), family)

    def detectable(self, level: float, power: float) -> Floats:
        """Return the true differences that the adjusted tests detect with that power."""
        family = self.pooled.detectable(self.adjusted.single_level(level), power)
        shared = self.own.detectable(level / self.sharing, power)
        return np.where(self._owned, np.maximum(family, shared), family)

    def _noise(self, seeds: Sequence[tuple[float, float] | None]) -> Noise:
        free = float(max(self.units - 1, 1))
        parts = [part or (0.0, free) for part in seeds]
        variances = [[basis.items + self.unseen for basis in self.bases], [variance for variance, _ in parts]]
        degrees = [[free] * len(parts), [max(df, 1.0) for _, df in parts]]
        return Noise(np.array(variances), np.array(degrees))
