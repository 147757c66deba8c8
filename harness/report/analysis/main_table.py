"""The main table: methods by target tasks, their average, what was forgotten, and what training cost."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from harness.report import names
from harness.report.analysis.axes import PARAMETERS, PEAK_MEMORY, TRAIN_SECONDS, Cost, memory, on_gpu
from harness.report.analysis.claims import FEWEST_ITEMS, Claims, MetricComparison
from harness.report.data.groups import METHOD, Group, Measure, at_chance, count_of_seeds, headline
from harness.report.display import capital, several
from harness.report.document import (
    ALIKE,
    DAGGER,
    LETTERS,
    Cell,
    Column,
    Missing,
    Note,
    Number,
    Table,
    Text,
    ranked,
)

if TYPE_CHECKING:
    from harness.stats import Pair as Result

DOUBLE_DAGGER = "\N{DOUBLE DAGGER}"
AVERAGE, RETENTION = "average", "retention_change"
_TIMES = (("h", 3600), ("min", 60), ("s", 1))
Field = tuple[Column, Callable[[Group], Cell]]
_MISSING = Missing("not evaluated")


@dataclass(frozen=True)
class Inputs:
    """The parts of a comparison that the table is made of.

    Attributes:
        groups: every row of the report.
        results: the tests of the question, for each base model.
        targets: the contests of the target tasks.
        undertuned: labels of methods whose chosen learning rate lies at the edge of the grid.
    """

    groups: Sequence[Group]
    results: Sequence[Claims]
    targets: Sequence[MetricComparison]
    undertuned: frozenset[str]


def main_table(inputs: Inputs) -> Table:
    """Return the table: the base models apart, then the methods by the primary metric, best first.

    The best score of a column is marked, and the second; a dagger marks what is not significantly worse than the best.
    """
    tasks = _tasks([result.contest for result in inputs.results], inputs.targets)
    groups, rules = ordered(inputs)
    footnotes = _footnotes(groups)
    settings = {"label": "main", "title": "Main results", "rules": tuple(rules)}
    fields = [*_score_fields(tasks, inputs), *_cost_fields(groups)]
    table = Table.by_field(groups, [(METHOD, partial(_named, inputs.undertuned, footnotes)), *fields], **settings)
    competing = [place for place, group in enumerate(groups) if group.trained and not group.random_weights]
    for key in (*(contest.column.key for contest in tasks), AVERAGE):
        of_key = [task for task in tasks if key == task.column.key or (key == AVERAGE and task.groups)]
        decides = all(task.num_items >= FEWEST_ITEMS and task.groups for task in of_key)
        table = ranked(table, key, competing) if key in table.keys and decides else table
    notes = (*_notes(inputs, tasks, footnotes), *([Note(ALIKE)] if table.has_alike else []))
    return replace(table, notes=notes, caption=_caption(tasks, inputs)).without_empty()


def _score_fields(tasks: Sequence[MetricComparison], inputs: Inputs) -> Iterator[Field]:
    """Yield the scores on each task, that of the question first, their average, and what was retained."""
    spanner = "Target tasks" if len(tasks) > 1 and all(contest.role == "target" for contest in tasks) else ""
    for place, contest in enumerate(tasks):
        column = replace(contest.column, spanner=spanner, priority=10 + place if place else 0)
        yield column, partial(_score, contest, () if place else inputs.results)
    averaged = [contest for contest in tasks if contest.groups]  # at chance on a task, its scores are noise
    same_unit = len({contest.column.unit for contest in averaged}) == 1 and averaged[0].column.unit
    if spanner and len(averaged) > 1 and same_unit:
        yield replace(averaged[0].column, key=AVERAGE, title="Avg.", priority=2), partial(_average, averaged)
    if retention := list(_retention(inputs.groups)):
        single = f"{names.task(retention[0]).short} change"
        title = single if len(retention) == 1 else f"Retention change ({len(retention)} tasks)"
        column = Column(RETENTION, title, "points", 100.0, 1, "higher", priority=100)
        yield column, partial(_retained, retention)


def _named(undertuned: Container[str], footnotes: Mapping[str, tuple[str, str]], group: Group) -> Text:
    mark, _ = footnotes.get(group.label, ("", ""))
    edge = DOUBLE_DAGGER if group.label in undertuned else ""
    return Text(group.name, group.label, f"{edge}{mark}", "" if group.ok else "bad")


def _tasks(primary: Sequence[MetricComparison], targets: Sequence[MetricComparison]) -> list[MetricComparison]:
    """Return a contest for each column of scores: that of the question first, then the other target tasks."""
    columns: dict[str, MetricComparison] = {}
    for contest in (*primary[:1], *targets):
        if contest.role == "target" or not targets or contest is primary[0]:
            columns.setdefault(contest.column.key, contest)
    return list(columns.values())


def ordered(inputs: Inputs) -> tuple[list[Group], list[int]]:
    """Return the rows in their order, and the places of those that have a rule above them."""
    blocks: list[list[Group]] = []
    placed: set[int] = set()
    for result in inputs.results:
        contest = result.contest
        members = [*contest.ranked, *(group for group, _ in contest.left_out)]
        bases = [group for group in inputs.groups if group.first.is_base and group.model == members[0].model]
        blocks += [bases, members]
        placed |= {id(group) for group in (*bases, *members)}
    others = [group for group in inputs.groups if id(group) not in placed]
    blocks += [[group for group in others if group.first.is_base and group.measured]]
    blocks += [[group for group in others if not (group.first.is_base and group.measured)]]
    in_order: list[Group] = []
    rules: list[int] = []
    for block in blocks:
        if block and in_order:
            rules.append(len(in_order))
        in_order += block
    return in_order, rules


def _score(contest: MetricComparison, results: Sequence[Claims], group: Group) -> Cell:
    """Return the score on a task; with the tests of the question it is marked where it ties with the best."""
    measure = group.own(contest.role, contest.task, contest.measure)
    estimate = group.score(measure) if measure and not group.random_weights else None
    if estimate is None:
        return _reason(group)
    return Number(estimate.value, estimate.standard_error, marks=DAGGER if _ties(group, results) else "")


def _reason(group: Group) -> Missing:
    return Missing(group.first.reason or group.status) if not group.ok else _MISSING


def _ties(group: Group, results: Sequence[Claims]) -> bool:
    """Return whether the method is not significantly worse than the best; the best itself is marked where any is."""
    for result in results:
        alike = [pair.a for pair in result.against_best if _alike(pair.result)]
        if alike and (group in alike or group is result.best):
            return True
    return False


def _alike(result: Result) -> bool:
    if result.scope == "runs":
        return not result.runs_differ
    return result.verdict in ("not significant", "equivalent")


def _average(tasks: Sequence[MetricComparison], group: Group) -> Cell:
    """Return the mean over the tasks; unknown where the group lacks one of them."""
    measures = [group.own(contest.role, contest.task, contest.measure) for contest in tasks]
    estimates = [estimate for measure in measures if measure and (estimate := group.score(measure))]
    if len(estimates) < len(tasks) or group.random_weights:
        return _reason(group) if not estimates else Missing("not evaluated on every task")
    return Number(fmean(estimate.value for estimate in estimates))


def _retention(groups: Sequence[Group]) -> dict[str, int]:
    """Return the number of items of each retention task in percent, which is shown as a change in points."""
    counts: dict[str, int] = {}
    for scored in (scored for group in groups if group.ok for scored in group.role("retention")):
        if (metric := headline(scored)) and names.metric(metric).percent:
            counts.setdefault(scored.task, scored.record.num_items)
    return counts


def _retained(tasks: Sequence[str], group: Group) -> Cell:
    """Return the change of the retention score against the base model, the mean over its tasks."""
    if group.first.is_base:
        return Missing("the base model itself")
    scored = (
        [evaluation for evaluation in group.role("retention") if evaluation.task in tasks] if group.measured else []
    )
    gains = [group.gain(Measure(evaluation.comparison_key, headline(evaluation) or "")) for evaluation in scored]
    measured = [gain for gain in gains if gain is not None]
    if not measured or len(measured) < len(tasks):
        return _reason(group)
    error = measured[0].standard_error if len(measured) == 1 else None
    return Number(fmean(gain.value for gain in measured), error, signed=True)


def _cost_fields(groups: Sequence[Group]) -> list[Field]:
    longest = max((seconds for group in groups if (seconds := TRAIN_SECONDS.of(group))), default=0.0)
    unit, size = next((unit, size) for unit, size in _TIMES if longest >= 2 * size or size == 1)
    memory_title = "GPU mem." if on_gpu(groups) else "Memory"
    return [
        (Column(PARAMETERS.key, "Params", "M", 1e-6, priority=4), partial(_cost, PARAMETERS)),
        (replace(PEAK_MEMORY.column, title=memory_title, better="", priority=1), partial(_cost, PEAK_MEMORY)),
        (Column(TRAIN_SECONDS.key, "Time", unit, 1 / size, priority=3), partial(_cost, TRAIN_SECONDS)),
    ]


def _cost(cost: Cost, group: Group) -> Cell:
    if cost is PEAK_MEMORY and group.status == "oom":
        return Missing("out of memory", "OOM")
    value = cost.of(group)
    if cost is PEAK_MEMORY and value is not None:
        value = memory(group)
    return _reason(group) if value is None else Number(value)


def _footnotes(groups: Sequence[Group]) -> dict[str, tuple[str, str]]:
    """Return label -> (mark, sentence) for rows with fewer seeds than were run; equal sentences share a mark."""
    marks: dict[str, str] = {}
    footnotes = {}
    for group in groups:
        sentence = _lost(group)
        if sentence and (sentence in marks or len(marks) < len(LETTERS)):
            marks.setdefault(sentence, LETTERS[len(marks)])
            footnotes[group.label] = (marks[sentence], sentence)
    return footnotes


def _lost(group: Group) -> str:
    """Return how many seeds have a result, and why the others have none; "" where all have one."""
    missing = [row for row in (*group.rows, *group.lost) if row.status != "ok"]
    if not missing:
        return ""
    fates: dict[str, int] = {}
    for row in missing:
        fate = {"oom": "out of memory", None: "no record"}.get(row.status, row.status or "no record")
        fates[fate] = fates.get(fate, 0) + 1
    listed = ", ".join(f"{count} {fate}" if len(missing) > 1 else fate for fate, count in fates.items())
    total = len(group.rows) + len(group.lost)
    return f"{total - len(missing)} of {total} seeds ({listed})." if total > 1 else f"No result: {listed}."


def _notes(inputs: Inputs, tasks: Sequence[MetricComparison], footnotes: dict[str, tuple[str, str]]) -> Iterator[Note]:
    results = inputs.results
    if any(_alike(pair.result) for result in results for pair in result.against_best):
        what = " in these runs" if results[0].about_runs else ""
        where = results[0].contest.name
        yield Note(f"Not significantly worse than the best on {where}{what} (adjusted for all comparisons).", DAGGER)
    pairs = [pair for result in results for pair in result.against_best if pair.result.scope == "methods"]
    untested = [pair.a.name for pair in pairs if pair.result.verdict == "no verdict"]
    if untested:
        yield Note(f"No verdict against the best: {several(untested, 8)}.")
    for task in tasks if len(tasks) > 1 else ():
        if task.left_out and not task.groups:
            reasons = several([f"{group.name} ({reason})" for group, reason in task.left_out], 3)
            if all(at_chance(group, task.measure) for group, _ in task.left_out):
                reasons = "no method scores above chance (one-sided 5 %)"
            yield Note(f"{task.column.title} is neither ranked nor averaged: {reasons}.")
    if inputs.undertuned:
        yield Note("Chosen learning rate at the edge of the grid: the method may be undertuned.", DOUBLE_DAGGER)
    yield from (Note(text, mark) for mark, text in dict.fromkeys(footnotes.values()))


def _caption(tasks: Sequence[MetricComparison], inputs: Inputs) -> str:
    """Return what the table shows, in sentences that need no other page."""
    records = [group.first.record for group in inputs.groups if group.first.record]
    trained = [record for record in records if record.method != names.BASE]
    if not records:
        return ""
    models = several(names.known(names.model(record).display for record in records), 3)
    sets = several(names.known(names.data(record).display for record in trained), 3)
    metrics = list(dict.fromkeys(names.metric(contest.measure.metric).display for contest in tasks))
    unit = " (%)" if tasks and tasks[0].column.unit else ""
    what = f"{capital(several(metrics, 3))}{unit}" if metrics else "Cost"
    what += f" of {models}" if models else ""
    tuned = f" {'fine-tuned' if models else 'after fine-tuning'} on {sets}" if sets else ""
    counts = count_of_seeds(group for group in inputs.groups if group.trained)
    seeds = "one seed" if counts in ("", "1") else f"mean over {counts} seeds"
    items = [f"{contest.num_items:,} ({contest.column.title})" for contest in tasks]
    items += [f"{count:,} ({names.task(task).short})" for task, count in _retention(inputs.groups).items()]
    error = f"\N{PLUS-MINUS SIGN} one standard error over {'items' if counts in ('', '1') else 'items and seeds'}"
    lines = [f"{what}{tuned}, {seeds}, {error}."]
    lines += [f"Items: {several(items, 12)}."] if items else []
    lines += ["Best in bold, second underlined."] if len(trained) > 1 and tasks else []
    of_memory = "GPU mem.: what the GPU must have; time: that" if on_gpu(inputs.groups) else "memory and time: those"
    lines += [f"Params: trained parameters; {of_memory} of training."] if trained else []
    return " ".join(lines)
