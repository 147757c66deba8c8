"""Benchmarks: what a test cannot hold on a busy machine. One file per part, found on disk.

A part is a module of this folder whose first docstring line says what it shows, with a function `rows() -> list[Row]`
that measures ratios of things run side by side (seconds, which depend on the machine, only where they are promised).
`python -m tests.bench` runs every part, `python -m tests.bench PART...` those that are named.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number and the bar that it is held against; `bar` is None where there is none."""

    name: str
    measured: float | None  # None: could not be measured here, `note` says why
    bar: float | None
    unit: str  # "x" for a ratio, "%" for a relative error, "s" or "GiB" where such a bar is promised
    note: str = ""
    at_most: bool = True  # whether the bar is the highest good value, or the lowest

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without a bar or a number."""
        if self.measured is None or self.bar is None:
            return None
        return self.measured <= self.bar if self.at_most else self.measured >= self.bar
