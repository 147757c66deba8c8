"""Results that others published, as external records: shown as such, and never ranked against our own as equals.

PEFT's method comparison publishes one JSON file per experiment: one seed, no outcomes per item. No
items can be paired, so an interval is Wilson's of a single score. It has a width even where no answer was right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records.record import SCHEMA, ExternalRecord, Metric, write
from harness.report.analysis.comparable import Difference, covered, differences
from harness.report.analysis.facts import Facts, effective_scale, text
from harness.report.data.rows import flatten
from harness.report.display import DASH, MEBIBYTE, MEGABYTE, estimate, interval, quantity, several
from harness.report.document import Table, text_table

PEFT = "PEFT method comparison"
FOLDER = "external"
# Settings that such a comparison varies: the method with its settings, and the learning rate.
PEFT_VARIES = ("peft_config", "train_config.optimizer_kwargs.lr", "train_config.optimizer_type")
_TEST_ITEMS = {"gsm8k": 1319}  # of the official test split, all of which the benchmark evaluates
_ENDED_WELL = "success"
_RATE = "train_config.optimizer_kwargs.lr"
_SHOWN_ONLY = ("created_at", "total_time", "experiment_name", "error_msg", "peft_config.peft_version")


def read_peft(folder: Path) -> tuple[list[ExternalRecord], list[str]]:
    """Read the records of a folder of result files, by name, and the files that hold none, with the reason.

    Raises:
        ValueError: the folder is not there or holds no JSON.
    """
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"{folder}: no result files (*.json); give the folder that holds PEFT's published results")
    found, problems = [], []
    for path in paths:
        try:
            found.append(_peft_record(json.loads(path.read_text(encoding="utf-8")), path.stem))
        except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError) as error:
            problems.append(f"{path.name}: not a result file ({type(error).__name__}: {error})")
    return found, problems


def guard(records: Sequence[ExternalRecord], varies: Sequence[str] = PEFT_VARIES) -> list[Difference]:
    """Return the differences between the rows that were not meant to vary."""
    facts: dict[str, Facts] = {one.name: {key: text(value) for key, value in one.facts.items()} for one in records}
    return [one for one in differences(facts) if not covered(one.key, varies)]


def keep(records: Sequence[ExternalRecord], runs: Path) -> Path:
    """Write the records below a runs folder, where reports find them; returns their folder."""
    for one in records:
        write(one, runs / FOLDER / f"{one.name}.json")
    return runs / FOLDER


def table(records: Sequence[ExternalRecord]) -> Table:
    """Return the rows as published, in the order of their names."""
    names = list(dict.fromkeys(name for one in records for name in one.scores))
    header = (
        "External row",
        "Method",
        "Status",
        *names,
        "Trained parameters",
        "Peak memory, MiB",
        "Training, s",
        "Saved, MB",
    )
    lines = []
    for one in sorted(records, key=lambda record: record.name):
        scores = [_shown(one, name) for name in names]
        numbers = (
            DASH if one.trainable_parameters is None else f"{one.trainable_parameters:,}",
            quantity(None if one.peak_memory_bytes is None else one.peak_memory_bytes / MEBIBYTE),
            quantity(one.train_seconds),
            quantity(None if one.saved_bytes is None else one.saved_bytes / MEGABYTE),
        )
        lines.append((one.name, one.method, one.status, *scores, *numbers))
    return text_table("External rows", header, lines, ("Model", "Remarks"))


def remarks(records: Sequence[ExternalRecord]) -> list[str]:
    """Return what a reader must know: runs that did not end well, scores of zero, rates that methods share."""
    found = [f"{one.name} is a run with the status {one.status}" for one in records if one.status != _ENDED_WELL]
    for one in records:
        if one.status == _ENDED_WELL:
            found += [
                f"{one.name}: {name} is 0 of {one.num_items or 'all'} items, which says that the run is broken and not "
                "how good the method is"
                for name, score in one.scores.items()
                if score.higher_is_better and score.value == 0
            ]
    by_rate: dict[str, list[ExternalRecord]] = {}
    for one in records:
        if (rate := one.facts.get(_RATE)) is not None:
            by_rate.setdefault(text(rate), []).append(one)
    for rate, members in by_rate.items():
        methods = dict.fromkeys(one.method for one in members)
        if len(methods) > 2:
            found.append(
                f"Learning rates were not tuned: {len(members)} of {len(records)} rows share {rate}, whatever their "
                f"method ({several(list(methods), 8)})"
            )
    return found


def _shown(record: ExternalRecord, name: str) -> str:
    """Return a score with Wilson's interval where it is a share of a known number of items, else with its error."""
    from harness.stats import SeedEstimate, wilson_interval

    metric, items = record.scores.get(name), record.num_items
    if metric is None or items is None or not name.endswith("/accuracy"):
        return estimate(None if metric is None else SeedEstimate(metric.value, metric.stderr), 3)
    return interval(metric.value, wilson_interval(round(metric.value * items), items), 3)


def _peft_record(data: Mapping[str, Any], name: str) -> ExternalRecord:
    run, train, meta = data["run_info"], data["train_info"], data["meta_info"]
    last = train["metrics"][-1] if train["metrics"] else {}
    settings = run["peft_config"] or {}
    items = next((_TEST_ITEMS[name] for name in meta["dataset_info"] if name in _TEST_ITEMS), None)
    scale = effective_scale(settings)
    facts = {
        **flatten({key: run[key] for key in ("peft_branch", "train_config")}),
        **flatten({"peft_config": settings}),
        **({} if scale is None else {"peft_config.effective_scale": scale}),
        **flatten({key: meta[key] for key in ("model_info", "dataset_info", "package_info", "system_info")}),
        "tokens": last.get("train total tokens"),
        "steps": last.get("step"),
    }
    return ExternalRecord(
        schema=SCHEMA,
        origin=PEFT,
        name=name,
        method=_method(settings),
        status=str(train["status"]),
        seeds=1,
        facts={key: value for key, value in facts.items() if key not in _SHOWN_ONLY},
        scores=_scores(last, items),
        trainable_parameters=train.get("num_trainable_params"),
        total_parameters=train.get("num_total_params"),
        peak_memory_bytes=train.get("accelerator_memory_max"),
        train_seconds=_seconds(train["metrics"]),
        saved_bytes=train.get("file_size"),
        published_at=str(run["created_at"]),
        num_items=items,
    )


def _method(settings: Mapping[str, Any]) -> str:
    """Return PEFT's type, with the variants of LoRA that are settings of it."""
    variants = {"use_dora": "DoRA", "use_rslora": "rsLoRA", "use_qalora": "QALoRA"}
    named = [name for setting, name in variants.items() if settings.get(setting)]
    return str(settings.get("peft_type") or "full") + (f" ({', '.join(named)})" if named else "")


def _scores(last: Mapping[str, Any], items: int | None) -> dict[str, Metric]:
    """Return the test accuracy with the binomial error of its items; the forgetting, in nats, has none."""
    found = {}
    accuracy, forgetting = last.get("test accuracy"), last.get("forgetting")
    if accuracy is not None:
        error = math.sqrt(accuracy * (1 - accuracy) / items) if items else None
        found["gsm8k/accuracy"] = Metric(value=accuracy, stderr=error, higher_is_better=True)
    if forgetting is not None:
        found["forgetting"] = Metric(value=forgetting, stderr=None, higher_is_better=False)
    return found


def _seconds(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the seconds of the optimizer steps; the published `train_time` includes the evaluations."""
    parts = [one["train time"] for one in metrics if "train time" in one]
    return sum(parts) if parts else None


def score_on(row: ExternalRecord, task: str) -> Metric | None:
    """Return the row's accuracy on the task; None where it has none."""
    return next((metric for name, metric in row.scores.items() if name.partition("/")[0] == task), None)


def cost_of(row: ExternalRecord, cost: str) -> float | None:
    """Return the row's cost of that key, in the unit of our own; None where it was not published."""
    attribute, unit = _COSTS.get(cost, ("", 1))
    value = getattr(row, attribute) if attribute else None
    return None if value is None else value / unit


_COSTS: dict[str, tuple[str, int]] = {
    "peak_memory_mebibytes": ("peak_memory_bytes", MEBIBYTE),
    "train_seconds": ("train_seconds", 1),
    "trainable_parameters": ("trainable_parameters", 1),
    "saved_megabytes": ("saved_bytes", MEGABYTE),
}
