"""The main table: methods by target tasks, their average, what was forgotten, and what training cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from harness.report import names
from harness.report.analysis.axes import COSTS, PARAMETERS, PEAK_MEMORY, TRAIN_SECONDS, Cost, memory, required_memory
from harness.report.analysis.claims import FEWEST_ITEMS, Claims, MetricComparison
from harness.report.data.groups import METHOD, Group, Measure, count_of_seeds, headline
from harness.report.display import several
from harness.report.document import (
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
    primary = [result.contest for result in inputs.results]
    tasks = _tasks(primary, inputs.targets)
    retention = _retention(inputs.groups)
    ordered, rules = _ordered(inputs)
    footnotes = _footnotes(ordered)
    scored = [contest.column for contest in tasks]
    spanner = "Target tasks" if len(tasks) > 1 and all(contest.role == "target" for contest in tasks) else ""
    ahead = tasks[0].column.key if tasks else ""
    columns = [
        METHOD,
        *(
            replace(column_of, spanner=spanner, priority=0 if column_of.key == ahead else 10 + place)
            for place, column_of in enumerate(scored)
        ),
    ]
    if spanner and len({column.unit for column in scored}) == 1 and scored[0].unit:
        columns.append(replace(scored[0], key=AVERAGE, title="Avg.", priority=2))
    if retention:
        single = f"{names.task(retention[0]).short} change"
        title = single if len(retention) == 1 else f"Retention change ({len(retention)} tasks)"
        columns.append(Column(RETENTION, title, "points", 100.0, 1, "higher", priority=100))
    columns += _cost_columns(ordered)
    rows = tuple(_row(group, columns, _Row(tasks, retention, footnotes, inputs)) for group in ordered)
    table = Table(tuple(columns), rows, label="main", title="Main results", rules=tuple(rules))
    competing = [place for place, group in enumerate(ordered) if group.trained and not group.random_weights]
    for key in (*(column.key for column in scored), AVERAGE):
        decides = all(task.num_items >= FEWEST_ITEMS for task in tasks if key in (task.column.key, AVERAGE))
        table = ranked(table, key, competing) if key in table.keys and decides else table
    return replace(table, notes=tuple(_notes(inputs, footnotes)), caption=_caption(tasks, inputs)).without_empty()


@dataclass(frozen=True)
class _Row:
    """Context of the cells of a row."""

    tasks: Sequence[MetricComparison]
    kept: Sequence[str]
    footnotes: dict[str, tuple[str, str]]
    inputs: Inputs


def _tasks(primary: Sequence[MetricComparison], targets: Sequence[MetricComparison]) -> list[MetricComparison]:
    """Return a contest for each column of scores: that of the question first, then the other target tasks."""
    columns: dict[str, MetricComparison] = {}
    for contest in (*primary[:1], *targets):
        if contest.role == "target" or not targets or contest is primary[0]:
            columns.setdefault(contest.column.key, contest)
    return list(columns.values())


def _ordered(inputs: Inputs) -> tuple[list[Group], list[int]]:
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
    ordered: list[Group] = []
    rules: list[int] = []
    for block in blocks:
        if block and ordered:
            rules.append(len(ordered))
        ordered += block
    return ordered, rules


def _row(group: Group, columns: Sequence[Column], row: _Row) -> tuple[Cell, ...]:
    contests = {contest.column.key: contest for contest in row.tasks}
    mark, _ = row.footnotes.get(group.label, ("", ""))
    edge = DOUBLE_DAGGER if group.label in row.inputs.undertuned else ""
    made: list[Cell] = [Text(group.name, group.label, f"{edge}{mark}", "" if group.ok else "bad")]
    for column in columns[1:]:
        if column.key in contests:
            made.append(_score(group, contests[column.key], row))
        elif column.key == AVERAGE:
            made.append(_average(group, row.tasks))
        elif column.key == RETENTION:
            made.append(_retained(group, row.kept))
        else:
            made.append(_cost(group, next(cost for cost in COSTS if cost.key == column.key)))
    return tuple(made)


def _score(group: Group, contest: MetricComparison, row: _Row) -> Cell:
    measure = group.own(contest.role, contest.task, contest.measure)
    estimate = group.score(measure) if measure and not group.random_weights else None
    if estimate is None:
        return _reason(group)
    first = row.tasks[0].column.key == contest.column.key
    marks = DAGGER if first and _ties(group, row.inputs.results) else ""
    return Number(estimate.value, estimate.standard_error, marks=marks)


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


def _average(group: Group, tasks: Sequence[MetricComparison]) -> Cell:
    """Return the mean over the tasks; unknown where the group lacks one of them."""
    measures = [group.own(contest.role, contest.task, contest.measure) for contest in tasks]
    estimates = [estimate for measure in measures if measure and (estimate := group.score(measure))]
    if len(estimates) < len(tasks) or group.random_weights:
        return _reason(group) if not estimates else Missing("not evaluated on every task")
    return Number(fmean(estimate.value for estimate in estimates))


def _retention(groups: Sequence[Group]) -> list[str]:
    """Return the retention tasks with a score that should be high, which is shown as a change in points."""
    every = (scored for group in groups if group.ok for scored in group.role("retention"))
    return list(
        dict.fromkeys(
            evaluation.task for evaluation in every if (m := headline(evaluation)) and names.metric(m).percent
        )
    )


def _retained(group: Group, tasks: Sequence[str]) -> Cell:
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


def _cost_columns(groups: Sequence[Group]) -> list[Column]:
    on_gpu = any(required_memory(group) for group in groups)
    longest = max((seconds for group in groups if (seconds := TRAIN_SECONDS.of(group))), default=0.0)
    unit, size = next((unit, size) for unit, size in _TIMES if longest >= 2 * size or size == 1)
    return [
        Column(PARAMETERS.key, "Params", "M", 1e-6, priority=4),
        replace(PEAK_MEMORY.column, title="GPU mem." if on_gpu else "Memory", better="", priority=1),
        Column(TRAIN_SECONDS.key, "Time", unit, 1 / size, priority=3),
    ]


def _cost(group: Group, cost: Cost) -> Cell:
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


def _notes(inputs: Inputs, footnotes: dict[str, tuple[str, str]]) -> Iterator[Note]:
    results = inputs.results
    if any(_alike(pair.result) for result in results for pair in result.against_best):
        what = " in these runs" if results[0].about_runs else ""
        where = results[0].contest.name
        yield Note(f"Not significantly worse than the best on {where}{what} (adjusted for all comparisons).", DAGGER)
    pairs = [pair for result in results for pair in result.against_best if pair.result.scope == "methods"]
    untested = [pair.a.name for pair in pairs if pair.result.verdict == "no verdict"]
    if untested:
        yield Note(f"No verdict against the best: {several(untested, 8)}.")
    if inputs.undertuned:
        yield Note("Chosen learning rate at the edge of the grid: the method may be undertuned.", DOUBLE_DAGGER)
    yield from (Note(text, mark) for mark, text in dict.fromkeys(footnotes.values()))


def _caption(tasks: Sequence[MetricComparison], inputs: Inputs) -> str:
    """Return what the table shows, in sentences that need no other page."""
    records = [group.first.record for group in inputs.groups if group.first.record]
    trained = [record for record in records if record.method != names.BASE]
    if not records:
        return ""
    models = several(list(dict.fromkeys(names.model(record).display for record in records)), 3)
    sets = several(names.known(names.data(record).display for record in trained), 3)
    metrics = list(dict.fromkeys(names.metric(contest.measure.metric).display for contest in tasks))
    unit = " (%)" if tasks and tasks[0].column.unit else ""
    what = f"{several(metrics, 3).capitalize()}{unit} of {models}" if metrics else f"Cost of {models}"
    counts = count_of_seeds(group for group in inputs.groups if group.trained)
    seeds = "one seed" if counts in ("", "1") else f"mean over {counts} seeds"
    items = [f"{contest.num_items:,} ({contest.column.title})" for contest in tasks]
    error = f"\N{PLUS-MINUS SIGN} one standard error over {'items' if counts in ('', '1') else 'items and seeds'}"
    lines = [f"{what}{f' fine-tuned on {sets}' if sets else ''}, {seeds}, {error}."]
    lines += [f"Items: {several(items, 12)}."] if items else []
    lines += ["Best in bold, second underlined."] if len(trained) > 1 and tasks else []
    return " ".join(lines)
