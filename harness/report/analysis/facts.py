"""Everything that ought to be equal across the rows of a table, as flat facts: key -> text."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from harness.records.record import Attempt
from harness.report.data.groups import Group
from harness.report.data.items import Scored
from harness.report.data.labels import short
from harness.report.data.rows import Row, flatten

# What of a run's provenance can move its numbers. The rest (commit, host, command, dates) is shown and never refuses.
_TRAINED_BY = ("num_processes", "num_nodes", "sharding", "liger")
MADE_WITH = ("device", "device_name", "cuda", *_TRAINED_BY, "harness", "versions")
_EVALUATED_WITH = ("lm_eval", "task_versions", "task_config_sha256", "fewshot_splits", "fewshot_seed")
_ASKED = ("limit", "chat_template", "precision", "backend", "batch_size", "batch_tokens", "rows")
_NOT_FACTS = ("command", "argv", "pid", "started_at")
Facts = dict[str, str]


def method_settings(group: Group) -> dict[str, Any]:
    """What a method brings along: its own settings and the learning rate."""
    if group.first.record is None:
        return {}
    recipe = group.first.record.recipe
    settings = {key: value for key, value in flatten(recipe.get("method") or {}).items() if key not in ("name", "lr")}
    rate = (recipe.get("train") or {}).get("lr")
    return {**settings, **({"lr": rate} if rate is not None else {})}


def effective_scale(method: Mapping[str, Any]) -> float | None:
    """What a low-rank update is multiplied by: alpha / r, with rank stabilisation alpha / sqrt(r); None without both.

    Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1; Kalajdzievski 2023 (arXiv 2312.03732).
    """
    rank, alpha = method.get("r"), method.get("lora_alpha")
    if not isinstance(rank, (int, float)) or not isinstance(alpha, (int, float)) or rank <= 0:
        return None
    return alpha / math.sqrt(rank) if method.get("use_rslora") else alpha / rank


def stack_facts(row: Row) -> Facts:
    """The model, and what it ran on: for untrained weights too, which no number of processes has trained."""
    assert row.record is not None and row.current is not None, "a row with results has a record"
    model = {f"model.{key}": value for key, value in flatten(row.record.recipe.get("model") or {}).items()}
    made_with = _made_with(row.current.provenance)
    return {key: text(value) for key, value in {**model, **made_with}.items() if key not in _TRAINED_BY}


def recipe_facts(row: Row) -> Facts:
    """What determined the trained weights beside the model, as it was asked for."""
    assert row.record is not None, "a row with results has a record"
    recipe = row.record.recipe
    method = {key: value for key, value in (recipe.get("method") or {}).items() if key != "lr"}
    found = flatten({"method": method, **{key: recipe.get(key) or {} for key in ("data", "train")}})
    return {key: text(value) for key, value in found.items()}


def outcome_facts(row: Row) -> Facts:
    """What the recipe came to: rows, steps, processes, the scale of a low-rank update, what weights were held in."""
    assert row.record is not None and row.current is not None, "a row with results has a record"
    method = row.record.recipe.get("method") or {}
    scale = effective_scale(method)
    found = ({} if scale is None else {"effective_scale": scale}) | dict(_training(row.current))
    if str(method.get("precision")).endswith("_master") and "master_weights" in found:
        found["master_weights"] = ["float32"]  # updates add up in copies, which the trained tensors are rounded from
    attempts, made_by = row.record.attempts, row.current.weights_from  # a later one may have evaluated alone
    trained_by = next((one for one in attempts if one.started_at == made_by), row.current)
    found |= {key: trained_by.provenance[key] for key in _TRAINED_BY if key in trained_by.provenance}
    return {key: text(value) for key, value in found.items()}


def seed_facts(row: Row) -> Facts:
    """What depends on the seed, and is compared between runs of one seed only."""
    training = row.current.training if row.current else None
    if training is None:
        return {}
    return {"tokens.real": text(sum(training.real_tokens)), "tokens.trained": text(sum(training.trained_tokens))}


def shown_facts(row: Row) -> Facts:
    """Provenance that says where a number comes from, and does not move it."""
    provenance = row.current.provenance if row.current else {}
    flat = flatten({key: value for key, value in provenance.items() if key not in (*MADE_WITH, *_NOT_FACTS)})
    return {key: text(value) for key, value in flat.items()}


def task_facts(group: Group, task: str) -> Facts:
    """How a group was asked one task; several ways are joined."""
    every = [scored for scores in group.evaluations.values() for scored in scores if scored.task == task]
    found: dict[str, dict[str, None]] = {}
    for scored in every:
        for key, value in _look(scored):
            found.setdefault(key, {})[text(value)] = None
    return {key: " and ".join(sorted(values)) for key, values in found.items()}


def text(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, (list, tuple)) and any(isinstance(one, (dict, list)) for one in value):
        return json.dumps(value, sort_keys=True)
    return short(value)


def _training(attempt: Attempt) -> Iterator[tuple[str, Any]]:
    """The rows used, the steps taken, and what the trained weights are held in."""
    if attempt.data:
        yield from ((f"rows.{key}", value) for key, value in asdict(attempt.data).items())
    if attempt.training:
        yield "steps", len(attempt.training.losses)
    if attempt.fingerprint:
        yield "master_weights", sorted({kind for _, kind in attempt.fingerprint.trained.values()})


def _made_with(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({key: provenance[key] for key in MADE_WITH if key in provenance})


def _look(scored: Scored) -> Iterator[tuple[str, Any]]:
    evaluation, record = scored.record.evaluation, scored.record
    yield from ((f"eval.{key}", evaluation.get(key)) for key in _ASKED)
    yield "eval.weights", scored.weights
    yield "eval.num_fewshot", record.num_fewshot
    yield "eval.num_items", record.num_items
    yield "eval.num_tokens", record.num_tokens
    if scored.items:
        yield "eval.items_and_prompts", scored.items.asked_digest[:8]
    known = {key: record.provenance[key] for key in _EVALUATED_WITH if key in record.provenance}
    yield from ((f"eval.{key}", value) for key, value in flatten(known).items())
    yield from _made_with(record.provenance).items()
