"""The guard: before a table is made, everything that was not meant to vary is compared.

An undeclared difference refuses the table. What varies is what the sweep declared, `SweepRecord.varies`; where nothing
was declared, the method with its own settings, and the learning rate. A fact that one row has and another has not is
a difference. What follows from a declared difference (steps and tokens from `train.max_steps`) is shown, as is where
the numbers come from.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.analysis.facts import (
    Facts,
    outcome_facts,
    recipe_facts,
    seed_facts,
    shown_facts,
    stack_facts,
    task_facts,
)
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded, Row
from harness.report.display import several, shortened

METHOD_AND_RATE = ("method", "train.lr")
ABSENT = "absent"
# A fact, or all below it -> the settings that move it: a difference in it follows from a declared one in those.
_FOLLOWS = {
    "effective_scale": ("method.r", "method.lora_alpha", "method.use_rslora"),
    "master_weights": ("method.name", "method.precision", "train.precision"),
    "steps": ("train.max_steps", "train.epochs", "train.global_batch_size", "train.max_length", "data"),
    "tokens": ("train.max_steps", "train.epochs", "train.global_batch_size", "train.max_length", "train.loss_on",
               "train.group_by_length", "data", "model"),
    "rows": ("data", "train.max_length", "train.loss_on", "model"),
    "eval.rows": ("data", "train.max_length", "eval.source"),
    "eval.task_config_sha256": ("eval",),
    "eval.fewshot_splits": ("eval.num_fewshot",),
    "eval.fewshot_seed": ("eval.num_fewshot",),
    "eval.items_and_prompts": ("eval", "data", "model", "train.max_length"),
    "eval.num_items": ("eval", "data", "train.max_length"),
    "eval.num_tokens": ("eval", "data", "model", "train.max_length"),
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A fact that is not the same for every row: its values, and the rows that have each."""

    key: str
    values: tuple[tuple[str, tuple[str, ...]], ...]
    task: str = ""  # where it is how one task was asked

    def __str__(self) -> str:
        """For example `train.max_steps: 100 (lora, qlora), 200 (dora)`."""
        shown = ", ".join(f"{shortened(value, 60)} ({several(rows, 6)})" for value, rows in self.values)
        return f"{self.task} {self.key}: {shown}" if self.task else f"{self.key}: {shown}"


@dataclass(frozen=True)
class Guard:
    """What was found, by what becomes of it."""

    declared: tuple[str, ...]
    refused: tuple[Difference, ...]
    allowed: tuple[Difference, ...]  # undeclared, and let through by name
    follows: tuple[Difference, ...]  # a consequence of what was declared
    shown: tuple[Difference, ...]  # provenance that moves no number, seeds, tasks that a row was not asked

    @property
    def notes(self) -> list[str]:
        """What a page says under its table."""
        return [
            *(f"not declared, allowed: {one}" for one in self.allowed),
            *(f"follows from what varied: {one}" for one in self.follows),
            *map(str, self.shown),
        ]


class IncomparableError(ValueError):
    """Rows that must not stand in one table. The message names every key with its values and rows."""

    def __init__(self, guard: Guard) -> None:
        keys = list(dict.fromkeys(one.key for one in guard.refused))
        lines = "\n".join(f"  {one}" for one in guard.refused)
        super().__init__(
            "no table: the rows differ in what was not declared to vary "
            f"({', '.join(guard.declared) or 'nothing was'}):\n{lines}\n"
            f"Declare it before the runs (`varies` in the sweep's file, or a list of values on the command line), "
            f"compare fewer runs (--sweep NAME), or print it under the table: --allow {','.join(keys)}"
        )
        self.guard = guard


def check(groups: Sequence[Group], declared: Collection[str] | None, allowed: Iterable[str] = ()) -> Guard:
    """Compare everything.

    Args:
        groups: the rows of a table.
        declared: keys that were meant to vary, each for all below it; None: the method and the learning rate.
        allowed: further keys whose differences are printed instead of refused.
    """
    meant = tuple(METHOD_AND_RATE if declared is None else declared)
    wanted = tuple(allowed)
    refused, let_through, follows = [], [], []
    for one in _all_differences([group for group in groups if group.ok]):
        if covered(one.key, meant):
            continue
        if _is_consequence(one.key, meant):
            follows.append(one)
        elif covered(one.key, wanted):
            let_through.append(one)
        else:
            refused.append(one)
    return Guard(meant, tuple(refused), tuple(let_through), tuple(follows), tuple(_shown(groups)))


def insist(groups: Sequence[Group], loaded: Loaded) -> Guard:
    """`check` for a report's rows.

    Raises:
        IncomparableError: an undeclared difference that was not allowed.
    """
    declared = loaded.sweep.varies if loaded.sweep else None
    known: dict[Any, Any] = groups[0].remembered if groups else {}
    if (key := ("guard", declared, loaded.allowed)) not in known:  # before the files are written, and for the page
        known[key] = check(groups, declared, loaded.allowed)
    guard: Guard = known[key]
    if guard.refused:
        raise IncomparableError(guard)
    return guard


def differences(facts: Mapping[str, Facts], task: str = "") -> list[Difference]:
    """Every key whose values are not all equal, for rows by their labels; absent is a value."""
    found = []
    for key in sorted({key for one in facts.values() for key in one}):
        by_value: dict[str, list[str]] = {}
        for label, one in facts.items():
            by_value.setdefault(one.get(key, ABSENT), []).append(label)
        if len(by_value) > 1:
            found.append(Difference(key, tuple((value, tuple(rows)) for value, rows in by_value.items()), task))
    return found


def covered(key: str, declared: Iterable[str]) -> bool:
    """Whether a key is one of those declared, or lies below one."""
    return any(key == one or key.startswith(f"{one}.") for one in declared)


def without_base(groups: Sequence[Group]) -> list[str]:
    """The tasks that some trained group was asked and the base model was not, in the same way."""
    bases = [group for group in groups if group.ok and group.first.is_base]
    lines: dict[str, None] = {}
    for group in groups:
        for eval_id, scored in group.evaluations.items() if group.trained else ():
            if not any(base.model == group.model and eval_id in base.evaluations for base in bases):
                lines[f"{scored[0].task}: no evaluation of the base model in the same setting, so no difference"] = None
    return list(lines)


def _all_differences(groups: Sequence[Group]) -> list[Difference]:
    trained = [group for group in groups if group.trained]
    found = [*differences(_by_run(trained, recipe_facts)), *differences(_by_run(trained, outcome_facts))]
    found += differences(_by_run(groups, stack_facts))  # the base too: it is subtracted from the others
    for seed in dict.fromkeys(row.seed for group in trained for row in group.rows):
        rows = {group.label: seed_facts(row) for group in trained for row in group.rows if row.seed == seed}
        found += differences({label: facts for label, facts in rows.items() if facts})
    for task in _tasks(trained):
        asked_it = {group.label: task_facts(group, task) for group in trained}
        found += differences({label: facts for label, facts in asked_it.items() if facts}, task)
    unique: dict[str, Difference] = {}
    for one in found:  # versions are the runs' before they are an evaluation's, and of every seed the first is enough
        unique.setdefault(f"{one.task} {one.key}" if one.key.startswith("eval.") else one.key, one)
    return list(unique.values())


def _by_run(groups: Sequence[Group], facts: Callable[[Row], Facts]) -> dict[str, Facts]:
    """Facts by row: a group's label, or that of each of its seeds where they differ among themselves."""
    found: dict[str, Facts] = {}
    for group in groups:
        each = [facts(row) for row in group.rows]
        if all(one == each[0] for one in each):
            found[group.label] = each[0]
        else:
            found.update({f"{group.label} seed {row.seed}": one for row, one in zip(group.rows, each, strict=True)})
    return found


def _tasks(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(scored[0].task for group in groups for scored in group.evaluations.values()))


def _is_consequence(key: str, declared: Sequence[str]) -> bool:
    """Whether what moves the fact was declared, itself or a part of it."""
    causes = [cause for fact, moved_by in _FOLLOWS.items() if covered(key, [fact]) for cause in moved_by]
    return any(covered(cause, declared) or covered(one, [cause]) for cause in causes for one in declared)


def _shown(groups: Sequence[Group]) -> list[Difference]:
    """What is said and refuses nothing."""
    rows = [group for group in groups if group.ok]
    trained = [group for group in rows if group.trained]
    seeds = differences({g.label: {"seeds": ", ".join(str(row.seed) for row in g.rows)} for g in trained})
    missing = []
    for task in _tasks(trained):
        absent = tuple(group.label for group in trained if not task_facts(group, task))
        if absent:
            missing.append(Difference("not evaluated", ((task, absent),)))
    return [*seeds, *missing, *differences(_by_run(rows, shown_facts))]
