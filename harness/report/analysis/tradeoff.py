"""Trade-offs of quality and cost: frontiers and their certainty, methods at matched budgets, and all tasks together.

Quality and cost are never combined into one score: they are compared on a frontier or at a budget equal for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.report.analysis.axes import COSTS
from harness.report.analysis.claims import Claims, MetricComparison, contests
from harness.report.analysis.verdicts import MOST_SHOWN, words
from harness.report.data.groups import Group, outcomes
from harness.report.display import DASH, TERA, decimals, quantity
from harness.report.document import Cell, Column, Note, Number, Table, Text, text_table
from harness.report.pages.summary import trainings

if TYPE_CHECKING:
    from harness.records.record import Training
    from harness.stats import Floats

MAIN_COSTS = ("peak_memory_mebibytes", "train_seconds")
FRONTIER = "Each cell: cost, and bootstrap probability of being Pareto-optimal; * on the front of the estimates."
ALIKE = 0.1  # budgets within a tenth of each other are matched
FEWEST_FOR_IQM = 4  # tasks: the middle half of fewer is one or two of them


def frontiers(found: Claims, groups: Sequence[Group], costs: Sequence[str] = MAIN_COSTS) -> Table | None:
    """Return each method's cost with the probability that no other is both better and cheaper; None without one.

    A star marks the Pareto front of the point estimates.

    Args:
        found: the tests of the contest that gives the quality.
        groups: every row, for the retention tasks.
        costs: keys of the costs.
    """
    from harness.stats import frontier_probabilities, on_frontier

    drawn = _draws(found)
    if drawn is None:
        return None
    members, draws = drawn
    contest = found.contest
    sign = 1 if contest.higher_is_better else -1
    qualities = [sign * contest.value(group) for group in members]
    columns = [Column("method", "Method", text=True), contest.column]
    cells: list[list[Cell]] = [[Text(group.name, group.label) for group in members]]
    cells.append([Number(contest.value(group)) for group in members])
    for cost in COSTS:
        prices = [cost.of(group) for group in members]
        known = [price for price in prices if price is not None]
        if cost.key in costs and len(known) == len(members) and len(set(known)) > 1:
            share, front = frontier_probabilities(draws, known), on_frontier(qualities, known)
            columns += [Column(cost.key, cost.title), _probability(cost.key)]
            cells.append([Number(price, marks="*" if on else "") for price, on in zip(known, front, strict=True)])
            cells.append([Number(float(value)) for value in share])
    for other, lost, resampled in _forgetting(members, groups):
        share, front = frontier_probabilities(draws, resampled), on_frontier(qualities, lost)
        change = [-value if other.higher_is_better else value for value in lost]
        columns += [replace(other.gains, key=other.title, title=f"Change on {other.name}"), _probability(other.title)]
        marks = ["*" if on else "" for on in front]
        cells.append([Number(value, signed=True, marks=mark) for value, mark in zip(change, marks, strict=True)])
        cells.append([Number(float(value)) for value in share])
    if len(columns) == 2:
        return None
    rows = tuple(tuple(column[place] for column in cells) for place in range(len(members)))
    return Table(tuple(columns), rows, label="trade_off", title="Quality-cost trade-off")


def _probability(of: str) -> Column:
    return Column(f"{of}/probability", "Prob.", digits=2)


def matched(found: Claims) -> Table | None:
    """Tabulate the validation loss at the budget of the cheapest method, in tokens, in seconds and in FLOPs."""
    runs = {group.label: trainings(group) for group in found.contest.ranked}
    runs = {label: each for label, each in runs.items() if each and all(one.validation for one in each)}
    if len(runs) < 2:
        return None
    header, columns = ["Method"], []
    for title, spent in _BUDGETS:
        curves = {label: [spent(one) for one in each] for label, each in runs.items()}
        known = [[one for one in each if one is not None] for each in curves.values()]
        if any(len(one) != len(each) for one, each in zip(known, curves.values(), strict=True)):
            continue
        budget = min(curve[-1] for each in known for curve in each)
        header.append(f"at {quantity(budget)} {title}")
        columns.append([_loss_within(runs[label], each, budget) for label, each in zip(runs, known, strict=True)])
    shown = {group.label: group.name for group in found.contest.ranked}
    lines = [(shown[label], *(column[i] for column in columns)) for i, label in enumerate(runs)]
    return text_table("Validation loss at equal budget", header, lines) if columns else None


def matched_pairs(found: Claims) -> Table | None:
    """Pairs of methods whose trained parameters, or whose peak memory, are within a tenth: which is better there.

    Of many pairs, only the significant ones and those with the best method are kept.
    """
    lines = []
    many = len(found.between) > MOST_SHOWN
    for pair in found.between:
        if many and not pair.significant and found.best not in (pair.a, pair.b):
            continue
        for cost in COSTS[:1] + COSTS[2:3]:
            a, b = cost.of(pair.a), cost.of(pair.b)
            if a and b and abs(a - b) <= ALIKE * max(a, b):
                gap = found.contest.gain_shown(pair.result.difference)
                shown = f"{quantity(a)} and {quantity(b)}"
                lines.append((f"{pair.a.name}, {pair.b.name}", cost.title, shown, gap, words(pair)))
    header = ("Pair", "matched on", "values", "Difference", "Verdict")
    return text_table("Pairs matched on cost", header, lines, header) if lines else None


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
    answered = [[outcomes(group, one.measure) for group in members] for one in tasks]
    if len(tasks) < 2 or len(members) < 2 or any(table is None for task in answered for table in task):
        return None
    tables = [[table[0] for table in task if table] for task in answered]
    items = [
        bootstrap([table.mean(axis=0, keepdims=True) for table in task], seed=index)
        for index, task in enumerate(tables)
    ]
    scores = [np.stack([task[i].mean(axis=1) for task in tables], axis=1) for i in range(len(members))]
    draws = np.stack(items, axis=1) + seed_draws(scores, [tuple(row.seed for row in group.rows) for group in members])
    values = np.stack([one.mean(axis=0) for one in scores])
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
    for index, (group, one) in enumerate(zip(members, summaries, strict=True)):
        shown = [one.mean, *([one.interquartile_mean] if many else [])]
        shown += [normalized[index].mean] if normalized else []
        cells = [Number(part.value, interval=(part.low, part.high)) for part in (*shown, one.rank)]
        rows.append((Text(group.name, group.label), *cells))
    left_out = _left_out(every, tasks, members)
    notes = (Note(left_out),) if left_out else ()
    return Table(tuple(columns), tuple(rows), notes, label="all_target_tasks", title="All target tasks")


def _mean_column(key: str, title: str) -> Column:
    return Column(key, title, "%", 100.0, 1, "higher")


def ranked_on_all(targets: Sequence[MetricComparison]) -> tuple[list[MetricComparison], list[Group]]:
    """Return the tasks on which most methods are ranked, and the methods that are ranked on each of them."""
    tasks = [one for one in targets if one.higher_is_better and len(one.left_out) <= len(one.groups)]
    members = [group for group in tasks[0].groups if all(group in one.groups for one in tasks)] if tasks else []
    return tasks, members


def _left_out(every: Sequence[MetricComparison], tasks: Sequence[MetricComparison], members: Sequence[Group]) -> str:
    """Return which tasks and methods are not in the means, and why; "" where all are."""
    hidden = [one.name for one in every if one not in tasks]
    asked = {group.name for one in tasks for group in (*one.groups, *(group for group, _ in one.left_out))}
    others = sorted(asked - {group.name for group in members})
    parts = [f"Tasks left out, since most methods are not ranked there: {', '.join(hidden)}."] if hidden else []
    parts += [f"Methods left out, since they are not ranked on every task: {', '.join(others)}."] if others else []
    return " ".join(parts)


def _chances(tasks: Sequence[MetricComparison]) -> Floats | None:
    """Return the score of guessing on each task; None where one is unknown, or where all are the same."""
    import numpy as np

    metrics = [one.groups[0].evaluations[one.measure.eval_id][0].record.metrics[one.measure.metric] for one in tasks]
    chances = [metric.chance for metric in metrics]
    known = [chance for chance in chances if chance is not None and chance < 1]
    return np.array(known) if len(known) == len(chances) and len({*known}) > 1 else None


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


def _loss_within(runs: Sequence[Training], spent: Sequence[Sequence[float]], budget: float) -> str:
    """The mean over the seeds of the last validation loss within the budget; a dash where a seed has none by then."""
    losses = []
    for run, curve in zip(runs, spent, strict=True):
        within = [
            loss for step, loss in run.validation if step <= len(curve) and curve[step - 1] <= budget * (1 + 1e-9)
        ]
        if not within:
            return DASH
        losses.append(within[-1])
    return decimals(sum(losses) / len(losses), 4)


def _draws(found: Claims) -> tuple[list[Group], Floats] | None:
    """The ranked groups and their resampled qualities, higher is better."""
    from harness.stats import bootstrap

    members = list(found.contest.ranked)
    known = [outcomes(group, found.contest.measure) for group in members]
    if len(members) < 2 or any(one is None for one in known) or len({one[0].shape[1] for one in known if one}) > 1:
        return None
    weights = known[0][1] if known[0] else None
    draws = bootstrap([one[0] for one in known if one], weights)
    return members, draws if found.contest.higher_is_better else -draws


def _forgetting(
    members: Sequence[Group], groups: Sequence[Group]
) -> list[tuple[MetricComparison, list[float], Floats]]:
    """For each retention task what every member lost against the untouched model, and the same resampled."""
    from harness.stats import bootstrap

    lost = []
    for contest in contests(groups, "retention"):
        known = [outcomes(group, contest.measure) for group in (*members, contest.base) if group]
        if contest.base and len(known) == len(members) + 1 and all(one is not None for one in known):
            draws = bootstrap([one[0] for one in known if one], known[0][1] if known[0] else None, seed=1)
            sign = 1 if contest.higher_is_better else -1
            values = [sign * (contest.value(contest.base) - contest.value(group)) for group in members]
            lost.append((contest, values, sign * (draws[-1] - draws[:-1])))
    return lost
