"""The referee's questions about numbers: scores that cannot be, errors, averages, and what a difference can mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from statistics import fmean

from harness.report.display import several
from harness.review.row import Finding, Row, Score, Submission
from harness.stats.pairings import rounded_bounds

AVERAGES = ("avg", "average", "mean")
LEVEL = 0.05
NORMAL = 1.96  # standard errors from the middle of a 95 % interval to its ends
_ERROR_SLACK = 0.25  # by which a reported error may differ from the binomial one
_INTERVAL_SLACK = 0.4  # the same of an interval, whose level may be 90 or 99 %
_MOST_PAIRS = 12
_ROUNDING = 1e-6  # items by which a product of floats may be off


def impossible(submission: Submission) -> Iterator[Finding]:
    """Yield scores outside of their range, and those that no number of right answers gives.

    Source: Brown and Heathers, The GRIM test, Social Psychological and Personality Science 8, 2017.
    """
    for row, task, score in _scores(submission):
        label = _shown(score, score.value)
        if score.share and not 0 <= score.value <= 1:
            yield Finding(
                check="impossible", text=f"{row.name}: {task} is {label}, which is no share", rows=(row.name,)
            )
        elif score.share and score.items and not _is_possible(score, row.seeds):
            runs = f" in {row.seeds} runs" if row.seeds and row.seeds > 1 else ""
            runs = runs if row.seeds else " in one run"
            yield Finding(
                check="impossible",
                text=f"{row.name}: {task} is {label}, and no number of right answers among {score.items:,} items{runs} "
                "gives that",
                rows=(row.name,),
            )


def _is_possible(score: Score, seeds: int | None) -> bool:
    if seeds is None and (score.error is not None or score.interval is not None):
        return True  # a mean over an unknown number of runs
    total = (score.items or 1) * (seeds or 1)
    half = 0.5 * 10.0**-score.decimals if score.decimals is not None else 0.0
    nearest = round(score.value * total) / total
    return abs(nearest - score.value) <= half + 1e-9


def units(submission: Submission) -> Iterator[Finding]:
    """Yield columns in which some scores are shares of 1 and others are percent."""
    for task in _tasks(submission):
        members = [(row, row.scores[task]) for row in submission.rows if task in row.scores and row.scores[task].share]
        percent = [row.name for row, score in members if score.printed_in_percent]
        if percent and len(percent) < len(members):
            others = [row.name for row, score in members if not score.printed_in_percent]
            yield Finding(
                check="units",
                text=f"{task}: {several(percent, 4)} in percent, {several(others, 4)} as a share of 1",
                rows=(*percent, *others),
            )


def item_counts(submission: Submission) -> Iterator[Finding]:
    """Yield tasks on which rows were scored on different numbers of items."""
    for task in _tasks(submission):
        counts: dict[int, list[str]] = {}
        for row in submission.rows:
            items = row.scores[task].items if task in row.scores else None
            if items is not None:
                counts.setdefault(items, []).append(row.name)
        if len(counts) > 1:
            label = ", ".join(f"{items:,} ({several(names, 4)})" for items, names in sorted(counts.items()))
            yield Finding(
                check="items", text=f"{task}: different numbers of items: {label}", rows=tuple(chain(*counts.values()))
            )


def intervals(submission: Submission) -> Iterator[Finding]:
    """Yield scores without an error, and intervals that do not hold their score."""
    bare = [
        row.name for row in submission.rows if row.scores and not row.status and all(map(_is_bare, row.scores.values()))
    ]
    if bare and not submission.has_items:
        yield Finding(
            check="no-interval", text=f"no interval and no standard error: {several(bare, 6)}", rows=tuple(bare)
        )
    for row, task, score in _scores(submission):
        if score.interval is not None and not score.interval[0] <= score.value <= score.interval[1]:
            ends = " to ".join(_shown(score, end) for end in score.interval)
            yield Finding(
                check="interval",
                text=f"{row.name}: {task} is {_shown(score, score.value)}, outside of its own interval {ends}",
                rows=(row.name,),
            )


def errors(submission: Submission) -> Iterator[Finding]:
    """Yield errors and intervals of one run that are not those of its number of items."""
    for row, task, score in _scores(submission):
        expected = _binomial(score)
        if row.seeds != 1 or expected is None:
            continue
        error, words, slack = score.error, "error", _ERROR_SLACK
        if error is None and score.interval is not None:
            error = abs(score.interval[1] - score.interval[0]) / (2 * NORMAL)
            words, slack = "half of the interval over 1.96", _INTERVAL_SLACK
        if error is not None and abs(error / expected - 1) > slack:
            yield Finding(
                check="error",
                text=f"{row.name}: the {words} of {task} is {_shown(score, error)}; one run on {score.items:,} items "
                f"has a standard error of {_shown(score, expected)}, {error / expected:.2g} times less or more",
                rows=(row.name,),
            )


def averages(submission: Submission) -> Iterator[Finding]:
    """Yield averages that are not the mean of their columns."""
    for row in submission.rows:
        parts = [
            score for task, score in row.scores.items() if task.lower().strip(". ") not in AVERAGES and score.share
        ]
        named = [score for task, score in row.scores.items() if task.lower().strip(". ") in AVERAGES]
        if len(parts) < 2 or len(named) != 1:
            continue
        [given] = named
        slack = 10.0 ** -(given.decimals if given.decimals is not None else 6)
        mean = fmean(score.value for score in parts)
        if abs(mean - given.value) > slack * (1 + 1e-6):
            yield Finding(
                check="average",
                text=f"{row.name}: the average is {_shown(given, given.value)}, and the mean of its {len(parts)} "
                f"columns is {_shown(given, mean)}",
                rows=(row.name,),
            )


def bold(submission: Submission) -> Iterator[Finding]:
    """Yield columns in which a row that is not the best is printed as the best."""
    for task in _tasks(submission):
        members = [(row, row.scores[task]) for row in submission.rows if task in row.scores and row.scores[task].share]
        marked = [(row, score) for row, score in members if score.bold]
        best = max((score.value for _, score in members), default=0.0)
        if any(score.value == best for _, score in marked):
            continue  # several in bold are those that are level with the best
        for row, score in marked:
            if score.value < best:
                yield Finding(
                    check="bold",
                    text=f"{task}: {row.name} is printed in bold with {_shown(score, score.value)}, and the best is "
                    f"{_shown(score, best)}",
                    rows=(row.name,),
                )


def identical(submission: Submission) -> Iterator[Finding]:
    """Yield rows of different methods whose scores are all the same to the last digit, where no items tell more."""
    for a, b in combinations(submission.rows if not submission.has_items else (), 2):
        shared = [task for task in a.scores if task in b.scores]
        same = all(a.scores[task].value == b.scores[task].value for task in shared)
        if a.method != b.method and len(shared) >= 2 and same and any(a.scores[task].value for task in shared):
            yield Finding(
                check="identical",
                text=f"{a.name} and {b.name} have the same {len(shared)} scores to the last digit: one run twice?",
                rows=(a.name, b.name),
            )


def pairings(submission: Submission) -> Iterator[Finding]:
    """Yield what the difference of the best row to each other can mean, over all pairings of the items."""
    if submission.has_items:
        return
    for task in _tasks(submission):
        # a score of zero is of a broken run, and no difference to it means anything
        rows = [row for row in submission.rows if task in row.scores and not row.status and row.scores[task].value]
        rows = [row for row in rows if _counts(row.scores[task])]
        rows.sort(key=lambda row: -row.scores[task].value)
        for other in rows[1:_MOST_PAIRS]:
            if rows[0].scores[task].items == other.scores[task].items:
                yield _bounded(task, rows[0], other)


def _bounded(task: str, best: Row, other: Row) -> Finding:
    a, b = best.scores[task], other.scores[task]
    items = a.items or 1
    bounds = rounded_bounds(_counts(a) or (0, 0), _counts(b) or (0, 0), items, LEVEL)
    gap = 100 * (a.value - b.value)
    start = f"{task}: {best.name} over {other.name}, {gap:+.1f} points with n = {items:,}"
    if bounds.most_discordant is None:
        text = f"{start}: no pairing of the items is significant (p is at least {bounds.lowest:.2g})"
    elif bounds.highest <= LEVEL:
        text = f"{start}: significant however the items are paired (p is at most {bounds.highest:.2g})"
    else:
        share = 100 * bounds.most_discordant / items
        text = (
            f"{start}: significant only if the two disagree on at most {bounds.most_discordant:,} items "
            f"({share:.1f} %), which is not reported"
        )
    return Finding(check="pairing", text=f"{text}; of single runs, before correction", rows=(best.name, other.name),
                   severity="note")  # fmt: skip


def _counts(score: Score) -> tuple[int, int] | None:
    """Return the least and the largest number of right answers that rounds to a score; None where there can be none."""
    if not score.share or not score.items or not 0 <= score.value <= 1:
        return None
    nearest = round(score.value * score.items)
    half = 0.0 if score.decimals is None else 0.5 * 10.0**-score.decimals
    least = math.ceil((score.value - half) * score.items - _ROUNDING)
    most = math.floor((score.value + half) * score.items + _ROUNDING)
    return max(0, min(least, nearest)), min(score.items, max(most, nearest))


def _binomial(score: Score) -> float | None:
    if not score.share or not score.items or not 0 < score.value < 1:
        return None
    return math.sqrt(score.value * (1 - score.value) / score.items)


def _is_bare(score: Score) -> bool:
    return score.error is None and score.interval is None


def _shown(score: Score, value: float) -> str:
    if not score.share:
        return f"{value:g}"
    return f"{100 * value:.4g} %" if score.printed_in_percent else f"{value:.4g}"


def _tasks(submission: Submission) -> list[str]:
    return list(dict.fromkeys(task for row in submission.rows for task in row.scores))


def _scores(submission: Submission) -> Sequence[tuple[Row, str, Score]]:
    return [(row, task, score) for row in submission.rows if not row.status for task, score in row.scores.items()]


SCORES: tuple[Callable[[Submission], Iterator[Finding]], ...] = (
    impossible, units, item_counts, intervals, errors, averages, bold, identical, pairings,
)  # fmt: skip
