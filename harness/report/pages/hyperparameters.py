"""Hyper-parameters as papers print them: those of all methods first, then a row for each and a column for each method.

The third table has what was searched beside what was selected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.report import names
from harness.report.analysis.axes import HOUR
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.data.rows import flatten
from harness.report.data.tuning import Contestant
from harness.report.document import Cell, Column, Command, Missing, Note, Number, Table, Text
from harness.report.pages.protocol import trained

UNDERTUNED = Note("the selected value is at the edge of the grid; a better one may lie beyond.", "\N{DOUBLE DAGGER}")
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
        notes=(UNDERTUNED,) if edges else (),
        caption="Values that were searched and selected for each method, by the loss on the validation rows. Failed "
        "and diverged trials count as trials; hours are those of all trials.",
        label="tuning",
        title="Tuning",
    )


def templates(comparison: Comparison) -> list[str | Command]:
    """Return the prompt and completion templates of the training rows as listings, each once."""
    found: dict[str, None] = {}
    for group in trained(comparison):
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
    return list({group.first.recipe_id: group for group in reversed(trained(comparison))}.values())[::-1]


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
            for group in trained(comparison)
            if group.first.record and (group.first.record.recipe.get(key[: key.index(".")]) or {}).get("name") == given
        )
        return Text((names.model if key == "model.name" else names.data)(record).display, str(given))
    return Text("none" if given is None else names.value(given), str(given))


def _searched(contestant: Contestant, settings: Sequence[str]) -> tuple[Cell, ...]:
    cells: list[Cell] = [Text(contestant.title, contestant.name, marks=UNDERTUNED.mark if contestant.edges else "")]
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
