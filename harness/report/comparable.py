"""What differs between the rows of a table besides what was meant to differ, found by comparing everything."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.display import shortened
from harness.report.groups import Group, same_items
from harness.report.items import Scored
from harness.report.labels import short
from harness.report.rows import flatten

IDENTITY = ("num_fewshot", "chat_template", "precision", "batch_size", "rows")


def unequal(groups: Sequence[Group]) -> list[str]:
    """One line for everything outside `method` and the learning rate that is not equal across the trained groups."""
    trained = [group for group in groups if group.trained]
    lines = _differing({group.label: _facts(group) for group in trained})
    tasks = dict.fromkeys(s[0].task for group in trained for s in group.evaluations.values())
    for task in tasks:
        looked = {g.label: _looked(g, s[0]) for g in trained for s in g.evaluations.values() if s[0].task == task}
        lines += [f"{task} {line}" for line in _differing(looked, absent="as in its run")]
        if absent := [group.label for group in trained if group.label not in looked]:
            lines.append(f"{task}: not evaluated ({', '.join(absent)})")
    return lines + _asked_differently(trained)


def without_base(groups: Sequence[Group]) -> list[str]:
    """The tasks that some trained group was asked and the base model was not, in the same way."""
    bases = [group for group in groups if group.ok and group.first.is_base]
    lines: dict[str, None] = {}
    for group in groups:
        for eval_id, scored in group.evaluations.items() if group.trained else ():
            if not any(base.model == group.model and eval_id in base.evaluations for base in bases):
                lines[f"{scored[0].task}: no evaluation of the base model in the same setting, so no difference"] = None
    return list(lines)


def method_settings(group: Group) -> dict[str, Any]:
    """What was meant to vary: the method's own settings and the learning rate."""
    if group.first.record is None:
        return {}
    recipe = group.first.record.recipe
    settings = {key: value for key, value in flatten(recipe.get("method") or {}).items() if key not in ("name", "lr")}
    rate = (recipe.get("train") or {}).get("lr")
    return {**settings, **({"lr": rate} if rate is not None else {})}


def _facts(group: Group) -> dict[str, str]:
    """Everything about a group that ought to be equal, as text."""
    record = group.first.record
    assert record is not None, "a trained group has records"
    attempt = record.current
    facts = {key: record.recipe.get(key) for key in ("model", "data", "train")}
    train = facts["train"]
    if isinstance(train, Mapping):
        facts["train"] = {key: value for key, value in train.items() if key != "lr"}
    used = {"rows": dataclasses.asdict(attempt.data)} if attempt.data else {}
    found = flatten({k: v for k, v in facts.items() if isinstance(v, Mapping)} | used)
    seeds = sorted(
        {json.dumps(_provenance(row.current.provenance), sort_keys=True) for row in group.rows if row.current}
    )
    found.update(flatten({"provenance": json.loads(seeds[0])}))
    if len(seeds) > 1:  # the seeds of one row ran differently: each key that differs shows all its values
        every = [flatten({"provenance": json.loads(one)}) for one in seeds]
        keys = dict.fromkeys(key for one in every for key in one)
        found.update({key: _values([one.get(key, "absent") for one in every]) for key in keys})
    found["seeds"] = sorted(row.seed for row in group.rows)
    return {key: _text(value) for key, value in found.items()}


def _provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance without what never is the same twice."""
    return {key: value for key, value in provenance.items() if key not in ("command", "argv", "pid", "started_at")}


def _looked(group: Group, scored: Scored) -> dict[str, str]:
    """How one task was asked; of the provenance what is not the run's own."""
    evaluation, record = scored.record.evaluation, scored.record
    run = group.first.current.provenance if group.first.current else {}
    own = {key: value for key, value in _provenance(record.provenance).items() if key not in run or run[key] != value}
    used = {"num_fewshot used": record.num_fewshot, "items": record.num_items, "tokens": record.num_tokens}
    facts = {**{key: evaluation[key] for key in ("limit", *IDENTITY)}, **used}
    facts.update(flatten({"provenance": own}))
    return {key: _text(value) for key, value in facts.items()}


def _asked_differently(groups: Sequence[Group]) -> list[str]:
    """Tasks whose items or prompts are not the same for every group that has them in one setting."""
    lines = []
    for eval_id in dict.fromkeys(eval_id for group in groups for eval_id in group.evaluations):
        every = [s for group in groups for s in group.evaluations.get(eval_id, ()) if s.items]
        if len(every) > 1 and not same_items(every):
            lines.append(f"{every[0].task}: the items or their prompts differ")
    return lines


def _differing(facts: Mapping[str, Mapping[str, str]], absent: str = "absent") -> list[str]:
    """For example `train.max_steps: 100 (lora, qlora), 200 (dora)` for every key whose values are not all equal."""
    lines = []
    for key in sorted({key for one in facts.values() for key in one}):
        by_value: dict[str, list[str]] = {}
        for label, one in facts.items():
            by_value.setdefault(one.get(key, absent), []).append(label)
        if len(by_value) > 1:
            shown = (f"{shortened(value, 60)} ({', '.join(who)})" for value, who in by_value.items())
            lines.append(f"{key}: {', '.join(shown)}")
    return lines


def _values(values: Sequence[Any]) -> str:
    return " and ".join(dict.fromkeys(_text(value) for value in values))


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)) and any(isinstance(one, (dict, list)) for one in value):
        return json.dumps(value, sort_keys=True)
    return short(value)
