"""Trials of each contestant of a sweep with stages, and their bearing on the rows of the results."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from harness.records import untrusted
from harness.records.record import Choice, SweepRecord
from harness.records.selection import Edge, Look, Trial, choose, edges, row_losses, trials
from harness.report import names
from harness.report.data.rows import Row

UNDERTUNED = "undertuned"
LOW, HIGH = 0.1, 0.9  # the quantiles of the band around the expected best
_WORD = re.compile(r" (?=[+~]{0,2}[\w./@-]+=)")  # between two overrides, whose values may have spaces


@dataclass(frozen=True)
class Contestant:
    """A row of the results before its choice: its trials, and the choice that the rule makes."""

    name: str
    title: str  # for people: the method, and the settings that tell it from others of that method
    trials: tuple[Trial, ...]
    choice: Choice  # as the records are now
    recorded: Choice | None  # as the sweep ran it; None while the trials are being made
    edges: tuple[Edge, ...]  # of the chosen recipe: values beyond which nothing was tried

    @property
    def chosen(self) -> Trial | None:
        """The trial that the rule chooses."""
        return next((trial for trial in self.trials if trial.recipe_id == self.choice.recipe_id), None)

    @property
    def device_seconds(self) -> float:
        """Return the device seconds of tuning: loading, training and validating of all trials, failed ones included."""
        return sum(trial.device_seconds for trial in self.trials)


@dataclass(frozen=True)
class Best:
    """The lowest validation loss among `budget` of the trials, drawn at random without replacement.

    The values are None where such a draw may hold failed trials only.
    """

    budget: int
    expected: float | None
    low: float | None
    high: float | None


def contestants(record: SweepRecord | None, rows: Sequence[Row]) -> list[Contestant]:
    """The contestants of a sweep with stages, from the rows of its trials; none of one without."""
    if record is None or record.tuning is None:
        return []
    looks = [_look(row) for row in rows if row.cell]
    recorded = {choice.contestant: choice for choice in record.tuning.choices or ()}
    contestants = []
    by_name = trials(looks, record.tuning.settings)
    titles = _titles({name: tried[0].looks[0].cell.method for name, tried in by_name.items()})
    for name, tried in by_name.items():
        choice = choose(name, tried, record.tuning.rule)
        ends = edges(tried, choice.recipe_id) if choice.recipe_id else []
        contestants.append(Contestant(name, titles[name], tuple(tried), choice, recorded.get(name), tuple(ends)))
    return contestants


def _titles(methods: Mapping[str, str]) -> dict[str, str]:
    """Return the names of contestants for people, given the method of each: `LoRA (r=8)`."""
    words = {
        name: [word for word in _WORD.split(name) if word not in (method, f"method={method}")]
        for name, method in methods.items()
    }
    titles = {}
    for name, method in methods.items():
        others = [words[other] for other, of in methods.items() if of == method]
        own = [
            *filter(
                None, (names.overridden(word) for word in words[name] if not all(word in shared for shared in others))
            )
        ]
        own.sort(key=lambda part: (not part.startswith("r="), part))  # as the rows of the results name them
        titles[name] = names.method(method).display + (f" ({', '.join(own)})" if own else "")
    return titles


def fates(record: SweepRecord, rows: Sequence[Row]) -> list[Row]:
    """One run of each contestant for which nothing could be chosen: it stays visible among the results."""
    lost = [
        choice.contestant
        for choice in (record.tuning.choices or () if record.tuning else ())
        if choice.recipe_id is None
    ]
    first = {row.cell.contestant: row for row in reversed(rows) if row.cell and row.cell.contestant in lost}
    return [first[name] for name in lost if name in first]


def marked(rows: Sequence[Row], record: SweepRecord, tried: Sequence[Row]) -> list[Row]:
    """Mark the rows of the results that were chosen at an edge of the tried values."""
    narrow = {
        (contestant.name, contestant.choice.recipe_id) for contestant in contestants(record, tried) if contestant.edges
    }
    return [
        replace(row, label=f"{row.label} ({UNDERTUNED})")
        if row.cell and (row.cell.contestant, row.recipe_id) in narrow
        else row
        for row in rows
    ]


def expected_best(tried: Sequence[Trial]) -> list[Best]:
    """Return the expected lowest validation loss of a budget of 1, 2, ... trials, with a band of 80 %.

    Exact, over all subsets of the trials; a failed one counts as a trial that found nothing. Source: Tang et al.,
    Showing Your Work Doesn't Always Work, 2020 (arXiv:2004.13705): the unbiased form of the curve of Dodge et al., Show
    Your Work, 2019 (arXiv:1909.03004).
    """
    losses = sorted(math.inf if trial.loss is None else trial.loss for trial in tried)
    return [_best(losses, budget) for budget in range(1, len(losses) + 1)]


def to_csv(contestants: Sequence[Contestant]) -> str:
    """Every trial as a line of comma-separated values, with the tuned settings as columns."""
    settings = list(
        dict.fromkeys(name for contestant in contestants for trial in contestant.trials for name in trial.settings)
    )
    header = [
        "contestant", *settings, "recipe_id", "status", "reason", "learning_rate", "validation_loss", "standard_error",
        "device_seconds", "chosen",
    ]  # fmt: skip
    lines = []
    for contestant in contestants:
        for trial in contestant.trials:
            settings_tried = [trial.settings.get(name) for name in settings]
            numbers = [trial.rate, trial.loss, trial.standard_error, trial.device_seconds]
            fate = [trial.recipe_id, trial.status, trial.reason or None]
            lines.append([contestant.name, *settings_tried, *fate, *numbers, int(trial is contestant.chosen)])
    return untrusted.to_csv(header, lines)


def _best(losses: Sequence[float], budget: int) -> Best:
    """Return the expected best of a draw of `budget` losses. `losses` ascend.

    The i-th loss is the best of a draw if all others of the draw come after it.
    """
    count = len(losses)
    draws = math.comb(count, budget)
    chances = [math.comb(count - 1 - i, budget - 1) / draws for i in range(count)]
    likely = [(loss, chance) for loss, chance in zip(losses, chances, strict=True) if chance]
    expected = sum(loss * chance for loss, chance in likely)
    low, high = (_quantile(likely, quantile) for quantile in (LOW, HIGH))
    return Best(budget, *(value if math.isfinite(value) else None for value in (expected, low, high)))


def _quantile(likely: Sequence[tuple[float, float]], quantile: float) -> float:
    reached = 0.0
    for loss, chance in likely:
        reached += chance
        if reached >= quantile - 1e-12:
            return loss
    return likely[-1][0]


def _look(row: Row) -> Look:
    assert row.cell is not None, "a trial was asked for by a sweep"
    validation = next((s for s in row.scored if s.heldout and s.role == "validation"), None)
    if validation is None:
        return Look(cell=row.cell, run=row.record, validation=None)
    rows = partial(row_losses, validation.path)
    return Look(cell=row.cell, run=row.record, validation=validation.record, rows=rows)
