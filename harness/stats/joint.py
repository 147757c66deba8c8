"""The tests of differences: each needs the pooled seed variance and, where it is known, the pair's own."""

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
    """Differences with their noise.

    Attributes:
        bases: what each difference rests on.
        units: items, or clusters.
        free: degrees of freedom of the items' variance.
    """

    bases: Sequence[Basis]
    units: int
    free: float

    @cached_property
    def differences(self) -> Floats:
        """Return the differences themselves."""
        return np.array([basis.difference for basis in self.bases])

    @cached_property
    def owned(self) -> np.ndarray:
        """Return which differences have a seed variance of their own, shape (differences,)."""
        return np.array([basis.own is not None for basis in self.bases])

    @cached_property
    def pooled(self) -> Noise:
        """Return the noise with the pooled seed variance."""
        return self._noise([basis.pooled for basis in self.bases])

    @cached_property
    def own(self) -> Noise:
        """Return the noise with each pair's own seed variance; without seeds where that is not known."""
        return self._noise([basis.own for basis in self.bases])

    def p_values(self, distances: Floats, true: float = 0.0) -> Floats:
        """Return the two-sided p-values of distances from a true difference, shape (2, differences).

        The first row rests on the pooled seed variance, the second on the pair's own.
        """
        return np.stack(
            [noise.at(np.full(len(distances), true)).p_values(distances) for noise in (self.pooled, self.own)]
        )

    def intervals(self, level: float) -> Floats:
        """Return the interval of each comparison alone, shape (2, differences)."""
        pooled = self.pooled.intervals(self.differences, level)
        return np.where(self.owned, self.own.intervals(self.differences, level), pooled) if self.owned.any() else pooled

    def _noise(self, seeds: Sequence[tuple[float, float] | None]) -> Noise:
        parts = [part or (0.0, self.free) for part in seeds]
        variances = [[basis.items for basis in self.bases], [variance for variance, _ in parts]]
        degrees = [[self.free] * len(parts), [max(df, 1.0) for _, df in parts]]
        return Noise(np.array(variances), np.array(degrees), np.array([b.rise for b in self.bases]), self.units)


@dataclass(frozen=True)
class FamilyTest:
    """The adjusted tests of a family.

    Attributes:
        joint: the differences of all families.
        places: positions of the family's own among them.
        adjusted: the family's adjustment, for the pooled variance.
        sharing: the adjustment for each pair's own variance, from the comparisons that share a method.
    """

    joint: Joint
    places: np.ndarray
    adjusted: Adjustment
    sharing: Floats

    def p_values(self, both: Floats) -> tuple[Floats, Floats]:
        """Return the p-values of one comparison, and those adjusted for the family, from `Joint.p_values`."""
        pooled, own = both[:, self.places]
        family = self.adjusted.p_values(pooled)
        shared = np.minimum(self.sharing * own, 1.0)
        return np.where(self._owned, own, pooled), np.where(self._owned, np.maximum(family, shared), family)

    def intervals(self, level: float) -> Floats:
        """Return the simultaneous intervals that invert these tests, shape (2, differences of the family)."""
        differences = self.joint.differences[self.places]
        family = self._pooled.intervals(differences, self.adjusted.single_level(level))
        if not self._owned.any():
            return family
        low, high = self._own.intervals(differences, level / self.sharing)
        both = np.stack([np.minimum(family[0], low), np.maximum(family[1], high)])
        return np.where(self._owned, both, family)

    def detectable(self, level: float, power: float) -> Floats:
        """Return the true differences that the adjusted tests detect with that power."""
        family = self._pooled.detectable(self.adjusted.single_level(level), power)
        shared = self._own.detectable(level / self.sharing, power)
        return np.where(self._owned, np.maximum(family, shared), family)

    @property
    def standard_errors(self) -> Floats:
        """Return the standard errors, from the pooled seed variance."""
        return self._pooled.standard_errors

    @cached_property
    def _owned(self) -> np.ndarray:
        return np.asarray(self.joint.owned[self.places])

    @cached_property
    def _pooled(self) -> Noise:
        return self.joint.pooled.part(self.places)

    @cached_property
    def _own(self) -> Noise:
        return self.joint.own.part(self.places)
