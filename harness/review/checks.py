"""The referee's questions about settings: what differs beside the method, rates, scales, seeds, and how was chosen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from harness.report.analysis.comparable import differences
from harness.report.display import several
from harness.review.row import LOW_RANK, Finding, Row, Submission, usual_rates

METHODS_OF_ONE_RATE = 3  # so many methods at one rate were not tuned
SCALE_FACTOR = 2.0  # of two low-rank updates at one rate
_FREE = ("method", "rate")


def settings_differ(submission: Submission) -> Iterator[Finding]:
    """Yield the settings in which trained rows differ beside their method."""
    facts = {label: dict(row.settings) for label, row in _labeled(_trained(submission))}
    for entry in differences(facts):
        if entry.key.partition(".")[0] not in _FREE:
            rows = tuple(name for _, names in entry.values for name in names)
            yield Finding(check="settings", text=f"differs beside the method: {entry}", rows=rows)


def scales(submission: Submission) -> Iterator[Finding]:
    """Yield low-rank updates that take steps of other sizes at one rate: effective scale times rate."""
    rows = [row for row in _trained(submission) if row.scale and row.rate and row.method in LOW_RANK]
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        if not row.rate_was_tuned:
            by_rate.setdefault(row.rate or 0.0, []).append(row)
    for rate, members in by_rate.items():
        low, high = min(members, key=_scale), max(members, key=_scale)
        factor = _scale(high) / _scale(low)
        if factor >= SCALE_FACTOR:
            yield Finding(
                check="scale",
                text=f"at one rate of {rate:g} the update of {high.name} is scaled by {_scale(high):g} and that of "
                f"{low.name} by {_scale(low):g}: its steps are {factor:.3g} times as large, which is a learning rate "
                "and not a method",
                rows=tuple(row.name for row in members),
            )


def rates(submission: Submission) -> Iterator[Finding]:
    """Yield learning rates outside of the usual range of their method."""
    for row in _trained(submission):
        usual = usual_rates().get(row.method)
        if usual is None or row.rate is None or row.rate_was_tuned:
            continue
        low, high = usual
        if not low <= row.rate <= high:
            yield Finding(
                check="rate",
                text=f"{row.name} was trained at {row.rate:g}; rates worth searching for {row.method} are {low:g} to "
                f"{high:g}, so that its score is of the rate and not of the method",
                rows=(row.name,),
            )


def one_rate(submission: Submission) -> Iterator[Finding]:
    """Yield a rate that several methods share: it was not tuned."""
    by_rate: dict[float, list[Row]] = {}
    for row in _trained(submission):
        if row.rate is not None and not row.rate_was_tuned:
            by_rate.setdefault(row.rate, []).append(row)
    for rate, members in by_rate.items():
        methods = list(dict.fromkeys(row.method for row in members))
        if len(methods) >= METHODS_OF_ONE_RATE:
            yield Finding(
                check="one-rate",
                text=f"{len(methods)} methods ({several(methods, 8)}) share the rate {rate:g}: it was not tuned for "
                "each, and a shared rate decides which of them wins",
                rows=tuple(row.name for row in members),
            )


def seeds(submission: Submission) -> Iterator[Finding]:
    """Yield single seeds, and rows with different numbers of them."""
    trained = [row for row in _trained(submission) if row.scores]
    single = [row for row in trained if row.seeds == 1]
    unsaid = [row for row in trained if row.seeds is None]
    if single:
        yield Finding(
            check="seeds",
            text=f"one seed each: {several([row.name for row in single], 6)}. Another seed may move a score by as much "
            "as the methods differ, so that nothing is known of the methods",
            rows=tuple(row.name for row in single),
        )
    if unsaid:
        yield Finding(
            check="seeds",
            text=f"the number of seeds is not said: {several([row.name for row in unsaid], 6)}",
            rows=tuple(row.name for row in unsaid),
        )
    for row in trained:
        if row.repeats:
            yield Finding(
                check="seeds",
                text=f"{row.name}: {row.repeats + 1} of {row.seeds} seeds have the same losses to the last digit: the "
                "seed changed nothing, or one run stands there several times",
                rows=(row.name,),
            )
    counts = {row.seeds for row in trained if row.seeds}
    if len(counts) > 1:
        label = several([f"{row.name} has {row.seeds}" for row in trained if row.seeds], 6)
        yield Finding(check="seeds", text=f"different numbers of seeds: {label}", rows=tuple(r.name for r in trained))


def chosen_on_test(submission: Submission) -> Iterator[Finding]:
    """Yield methods of which several rates have a test score, without a word on what they were chosen by."""
    for row in _trained(submission):
        if re.search(r"\btest\b", row.chosen_on.lower()):
            yield Finding(check="chosen-on-test", text=f"{row.name} was chosen on: {row.chosen_on}", rows=(row.name,))
    if submission.kind != "table" or any(row.rate_was_tuned is not None for row in submission.rows):
        return
    tried: dict[tuple[str, tuple[tuple[str, str], ...]], list[Row]] = {}
    for row in _trained(submission):
        tried.setdefault((row.method, tuple(sorted(row.settings.items()))), []).append(row)
    for (method, _), rows in tried.items():
        if len({row.rate for row in rows if row.rate is not None}) > 1:
            yield Finding(
                check="chosen-on-test",
                text=f"{len(rows)} learning rates of {method} have a test score, and none has one on validation data: "
                "the best of them is chosen by the test",
                rows=tuple(row.name for row in rows),
            )


def twice(submission: Submission) -> Iterator[Finding]:
    """Yield rows of one name and one setting that have different scores."""
    seen: dict[object, Row] = {}
    for row in _trained(submission):
        key = (row.name, row.rate, row.scale, row.seeds, tuple(sorted(row.settings.items())))
        other = seen.setdefault(key, row)
        if other is not row and {k: s.value for k, s in other.scores.items()} != {
            k: s.value for k, s in row.scores.items()
        }:
            yield Finding(
                check="twice",
                text=f"{row.name} stands there twice, with the same settings and other scores: which of them counts?",
                rows=(row.name,),
            )


def statuses(submission: Submission) -> Iterator[Finding]:
    """Yield rows whose run did not end well, and scores of zero."""
    for row in submission.rows:
        if row.status:
            yield Finding(check="status", text=f"{row.name} did not end well: {row.status}", rows=(row.name,))
        zero = [task for task, score in row.scores.items() if score.share and score.value == 0]
        if zero and not row.status:
            yield Finding(
                check="broken-run",
                text=f"{row.name} scores 0 on {several(zero, 4)}: that is a run that is broken, not a method that is "
                "worse",
                rows=(row.name,),
            )


def _trained(submission: Submission) -> Sequence[Row]:
    return [row for row in submission.rows if not row.is_base and not row.status]


def _labeled(rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Yield rows with their names, of which several may be equal, told apart by their order."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.name] += 1
        yield row.name if seen[row.name] == 1 else f"{row.name} ({seen[row.name]})", row


def _scale(row: Row) -> float:
    return row.scale or 0.0


SETTINGS: tuple[Callable[[Submission], Iterator[Finding]], ...] = (
    settings_differ, scales, rates, one_rate, seeds, chosen_on_test, twice, statuses,
)  # fmt: skip
