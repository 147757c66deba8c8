"""Everything that ought to be equal across the rows of a table, as flat facts, and the sets of runs that share it.

Facts are taken from the whole record, less what is measured, what names a place or a moment, and what is compared
elsewhere. A setting or a library that nobody thought of here is compared all the same.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from harness.records.evaluation import GRADED
from harness.records.identity import covered
from harness.records.record import Attempt
from harness.report.data.groups import Group
from harness.report.data.items import ScoredEvaluation
from harness.report.data.labels import labeled
from harness.report.data.rows import Loaded, Row, flatten
from harness.report.display import collected, short, size

# The provenance that can move a run's numbers. All other provenance (commit, host, command, dates) is shown and never
# refuses a table.
_TRAINED_BY = ("num_processes", "num_nodes", "sharding", "liger")
MADE_WITH = ("device", "device_name", "cuda", *_TRAINED_BY, "harness", "versions")
_EVALUATED_WITH = (
    "lm_eval", "task_versions", "task_config_sha256", "fewshot_splits", "fewshot_seed", "code_run_by", "dtype",
    "quantized",
)  # fmt: skip
_NOT_FACTS = ("command", "argv", "pid", "started_at")
LOSS_IN_BF16 = "loss_in_bf16"  # of a validation: the same loss, computed in bfloat16
_MEASURED = ("computed_tokens", "separate_tokens", LOSS_IN_BF16)  # of an evaluation
# Settings outside of the recipe that decide which runs end well; those that do not are shown.
_DECIDE = ("train.divergence_factor", "train.divergence_steps")
# Settings outside of the recipe on the place and the conduct of a run. Evaluations are compared one by one.
_NEUTRAL = (
    "seed", "force", "rerun", "max_retries", "keep", "runs_dir", "reports_dir", "tracking", "price_per_device_hour",
    "plan", "launch", "inference", "lr_scale", "method", "eval", "model", "data.display", "data.cite", "data.tasks",
    "data.retention", "data.path", "data.file", "data.test_file", "train.checkpoint_seconds",
    "train.dataloader_num_workers", "train.eval_every",
)  # fmt: skip
_CHECK = "check"  # which data check looked at the rows: an older run has none, and their content is compared
_DIGITS = 4  # of a learning rate over the highest one
METHOD_AND_RATE = ("method", "train.lr")  # what varies where nothing was declared
Facts = dict[str, str]


def effective_scale(method: Mapping[str, Any]) -> float | None:
    """Return the scale of a low-rank update: alpha / r, or alpha / sqrt(r) with rank stabilization; None without both.

    Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1; Kalajdzievski 2023 (arXiv 2312.03732).
    """
    rank, alpha = method.get("r"), method.get("lora_alpha")
    if not isinstance(rank, (int, float)) or not isinstance(alpha, (int, float)) or rank <= 0:
        return None
    return alpha / math.sqrt(rank) if method.get("use_rslora") else alpha / rank


def stack_facts(row: Row) -> Facts:
    """Return the model and its machine, for untrained weights too: the processes of a training are not among them."""
    assert row.record is not None and row.current is not None, "a row with results has a record"
    model = {f"model.{key}": value for key, value in flatten(row.part("model")).items()}
    made_with = _made_with(row.current.provenance)
    return {key: text(value) for key, value in {**model, **made_with}.items() if key not in _TRAINED_BY}


def recipe_facts(row: Row) -> Facts:
    """Return what determined the trained weights beside the model, as it was asked for."""
    assert row.record is not None, "a row with results has a record"
    recipe = {key: value or {} for key, value in row.record.recipe.items() if key != "model"}
    facts = flatten(recipe)
    facts.pop("method.lr", None)  # the method's center; train.lr is the rate that was used
    return {key: text(value) for key, value in facts.items()}


def config_facts(row: Row) -> Facts:
    """Return the settings of a run that are no part of its recipe and decide whether it ends well."""
    return {key: value for key, value in _beside_recipe(row).items() if key in _DECIDE}


def outcome_facts(row: Row) -> Facts:
    """Return what the recipe came to: rows, steps, processes, the scale of a low-rank update, weights' precision."""
    assert row.record is not None and row.current is not None, "a row with results has a record"
    method = row.part("method")
    scale = effective_scale(method)
    facts = ({} if scale is None else {"effective_scale": scale}) | dict(_training(row.current))
    if str(method.get("precision")).endswith("_master") and "master_weights" in facts:
        facts["master_weights"] = ["float32"]  # updates add up in copies; the trained tensors are rounded
    facts |= {key: row.made_with[key] for key in _TRAINED_BY if key in row.made_with}
    return {key: text(value) for key, value in facts.items()}


def length_facts(row: Row) -> Facts:
    """Return how long a run was trained: {} where it was stopped early, as its recipe allows every row to be."""
    training = row.training
    if training is None or (training.stopped_early_at is not None and row.part("train").get("early_stopping")):
        return {}
    facts: dict[str, Any] = {"steps": len(training.losses)}
    highest = max(training.learning_rates, default=0.0)
    if highest > 0:  # the shape alone: every method has a rate of its own
        shape = [round(rate / highest, _DIGITS) for rate in training.learning_rates]
        facts["schedule_taken"] = hashlib.sha256(repr(shape).encode()).hexdigest()[:8]
    return {key: text(value) for key, value in facts.items()}


def seed_facts(row: Row) -> Facts:
    """Return what depends on the seed, and is compared between runs of one seed only."""
    training = row.training
    if training is None or not length_facts(row):
        return {}
    facts = {"tokens.real": sum(training.real_tokens), "tokens.trained": sum(training.trained_tokens)}
    if training.sequences is not None:
        facts["tokens.rows_seen"] = sum(training.sequences)
    return {key: text(value) for key, value in facts.items()}


def _beside_recipe(row: Row) -> Facts:
    """Return the settings of the resolved experiment that its recipe does not hold, less those that move nothing."""
    if row.record is None or row.is_base:
        return {}
    recipe = flatten({key: value or {} for key, value in row.record.recipe.items()})
    config = flatten(row.record.config)
    return {
        key: text(value)
        for key, value in config.items()
        if key not in recipe and not any(key == name or key.startswith(f"{name}.") for name in _NEUTRAL)
    }


def shown_facts(row: Row) -> Facts:
    """Return the provenance that says where a number comes from, and does not move it."""
    flat = flatten({key: value for key, value in row.provenance.items() if key not in (*MADE_WITH, *_NOT_FACTS)})
    return {key: text(size(key, value) or value) for key, value in flat.items()}


def shown_training_facts(row: Row) -> Facts:
    """Return what is said of a training and refuses nothing: its end, the rate it used, settings beside its recipe."""
    training = row.training
    facts: dict[str, Any] = {}
    if training is not None:
        facts = {"stopped_early_at": training.stopped_early_at, "kept_step": training.kept_step}
        wanted = row.part("train").get("lr")
        if training.learning_rates and wanted:
            facts["rate_used_over_asked"] = round(max(training.learning_rates) / wanted, 3)
    if row.current is not None and row.current.data is not None:
        facts["rows.check"] = row.current.data.check
    settings = {key: value for key, value in _beside_recipe(row).items() if key not in _DECIDE}
    return {**{key: text(value) for key, value in facts.items() if value is not None}, **settings}


def task_facts(group: Group, task: str) -> Facts:
    """Return how a group was asked one task; several ways are joined."""
    return _joined(group, task, _look)


def shown_task_facts(group: Group, task: str) -> Facts:
    """Return where the scores of a task come from, as far as it does not move them: the rest of the provenance."""
    compared = (*MADE_WITH, *_EVALUATED_WITH, *_NOT_FACTS, *_MEASURED)

    def others(scored: ScoredEvaluation) -> Iterator[tuple[str, Any]]:
        shown = {key: value for key, value in scored.record.provenance.items() if key not in compared}
        yield from ((key, size(key, value) or value) for key, value in flatten(shown).items())

    return _joined(group, task, others)


def _joined(group: Group, task: str, look: Callable[[ScoredEvaluation], Iterator[tuple[str, Any]]]) -> Facts:
    every = (scored for scores in group.evaluations.values() for scored in scores if scored.task == task)
    values = collected((key, text(value)) for scored in every for key, value in look(scored))
    return {key: " and ".join(sorted({*of_key})) for key, of_key in values.items()}


def text(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, (list, tuple)) and any(isinstance(part, (dict, list)) for part in value):
        return json.dumps(value, sort_keys=True)
    return short(value)


def _training(attempt: Attempt) -> Iterator[tuple[str, Any]]:
    """Return the rows used, and the precision of the trained weights."""
    if attempt.data:
        rows = flatten(asdict(attempt.data))
        yield from ((f"rows.{key}", value) for key, value in rows.items() if key != _CHECK)
    if attempt.fingerprint:
        yield "master_weights", sorted({kind for _, kind in attempt.fingerprint.trained.values()})


def _made_with(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({key: provenance[key] for key in MADE_WITH if key in provenance})


def _look(scored: ScoredEvaluation) -> Iterator[tuple[str, Any]]:
    """Everything that identifies an evaluation, its items, and what it was computed with."""
    evaluation, record = scored.record.evaluation, scored.record
    settings = {key: value for key, value in evaluation.items() if key not in ("task", "weights", "num_fewshot")}
    yield from ((f"eval.{key}", value) for key, value in flatten(settings).items())
    yield "eval.weights", scored.weights
    yield "eval.num_fewshot", record.num_fewshot
    yield "eval.num_items", record.num_items
    yield "eval.num_tokens", record.num_tokens
    measured = {name: metric for name, metric in record.metrics.items() if name not in GRADED}  # older ones lack them
    yield "eval.metrics", sorted(measured)
    yield "eval.lower_is_better", sorted(name for name, metric in measured.items() if not metric.higher_is_better)
    yield from (
        (f"eval.chance.{name}", metric.chance) for name, metric in measured.items() if metric.chance is not None
    )
    if scored.items:
        yield "eval.items_and_prompts", scored.items.asked_digest[:8]
    made_with = {key: record.provenance[key] for key in _EVALUATED_WITH if key in record.provenance}
    yield from ((f"eval.{key}", value) for key, value in flatten(made_with).items())
    yield from _made_with(record.provenance).items()


def comparable_sets(loaded: Loaded) -> list[Loaded]:
    """Return the sets, in the order of their first rows.

    Trained rows of one set share all but the method, its settings and the rate. The untouched model joins every set
    that shares an evaluation with it. A run without a result joins every set with its recipe's other settings.
    """
    sets: dict[str, list[Row]] = {}
    for row in loaded.rows:
        if row.status == "ok" and not row.is_base:
            sets.setdefault(_key(row, loaded, full=True), []).append(row)
    trained = {key: tuple(rows) for key, rows in sets.items()}
    for row in loaded.rows:
        if row.status == "ok" and not row.is_base:
            continue
        fits = [key for key, rows in trained.items() if _fits(row, rows[0], loaded)]
        for key in fits or [_key(row, loaded, full=False)]:
            sets.setdefault(key, []).append(row)
    comparable = []
    for rows in sets.values():
        members = [row for row in loaded.rows if row in rows]
        comparable.append(replace(loaded, rows=tuple(labeled(members, by_value=True))))
    return comparable


def _allowed_setting(key: str, loaded: Loaded) -> bool:
    """Return whether a setting may differ; `eval.weights` allows that of a held-out loss too, as a refusal names it."""
    return covered(key, loaded.allowed) or covered(f"eval.{key.removeprefix('heldout.')}", loaded.allowed)


def _fits(row: Row, other: Row, loaded: Loaded) -> bool:
    """Return whether a base model or a run without a result belongs beside a trained run."""
    if not row.is_base:
        return _key(row, loaded, full=False) == _key(other, loaded, full=False)
    if row.status != "ok":
        return row.record is not None and row.part("model").get("content") == other.part("model").get("content")
    looks = {scored.comparison_key for scored in row.scored} & {scored.comparison_key for scored in other.scored}
    return bool(looks) and _kept(stack_facts(row), loaded) == _kept(stack_facts(other), loaded)


def _key(row: Row, loaded: Loaded, full: bool) -> str:
    """Return the facts that the rows of a set share, as JSON; "" without a record.

    Without `full` the machine and the evaluations are left out: a run without a result is placed by its recipe.
    """
    if row.record is None:
        return ""
    facts: dict[str, Any] = {**_kept(recipe_facts(row), loaded), "model": row.part("model").get("content")}
    if full:
        facts.update(_kept(stack_facts(row), loaded))
        facts.update({key: value for key, value in row.setting.items() if not _allowed_setting(key, loaded)})
    return json.dumps(facts, sort_keys=True)


def _kept(facts: Facts, loaded: Loaded) -> Facts:
    free = (*METHOD_AND_RATE, *loaded.allowed)
    return {key: value for key, value in facts.items() if not covered(key, free)}
