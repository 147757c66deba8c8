"""Labels of rows: the method, and the fewest settings that tell a row from the others of that method."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from harness.records.identity import covered, recipe_keys
from harness.report import names
from harness.report.data.rows import Row, settings_of, value_key
from harness.report.display import collected, short

FIRST = ("method.r", "train.lr")  # the settings that people name a run by
Facts = dict[str, Any]


def labeled(rows: Sequence[Row], by_value: bool = False, tuned: Collection[str] = ()) -> list[Row]:
    """The rows with their labels, base first; otherwise in the order given, or by method and value.

    The settings that a sweep tuned come last: what was chosen is no name for what was asked.
    """
    chosen = recipe_keys(tuned)
    recipes = _telling(
        rows, lambda row: dict(sorted(_recipe_facts(row).items(), key=lambda fact: covered(fact[0], chosen)))
    )
    settings = _telling([row for row in rows if row.scored], _setting_facts)
    shared = set.intersection(*(set(row.overrides) for row in rows)) if rows else set()
    named = [_named(row, recipes, settings) if row.record else _asked(row, shared) for row in rows]
    labels_of = collected((row.name, row.label) for row in named)
    named = [
        _named(row, recipes, settings, spelled=True) if row.record and len({*labels_of[row.name]}) > 1 else row
        for row in named
    ]
    recipes_of = collected((row.label, row.recipe_id) for row in named)
    named = [
        replace(row, label=f"{row.label} [{row.recipe_id}]", name=f"{row.name} [{row.recipe_id}]")
        if len({*recipes_of[row.label]}) > 1
        else row
        for row in named
    ]

    def place(row: Row) -> tuple[Any, ...]:
        if not by_value:
            return (not row.is_base,)
        values = [_sortable(_recipe_facts(row).get(key)) for key in recipes.get(row.method, [])]
        others = [_sortable(_setting_facts(row).get(key)) for key in settings.get(row.method, [])]
        return (not row.is_base, row.method, values, others, row.recipe_id, row.seed)

    return sorted(named, key=place)


def _telling(rows: Sequence[Row], facts: Callable[[Row], Facts]) -> dict[str, list[str]]:
    """Return for each method the fewest keys, by preference, that tell its rows apart as well as all keys do."""
    chosen: dict[str, list[str]] = {}
    for method, own_facts in collected((row.method, facts(row)) for row in rows if row.record).items():
        chosen[method] = []
        telling: list[tuple[Any, ...]] = [()] * len(own_facts)  # values of the chosen keys for each row
        for key in dict.fromkeys(key for values in own_facts for key in values):
            more = [(*values, value_key(facts.get(key))) for values, facts in zip(telling, own_facts, strict=True)]
            if len({*more}) > len({*telling}):
                chosen[method].append(key)
                telling = more
    return chosen


def _recipe_facts(row: Row) -> Facts:
    """The recipe's settings, those first that people name a run by."""
    flat = settings_of(row)
    flat.pop("method.lr", None)  # the method's center; train.lr is the rate that was used
    flat.pop("method.name", None)
    method = [key for key in flat if key.startswith("method.")]
    return {key: flat[key] for key in (*FIRST, *method, "model.name", "data.name", *flat) if key in flat}


def _setting_facts(row: Row) -> Facts:
    return row.setting


def _named(row: Row, recipes: dict[str, list[str]], settings: dict[str, list[str]], spelled: bool = False) -> Row:
    """Return the row with its label, as `lora r=8 (5-shot)`, and its name for people, as `LoRA (r=8, 5-shot)`.

    A name holds the field's names of variants, as `LoRA (PiSSA)`, and with `spelled` the settings themselves.
    """
    facts = _recipe_facts(row)
    keys = [key for key in recipes.get(row.method, []) if key in facts]
    differing = [_look(key, row.setting[key]) for key in settings.get(row.method, []) if key in row.setting]
    made = [_look("eval.weights", scored.weights) for scored in row.scored if scored.weights != "attached"]
    looks = list(dict.fromkeys([*differing, *made]))  # merged and converted weights are marked in every label
    label = [row.method, *(_part(key, facts[key]) for key in keys), *([f"({', '.join(looks)})"] if looks else [])]
    words = [_part_for_people(row, key, facts[key], spelled) for key in keys]
    of_people = [*filter(None, words), *looks]
    name = names.method(row.method, row.record).display
    return replace(row, label=" ".join(label), name=name + (f" ({', '.join(of_people)})" if of_people else ""))


def _asked(row: Row, shared: set[str]) -> Row:
    """Return the row with a label of the requested overrides, for a run without a record."""
    own = [word for word in row.overrides if word not in shared and not word.startswith(("method=", "seed="))]
    parts = [*filter(None, map(names.overridden, own))]
    name = names.method(row.method).display
    label = " ".join([row.method, *(word.removeprefix("method.") for word in own)])
    return replace(row, label=label, name=name + (f" ({', '.join(parts)})" if parts else ""))


def _part_for_people(row: Row, key: str, value: Any, spelled: bool) -> str:
    if key == "model.name" and row.record:
        return names.model(row.record).display
    if key == "data.name" and row.record:
        return names.data(row.record).display
    return f"{names.setting(key).short}={short(value)[:40]}" if spelled else names.labeled(key, value)


def _part(key: str, value: Any) -> str:
    if key in ("model.name", "data.name"):
        return short(value)
    group, _, name = key.partition(".")
    return f"{name if group in ('method', 'train') else key}={short(value)[:40]}"


def _look(key: str, value: Any) -> str:
    if key == "eval.num_fewshot":
        return "each task's own shots" if value is None else f"{value}-shot"
    if key.endswith(".weights"):
        rank = str(value).removeprefix("converted-r")
        return str(value) if rank == value else f"as LoRA r={rank}"
    if key == "heldout.data":
        return f"loss on {value}"
    return f"{key.partition('.')[2]}={short(value)[:40]}"


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, short(value))
