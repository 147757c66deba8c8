"""Which recipe a tuned sweep chooses: a pure function of records, the same for the sweep and for its report.

A trial is a recipe with every tuning seed. It is looked at through the loss on the validation rows and nothing else.
One that failed counts as a trial, and is never chosen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from harness.records.record import Attempt, Cell, Choice, EvaluationRecord, RunRecord

_OF_TRAINING = ("load", "train", "validate")  # what a trial costs; reading the test is no part of tuning


@dataclass(frozen=True, kw_only=True)
class Look:
    """One run of a trial; None where there is no record yet, or the run did not end well."""

    cell: Cell
    run: RunRecord | None
    validation: EvaluationRecord | None

    @property
    def loss(self) -> float | None:
        """Nats per answer token on the validation rows, of the weights as they are."""
        if self.run is None or self.run.status != "ok" or self.validation is None:
            return None
        if self.validation.weights_from != self.run.current.weights_from or "loss" not in self.validation.metrics:
            return None
        return self.validation.metrics["loss"].value

    @property
    def status(self) -> str:
        """The run's status; "missing" without a record or, of one that ended well, without a validation loss."""
        if self.run is None or (self.run.status == "ok" and self.loss is None):
            return "missing"
        return self.run.status


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One recipe that was tried for a contestant, with a look for each tuning seed."""

    contestant: str
    recipe_id: str
    settings: Mapping[str, str]  # tuned setting -> its value as it was asked for
    looks: tuple[Look, ...]

    @property
    def status(self) -> str:
        """Ok when every seed is; else the first status that is not."""
        return next((look.status for look in self.looks if look.status != "ok"), "ok")

    @property
    def reason(self) -> str:
        """Why it is not ok."""
        broken = next((look for look in self.looks if look.status != "ok"), None)
        return broken.run.current.reason if broken and broken.run else ""

    @property
    def loss(self) -> float | None:
        """The mean over the tuning seeds; None unless every one ended well."""
        losses = [look.loss for look in self.looks]
        known = [loss for loss in losses if loss is not None]
        return mean(known) if known and len(known) == len(losses) else None

    @property
    def standard_error(self) -> float | None:
        """Of the loss: over the tuning seeds, or over the validation rows where there is one seed."""
        if self.loss is None:
            return None
        if len(self.looks) > 1:
            return stdev([look.loss or 0.0 for look in self.looks]) / math.sqrt(len(self.looks))
        validation = self.looks[0].validation
        return validation.metrics["loss"].stderr if validation else None

    @property
    def rate(self) -> float | None:
        """The learning rate that it was trained with."""
        run = self.looks[0].run
        rate = (run.recipe.get("train") or {}).get("lr") if run else None
        return float(rate) if rate is not None else None

    @property
    def trainable_parameters(self) -> int | None:
        """How many parameters it trains, where a run came far enough to count them."""
        prints = [look.run.current.fingerprint for look in self.looks if look.run]
        return next((one.trainable_parameters for one in prints if one), None)

    @property
    def device_seconds(self) -> float:
        """Loading, training and validating in every attempt that trained, times the processes that took part."""
        return sum(
            _seconds(attempt)
            for look in self.looks
            if look.run
            for attempt in look.run.attempts
            if attempt.weights_from == attempt.started_at or attempt.status != "ok"
        )


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A chosen value beyond which nothing was tried, so that a better one may lie there."""

    setting: str
    value: str
    side: str  # lowest | highest
    tried: tuple[float, ...]


def trials(looks: Iterable[Look], settings: Sequence[str]) -> dict[str, list[Trial]]:
    """The trials of every contestant, in the order in which they were asked for."""
    found: dict[str, dict[str, list[Look]]] = {}
    for look in looks:
        if look.cell.stage == "tune":
            of = found.setdefault(look.cell.contestant or "", {})
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
        for contestant, recipes in found.items()
    }


def choose(contestant: str, tried: Sequence[Trial], rule: str) -> Choice:
    """Choose among one contestant's trials by the named rule.

    Equal losses are decided by the lower learning rate, then by the recipe's id, which is arbitrary but the same
    everywhere.
    """
    counted = Counter(trial.status for trial in tried)
    others = "".join(f", {count} {status}" for status, count in sorted(counted.items()) if status != "ok")
    known = [trial for trial in tried if trial.loss is not None]
    if not known:
        return Choice(contestant=contestant, recipe_id=None, reason=f"none of {len(tried)} trials ended well{others}")
    chosen, why = RULES[rule](known)
    tied = sum(trial.loss == chosen.loss for trial in known) - 1
    tie = f", tied with {tied} more: the lowest rate" if tied and rule == "lowest_validation_loss" else ""
    reason = f"{why}, {chosen.loss:.4f}, of {len(tried)} trials{others}{tie}"
    return Choice(contestant=contestant, recipe_id=chosen.recipe_id, reason=reason)


def lowest_validation_loss(known: Sequence[Trial]) -> tuple[Trial, str]:
    """The trial with the lowest loss."""
    return min(known, key=_by_loss), "the lowest validation loss"


def one_standard_error(known: Sequence[Trial]) -> tuple[Trial, str]:
    """The one that trains the fewest parameters, then at the lowest rate, among those within a standard error.

    Source: Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984, section 3.4.3.
    """
    best = min(known, key=_by_loss)
    bound = (best.loss or 0.0) + (best.standard_error or 0.0)
    within = [trial for trial in known if trial.loss is not None and trial.loss <= bound]

    def simplest(trial: Trial) -> tuple[float, float, float, str]:
        size = math.inf if trial.trainable_parameters is None else trial.trainable_parameters
        return (size, _rate(trial), trial.loss or 0.0, trial.recipe_id)

    chosen = min(within, key=simplest)
    return chosen, f"the smallest of {len(within)} within one standard error of the lowest validation loss"


RULES: dict[str, Callable[[Sequence[Trial]], tuple[Trial, str]]] = {
    "lowest_validation_loss": lowest_validation_loss,
    "one_standard_error": one_standard_error,
}
RULE_TEXTS = {
    "lowest_validation_loss": "the lowest validation loss; equal ones: the lower learning rate",
    "one_standard_error": "the fewest trained parameters, then the lowest learning rate, within one standard error of "
    "the lowest validation loss",
}


def edges(tried: Sequence[Trial], recipe_id: str) -> list[Edge]:
    """The tuned numbers whose chosen value is the lowest or highest of those tried; zero is a bound and no edge."""
    chosen = next(trial for trial in tried if trial.recipe_id == recipe_id)
    found = []
    for setting, text in chosen.settings.items():
        values, value = tried_values(tried, setting), _number(text)
        if value is None or len(values) < 2 or value not in (values[0], values[-1]) or value == 0:
            continue
        side = "lowest" if value == values[0] else "highest"
        found.append(Edge(setting=setting, value=text, side=side, tried=tuple(values)))
    return found


def tried_values(tried: Iterable[Trial], setting: str) -> list[float]:
    """The numbers that a setting was given, ascending."""
    numbers = {_number(trial.settings.get(setting)) for trial in tried}
    return sorted(number for number in numbers if number is not None)


def beyond(edge: Edge) -> float:
    """The value with which the grid goes on: 0.3, 1, 3, 10 gives 30, and 4, 16, 64 gives 256."""
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
    """Three significant digits: a grid is no place for 29.999999999999996."""
    return float(f"{value:.3g}")


def _seconds(attempt: Attempt) -> float:
    processes = attempt.provenance.get("num_processes")
    return sum(attempt.phases[name].seconds for name in _OF_TRAINING if name in attempt.phases) * int(processes or 1)
