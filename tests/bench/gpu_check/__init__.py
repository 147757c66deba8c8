"""`make gpu-check`: the main paths of a GPU, tried on one card in under ten minutes. Needs no network and no model.

A check is a function that returns rows, each a number and the bar it is held against. It passes when every bar is met,
and it fails when a bar is missed, when a bar has no number, when no row has a bar, or when the check raises. Where a
device is missing it raises `Skipped` with the reason. On a CPU all of it runs at tiny sizes, to test the script itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tests.bench import Row

if TYPE_CHECKING:
    from tests.bench.gpu_check.lab import Lab

Verdict = Literal["PASS", "FAIL", "SKIP"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question about the device. `expected` says in one sentence which answer is right, and why."""

    name: str
    expected: str
    rows: Callable[[Lab], Iterable[Row]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of a check; `reason` says why it was skipped, or which error ended it."""

    name: str
    expected: str
    verdict: Verdict
    seconds: float
    rows: tuple[Row, ...] = ()
    reason: str = ""


class Skipped(Exception):  # noqa: N818  # no error
    """The check cannot be made on this machine; the message says why."""


def verdict_of(rows: Iterable[Row]) -> Verdict:
    """Return PASS if there is a bar and every bar is met by a number, else FAIL."""
    barred = [row for row in rows if row.bar is not None]
    return "PASS" if barred and all(row.met for row in barred) else "FAIL"
