"""Runs with their scores in the schema of Every Eval Ever, one JSON document per run.

Source: https://evalevalai.com, schema 0.3.0. Details that are not recorded are left out, or "unknown" where the schema
demands a text.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.records.record import Metric, write_text
from harness.report import names
from harness.report.data.items import ScoredEvaluation
from harness.report.data.rows import Row, flatten
from harness.report.display import short
from harness.sources import packages

SCHEMA = "0.3.0"
PACKAGE, MEMBER = "every-eval-ever", "every_eval_ever/schemas/eval.schema.json"
RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Evaluator:
    """Publisher of the scores: an organization or a person, and the relationship to the model."""

    organization: str = UNKNOWN
    relationship: str = "other"


def documents(rows: Sequence[Row], evaluator: Evaluator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of a file and its document for each run that has scores, in all settings that it was scored in."""
    runs: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row.record is not None and row.current is not None and row.scored:
            other = runs.get((row.recipe_id, row.seed))
            scored = (*other.scored, *row.scored) if other else row.scored
            every = {evaluation.record.eval_id: evaluation for evaluation in scored}
            runs[row.recipe_id, row.seed] = replace(row, scored=tuple(every.values()))
    for (recipe_id, seed), row in runs.items():
        yield f"{recipe_id}-seed-{seed}.json", _document(row, evaluator)


def write(rows: Sequence[Row], evaluator: Evaluator, folder: Path) -> list[Path]:
    """Write a document for each run with scores, and return their paths."""
    return [
        write_text(json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n", folder / name)
        for name, document in documents(rows, evaluator)
    ]


def faults(paths: Sequence[Path]) -> list[str]:
    """Return how documents break the schema, by the package's own copy of it.

    Raises:
        ValueError: the package cannot be fetched, or there is no `jsonschema` to read it with.
    """
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise ValueError("--check needs the package jsonschema: python -m pip install 'harness[export]'") from error
    schema = json.loads(packages.member(PACKAGE, MEMBER).read_text(encoding="utf-8"))
    validator = Draft202012Validator(schema)
    return [
        f"{path.name}: {'/'.join(map(str, error.absolute_path))}: {error.message}"
        for path in paths
        for error in validator.iter_errors(json.loads(path.read_text(encoding="utf-8")))
    ]


def _document(row: Row, evaluator: Evaluator) -> dict[str, Any]:
    assert row.record is not None and row.current is not None, "a row with scores has a record"
    epoch = str(int(datetime.fromisoformat(row.current.started_at).timestamp()))
    model = _model(row)
    facts = row.scored[0].record.provenance
    library = {"name": "lm_eval", "version": str(facts["lm_eval"])} if "lm_eval" in facts else None
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"harness/{model['id']}/{row.recipe_id}-seed-{row.seed}-{epoch}",
        # of a run that was trained here its start is known, and not when it was scored
        **({"evaluation_timestamp": epoch} if row.training is None else {}),
        "retrieved_timestamp": epoch,
        "source_metadata": {
            "source_name": "harness",
            "source_type": "evaluation_run",
            "source_organization_name": evaluator.organization,
            "evaluator_relationship": evaluator.relationship,
        },
        "eval_library": library or {"name": "harness", "version": str(facts.get("harness") or UNKNOWN)},
        "model_info": model,
        "evaluation_results": [
            _result(row, scored, name, metric)
            for scored in row.scored
            for name, metric in sorted(scored.record.metrics.items())
        ],
    }


def _model(row: Row) -> dict[str, Any]:
    assert row.record is not None, "a row with scores has a record"
    record = row.record
    config: Mapping[str, Any] = record.config.get("model") or {}
    origin = names.origin(config)
    base = str(origin.get("hub_id") or (record.recipe.get("model") or {}).get("name") or UNKNOWN)
    is_open = config.get("source") in ("hub", "package")
    settings = flatten({part: record.recipe.get(part) or {} for part in ("method", "train")})
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights" if is_open else UNKNOWN,
        "base_model": base,
        "base_revision": str(origin.get("revision") or UNKNOWN),
        "recipe_id": record.recipe_id,
        "seed": str(record.seed),
        "trained_elsewhere": str(row.trained_elsewhere).lower(),
        **{key: short(value) for key, value in settings.items() if value is not None},
    }
    name = names.method(record.method, record).display
    return {
        "name": base if row.is_base else f"{base} + {name}",
        "id": base if row.is_base else f"{base}-{record.method}",
        "additional_details": details,
    }


def _result(row: Row, scored: ScoredEvaluation, name: str, metric: Metric) -> dict[str, Any]:
    record = scored.record
    share = names.metric(name).percent
    uncertainty: dict[str, Any] = {"num_samples": record.num_items}
    if metric.stderr is not None:
        uncertainty["standard_error"] = {"value": metric.stderr, "method": "analytic"}
    details = {
        "role": scored.role,
        "num_fewshot": record.num_fewshot,
        "chance": metric.chance,
        "weights": scored.weights,
    }
    return {
        "evaluation_result_id": f"{row.recipe_id}-seed-{row.seed}/{record.eval_id}/{name}",
        "evaluation_name": scored.task,
        "source_data": _source(scored),
        "metric_config": {
            "metric_id": name,
            "metric_name": names.metric(name).display,
            "lower_is_better": not metric.higher_is_better,
            "score_type": "continuous",
            "min_score": 0.0 if share else None,  # null: not known
            "max_score": 1.0 if share else None,
        },
        "score_details": {
            "score": metric.value,
            "uncertainty": uncertainty,
            "details": {key: short(value) for key, value in details.items() if value is not None},
        },
    }


def _source(scored: ScoredEvaluation) -> dict[str, Any]:
    """Return the data set of a task: that of the Hub where it has one, with its subset."""
    sets = list((scored.record.provenance.get("datasets") or {}).values())
    repository, _, subset = str(sets[0]).partition(":") if len(sets) == 1 else ("", "", "")
    if "/" not in repository:
        return {"dataset_name": scored.task, "source_type": "other"}
    details = {"additional_details": {"subset": subset}} if subset else {}
    return {"dataset_name": scored.task, "source_type": "hf_dataset", "hf_repo": repository, **details}
