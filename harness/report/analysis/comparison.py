"""One comparison: everything that a report computes from its records, each part once and when it is first used."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from harness.records.record import Attempt, RunRecord
from harness.report.analysis.answer import Answer, answers
from harness.report.analysis.claims import LEVEL, Claims, MetricComparison, claims, contests, main_contests
from harness.report.analysis.comparable import Guard, IncomparableError, check, check_trials
from harness.report.analysis.main_table import Inputs, main_table, ordered
from harness.report.data import tuning
from harness.report.data.groups import Group, Measure, grouped
from harness.report.data.items import ScoredEvaluation
from harness.report.data.rows import Loaded, family_level
from harness.report.document import Table

if TYPE_CHECKING:
    import pandas


class Comparison:
    """The rows of a report, compared with each other.

    >>> comparison = harness.load("runs/", sweep="lora_rank")  # doctest: +SKIP
    >>> [group.label for group in comparison.groups]  # doctest: +SKIP
    ['base', 'lora r=4', 'lora r=16', 'lora r=64']

    Attributes:
        loaded: the records.
    """

    def __init__(self, loaded: Loaded) -> None:
        """Take the records of one sweep, or of runs that may be compared."""
        self.loaded = loaded
        self._claims: dict[MetricComparison, Claims] = {}

    @cached_property
    def groups(self) -> list[Group]:
        """Return the runs of each recipe and setting, in the order of the records."""
        return grouped(self.loaded.rows, family_level(self.loaded.sweep, LEVEL))

    @cached_property
    def ordered(self) -> list[Group]:
        """Return the groups in the order of the main table, which every table of a report has."""
        return ordered(self._inputs)[0]

    @cached_property
    def names(self) -> dict[str, str]:
        """Return the names of rows and of their runs for people, by label: LoRA (r=8); LoRA (r=8) seed 0."""
        every = [*self.groups, *self.trial_groups]
        named = {f"{row.label} seed {row.seed}": row.title for group in every for row in group.every}
        return named | {group.label: group.name for group in every}

    @cached_property
    def trained(self) -> list[Group]:
        """Return the groups of trained methods that have a record, failed ones included."""
        return [group for group in self.groups if group.first.record and not group.first.is_base]

    @cached_property
    def records(self) -> list[RunRecord]:
        """Return a record of each group."""
        return [group.first.record for group in self.groups if group.first.record]

    @cached_property
    def attempts(self) -> list[Attempt]:
        """Return every attempt of the runs and trials made here, failed ones included."""
        rows = (*self.loaded.rows, *self.loaded.trials)
        runs = {(row.recipe_id, row.seed): row.record for row in rows if row.record}
        return [attempt for run in runs.values() if run.origin is None for attempt in run.attempts]

    @cached_property
    def tasks(self) -> list[ScoredEvaluation]:
        """Return one evaluation of each task of lm-eval in each setting, in their order."""
        every = (scored[0] for group in self.groups if group.ok for scored in group.evaluations.values())
        official = (scored for scored in every if scored.record.evaluation["kind"] == "lm_eval")
        return list({scored.comparison_key: scored for scored in official}.values())

    @cached_property
    def guard(self) -> Guard:
        """Return how the rows differ in what was not declared to vary.

        Raises:
            IncomparableError: such a difference was not allowed: the rows must not stand in one table.
        """
        declared = self.loaded.sweep.varies if self.loaded.sweep else None
        guard = check(self.groups, declared, self.loaded.allowed)
        for result in (guard, check_trials(self.loaded)):
            if result is not None and result.refused:
                raise IncomparableError(result)
        return guard

    @cached_property
    def contests(self) -> list[MetricComparison]:
        """Return the contests that answer the question; several where there are several base models."""
        return main_contests(self.groups, self.loaded.primary)

    @cached_property
    def claims(self) -> list[Claims]:
        """Return the tests of these contests."""
        return [self.claims_of(contest) for contest in self.contests]

    @property
    def primary(self) -> Measure | None:
        """Return the measure that answers the question; None where no method has one."""
        return next((contest.measure for contest in self.contests), None)

    @cached_property
    def targets(self) -> list[MetricComparison]:
        """Return the contests of the target tasks, in the order of the records."""
        return contests(self.groups, "target")

    @cached_property
    def answers(self) -> list[Answer]:
        """Return the answer to the question, for each base model."""
        trials = sum(row.status == "ok" for row in self.loaded.trials)
        return answers(self.claims, self.groups, self.loaded.primary, trials)

    @property
    def answer(self) -> Answer:
        """Return the answer to the question, of the first base model."""
        return self.answers[0]

    @cached_property
    def main_table(self) -> Table:
        """Return the methods with their target tasks, retention and cost, sorted by the primary metric."""
        return main_table(self._inputs)

    @cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self.groups, self.claims, self.targets, self.undertuned)

    @cached_property
    def undertuned(self) -> frozenset[str]:
        """Return the labels of methods whose chosen settings lie at the edge of what was tried."""
        edges = {(contestant.name, contestant.choice.recipe_id) for contestant in self.tuning if contestant.edges}
        cells = ((group, group.first.cell) for group in self.groups)
        return frozenset(g.label for g, cell in cells if cell and (cell.contestant, g.first.recipe_id) in edges)

    @cached_property
    def tuning(self) -> list[tuning.Contestant]:
        """Return the trials and the choice of each method; none for a sweep without stages."""
        return tuning.contestants(self.loaded.sweep, self.loaded.trials)

    @cached_property
    def trial_groups(self) -> list[Group]:
        """Return the trials of a sweep with stages, which are no rows of its results."""
        return grouped(self.loaded.trials)

    def claims_of(self, contest: MetricComparison) -> Claims:
        """Return the tests of a contest."""
        if contest not in self._claims:
            self._claims[contest] = claims(contest, self.loaded.margin)
        return self._claims[contest]

    def frame(self, items: bool = False) -> pandas.DataFrame:
        """Return the runs as a pandas frame: one row per run, or with `items` one row per run and evaluated item."""
        from harness.report.writers.flat import frame

        return frame(self.loaded, items)
