"""Results that others published, as external records: shown as such, and never ranked against our own as equals.

PEFT's method comparison publishes one JSON file per experiment: one seed, no outcomes per item. No
items can be paired, so an interval is Wilson's of a single score. It has a width even where no answer was right.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.records.identity import covered
from harness.records.record import SCHEMA, ExternalRecord, Metric, write
from harness.report import names
from harness.report.analysis.axes import PARAMETERS, PEAK_MEMORY, SAVED, TRAIN_SECONDS
from harness.report.analysis.comparable import Difference, differences
from harness.report.analysis.facts import Facts, effective_scale, text
from harness.report.data.rows import flatten
from harness.report.display import collected, several
from harness.report.document import Column, Number, Table

PEFT = "PEFT method comparison"
FOLDER = "external"
SHOWN = (PARAMETERS, PEAK_MEMORY, TRAIN_SECONDS, SAVED)  # costs; a record has them under the same keys
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
    rows, problems = [], []
    for path in paths:
        try:
            rows.append(_peft_record(json.loads(path.read_text(encoding="utf-8")), path.stem))
        except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError) as error:
            problems.append(f"{path.name}: not a result file ({type(error).__name__}: {error})")
    return rows, problems


def guard(records: Sequence[ExternalRecord], varies: Sequence[str] = PEFT_VARIES) -> list[Difference]:
    """Return the differences between the rows that were not meant to vary."""
    facts: dict[str, Facts] = {
        record.name: {key: text(value) for key, value in record.facts.items()} for record in records
    }
    return [difference for difference in differences(facts) if not covered(difference.key, varies)]


def keep(records: Sequence[ExternalRecord], runs: Path) -> Path:
    """Write the records below a runs folder, where reports find them; returns their folder."""
    for record in records:
        write(record, runs / FOLDER / f"{record.name}.json")
    return runs / FOLDER


def table(records: Sequence[ExternalRecord]) -> Table:
    """Return the rows as published, in the order of their names."""
    scores = list(dict.fromkeys(name for record in records for name in record.scores))
    columns = (
        Column("name", "External row", text=True),
        Column("method", "Method", text=True),
        Column("status", "Status", text=True),
        *(_column(name, records) for name in scores),
        *(replace(cost.column, better="") for cost in SHOWN),
    )
    rows = (
        (
            *(record.name, record.method, record.status),
            *(_score(record, name) for name in scores),
            *(getattr(record, cost.key) for cost in SHOWN),
        )
        for record in sorted(records, key=lambda record: record.name)
    )
    return Table.of(columns, rows, "not published", label="published_results", title="Published results")


def _column(name: str, records: Sequence[ExternalRecord]) -> Column:
    """Return the column of a published score: an accuracy in percent, as our own are."""
    task, _, metric = name.rpartition("/")
    values = [record.scores[name].value for record in records if name in record.scores]
    if metric != "accuracy" or not all(0 <= value <= 1 for value in values):
        return Column(name, name, digits=3)
    return Column(name, f"{names.task(task).display} accuracy", "%", 100.0, 1)


def remarks(records: Sequence[ExternalRecord]) -> list[str]:
    """Return what a reader must know: runs that did not end well, scores of zero, rates that methods share."""
    rows = [
        f"{record.name} is a run with the status {record.status}" for record in records if record.status != _ENDED_WELL
    ]
    for record in records:
        if record.status == _ENDED_WELL:
            rows += [
                f"{record.name}: {name} is 0 of {f'{record.num_items:,}' if record.num_items else 'all'} items, which "
                "says that the run is broken and not how good the method is"
                for name, score in record.scores.items()
                if score.higher_is_better and score.value == 0
            ]
    rates = ((record.facts.get(_RATE), record) for record in records)
    for rate, members in collected((text(rate), record) for rate, record in rates if rate is not None).items():
        methods = dict.fromkeys(record.method for record in members)
        if len(methods) > 2:
            rows.append(
                f"Learning rates were not tuned: {len(members)} of {len(records)} rows share {rate}, whatever their "
                f"method ({several(list(methods), 8)})"
            )
    return rows


def _score(record: ExternalRecord, name: str) -> Number | None:
    """Return a score with Wilson's interval where it is a share of a known number of items, else with its error."""
    from harness.stats import wilson_interval

    metric, items = record.scores.get(name), record.num_items
    if metric is None:
        return None
    if items is None or not name.endswith("/accuracy") or not 0 <= metric.value <= 1:
        return Number(metric.value, metric.stderr)
    return Number(metric.value, interval=wilson_interval(round(metric.value * items), items))


def _peft_record(data: Mapping[str, Any], name: str) -> ExternalRecord:
    run, train, meta = data["run_info"], data["train_info"], data["meta_info"]
    last = train["metrics"][-1] if train["metrics"] else {}
    settings = run["peft_config"] or {}
    items = next((_TEST_ITEMS[name] for name in meta["dataset_info"] if name in _TEST_ITEMS), None)
    scale = effective_scale(settings)
    variants = {"use_dora": "DoRA", "use_rslora": "rsLoRA", "use_qalora": "QALoRA"}  # of LoRA, as settings of it
    named = [variant for setting, variant in variants.items() if settings.get(setting)]
    seconds = [metric["train time"] for metric in train["metrics"] if "train time" in metric]  # without evaluations
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
        method=str(settings.get("peft_type") or "full") + (f" ({', '.join(named)})" if named else ""),
        status=str(train["status"]),
        seeds=1,
        facts={key: value for key, value in facts.items() if key not in _SHOWN_ONLY},
        scores=_scores(last, items),
        trainable_parameters=train.get("num_trainable_params"),
        total_parameters=train.get("num_total_params"),
        peak_memory_bytes=train.get("accelerator_memory_max"),
        train_seconds=sum(seconds) if seconds else None,
        saved_bytes=train.get("file_size"),
        published_at=str(run["created_at"]),
        num_items=items,
    )


def _scores(last: Mapping[str, Any], items: int | None) -> dict[str, Metric]:
    """Return the test accuracy with the binomial error of its items; the forgetting, in nats, has none."""
    columns = {}
    accuracy, forgetting = last.get("test accuracy"), last.get("forgetting")
    if accuracy is not None:
        error = math.sqrt(accuracy * (1 - accuracy) / items) if items and 0 <= accuracy <= 1 else None
        columns["gsm8k/accuracy"] = Metric(value=accuracy, stderr=error, higher_is_better=True)
    if forgetting is not None:
        columns["forgetting"] = Metric(value=forgetting, stderr=None, higher_is_better=False)
    return columns


def score_on(row: ExternalRecord, task: str) -> Metric | None:
    """Return the row's accuracy on the task; None where it has none."""
    return next((metric for name, metric in row.scores.items() if name.partition("/")[0] == task), None)
