"""Choice of a recipe in a tuned sweep: a pure function of records, the same for the sweep and for its report.

A trial is a recipe with every tuning seed. The loss on the validation rows is the only score that is read.
A failed trial counts as a trial, and is never chosen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from harness.records.record import Attempt, Cell, Choice, EvaluationRecord, RunRecord

_OF_TRAINING = ("load", "train", "validate")  # phases that a trial costs; evaluation on the test is not tuning
RowLosses = dict[str, tuple[float, float]]  # a validation row's id -> nats and number of its answer tokens


@dataclass(frozen=True, kw_only=True)
class Look:
    """One run of a trial; None where there is no record yet, or the run did not end well.

    `rows` reads the losses of single validation rows; None where they cannot be read.
    """

    cell: Cell
    run: RunRecord | None
    validation: EvaluationRecord | None
    rows: Callable[[], RowLosses | None] = lambda: None

    @property
    def loss(self) -> float | None:
        """Return nats per answer token on the validation rows; None unless the run is ok and was evaluated."""
        if self.run is None or self.run.status != "ok" or self.validation is None:
            return None
        if self.validation.weights_from != self.run.current.weights_from or "loss" not in self.validation.metrics:
            return None
        return self.validation.metrics["loss"].value

    @property
    def status(self) -> str:
        """Return the run's status; "missing" without a record, or if the run is ok but has no validation loss."""
        if self.run is None or (self.run.status == "ok" and self.loss is None):
            return "missing"
        return self.run.status


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One recipe that was tried for a contestant, with a look for each tuning seed."""

    contestant: str
    recipe_id: str
    settings: Mapping[str, str]  # tuned setting -> its requested value
    looks: tuple[Look, ...]

    @property
    def status(self) -> str:
        """Return "ok" when every seed is ok; else the first other status."""
        return next((look.status for look in self.looks if look.status != "ok"), "ok")

    @property
    def reason(self) -> str:
        """Return the reason of the first seed that is not ok; "" where there is none, or no record of it."""
        broken = next((look for look in self.looks if look.status != "ok"), None)
        return broken.run.current.reason if broken and broken.run else ""

    @property
    def loss(self) -> float | None:
        """Return the mean loss over the tuning seeds; None unless every seed ended well."""
        losses = [look.loss for look in self.looks]
        numbers = [loss for loss in losses if loss is not None]
        return mean(numbers) if numbers and len(numbers) == len(losses) else None

    @property
    def standard_error(self) -> float | None:
        """Return the standard error of the loss: over the tuning seeds, or with one seed over the validation rows."""
        if self.loss is None:
            return None
        if len(self.looks) > 1:
            return stdev([look.loss or 0.0 for look in self.looks]) / math.sqrt(len(self.looks))
        validation = self.looks[0].validation
        return validation.metrics["loss"].stderr if validation else None

    @property
    def rate(self) -> float | None:
        """Return the learning rate of the training."""
        run = self.looks[0].run
        rate = (run.recipe.get("train") or {}).get("lr") if run else None
        return float(rate) if rate is not None else None

    @property
    def trainable_parameters(self) -> int | None:
        """Return the number of trained parameters; None where no run came far enough to count them."""
        prints = [look.run.measured.fingerprint for look in self.looks if look.run]
        return next((counts.trainable_parameters for counts in prints if counts), None)

    @property
    def device_seconds(self) -> float:
        """Return the seconds of loading, training and validation in every attempt that trained, times its devices."""
        return sum(
            _seconds(attempt)
            for look in self.looks
            if look.run
            for attempt in look.run.attempts
            if attempt.weights_from == attempt.started_at or attempt.status != "ok"
        )


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A chosen value beyond which no trial ended well or diverged, so that a better one may lie there."""

    setting: str
    value: str
    side: str  # lowest | highest
    tried: tuple[float, ...]
    unproven: tuple[float, ...] = ()  # values beyond it whose trials failed for reasons other than the value


def trials(looks: Iterable[Look], settings: Sequence[str]) -> dict[str, list[Trial]]:
    """Return the trials of every contestant, in the order in which they were requested."""
    by_contestant: dict[str, dict[str, list[Look]]] = {}
    for look in looks:
        if look.cell.stage == "tune":
            of = by_contestant.setdefault(look.cell.contestant or "", {})
            of.setdefault(look.cell.recipe_id, []).append(look)
    return {
        contestant: [
            Trial(
                contestant=contestant,
                recipe_id=recipe_id,
                settings=_asked(members[0].cell, settings),
                looks=tuple({look.cell.seed: look for look in members}.values()),
            )
            for recipe_id, members in recipes.items()
        ]
        for contestant, recipes in by_contestant.items()
    }


def choose(contestant: str, tried: Sequence[Trial], rule: str) -> Choice:
    """Choose among one contestant's trials by the named rule.

    Equal losses are decided by the lower learning rate, then by the recipe's id, which is arbitrary but the same
    everywhere.
    """
    counted = Counter(trial.status for trial in tried)
    others = "".join(f", {count} {status}" for status, count in sorted(counted.items()) if status != "ok")
    scored = [trial for trial in tried if trial.loss is not None]
    if not scored:
        return Choice(contestant=contestant, recipe_id=None, reason=f"none of {len(tried)} trials completed{others}")
    chosen, why = RULES[rule](scored)
    tied = sum(trial.loss == chosen.loss for trial in scored) - 1
    tie = f", tied with {tied} more: the lowest rate" if tied and rule == "lowest_validation_loss" else ""
    reason = f"{why}, {chosen.loss:.4f}, of {len(tried)} trials{others}{tie}"
    return Choice(contestant=contestant, recipe_id=chosen.recipe_id, reason=reason)


def lowest_validation_loss(scored: Sequence[Trial]) -> tuple[Trial, str]:
    """Return the trial with the lowest loss, and the reason in words."""
    return min(scored, key=_by_loss), "the lowest validation loss"


def one_standard_error(scored: Sequence[Trial]) -> tuple[Trial, str]:
    """Return the trial with the fewest trained parameters, then the lowest rate, among those within a standard error.

    The standard error is that of the difference to the best trial, paired by validation row and tuning seed: the rows
    are equally hard for both, so that the error of either loss alone is many times too large.

    Source: Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984, section 3.4.3.
    """
    best = min(scored, key=_by_loss)
    within = [trial for trial in scored if _gap(trial, best) <= (paired_standard_error(trial, best) or 0.0)]

    def simplest(trial: Trial) -> tuple[float, float, float, str]:
        size = math.inf if trial.trainable_parameters is None else trial.trainable_parameters
        return (size, _rate(trial), trial.loss or 0.0, trial.recipe_id)

    chosen = min(within, key=simplest)
    return (
        chosen,
        f"the smallest of {len(within)} within one standard error of the lowest validation loss, paired by row",
    )


def row_losses(path: Path) -> RowLosses | None:
    """Read the losses of single rows from the items of a held-out evaluation; None where there are none."""
    from pyarrow import parquet

    try:
        columns = parquet.read_table(path, columns=["item_id", "metric/nll", "num_tokens"]).to_pydict()
    except (OSError, ValueError, KeyError):  # pyarrow's own errors are among them
        return None
    rows = zip(columns["item_id"], columns["metric/nll"], columns["num_tokens"], strict=True)
    return {str(row): (float(nats), float(tokens)) for row, nats, tokens in rows}


def paired_standard_error(a: Trial, b: Trial) -> float | None:
    """Return the standard error of the difference of two losses, in nats per token, on the same rows and seeds.

    The error over the rows is that of a ratio of two sums (Cochran 1977, section 2.11), of nats averaged over the
    seeds; with several seeds the error over the seeds is added. None where the rows or the seeds are not the same.
    """
    pairs = [(x.rows(), y.rows()) for x, y in zip(a.looks, b.looks, strict=False) if x.cell.seed == y.cell.seed]
    sides = [(x, y) for x, y in pairs if x and y and {k: v[1] for k, v in x.items()} == {k: v[1] for k, v in y.items()}]
    if (
        not sides
        or len(sides) < max(len(a.looks), len(b.looks))
        or any(x.keys() != sides[0][0].keys() for x, _ in sides)
    ):
        return None
    tokens = {row: count for row, (_, count) in sides[0][0].items()}
    total, rows = sum(tokens.values()), len(tokens)
    if rows < 2 or not total:
        return None
    gaps = {row: mean(x[row][0] - y[row][0] for x, y in sides) for row in tokens}
    ratio = sum(gaps.values()) / total
    squares = sum((gaps[row] - ratio * tokens[row]) ** 2 for row in tokens)
    variance = rows / (rows - 1) * squares / total**2
    by_seed = [sum(x[row][0] - y[row][0] for row in tokens) / total for x, y in sides]
    return math.sqrt(variance + (stdev(by_seed) ** 2 / len(by_seed) if len(by_seed) > 1 else 0.0))


def _gap(trial: Trial, best: Trial) -> float:
    return math.inf if trial.loss is None else trial.loss - (best.loss or 0.0)


RULES: dict[str, Callable[[Sequence[Trial]], tuple[Trial, str]]] = {
    "lowest_validation_loss": lowest_validation_loss,
    "one_standard_error": one_standard_error,
}
RULE_TEXTS = {
    "lowest_validation_loss": "the lowest validation loss (of equal ones the lower learning rate)",
    "one_standard_error": "the fewest trained parameters, then the lowest learning rate, within one standard error of "
    "the lowest validation loss, that of the difference paired by row",
}


def edges(tried: Sequence[Trial], recipe_id: str) -> list[Edge]:
    """Return the tuned numbers whose chosen value has no proven value beyond it; zero is a bound and no edge.

    A value is proven by a trial that ended well or diverged. One that failed for its memory, its machine or its code
    says nothing of the value.
    """
    chosen = next(trial for trial in tried if trial.recipe_id == recipe_id)
    proven = [
        trial for trial in tried if trial.status == "ok" or any(other.status == "diverged" for other in trial.looks)
    ]
    reached = []
    for setting, text in chosen.settings.items():
        values, value = tried_values(tried, setting), _number(text)
        if value is None or len(values) < 2 or value == 0:
            continue
        ends = [other - value for other in tried_values(proven, setting)]
        for side, sign in (("lowest", -1), ("highest", 1)):
            if not any(sign * end > 0 for end in ends):
                unproven = tuple(other for other in values if sign * (other - value) > 0)
                reached.append(Edge(setting=setting, value=text, side=side, tried=tuple(values), unproven=unproven))
    return reached


def tried_values(tried: Iterable[Trial], setting: str) -> list[float]:
    """Return the numbers that a setting was given, ascending."""
    numbers = {_number(trial.settings.get(setting)) for trial in tried}
    return sorted(number for number in numbers if number is not None)


def beyond(edge: Edge) -> float:
    """Return the value with which the grid goes on: 0.3, 1, 3, 10 gives 30, and 4, 16, 64 gives 256.

    An unproven value is tried again before the grid is made wider.
    """
    if edge.unproven:
        return edge.unproven[0] if edge.side == "highest" else edge.unproven[-1]
    ascending = edge.tried if edge.side == "highest" else edge.tried[::-1]
    before, last = ascending[-2], ascending[-1]
    if min(ascending) <= 0:
        return 2 * last - before
    if len(ascending) == 2:
        return _rounded(last * last / before)
    return _rounded(before * last / ascending[-3])  # the step before the last: it keeps the pattern of 1, 3, 10


def _by_loss(trial: Trial) -> tuple[float, float, str]:
    return (math.inf if trial.loss is None else trial.loss, _rate(trial), trial.recipe_id)


def _rate(trial: Trial) -> float:
    return math.inf if trial.rate is None else trial.rate


def _asked(cell: Cell, settings: Sequence[str]) -> dict[str, str]:
    words = dict(word.lstrip("+~").partition("=")[::2] for word in cell.overrides)
    return {setting: words[setting] for setting in settings if setting in words}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _rounded(value: float) -> float:
    """Return a number with three significant digits: a grid holds 30, not 29.999999999999996."""
    return float(f"{value:.3g}")


def _seconds(attempt: Attempt) -> float:
    return sum(attempt.phases[name].seconds for name in _OF_TRAINING if name in attempt.phases) * attempt.devices
