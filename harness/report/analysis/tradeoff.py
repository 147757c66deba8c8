"""Trade-offs of quality and cost: frontiers and their certainty, methods at matched budgets, and all tasks together.

Quality and cost are never combined into one score: they are compared on a frontier or at a budget equal for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.report.analysis.axes import COSTS, PARAMETERS, PEAK_MEMORY, trainings
from harness.report.analysis.claims import Claims, MetricComparison, contests
from harness.report.analysis.verdicts import MOST_SHOWN, words
from harness.report.data.groups import Group, outcomes
from harness.report.display import TERA, quantity
from harness.report.document import Cell, Column, Missing, Note, Number, Table, Text, value_text

if TYPE_CHECKING:
    from harness.records.record import Training
    from harness.stats import Floats

FRONTIER = "in each cost, or in the change on a retention task; *: on the front of the point estimates."
ALIKE = 0.1  # budgets within a tenth of each other are matched
FEWEST_FOR_IQM = 4  # tasks: the middle half of fewer is one or two of them


def frontiers(result: Claims, groups: Sequence[Group]) -> Table | None:
    """Return the probability of each method that no other is both better and cheaper, for every cost; None without one.

    A star marks the Pareto front of the point estimates. The change on a retention task counts as a cost.
    """
    from harness.stats import frontier_probabilities, on_frontier

    drawn = _draws(result)
    if drawn is None:
        return None
    members, draws = drawn
    contest = result.contest
    qualities = [(1 if contest.higher_is_better else -1) * contest.value(group) for group in members]
    columns = [Column("method", "Method", text=True), contest.column]
    cells: list[list[Cell]] = [[Text(group.name, group.label) for group in members]]
    cells.append([Number(contest.value(group)) for group in members])
    for column, prices, resampled in (*_prices(members), *_forgetting(members, groups)):
        front = on_frontier(qualities, prices)
        shares = frontier_probabilities(draws, resampled)
        columns.append(column)
        cells.append([Number(float(p), marks="*" if on else "") for p, on in zip(shares, front, strict=True)])
    if len(columns) == 2:
        return None
    rows = tuple(tuple(column[place] for column in cells) for place in range(len(members)))
    caption = f"Bootstrap probability of being Pareto-optimal in {contest.name} and {FRONTIER}"
    return Table(tuple(columns), rows, caption=caption, label="trade_off", title="Quality-cost trade-off")


Axis = tuple[Column, list[float], "Floats | list[float]"]  # a cost: its column, each member's, and the same resampled


def _prices(members: Sequence[Group]) -> Iterator[Axis]:
    """Yield the costs that are known of every member and differ among them."""
    for cost in COSTS:
        prices = [cost.of(group) for group in members]
        values = [price for price in prices if price is not None]
        if len(values) == len(members) and len({*values}) > 1:
            yield Column(cost.key, cost.column.title, digits=2), values, values


def matched(result: Claims) -> Table | None:
    """Tabulate the validation loss at the budget of the cheapest method, in tokens, in seconds and in FLOPs."""
    runs = {group.label: trainings(group) for group in result.contest.ranked}
    runs = {
        label: trainings_of
        for label, trainings_of in runs.items()
        if trainings_of and all(training.validation for training in trainings_of)
    }
    if len(runs) < 2:
        return None
    columns = [Column("method", "Method", text=True)]
    cells: list[list[Cell]] = [
        [Text(group.name, group.label) for group in result.contest.ranked if group.label in runs]
    ]
    for title, spent in _BUDGETS:
        curves = {label: [spent(training) for training in trainings_of] for label, trainings_of in runs.items()}
        spending = [[training for training in trainings_of if training is not None] for trainings_of in curves.values()]
        if any(
            len(amounts) != len(trainings_of) for amounts, trainings_of in zip(spending, curves.values(), strict=True)
        ):
            continue
        budget = min(curve[-1] for trainings_of in spending for curve in trainings_of)
        columns.append(Column(f"at_{title}", f"at {quantity(budget)} {title}", digits=4))
        cells.append(
            [
                _loss_within(runs[label], trainings_of, budget)
                for label, trainings_of in zip(runs, spending, strict=True)
            ]
        )
    rows = tuple(zip(*cells, strict=True))
    title = "Validation loss at equal budget"
    return Table(tuple(columns), rows, label="equal_budget", title=title) if len(columns) > 1 else None


def matched_pairs(result: Claims) -> Table | None:
    """Pairs of methods whose trained parameters, or whose peak memory, are within a tenth: which is better there.

    Of many pairs, only the significant ones and those with the best method are kept.
    """
    gains = result.contest.gains
    columns = (
        Column("method", "Method", text=True),
        Column("other", "and", text=True),
        Column("cost", "matched on", text=True),
        Column("values", "values", text=True),
        replace(gains, key="difference"),
        Column("verdict", "Verdict", text=True),
    )
    rows: list[tuple[Cell, ...]] = []
    many = len(result.between) > MOST_SHOWN
    for pair in result.between:
        if many and not pair.significant and result.best not in (pair.a, pair.b):
            continue
        for cost in (PEAK_MEMORY, PARAMETERS):
            a, b = cost.of(pair.a), cost.of(pair.b)
            if a and b and abs(a - b) <= ALIKE * max(a, b):
                values = " and ".join(value_text(Number(price), cost.column) for price in (a, b))
                heading, gap = replace(cost.column, better="").heading, Number(pair.result.difference, signed=True)
                words_of = [Text(text) for text in (pair.a.name, pair.b.name, heading, values)]
                rows.append((*words_of, gap, Text(words(pair), pair.result.verdict)))
    return Table(columns, tuple(rows), label="matched_pairs", title="Pairs matched on cost") if rows else None


def across(groups: Sequence[Group]) -> Table | None:
    """Return the target tasks together: mean, interquartile mean and average rank of the methods.

    A task on which most methods are not ranked (at chance, unreadable answers) is left out, and so is a method that is
    not ranked on one of the others. Seed effects are drawn once for all tasks of a run and for all methods with the
    same seeds, since one training answers all tasks.
    """
    import numpy as np

    from harness.stats import across_tasks, bootstrap, seed_draws

    every = [contest for contest in contests(groups, "target") if contest.higher_is_better]
    tasks, members = ranked_on_all(every)
    answered = [[outcomes(group, task.measure) for group in members] for task in tasks]
    if len(tasks) < 2 or len(members) < 2 or any(table is None for task in answered for table in task):
        return None
    tables = [[table[0] for table in task if table] for task in answered]
    items = [
        bootstrap([table.mean(axis=0, keepdims=True) for table in task], seed=index)
        for index, task in enumerate(tables)
    ]
    scores = [np.stack([task[i].mean(axis=1) for task in tables], axis=1) for i in range(len(members))]
    draws = np.stack(items, axis=1) + seed_draws(scores, [tuple(row.seed for row in group.rows) for group in members])
    values = np.stack([score.mean(axis=0) for score in scores])
    columns = [Column("method", "Method", text=True), _mean_column("mean", f"Mean of {len(tasks)} tasks")]
    many = len(tasks) >= FEWEST_FOR_IQM
    columns += [_mean_column("interquartile_mean", "IQM of the task means")] if many else []
    chances = _chances(tasks)
    summaries = across_tasks(values, draws)
    normalized = None
    if chances is not None:
        columns.append(_mean_column("normalized", "Mean, chance-normalized"))
        scaled = ((table - chances[:, None]) / (1 - chances[:, None]) for table in (values[..., None], draws))
        normalized = across_tasks(next(scaled)[..., 0], next(scaled))
    columns.append(Column("rank", "Average rank", digits=2, better="lower"))
    rows: list[tuple[Cell, ...]] = []
    for index, (group, summary) in enumerate(zip(members, summaries, strict=True)):
        numbers = [summary.mean, *([summary.interquartile_mean] if many else [])]
        numbers += [normalized[index].mean] if normalized else []
        cells = [Number(part.value, interval=(part.low, part.high)) for part in (*numbers, summary.rank)]
        rows.append((Text(group.name, group.label), *cells))
    left_out = _left_out(every, tasks, members)
    notes = (Note(left_out),) if left_out else ()
    return Table(tuple(columns), tuple(rows), notes, label="all_target_tasks", title="All target tasks")


def _mean_column(key: str, title: str) -> Column:
    return Column(key, title, "%", 100.0, 1, "higher")


def ranked_on_all(targets: Sequence[MetricComparison]) -> tuple[list[MetricComparison], list[Group]]:
    """Return the tasks on which most methods are ranked, and the methods that are ranked on each of them."""
    tasks = [
        contest for contest in targets if contest.higher_is_better and len(contest.left_out) <= len(contest.groups)
    ]
    members = [group for group in tasks[0].groups if all(group in contest.groups for contest in tasks)] if tasks else []
    return tasks, members


def _left_out(every: Sequence[MetricComparison], tasks: Sequence[MetricComparison], members: Sequence[Group]) -> str:
    """Return which tasks and methods are not in the means, and why; "" where all are."""
    hidden = [task.name for task in every if task not in tasks]
    evaluated = {
        group.name for contest in tasks for group in (*contest.groups, *(group for group, _ in contest.left_out))
    }
    others = sorted(evaluated - {group.name for group in members})
    parts = [f"Tasks left out, since most methods are not ranked there: {', '.join(hidden)}."] if hidden else []
    parts += [f"Methods left out, since they are not ranked on every task: {', '.join(others)}."] if others else []
    return " ".join(parts)


def _chances(tasks: Sequence[MetricComparison]) -> Floats | None:
    """Return the score of guessing on each task; None where one is unknown, or where all are the same."""
    import numpy as np

    metrics = [
        contest.groups[0].evaluations[contest.measure.eval_id][0].record.metrics[contest.measure.metric]
        for contest in tasks
    ]
    chances = [metric.chance for metric in metrics]
    numbers = [chance for chance in chances if chance is not None and chance < 1]
    return np.array(numbers) if len(numbers) == len(chances) and len({*numbers}) > 1 else None


def _cumulated(values: Sequence[float]) -> list[float]:
    total, sums = 0.0, []
    for value in values:
        total += value
        sums.append(total)
    return sums


def _step_teraflop(run: Training) -> list[float] | None:
    if run.profile is None:
        return None
    positions = sum(rows * tokens for rows, tokens in run.profile.micro_batches)
    return _cumulated([run.profile.flops / positions * padded / TERA for padded in run.padded_tokens])


_BUDGETS: tuple[tuple[str, Callable[[Training], list[float] | None]], ...] = (
    ("tokens", lambda run: _cumulated(run.real_tokens)),
    ("s", lambda run: _cumulated(run.step_seconds)),
    ("TFLOP", _step_teraflop),
)


def _loss_within(runs: Sequence[Training], spent: Sequence[Sequence[float]], budget: float) -> Cell:
    """Return the mean over the seeds of the last validation loss within the budget."""
    losses = []
    for run, curve in zip(runs, spent, strict=True):
        within = [
            loss for step, loss in run.validation if step <= len(curve) and curve[step - 1] <= budget * (1 + 1e-9)
        ]
        if not within:
            return Missing("no checkpoint within the budget")
        losses.append(within[-1])
    return Number(sum(losses) / len(losses))


def _draws(result: Claims) -> tuple[list[Group], Floats] | None:
    """The ranked groups and their resampled qualities, higher is better."""
    from harness.stats import bootstrap

    members = list(result.contest.ranked)
    tables = [outcomes(group, result.contest.measure) for group in members]
    if (
        len(members) < 2
        or any(table is None for table in tables)
        or len({table[0].shape[1] for table in tables if table}) > 1
    ):
        return None
    weights = tables[0][1] if tables[0] else None
    draws = bootstrap([table[0] for table in tables if table], weights)
    return members, draws if result.contest.higher_is_better else -draws


def _forgetting(members: Sequence[Group], groups: Sequence[Group]) -> Iterator[Axis]:
    """Yield for each retention task what every member lost against the untouched model."""
    from harness.stats import bootstrap

    for contest in contests(groups, "retention"):
        tables = [outcomes(group, contest.measure) for group in (*members, contest.base) if group]
        if contest.base and len(tables) == len(members) + 1 and all(table is not None for table in tables):
            draws = bootstrap([table[0] for table in tables if table], tables[0][1] if tables[0] else None, seed=1)
            sign = 1 if contest.higher_is_better else -1
            lost = [sign * (contest.value(contest.base) - contest.value(group)) for group in members]
            yield Column(contest.title, contest.name, digits=2), lost, sign * (draws[-1] - draws[:-1])
