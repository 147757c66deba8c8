"""Trade-offs of quality and cost: frontiers and their certainty, methods at matched budgets, and all tasks together.

Quality and cost are never combined into one score: they are compared on a frontier or at a budget equal for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from harness.report.analysis.axes import COSTS, PARAMETERS, PEAK_MEMORY, flops_per_position, trainings
from harness.report.analysis.claims import Claims, MetricComparison, contests
from harness.report.analysis.verdicts import MOST_SHOWN, words
from harness.report.data.groups import METHOD, Group, units
from harness.report.display import TERA, mean, quantity
from harness.report.document import Column, Note, Number, Table, Text, Value, value_text

if TYPE_CHECKING:
    from harness.records.record import Training
    from harness.stats import Floats

_Axis = tuple[Column, list[float], "Floats | list[float]"]  # a cost: its column, each member's, and the same resampled
FRONTIER = "against each cost, or against the change on a retention task; *: on the front of the point estimates."
ALIKE = 0.1  # budgets within a tenth of each other are matched
FEWEST_FOR_IQM = 4  # tasks: the middle half of fewer is one or two of them


def frontiers(result: Claims, groups: Sequence[Group]) -> Table | None:
    """Return the probability of each method that no other is both better and cheaper, for every cost; None without one.

    A star marks the Pareto front of the point estimates. The change on a retention task counts as a cost.
    """
    from harness.stats import bootstrap, frontier_probabilities, on_frontier

    contest = result.contest
    members, sign = list(contest.ranked), 1 if contest.higher_is_better else -1
    tables = [table for group in members if (table := units(group, contest.measure))]
    if len(members) < 2 or len(tables) < len(members) or len({values.shape[1] for values, _ in tables}) > 1:
        return None
    draws = sign * bootstrap([values for values, _ in tables], tables[0][1])
    qualities = [sign * contest.value(group) for group in members]
    columns = [METHOD, contest.column]
    cells: list[list[Value]] = [[group.cell for group in members], [contest.value(group) for group in members]]
    for column, prices, resampled in (*_prices(members), *_forgetting(members, groups)):
        front = on_frontier(qualities, prices)
        shares = frontier_probabilities(draws, resampled)
        columns.append(column)
        cells.append([Number(float(p), marks="*" if on else "") for p, on in zip(shares, front, strict=True)])
    caption = f"Bootstrap probability of being Pareto-optimal in {contest.name} {FRONTIER}"
    settings = {"caption": caption, "label": "trade_off", "title": "Quality-cost trade-off"}
    return Table.of(columns, zip(*cells, strict=True), **settings) if len(columns) > 2 else None


def _prices(members: Sequence[Group]) -> Iterator[_Axis]:
    """Yield the costs that are known of every member and differ among them."""
    for cost in COSTS:
        prices = [cost.of(group) for group in members]
        values = [price for price in prices if price is not None]
        if len(values) == len(members) and len({*values}) > 1:
            yield Column(cost.key, cost.column.title, digits=2), values, values


def matched(result: Claims) -> Table | None:
    """Tabulate the validation loss at the budget of the cheapest method, in tokens, in seconds and in FLOPs."""
    trained = [(group, trainings(group)) for group in result.contest.ranked]
    members = [(group, runs) for group, runs in trained if runs and all(run.validation for run in runs)]
    if len(members) < 2:
        return None
    columns = [METHOD]
    cells: list[list[Value]] = [[group.cell for group, _ in members]]
    for title, spent in _BUDGETS:
        curves = [[curve for run in runs if (curve := spent(run)) is not None] for _, runs in members]
        if any(len(own) < len(runs) for own, (_, runs) in zip(curves, members, strict=True)):
            continue
        budget = min(curve[-1] for own in curves for curve in own)
        columns.append(Column(f"at_{title}", f"at {quantity(budget)} {title}", digits=4))
        cells.append([_loss_within(runs, own, budget) for (_, runs), own in zip(members, curves, strict=True)])
    settings = {"label": "equal_budget", "title": "Validation loss at equal budget"}
    rows = zip(*cells, strict=True)
    return Table.of(columns, rows, "no checkpoint within the budget", **settings) if len(columns) > 1 else None


def matched_pairs(result: Claims) -> Table | None:
    """Pairs of methods whose trained parameters, or whose peak memory, are within a tenth: which is better there.

    Of many pairs, only the significant ones and those with the best method are kept.
    """
    titles = {"pair": "Pair", "cost": "Matched on", "values": "Values"}  # parts of a wide table repeat the first column
    words_of = (Column(key, title, text=True) for key, title in titles.items())
    gap = replace(result.contest.gains, key="difference")
    columns = (*words_of, gap, Column("verdict", "Verdict", text=True))
    rows: list[tuple[Value, ...]] = []
    many = len(result.between) > MOST_SHOWN
    for pair in result.between:
        if many and not pair.significant and result.best not in (pair.a, pair.b):
            continue
        for cost in (PEAK_MEMORY, PARAMETERS):
            a, b = cost.of(pair.a), cost.of(pair.b)
            if a and b and abs(a - b) <= ALIKE * max(a, b):
                values = " and ".join(value_text(Number(price), cost.column) for price in (a, b))
                both = Text(f"{pair.a.name} vs. {pair.b.name}", f"{pair.a.label} vs. {pair.b.label}")
                difference = Number(pair.result.difference, signed=True)
                heading = replace(cost.column, better="").heading
                rows.append((both, heading, values, difference, Text(words(pair), pair.result.verdict)))
    return Table.of(columns, rows, label="matched_pairs", title="Pairs matched on cost") if rows else None


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
    answered = [[units(group, task.measure) for group in members] for task in tasks]
    if len(tasks) < 2 or len(members) < 2 or any(table is None for task in answered for table in task):
        return None
    tables = [[table for table in task if table] for task in answered]
    items = [
        bootstrap([values.mean(axis=0, keepdims=True) for values, _ in task], task[0][1], seed=index)
        for index, task in enumerate(tables)
    ]
    scores = [np.stack([_means(*task[i]) for task in tables], axis=1) for i in range(len(members))]
    draws = np.stack(items, axis=1) + seed_draws(scores, [tuple(row.seed for row in group.rows) for group in members])
    values = np.stack([score.mean(axis=0) for score in scores])
    many = len(tasks) >= FEWEST_FOR_IQM
    means = {"mean": f"Mean of {len(tasks)} tasks", **({"interquartile_mean": "IQM of the task means"} if many else {})}
    chances = _chances(tasks)
    summaries = across_tasks(values, draws)
    normalized = None
    if chances is not None:
        means["normalized"] = "Mean, chance-normalized"
        scaled = ((table - chances[:, None]) / (1 - chances[:, None]) for table in (values[..., None], draws))
        normalized = across_tasks(next(scaled)[..., 0], next(scaled))
    of_means = (Column(key, title, "%", 100.0, 1, "higher") for key, title in means.items())
    columns = (METHOD, *of_means, Column("rank", "Average rank", digits=2, better="lower"))
    rows: list[tuple[Value, ...]] = []
    for index, (group, summary) in enumerate(zip(members, summaries, strict=True)):
        numbers = [summary.mean, *([summary.interquartile_mean] if many else [])]
        numbers += [normalized[index].mean] if normalized else []
        cells = (Number(part.value, interval=(part.low, part.high)) for part in (*numbers, summary.rank))
        rows.append((group.cell, *cells))
    text = left_out(every, tasks, members)
    notes = (Note(text),) if text else ()
    return Table.of(columns, rows, notes=notes, label="all_target_tasks", title="All target tasks")


def _means(values: Floats, sizes: Floats | None) -> Floats:
    """Return the score of each seed."""
    total = values.shape[1] if sizes is None else float(sizes.sum())
    means: Floats = values.sum(axis=1) / total
    return means


def ranked_on_all(targets: Sequence[MetricComparison]) -> tuple[list[MetricComparison], list[Group]]:
    """Return the tasks on which most methods are ranked, and the methods that are ranked on each of them."""
    tasks = [
        contest for contest in targets if contest.higher_is_better and len(contest.left_out) <= len(contest.groups)
    ]
    members = [group for group in tasks[0].groups if all(group in contest.groups for contest in tasks)] if tasks else []
    return tasks, members


def left_out(every: Sequence[MetricComparison], tasks: Sequence[MetricComparison], members: Sequence[Group]) -> str:
    """Return which tasks and methods are not in the means, and why; "" where all are."""
    hidden = [task.name for task in every if task not in tasks]
    evaluated = {
        group.name for contest in tasks for group in (*contest.groups, *(group for group, _ in contest.left_out))
    }
    others = sorted(evaluated - {group.name for group in members})
    why = "since most methods are not ranked there (at or below chance, or unreadable answers)"
    parts = [f"Tasks left out, {why}: {', '.join(hidden)}."] if hidden else []
    parts += [f"Methods left out, since they are not ranked on every task: {', '.join(others)}."] if others else []
    return " ".join(parts)


def _chances(tasks: Sequence[MetricComparison]) -> Floats | None:
    """Return the score of guessing on each task; None where one is unknown, or where all are the same."""
    import numpy as np

    scored = [(contest.groups[0].evaluations[contest.measure.eval_id][0], contest.measure.metric) for contest in tasks]
    chances = [evaluation.record.metrics[metric].chance for evaluation, metric in scored]
    numbers = [chance for chance in chances if chance is not None and chance < 1]
    return np.array(numbers) if len(numbers) == len(chances) and len({*numbers}) > 1 else None


def _teraflop(run: Training) -> list[float] | None:
    rate = flops_per_position(run)
    return None if rate is None else [*accumulate(rate * padded / TERA for padded in run.padded_tokens)]


_BUDGETS: tuple[tuple[str, Callable[[Training], list[float] | None]], ...] = (
    ("tokens", lambda run: [*accumulate(run.real_tokens)]),
    ("s", lambda run: [*accumulate(run.step_seconds)]),
    ("TFLOP", _teraflop),
)


def _loss_within(runs: Sequence[Training], spent: Sequence[Sequence[float]], budget: float) -> float | None:
    """Return the mean over the seeds of the last validation loss within the budget; None where a seed has none."""
    losses = []
    for run, curve in zip(runs, spent, strict=True):
        reached = sum(amount <= budget * (1 + 1e-9) for amount in curve)  # steps
        within = [loss for step, loss in run.validation if step <= reached]
        losses.append(within[-1] if within else None)
    return mean(losses)


def _forgetting(members: Sequence[Group], groups: Sequence[Group]) -> Iterator[_Axis]:
    """Yield for each retention task what every member lost against the untouched model."""
    from harness.stats import bootstrap

    for contest in contests(groups, "retention"):
        tables = [units(group, contest.measure) for group in (*members, contest.base) if group]
        if contest.base and len(tables) == len(members) + 1 and all(table is not None for table in tables):
            draws = bootstrap([table[0] for table in tables if table], tables[0][1] if tables[0] else None, seed=1)
            sign = 1 if contest.higher_is_better else -1
            lost = [sign * (contest.value(contest.base) - contest.value(group)) for group in members]
            yield Column(contest.title, contest.name, digits=2), lost, sign * (draws[-1] - draws[:-1])
