"""Sections of the page beside its results, figures and items: what to use, tests, tasks, tuning, data, failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.records import data_check
from harness.report.analysis import interrupted
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.recommend import recommendations
from harness.report.analysis.verdicts import explained, families
from harness.report.document import Block, Bullets
from harness.report.pages import hyperparameters, notes, summary, tuned


@dataclass(frozen=True)
class PageSection:
    """A heading with its content; a folded one is opened by the reader."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    folded: bool = True


def sections(comparison: Comparison) -> list[PageSection]:
    """Return the sections that have something to show."""
    every = (
        PageSection("recommendation", "Which method to use", tuple(_recommendation(comparison)), folded=False),
        PageSection("tests", "Statistical comparison", tuple(_tests(comparison)), folded=False),
        PageSection("tasks", "Scores by task", tuple(summary.tasks(comparison.groups))),
        PageSection("tuning", "Tuning", tuple(_tuning(comparison))),
        PageSection("data", "Data", tuple(_data(comparison))),
        PageSection("failures", "Failed and interrupted runs", tuple(_failures(comparison)), folded=False),
        PageSection("limits", "Limitations", (Bullets(tuple(notes.limits(comparison.groups))),)),
    )
    return [section for section in every if any(not isinstance(b, Bullets) or b.lines for b in section.blocks)]


def _recommendation(comparison: Comparison) -> Iterator[Block]:
    for result in comparison.claims:
        if result.comparison is not None:
            yield Bullets(tuple(recommendations(result.contest, comparison.groups, comparison.loaded.margin)))


def _tests(comparison: Comparison) -> Iterator[Block]:
    for claims in comparison.claims:
        if claims.pairs:
            yield from families(claims)
            yield Bullets(tuple(explained(claims)))


def _tuning(comparison: Comparison) -> Iterator[Block]:
    if table := hyperparameters.searched(comparison):
        yield table
    yield Bullets(tuple(tuned.lines(comparison.loaded)))


def _data(comparison: Comparison) -> Iterator[Block]:
    yield Bullets(tuple(data_check.line(check) for check in comparison.loaded.checks))


def _failures(comparison: Comparison) -> Iterator[Block]:
    failed = [
        f"{group.label}, seed {row.seed}: {row.status or 'missing'}: {row.reason or 'no reason recorded'}"
        for group in comparison.groups
        for row in group.failed
    ]
    items = [scored.problem for group in comparison.groups for row in group.rows for scored in row.scored]
    damaged = [f"could not be read: {line}" for line in (*comparison.loaded.unreadable, *filter(None, items))]
    yield Bullets((*failed, *interrupted.lines(comparison.loaded), *dict.fromkeys(damaged)))
