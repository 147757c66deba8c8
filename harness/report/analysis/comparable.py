"""The guard: before a table is made, everything that was not meant to vary is compared.

An undeclared difference refuses the table. What varies is what the sweep declared, `SweepRecord.varies`; where nothing
was declared, the method with its own settings, and the learning rate. A fact that one row has and another has not is
a difference. A consequence of a declared difference (steps and tokens from `train.max_steps`) is shown, if rows of
equal declared values agree in it; so is where the numbers come from. Trials are compared as the results are. A fact
that cannot be known, since the weights were trained elsewhere, equals nothing and differs from nothing: it is named
under the table.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.records.identity import covered
from harness.records.untrusted import shortened
from harness.report import names
from harness.report.analysis.facts import (
    METHOD_AND_RATE,
    Facts,
    config_facts,
    length_facts,
    outcome_facts,
    recipe_facts,
    seed_facts,
    shown_facts,
    shown_task_facts,
    shown_training_facts,
    stack_facts,
    task_facts,
)
from harness.report.data.groups import Group, grouped
from harness.report.data.rows import Loaded, Row
from harness.report.display import collected, several

ABSENT = "absent"
UNKNOWN = "unknown"
_ITEMS = "eval.items_and_prompts"
# Key of a fact (or of all facts below it) -> the settings that move it. Where such a setting was declared to vary, a
# difference in the fact follows from it.
_FOLLOWS = {
    "effective_scale": ("method.r", "method.lora_alpha", "method.use_rslora"),
    "master_weights": ("method.name", "method.precision", "train.precision"),
    "steps": ("train.max_steps", "train.epochs", "train.global_batch_size", "train.max_length", "data"),
    "schedule_taken": ("train.max_steps", "train.epochs", "train.global_batch_size", "train.max_length",
                       "train.lr_scheduler_type", "train.warmup_steps", "data"),
    "tokens": ("train.max_steps", "train.epochs", "train.global_batch_size", "train.max_length", "train.loss_on",
               "train.group_by_length", "data", "model"),
    "rows": ("data", "train.max_length", "train.loss_on", "model"),
    "eval.train_precision": ("train.precision", "eval.precision"),
    "eval.rows": ("data", "train.max_length", "eval.source"),
    "eval.task_config_sha256": ("eval",),
    "eval.fewshot_splits": ("eval.num_fewshot",),
    "eval.fewshot_seed": ("eval.num_fewshot",),
    "eval.items_and_prompts": ("eval", "data", "model", "train.max_length"),
    "eval.chance": ("eval", "data", "train.max_length"),
    "eval.num_items": ("eval", "data", "train.max_length"),
    "eval.num_tokens": ("eval", "data", "model", "train.max_length"),
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A fact that is not the same for every row: its values, and the rows that have each."""

    key: str
    values: tuple[tuple[str, tuple[str, ...]], ...]
    task: str = ""  # the task, where the difference is in its settings

    def __str__(self) -> str:
        """Return it by identifiers: `train.max_steps: 100 (lora, qlora), 200 (dora)`."""
        return f"{self.task} {self.key}: {self._values({})}" if self.task else f"{self.key}: {self._values({})}"

    def shown(self, named: Mapping[str, str]) -> str:
        """Return it in words for people: Optimizer steps: 100 (LoRA, QLoRA), 200 (DoRA)."""
        where = f"{names.task(self.task).display}, " if self.task else ""
        return f"{where}{names.fact(self.key)}: {self._values(named)}"

    def _values(self, named: Mapping[str, str]) -> str:
        parts = ((shortened(value, 60), [named.get(row, row) for row in rows]) for value, rows in self.values)
        return ", ".join(f"{value} ({several(rows, 6)})" for value, rows in parts)


@dataclass(frozen=True)
class Guard:
    """Differences that the guard found, sorted by their consequence."""

    declared: tuple[str, ...]
    refused: tuple[Difference, ...]
    allowed: tuple[Difference, ...]  # undeclared, and allowed by name
    follows: tuple[Difference, ...]  # consequences of a declared difference
    remarks: tuple[Difference, ...]  # provenance that moves no number, seeds, tasks that a row does not have

    def notes(self, named: Mapping[str, str]) -> list[str]:
        """Return the lines that a page prints under its table; `named` holds the names of rows for people."""
        return [
            *(f"Not declared, allowed: {difference.shown(named)}" for difference in self.allowed),
            *(f"Implied: {difference.shown(named)}" for difference in self.follows),
            *(difference.shown(named) for difference in self.remarks),
        ]


class IncomparableError(ValueError):
    """Rows that must not stand in one table. The message names every key with its values and rows."""

    def __init__(self, guard: Guard) -> None:
        keys = list(dict.fromkeys(difference.key for difference in guard.refused))
        lines = "\n".join(f"  {difference}" for difference in guard.refused)
        super().__init__(
            "no table: the rows differ in what was not declared to vary "
            f"({', '.join(guard.declared) or 'nothing was'}):\n{lines}\n"
            f"Declare it before the runs (`varies` in the sweep's file, or a list of values on the command line), "
            f"compare fewer runs (--sweep NAME), or print it under the table: --allow {','.join(keys)}"
        )
        self.guard = guard


def check(groups: Sequence[Group], declared: Collection[str] | None, allowed: Iterable[str] = ()) -> Guard:
    """Compare all facts of the groups and sort their differences.

    Args:
        groups: the rows of a table.
        declared: keys that were meant to vary, each for all below it; None: the method and the learning rate.
        allowed: further keys whose differences are printed instead of refused.
    """
    meant = tuple(METHOD_AND_RATE if declared is None else declared)
    members = [group for group in groups if group.ok]
    differing = (*_all_differences(members), *_single_seeds(members))
    guard = _guarded(differing, _settings_by_label(members), meant, tuple(allowed))
    return replace(guard, remarks=tuple(_remarks(groups)))


def check_trials(loaded: Loaded) -> Guard | None:
    """Compare the trials of a tuned sweep as `check` does results, and what each contestant was given.

    A trial that diverged is compared in its settings and its machine only: it has no outcome.
    """
    if not loaded.trials or loaded.sweep is None or loaded.sweep.tuning is None:
        return None
    meant = tuple(loaded.sweep.varies or METHOD_AND_RATE)
    members = [group for group in grouped(loaded.trials) if group.ok]
    diverged = [row for row in loaded.trials if row.status == "diverged" and row.current]
    everyone = {**_by_run(members, _asked_facts), **{f"{r.label} seed {r.seed}": _asked_facts(r) for r in diverged}}
    differing = (*_budgets(loaded.trials), *differences(everyone), *_all_differences(members))
    guard = _guarded(differing, _settings_by_label(members), meant, loaded.allowed)
    return replace(guard, remarks=tuple(_remarks(members)))


def _guarded(
    differing: Iterable[Difference], settings: Mapping[str, Facts], meant: tuple[str, ...], wanted: tuple[str, ...]
) -> Guard:
    """Sort differences into refused, allowed and explained ones; of a key in a task the first one counts.

    Args:
        differing: the differences.
        settings: of each label.
        meant: keys that were declared to vary.
        wanted: undeclared keys that are allowed by name.
    """
    refused: dict[str, Difference] = {}
    allowed: dict[str, Difference] = {}
    follows: dict[str, Difference] = {}
    for difference in differing:
        key = difference.key
        if covered(key, meant):
            continue
        causes = [cause for fact, moved in _FOLLOWS.items() if covered(key, [fact]) for cause in moved]
        implied = any(covered(cause, meant) or covered(name, [cause]) for cause in causes for name in meant)
        unexplained = _unexplained(difference, causes, settings, meant) if implied else difference
        part = follows if unexplained is None else allowed if covered(key, wanted) else refused
        name = f"{difference.task} {key}" if key.startswith("eval.") else key
        part.setdefault(name, unexplained or difference)
    return Guard(meant, tuple(refused.values()), tuple(allowed.values()), tuple(follows.values()), ())


def _unexplained(
    difference: Difference, causes: Sequence[str], settings: Mapping[str, Facts], meant: Sequence[str]
) -> Difference | None:
    """Return the part of a difference that the declared settings do not explain: rows of equal ones differ."""

    def declared(label: str) -> tuple[tuple[str, str], ...]:
        own = settings.get(label, {}).items()
        return tuple(sorted((key, value) for key, value in own if covered(key, causes) and covered(key, meant)))

    pairs = ((declared(label), (value, label)) for value, labels in difference.values for label in labels)
    parts = (_difference(difference.key, alike, difference.task) for alike in collected(pairs).values())
    return next((part for part in parts if len(part.values) > 1), None)


def _difference(key: str, labeled: Iterable[tuple[str, str]], task: str) -> Difference:
    """Return a difference of (value, label) pairs."""
    return Difference(key, tuple((value, tuple(rows)) for value, rows in collected(labeled).items()), task)


def differences(facts: Mapping[str, Facts], task: str = "") -> list[Difference]:
    """Every key whose values are not all equal, for rows by their labels; absent is a value, unknown is none."""
    every = []
    for key in sorted({key for own in facts.values() for key in own}):
        labeled = ((own.get(key, ABSENT), label) for label, own in facts.items())
        every.append(_difference(key, ((value, label) for value, label in labeled if value != UNKNOWN), task))
    return [difference for difference in every if len(difference.values) > 1]


def without_base(groups: Sequence[Group]) -> list[str]:
    """Return the tasks that a trained group was evaluated on and the base model, in the same way, was not."""
    bases = [group for group in groups if group.ok and group.first.is_base]
    lines: dict[str, None] = {}
    for group in groups:
        for eval_id, scored in group.evaluations.items() if group.trained else ():
            if not any(base.model == group.model and eval_id in base.evaluations for base in bases):
                task = names.task(scored[0].task).display
                lines[f"{task}: no evaluation of the base model in the same setting, so no difference"] = None
    return list(lines)


def _all_differences(groups: Sequence[Group]) -> list[Difference]:
    """Return the differences of facts that can move a number; an earlier one goes before a later one of its key."""
    trained = [group for group in groups if group.trained]
    unequal = [*differences(_by_run(trained, recipe_facts)), *differences(_by_run(trained, outcome_facts))]
    unequal += differences(_by_run(trained, config_facts))
    unequal += differences({label: facts for label, facts in _by_run(trained, length_facts).items() if facts})
    unequal += differences(_by_run(groups, stack_facts))  # the base too: it is subtracted from the others
    for seed in dict.fromkeys(row.seed for group in trained for row in group.rows):
        rows = {group.label: seed_facts(row) for group in trained for row in group.rows if row.seed == seed}
        unequal += differences({label: facts for label, facts in rows.items() if facts})
    for task in _tasks(trained):
        asked_it = {group.label: task_facts(group, task) for group in groups}
        items = next((facts[_ITEMS] for facts in asked_it.values() if _ITEMS in facts), "")
        for group in groups:  # a base without readable items is named where its items are, and paired with nobody
            if group.first.is_base and asked_it[group.label] and items:
                asked_it[group.label].setdefault(_ITEMS, items)
        unequal += differences({label: facts for label, facts in asked_it.items() if facts}, task)
    return unequal


def _asked_facts(row: Row) -> Facts:
    """Return what a run was asked for and made with."""
    return {**stack_facts(row), **recipe_facts(row), **config_facts(row)}


def _settings_by_label(groups: Sequence[Group]) -> dict[str, Facts]:
    """Return the settings of every label that a difference may name: a group's, and those of its single runs."""
    settings: dict[str, Facts] = {}
    for group in groups:
        evaluated = task_settings(group)
        for row in group.rows:
            own = {**evaluated, **stack_facts(row), **(recipe_facts(row) if group.trained else {})}
            settings.setdefault(group.label, own)
            settings[f"{group.label} seed {row.seed}"] = own
    return settings


def task_settings(group: Group) -> Facts:
    """Return how a group was asked its tasks, as settings of an evaluation; several values are joined."""
    facts = (fact for task in _tasks([group]) for fact in task_facts(group, task).items())
    values = collected((key, value) for key, value in facts if key.startswith("eval.") and key not in _FOLLOWS)
    return {key: " and ".join(dict.fromkeys(of_key)) for key, of_key in values.items()}


def _single_seeds(groups: Sequence[Group]) -> list[Difference]:
    """Return a difference where one side has a single seed and shares none: seeds would be compared, not methods.

    Runs without a result count: a seed that diverged was the same for both.
    """
    seeds = {g.label: {row.seed for row in (*g.rows, *g.lost)} for g in groups if g.trained}
    alone = [
        (a, b) for a, own in seeds.items() for b, other in seeds.items() if a != b and len(own) == 1 and not own & other
    ]
    if not alone:
        return []
    return differences({label: {"seed": ", ".join(map(str, sorted(own)))} for label, own in seeds.items()})


def _budgets(trials: Sequence[Row]) -> list[Difference]:
    """Return how the contestants differ in the number of their trials, or trials in their seeds."""
    facts = {}
    for name, rows in collected((row.cell.contestant or "", row) for row in trials if row.cell).items():
        recipes = collected((row.recipe_id, row.seed) for row in rows)
        seeds = {", ".join(map(str, sorted({*of_recipe}))) for of_recipe in recipes.values()}
        facts[name] = {"tuning.trials": str(len(recipes)), "tuning.seeds": " and ".join(sorted(seeds))}
    uneven = ((own["tuning.seeds"], name) for name, own in facts.items() if " and " in own["tuning.seeds"])
    return [*differences(facts), *(Difference("tuning.seeds", ((seeds, (name,)),)) for seeds, name in uneven)]


def _by_run(groups: Sequence[Group], facts: Callable[[Row], Facts]) -> dict[str, Facts]:
    """Facts by row: a group's label, or that of each of its seeds where they differ among themselves."""
    by_label: dict[str, Facts] = {}
    for group in groups:
        by_seed = [facts(row) for row in group.rows]
        if all(own == by_seed[0] for own in by_seed):
            by_label[group.label] = by_seed[0]
        else:
            by_label.update(
                {f"{group.label} seed {row.seed}": own for row, own in zip(group.rows, by_seed, strict=True)}
            )
    keys = {key for own in by_label.values() for key in own}
    elsewhere = [group.label for group in groups if group.first.record and group.first.record.origin]
    for label, own in by_label.items():  # of weights from elsewhere: what is not on record is not known
        if any(label == other or label.startswith(f"{other} seed ") for other in elsewhere):
            by_label[label] = {**dict.fromkeys(keys, UNKNOWN), **own}
    return by_label


def _provenance_by_row(groups: Sequence[Group]) -> dict[str, Facts]:
    """Return provenance by row; the base model, which has no training, lacks nothing that only a training has."""
    by_label = _by_run(groups, shown_facts)
    keys = {key for facts in by_label.values() for key in facts}
    for group in groups:
        if group.first.is_base and group.label in by_label:
            by_label[group.label] = {**dict.fromkeys(keys, UNKNOWN), **by_label[group.label]}
    return by_label


def _tasks(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(scored[0].task for group in groups for scored in group.evaluations.values()))


def _remarks(groups: Sequence[Group]) -> list[Difference]:
    """Return what is said and refuses nothing."""
    rows = [group for group in groups if group.ok]
    trained = [group for group in rows if group.trained]
    seeds = differences({g.label: {"seeds": ", ".join(str(row.seed) for row in g.rows)} for g in trained})
    missing = []
    for task in _tasks(trained):
        absent = tuple(group.label for group in trained if not task_facts(group, task))
        if absent:
            missing.append(Difference("not evaluated", ((task, absent),)))
    elsewhere = tuple(group.label for group in trained if group.first.trained_elsewhere)
    unknown = [Difference("trained elsewhere, on data and with settings that are unknown", (("yes", elsewhere),))]
    listed = [*(unknown if elsewhere else []), *seeds, *missing, *differences(_provenance_by_row(rows))]
    listed += differences(_by_run(trained, shown_training_facts))
    keys = {difference.key for difference in listed}
    for task in _tasks(trained):
        facts = {group.label: shown_task_facts(group, task) for group in rows}
        listed += [
            difference
            for difference in differences({k: v for k, v in facts.items() if v}, task)
            if difference.key not in keys
        ]
    return listed
