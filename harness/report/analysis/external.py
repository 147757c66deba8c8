"""Results that others published, as external records: shown as such, and never ranked against our own as equals.

PEFT's method comparison publishes one JSON file per experiment: one seed, no outcomes per item. What can be paired is
nothing, so an interval is the binomial one of a single score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records.record import SCHEMA, ExternalRecord, Metric, write
from harness.report.analysis.comparable import Difference, covered, differences
from harness.report.analysis.facts import Facts, effective_scale, text
from harness.report.data.rows import flatten
from harness.report.display import DASH, MEBIBYTE, MEGABYTE, estimate, quantity
from harness.report.pages.summary import Table

if TYPE_CHECKING:
    from harness.stats import SeedEstimate

PEFT = "PEFT method comparison"
FOLDER = "external"
# What such a comparison means to vary: the method with its settings, and the learning rate.
PEFT_VARIES = ("peft_config", "train_config.optimizer_kwargs.lr", "train_config.optimizer_type")
_GSM8K_TEST_ITEMS = 1319  # of the official test split, all of which the benchmark evaluates
_SHOWN_ONLY = ("created_at", "total_time", "experiment_name", "error_msg", "peft_config.peft_version")


def read_peft(folder: Path) -> tuple[list[ExternalRecord], list[str]]:
    """The records of a folder of result files, by name; and the files that hold none, with the reason.

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
    """What the rows differ in beside what they were meant to."""
    facts: dict[str, Facts] = {one.name: {key: text(value) for key, value in one.facts.items()} for one in records}
    return [one for one in differences(facts) if not covered(one.key, varies)]


def keep(records: Sequence[ExternalRecord], runs: Path) -> Path:
    """Write the records below a runs folder, where reports find them; returns their folder."""
    for one in records:
        write(one, runs / FOLDER / f"{one.name}.json")
    return runs / FOLDER


def table(records: Sequence[ExternalRecord]) -> Table:
    """The rows as published, in the order of their names."""
    names = list(dict.fromkeys(name for one in records for name in one.scores))
    header = ("External row", "Method", *names, "Trained parameters", "Peak memory, MiB", "Training, s", "Saved, MB")
    lines = []
    for one in sorted(records, key=lambda record: record.name):
        scores = [estimate(_score(one.scores.get(name)), 3) for name in names]
        numbers = (
            DASH if one.trainable_parameters is None else f"{one.trainable_parameters:,}",
            quantity(None if one.peak_memory_bytes is None else one.peak_memory_bytes / MEBIBYTE),
            quantity(one.train_seconds),
            quantity(None if one.saved_bytes is None else one.saved_bytes / MEGABYTE),
        )
        lines.append((one.name, one.method, *scores, *numbers))
    return Table("External rows", header, tuple(lines))


def _score(metric: Metric | None) -> SeedEstimate | None:
    from harness.stats import SeedEstimate

    return None if metric is None else SeedEstimate(metric.value, metric.stderr)


def _peft_record(data: Mapping[str, Any], name: str) -> ExternalRecord:
    run, train, meta = data["run_info"], data["train_info"], data["meta_info"]
    last = train["metrics"][-1] if train["metrics"] else {}
    settings = run["peft_config"] or {}
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
        method=str(settings.get("peft_type") or "full"),
        status=str(train["status"]),
        seeds=1,
        facts={key: value for key, value in facts.items() if key not in _SHOWN_ONLY},
        scores=_scores(last),
        trainable_parameters=train.get("num_trainable_params"),
        total_parameters=train.get("num_total_params"),
        peak_memory_bytes=train.get("accelerator_memory_max"),
        train_seconds=_seconds(train["metrics"]),
        saved_bytes=train.get("file_size"),
        published_at=str(run["created_at"]),
    )


def _scores(last: Mapping[str, Any]) -> dict[str, Metric]:
    """The test accuracy with the binomial error of its items; how much was forgotten, in nats, has none."""
    found = {}
    accuracy, forgetting = last.get("test accuracy"), last.get("forgetting")
    if accuracy is not None:
        error = math.sqrt(accuracy * (1 - accuracy) / _GSM8K_TEST_ITEMS)
        found["gsm8k/accuracy"] = Metric(value=accuracy, stderr=error, higher_is_better=True)
    if forgetting is not None:
        found["forgetting"] = Metric(value=forgetting, stderr=None, higher_is_better=False)
    return found


def _seconds(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """Those of the optimizer steps: the published `train_time` has the evaluations in it."""
    parts = [one["train time"] for one in metrics if "train time" in one]
    return sum(parts) if parts else None
