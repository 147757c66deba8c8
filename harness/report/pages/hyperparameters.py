"""Hyper-parameters as papers print them, with what was searched beside what was selected, and remarks on the tuning.

The settings of all methods come first, then a row for each that differs and a column for each method.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records.selection import Edge
from harness.report import names
from harness.report.analysis.axes import HOUR
from harness.report.analysis.comparable import Difference, differences
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.facts import stack_facts
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded, Row, flatten
from harness.report.data.tuning import UNDERTUNED, Contestant, contestants
from harness.report.display import several
from harness.report.document import Cell, Column, Command, Missing, Note, Number, Table, Text

EDGE_NOTE = Note("the selected value is at the edge of the grid; a better one may lie beyond.", "\N{DOUBLE DAGGER}")
_NOT_SHOWN = ("method.name", "method.lr", "model.content", "data.content", "data.train", "data.test", "data.mix")
_FIRST = ("model.name", "data.name", "train.lr")
Settings = dict[str, Any]


def shared(comparison: Comparison) -> Table | None:
    """Return the settings that all methods share; None where nothing was trained."""
    recipes = list(_settings(comparison).values())
    keys = [key for key in _keys(recipes) if _is_shared(key, recipes) and recipes[0][key] is not None]
    if not keys:
        return None
    rows = tuple((Text(names.setting(key).display, key), _value(comparison, key, recipes[0])) for key in keys)
    columns = (Column("setting", "Setting", text=True), Column("value", "Value", text=True))
    caption = "Hyper-parameters and settings that all methods share."
    return Table(columns, rows, caption=caption, label="shared_settings", title="Shared settings")


def by_method(comparison: Comparison) -> Table | None:
    """Return a row for each setting that differs between the methods, and a column for each method."""
    settings = _settings(comparison)
    recipes = list(settings.values())
    keys = [key for key in _keys(recipes) if not _is_shared(key, recipes)]
    if not keys:
        return None
    columns = [Column("setting", "Hyper-parameter", text=True)]
    columns += [Column(group.label, group.name) for group in _columns(comparison)]
    rows = []
    for key in keys:
        cells = [_value(comparison, key, recipe) if key in recipe else Missing("no such setting") for recipe in recipes]
        rows.append((Text(names.setting(key).display, key), *cells))
    return Table(
        tuple(columns),
        tuple(rows),
        caption="Hyper-parameters of each method, as used for the results. A dash: the method has no such setting.",
        label="hyperparameters",
        title="Hyper-parameters",
    )


def searched(comparison: Comparison) -> Table | None:
    """Return the search space of each method beside what was selected; None for a sweep without tuning."""
    sweep, tuned = comparison.loaded.sweep, comparison.tuning
    if sweep is None or sweep.tuning is None or not tuned:
        return None
    columns = [Column("method", "Method", text=True)]
    for key in sweep.tuning.settings:
        title = names.setting(key).display
        columns.append(Column(f"{key}/searched", "Searched", text=True, spanner=title))
        columns.append(Column(f"{key}/selected", "Selected", text=True, spanner=title))
    columns += [
        Column("trials", "Trials", digits=0),
        Column("failed", "Failed", digits=0),
        Column("validation_loss", "Validation loss", better="lower", digits=4),
        Column("device_hours", "Device hours", scale=1 / HOUR),
    ]
    rows = tuple(_searched(contestant, sweep.tuning.settings) for contestant in tuned)
    edges = any(contestant.edges for contestant in tuned)
    return Table(
        tuple(columns),
        rows,
        notes=(EDGE_NOTE,) if edges else (),
        caption="Values that were searched and selected for each method, by the loss on the validation rows. Failed "
        "and diverged trials count as trials; hours are those of all trials.",
        label="tuning",
        title="Tuning",
    )


def templates(comparison: Comparison) -> list[str | Command]:
    """Return the prompt and completion templates of the training rows as listings, each once."""
    found: dict[str, None] = {}
    for group in comparison.trained:
        data = (group.first.record.recipe.get("data") or {}) if group.first.record else {}
        for rows in (*(data.get("train") or ()), *(data.get("mix") or ())):
            found.update(dict.fromkeys(_template(rows)))
    return [Command(text) for text in found]


def _template(rows: Mapping[str, Any]) -> Iterator[str]:
    place = "/".join(str(rows[key]) for key in ("dataset", "subset", "split") if rows.get(key)) or "rows of a file"
    if rows.get("prompt") is not None or rows.get("completion") is not None:
        parts = (f"{key}: {json.dumps(rows.get(key), ensure_ascii=False)}" for key in ("prompt", "completion"))
        yield "\n".join([place, *parts])


def _columns(comparison: Comparison) -> list[Group]:
    """Return the groups with a recipe of their own: another seed or evaluation of a recipe is no other column."""
    return list({group.first.recipe_id: group for group in reversed(comparison.trained)}.values())[::-1]


def _settings(comparison: Comparison) -> dict[str, Settings]:
    recipes = {}
    for group in _columns(comparison):
        recipe = group.first.record.recipe if group.first.record else {}
        recipes[group.label] = flatten({part: recipe.get(part) or {} for part in ("model", "data", "train", "method")})
    return recipes


def _keys(recipes: Sequence[Settings]) -> list[str]:
    """Return the keys of settings with a name of their own, those first that people ask for first."""
    every = dict.fromkeys((*_FIRST, *(key for recipe in recipes for key in recipe)))
    return [key for key in every if key not in _NOT_SHOWN and any(recipe.get(key) is not None for recipe in recipes)]


def _is_shared(key: str, recipes: Sequence[Settings]) -> bool:
    return all(key in recipe and recipe[key] == recipes[0].get(key) for recipe in recipes)


def _value(comparison: Comparison, key: str, recipe: Settings) -> Cell:
    given = recipe[key]
    if key in ("model.name", "data.name"):
        record = next(
            group.first.record
            for group in comparison.trained
            if group.first.record and (group.first.record.recipe.get(key[: key.index(".")]) or {}).get("name") == given
        )
        return Text((names.model if key == "model.name" else names.data)(record).display, str(given))
    return Text("none" if given is None else names.value(given), str(given))


def _searched(contestant: Contestant, settings: Sequence[str]) -> tuple[Cell, ...]:
    cells: list[Cell] = [Text(contestant.title, contestant.name, marks=EDGE_NOTE.mark if contestant.edges else "")]
    for key in settings:
        tried = [
            _tried(trial.rate if key == "lr_scale" else None, trial.settings.get(key)) for trial in contestant.trials
        ]
        chosen = contestant.chosen
        cells.append(Text(", ".join(dict.fromkeys(tried))))
        selected = _tried(chosen.rate if key == "lr_scale" else None, chosen.settings.get(key)) if chosen else ""
        cells.append(Text(selected) if selected else Missing(contestant.choice.reason))
    failed = sum(trial.status != "ok" for trial in contestant.trials)
    loss = contestant.chosen.loss if contestant.chosen else None
    cells += [Number(len(contestant.trials)), Number(failed)]
    cells += [Missing(contestant.choice.reason) if loss is None else Number(loss), Number(contestant.device_seconds)]
    return tuple(cells)


def _tried(rate: float | None, given: str | None) -> str:
    """Return the learning rate of a trial whose scale was tuned, or the value that was asked for."""
    return names.value(rate) if rate is not None else names.value(given) if given is not None else "none"


SELECTED = (
    "The validation losses are selected: each is the lowest of several on the same rows, so that it is too low, and "
    "nothing is tested on it."
)
CENTERS = (
    " Equal numbers of trials are not equal knowledge: every method's grid lies around the learning rate that was "
    "published for it."
)


def tuning_lines(loaded: Loaded) -> list[str]:
    """Return every remark on the trials and their choice; nothing for a sweep without stages."""
    if loaded.sweep is None or loaded.sweep.tuning is None:
        return []
    caveat = SELECTED + (CENTERS if "lr_scale" in loaded.sweep.tuning.settings else "")
    tried = contestants(loaded.sweep, loaded.trials)
    return [caveat, *concurrency(loaded.trials), *trial_remarks(tried, loaded.sweep.name), *doubts(loaded)]


def concurrency(trials: Sequence[Row]) -> list[str]:
    """Return a line about trials that shared their device with others; none where each had it alone."""
    attempts = [attempt for trial in trials if trial.record for attempt in trial.record.attempts]
    shared = [attempt for attempt in attempts if attempt.concurrent_runs > 1]
    if not shared:
        return []
    runs = several(sorted({str(attempt.concurrent_runs) for attempt in shared}, key=int))
    threads = sorted({int(attempt.provenance["threads"]) for attempt in shared if "threads" in attempt.provenance})
    noun = "thread" if threads == [1] else "threads"
    each = f", each with {several(list(map(str, threads)))} {noun}" if threads else ""
    return [
        f"Trials shared a device, {runs} at once{each}: their seconds and rates are not comparable with those of the "
        "results, and an hour of one counts as its part of a device hour"
    ]


def doubts(loaded: Loaded) -> list[str]:
    """Return the doubts about the choice: reads of the test, earlier choices, seeds, other versions."""
    assert loaded.sweep is not None and loaded.sweep.tuning is not None, "only a tuned sweep was chosen"
    tuning, found = loaded.sweep.tuning, []
    if readers := test_readers(loaded):
        runs = [row.title for row in readers]
        found.append(f"{len(runs)} tuning runs were evaluated on the test sets: {several(runs, 6)}")
    if tuning.earlier:
        recipes = {row.recipe_id for row in (*loaded.rows, *readers) if row.test_reads and not row.is_base}
        found.append(
            f"Recipes were chosen {len(tuning.earlier) + 1} times, since the sweep was extended, and {len(recipes)} "
            "recipes have test scores: the last choice could use the test scores of the earlier ones"
        )
    if both := sorted(set(tuning.seeds) & {row.seed for row in loaded.rows if not row.is_base and not _is_trial(row)}):
        seeds = ", ".join(map(str, both))
        found.append(f"Results with seed {seeds} are optimistic: the recipes were selected with this seed")
    found += [f"Trials and results were not made alike: {one.shown({})}" for one in _between_stages(loaded)]
    return found


def test_readers(loaded: Loaded) -> list[Row]:
    """Return the runs of trials, and of recipes that are results no more, that have read the test."""
    results = {(row.recipe_id, row.seed) for row in loaded.rows if not _is_trial(row)}
    chosen = {recipe for recipe, _ in results}
    trials = [row for row in loaded.trials if (row.recipe_id, row.seed) not in results]
    others = [row for row in loaded.unasked if row.recipe_id not in chosen]
    return [row for row in (*trials, *others) if row.test_reads]


def _between_stages(loaded: Loaded) -> list[Difference]:
    """Return the differences in machine or program between all trials and all results."""
    stages = {
        "trials": [row for row in loaded.trials if row.status == "ok"],
        "results": [row for row in loaded.rows if row.status == "ok" and not row.is_base],
    }
    facts = {name: [stack_facts(row) for row in rows] for name, rows in stages.items() if rows}
    same = {
        name: {key: value for key, value in every[0].items() if all(settings.get(key) == value for settings in every)}
        for name, every in facts.items()
    }
    return differences(same) if len(same) == len(stages) else []


def _is_trial(row: Row) -> bool:
    """Return whether a row of the results stands for a contestant without a chosen recipe."""
    return row.cell is not None and row.cell.stage == "tune"


def trial_remarks(found: Sequence[Contestant], sweep: str) -> list[str]:
    """Return the warnings about the trials, contestant by contestant, and the command that widens the grid."""
    lines = [line for contestant in found for line in _trial_remarks(contestant)]
    if any(contestant.edges for contestant in found):
        lines.append(f"harness sweep extend {sweep} tries further values for every method")
    return lines


def _trial_remarks(contestant: Contestant) -> list[str]:
    """Return the warnings about a contestant's trials."""
    lines = [
        f"{contestant.title} may be {UNDERTUNED}: {_edge(edge)}; a better value may lie beyond"
        for edge in contestant.edges
    ]
    missing = Counter(trial.status for trial in contestant.trials)["missing"]
    if missing:
        lines.append(f"{contestant.title}: {missing} of {len(contestant.trials)} trials have not been made")
    broken: dict[str, list[str]] = {}
    for trial in contestant.trials:
        if trial.status not in ("ok", "missing"):
            values = " ".join(f"{name}={value}" for name, value in trial.settings.items())
            broken.setdefault(f"{trial.status}: {trial.reason or 'no reason recorded'}", []).append(values)
    for fate, who in broken.items():
        lines.append(f"{contestant.title} {', '.join(who)}: {fate} (counted)")
    if contestant.choice.recipe_id is None and not missing:
        lines.append(f"{contestant.title}: nothing could be chosen, {contestant.choice.reason}")
    if contestant.recorded and contestant.recorded.recipe_id != contestant.choice.recipe_id:
        lines.append(
            f"{contestant.title}: the results are of {contestant.recorded.recipe_id}, and the records as they are now "
            f"would choose {contestant.choice.recipe_id}: run the sweep again"
        )
    return lines


def _edge(edge: Edge) -> str:
    """For example `lr_scale=3 is the highest value tried`."""
    if not edge.unproven:
        return f"{edge.setting}={edge.value} is the {edge.side} value tried"
    failed = several([f"{value:g}" for value in edge.unproven])
    return (
        f"{edge.setting}={edge.value} is the {edge.side} value that completed or diverged, and {failed} failed for "
        "another reason"
    )
