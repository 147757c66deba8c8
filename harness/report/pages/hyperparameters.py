"""Hyper-parameters as papers print them, with what was searched beside what was selected, and remarks on the tuning.

The settings of all methods come first, then a row for each that differs and a column for each method.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from harness.records.selection import Edge, Trial
from harness.report import names
from harness.report.analysis.axes import HOUR
from harness.report.analysis.comparable import Difference, differences
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.facts import stack_facts
from harness.report.data.groups import METHOD, Group
from harness.report.data.rows import Loaded, Row, settings_of
from harness.report.data.tuning import UNDERTUNED, Contestant, contestants
from harness.report.display import collected, several
from harness.report.document import Cell, Column, Command, Missing, Note, Table, Text, Value

SELECTED = (
    "The validation losses are selected: each is the lowest of several on the same rows, so that it is too low, and "
    "nothing is tested on it."
)
CENTERS = " Equal numbers of trials are not equal knowledge: {grids}."
PUBLISHED = "every method's grid lies around the learning rate that was published for it"
OR_STATED = ", or that the question states (method.lr)"
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
    ranked = sorted(_columns(comparison), key=comparison.ordered.index)
    columns += [Column(group.label, group.name) for group in ranked]
    in_order = [settings[group.label] for group in ranked]
    rows = (
        (
            Text(names.setting(key).display, key),
            *(_value(comparison, key, recipe) if key in recipe else None for recipe in in_order),
        )
        for key in keys
    )
    caption = "Hyper-parameters of each method, as used for the results. A dash: the method has no such setting."
    label, title = "hyperparameters", "Hyper-parameters"
    return Table.of(columns, rows, "no such setting", caption=caption, label=label, title=title)


def searched(comparison: Comparison) -> Table | None:
    """Return the search space of each method beside what was selected; None for a sweep without tuning."""
    sweep, tuned = comparison.loaded.sweep, comparison.tuning
    if sweep is None or sweep.tuning is None or not tuned:
        return None
    columns, rows = [METHOD], []
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
    for contestant in in_order(comparison):
        chosen, none = contestant.chosen, Missing(contestant.choice.reason)
        named = Text(contestant.title, contestant.name, marks=EDGE_NOTE.mark if contestant.edges else "")
        values: list[Value] = []
        for key in sweep.tuning.settings:
            made = [trial for trial in contestant.trials if trial.status != "missing"]  # the rate of others is unknown
            values.append(", ".join(dict.fromkeys(_tried(trial, key) for trial in made)) or none)
            values.append((_tried(chosen, key) if chosen else "") or none)
        failed = sum(trial.status not in ("ok", "missing") for trial in contestant.trials)
        loss = none if chosen is None or chosen.loss is None else chosen.loss
        rows.append((named, *values, len(contestant.trials), failed, loss, contestant.device_seconds))
    caption = (
        "Values that were searched and selected for each method, by the loss on the validation rows. Failed "
        "and diverged trials count as trials; hours are those of all trials."
    )
    notes = (EDGE_NOTE,) if any(contestant.edges for contestant in tuned) else ()
    return Table.of(columns, rows, notes=notes, caption=caption, label="tuning", title="Tuning")


def in_order(comparison: Comparison) -> list[Contestant]:
    """Return the tuned methods in the order of the main table; those without a result last."""
    places: dict[str, int] = {}
    for place, group in enumerate(comparison.ordered):
        if (cell := group.first.cell) and cell.contestant:
            places.setdefault(cell.contestant, place)
    return sorted(comparison.tuning, key=lambda contestant: places.get(contestant.name, len(comparison.ordered)))


def _tried(trial: Trial, key: str) -> str:
    """Return the learning rate of a trial whose scale was tuned, or the value that was asked for."""
    given = trial.settings.get(key)
    if key == "lr_scale" and trial.rate is not None:
        return names.value(trial.rate)
    return "none" if given is None else names.value(given)


def templates(comparison: Comparison) -> list[str | Command]:
    """Return the prompt and completion templates of the training rows as listings, each once."""
    texts: dict[str, None] = {}
    for group in comparison.trained:
        data = group.first.part("data")
        for rows in (*(data.get("train") or ()), *(data.get("mix") or ())):
            named = [str(rows[key]) for key in ("dataset", "subset", "split") if rows.get(key)]
            parts = (f"{key}: {json.dumps(rows.get(key), ensure_ascii=False)}" for key in ("prompt", "completion"))
            if rows.get("prompt") is not None or rows.get("completion") is not None:
                texts["\n".join(["/".join(named) or "rows of a file", *parts])] = None
    return [Command(text) for text in texts]


def _columns(comparison: Comparison) -> list[Group]:
    """Return the groups with a recipe of their own: another seed or evaluation of a recipe is no other column."""
    return list({group.first.recipe_id: group for group in reversed(comparison.trained)}.values())[::-1]


def _settings(comparison: Comparison) -> dict[str, Settings]:
    parts = ("model", "data", "train", "method")
    return {group.label: settings_of(group.first, parts) for group in _columns(comparison)}


def _keys(recipes: Sequence[Settings]) -> list[str]:
    """Return the keys of settings with a name of their own, those first that people ask for first."""
    every = dict.fromkeys((*_FIRST, *(key for recipe in recipes for key in recipe)))
    return [key for key in every if key not in _NOT_SHOWN and any(recipe.get(key) is not None for recipe in recipes)]


def _is_shared(key: str, recipes: Sequence[Settings]) -> bool:
    return all(key in recipe and recipe[key] == recipes[0].get(key) for recipe in recipes)


def _value(comparison: Comparison, key: str, recipe: Settings) -> Cell:
    given, part = recipe[key], key.partition(".")[0]
    if key in ("model.name", "data.name"):
        rows = (group.first for group in comparison.trained)
        record = next(row.record for row in rows if row.record and row.part(part).get("name") == given)
        return Text((names.model if part == "model" else names.data)(record).display, str(given))
    return Text("none" if given is None else names.value(given), str(given))


def tuning_lines(loaded: Loaded) -> list[str]:
    """Return every remark on the trials and their choice; nothing for a sweep without stages."""
    if loaded.sweep is None or loaded.sweep.tuning is None:
        return []
    caveat = SELECTED + (_centers(loaded) if "lr_scale" in loaded.sweep.tuning.settings else "")
    tried = contestants(loaded.sweep, loaded.trials)
    return [caveat, *concurrency(loaded.trials), *trial_remarks(tried, loaded.sweep.name), *doubts(loaded)]


def _centers(loaded: Loaded) -> str:
    """Return around which learning rates the grids lie."""
    stated = [
        next((word.partition("=")[2] for word in row.overrides if word.startswith("method.lr=")), None)
        for row in loaded.trials
    ]
    if len({*stated}) == 1 and stated[0] is not None:
        return CENTERS.format(grids=f"every method's grid lies around {stated[0]}, which the question states")
    return CENTERS.format(grids=PUBLISHED + (OR_STATED if any(stated) else ""))


def concurrency(trials: Sequence[Row]) -> list[str]:
    """Return a line about trials that shared their device with others; none where each had it alone."""
    attempts = [attempt for trial in trials if trial.record for attempt in trial.record.attempts]
    shared = [attempt for attempt in attempts if attempt.concurrent_runs > 1]
    if not shared:
        return []
    runs = several(sorted({str(attempt.concurrent_runs) for attempt in shared}, key=int))
    threads = sorted({int(attempt.provenance["threads"]) for attempt in shared if "threads" in attempt.provenance})
    noun = "thread" if threads == [1] else "threads"
    suffix = f", each with {several(list(map(str, threads)))} {noun}" if threads else ""
    return [
        f"Trials shared a device, {runs} at once{suffix}: their seconds and rates are not comparable with those of the "
        "results, and an hour of one counts as its part of a device hour"
    ]


def doubts(loaded: Loaded) -> list[str]:
    """Return the doubts about the choice: reads of the test, earlier choices, seeds, other versions."""
    assert loaded.sweep is not None and loaded.sweep.tuning is not None, "only a tuned sweep was chosen"
    tuning, remarks = loaded.sweep.tuning, []
    if readers := test_readers(loaded):
        runs = [row.title for row in readers]
        remarks.append(f"{len(runs)} tuning runs were evaluated on the test sets: {several(runs, 6)}")
    if tuning.earlier:
        recipes = {row.recipe_id for row in (*loaded.rows, *readers) if row.test_reads and not row.is_base}
        remarks.append(
            f"Recipes were chosen {len(tuning.earlier) + 1} times, since the sweep was extended, and {len(recipes)} "
            "recipes have test scores: the last choice could use the test scores of the earlier ones"
        )
    if both := sorted(set(tuning.seeds) & {row.seed for row in loaded.rows if not row.is_base and not row.is_trial}):
        seeds = ", ".join(map(str, both))
        remarks.append(f"Results with seed {seeds} are optimistic: the recipes were selected with this seed")
    remarks += [
        f"Trials and results were not made alike: {difference.shown({})}" for difference in _between_stages(loaded)
    ]
    return remarks


def test_readers(loaded: Loaded) -> list[Row]:
    """Return the runs of trials, and of recipes that are results no more, that have read the test."""
    results = {(row.recipe_id, row.seed) for row in loaded.rows if not row.is_trial}
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


def trial_remarks(contestants: Sequence[Contestant], sweep: str) -> list[str]:
    """Return the warnings about the trials, contestant by contestant, and the command that widens the grid."""
    lines = [line for contestant in contestants for line in _warnings(contestant)]
    if any(contestant.edges for contestant in contestants):
        lines.append(f"harness sweep extend {sweep} tries further values for every method")
    return lines


def _warnings(contestant: Contestant) -> Iterator[str]:
    title, trials, choice = contestant.title, contestant.trials, contestant.choice
    for edge in contestant.edges:
        yield f"{title} may be {UNDERTUNED}: {_edge(edge)}; a better value may lie beyond"
    missing = sum(trial.status == "missing" for trial in trials)
    if missing:
        yield f"{title}: {missing} of {len(trials)} trials have not been made"
    broken = collected(
        (
            f"{trial.status}: {trial.reason or 'no reason recorded'}",
            " ".join(f"{name}={value}" for name, value in trial.settings.items()),
        )
        for trial in trials
        if trial.status not in ("ok", "missing")
    )
    yield from (f"{title} {', '.join(who)}: {fate} (counted)" for fate, who in broken.items())
    if choice.recipe_id is None and not missing:
        yield f"{title}: nothing could be chosen, {choice.reason}"
    if contestant.recorded and contestant.recorded.recipe_id != choice.recipe_id:
        yield (
            f"{title}: the results are of {contestant.recorded.recipe_id}, and the records as they are now would "
            f"choose {choice.recipe_id}: run the sweep again"
        )


def _edge(edge: Edge) -> str:
    """For example `lr_scale=3 is the highest value tried`."""
    if not edge.unproven:
        return f"{edge.setting}={edge.value} is the {edge.side} value tried"
    failed = several([f"{value:g}" for value in edge.unproven])
    return (
        f"{edge.setting}={edge.value} is the {edge.side} value that completed or diverged, and {failed} failed for "
        "another reason"
    )
