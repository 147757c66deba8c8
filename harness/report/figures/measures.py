"""A metric on an axis: its title with the unit, and its numbers in that unit."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report import names
from harness.report.analysis.claims import MetricComparison
from harness.report.figures.style import drawable

MOST_TITLE = 60  # characters of an axis title


@dataclass(frozen=True)
class Scale:
    """Scale of a task's metric: shares of 1 in percent and their differences in points."""

    task: str
    metric: str
    higher_is_better: bool

    @property
    def factor(self) -> float:
        """Return the factor from a recorded number to a drawn one."""
        return 100.0 if names.metric(self.metric).percent else 1.0

    @property
    def quantity(self) -> str:
        """Return the words for the number without its unit: ARC-Easy accuracy, validation loss."""
        if self.metric == "loss" and self.task.endswith(("/validation", "/test")):
            return f"{self.task.rpartition('/')[2]} loss"
        task, metric = names.task(self.task), names.metric(self.metric).display.partition(" (nats")[0]
        name = task.display if len(task.display) + len(metric) < MOST_TITLE - 20 else task.short
        return drawable(f"{name} {metric}", MOST_TITLE)

    @property
    def unit(self) -> str:
        """Return the unit of a score."""
        return "%" if self.factor != 1 else "nats per token" if "(nats" in names.metric(self.metric).display else ""

    @property
    def unit_of_gain(self) -> str:
        """Return the unit of a difference."""
        return "points" if self.factor != 1 else self.unit

    @property
    def title(self) -> str:
        """Return the title of an axis of scores."""
        return capital(f"{self.quantity} ({self.unit})" if self.unit else self.quantity)

    def gain(self, difference: float) -> float:
        """Return a difference as drawn: positive is better."""
        return self.factor * difference * (1 if self.higher_is_better else -1)

    def text(self, drawn: float, signed: bool = False) -> str:
        """Return a drawn number in words: 63.0 %, +13.5 points, 2.471 nats per token."""
        digits = 1 if self.factor != 1 else 3
        unit = self.unit_of_gain if signed else self.unit
        return f"{drawn:{'+' if signed else ''}.{digits}f} {unit}".rstrip()


def scale_of(contest: MetricComparison) -> Scale:
    """Return the axis of a contest's measure."""
    first = contest.groups[0].evaluations[contest.measure.eval_id][0]
    return Scale(first.task, contest.measure.metric, contest.higher_is_better)


def capital(words: str) -> str:
    """Return words that begin a sentence or name an axis; what is in capitals stays so."""
    return words[:1].upper() + words[1:]
