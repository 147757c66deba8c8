"""The model card of a run's weights: their base model, training data, settings and scores. No local paths.

The card is written again from the records after each attempt at a run, so that its scores are up to date. It imports
the standard library and pydantic only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records.record import EvaluationRecord, RunRecord, read, write_text
from harness.records.untrusted import code, escaped, inline_code

CARD = "README.md"
EVAL_RESULTS = ".eval_results/harness.yaml"  # JSON is YAML
_HEADLINE = ("acc", "exact_match,strict-match", "exact_match,flexible-extract", "exact_match")
_ADAPTER = "adapter_config.json"


def write(run_folder: Path, record: RunRecord | None = None) -> Path | None:
    """Write the card beside a run's weights, from `record` or the run's own record; return None without weights.

    Raises:
        ValueError: the run's record cannot be read.
        FileNotFoundError: there is no record.
    """
    weights = run_folder / "weights"
    record = record or read(RunRecord, run_folder / "record.json")
    if not weights.is_dir() or record.current.weights_from is None:
        return None
    kind = "peft" if (weights / _ADAPTER).is_file() else "transformers"
    evaluations = scores(run_folder, record)
    if entries := eval_results(evaluations):
        write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", weights / EVAL_RESULTS)
    return write_text(text(record, evaluations, kind, _USE[kind]), weights / CARD)


def eval_results(evaluations: Sequence[EvaluationRecord]) -> list[dict[str, Any]]:
    """Return the scores on data sets of the Hub in the form of its `.eval_results`, the first metric of each task.

    Source: https://huggingface.co/docs/hub/eval-results. Scores of merged or converted weights
    and of groups of tasks are left out.
    """
    entries = []
    for evaluation in evaluations:
        sets = list((evaluation.provenance.get("datasets") or {}).values())
        metric = next((name for name in _HEADLINE if name in evaluation.metrics), None)
        if len(sets) != 1 or "/" not in sets[0] or metric is None or weights_of(evaluation) != "attached":
            continue
        dataset, _, subset = sets[0].partition(":")
        limit = evaluation.evaluation.get("limit")
        notes = [
            metric,
            f"{evaluation.num_fewshot}-shot",
            f"{evaluation.num_items:,} items" + (" (the first)" if limit else ""),
        ]
        notes += [f"lm-eval {evaluation.provenance['lm_eval']}"] if "lm_eval" in evaluation.provenance else []
        entries.append(
            {
                "dataset": {"id": dataset, "task_id": subset or evaluation.evaluation["task"]},
                "value": evaluation.metrics[metric].value,
                "notes": ", ".join(notes),
            }
        )
    return entries


def name_base(folder: Path, model: dict[str, Any]) -> None:
    """Write the base's Hub id and commit, if known, into a saved adapter's configuration, and remove PEFT's card."""
    (folder / CARD).unlink(missing_ok=True)
    path = folder / _ADAPTER
    if not path.is_file() or hub_id(model) is None:
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    config.update(base_model_name_or_path=hub_id(model), revision=revision(model))
    write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", path)


def scores(run_folder: Path, record: RunRecord) -> list[EvaluationRecord]:
    """Return the evaluations of the current weights, held-out losses first. Damaged ones are left to the report."""
    current = []
    for path in sorted(run_folder.glob("evaluations/*.json")):
        with contextlib.suppress(ValueError):
            evaluation = read(EvaluationRecord, path)
            current += [evaluation] if evaluation.weights_from == record.current.weights_from else []
    return sorted(
        current, key=lambda evaluation: (evaluation.evaluation["kind"] != "heldout", evaluation.evaluation["task"])
    )


def weights_of(evaluation: EvaluationRecord) -> str:
    """Return the weights that were scored: attached, merged or converted-r16; older records are of attached ones."""
    return str(evaluation.evaluation.get("weights", "attached"))


def text(record: RunRecord, evaluations: Sequence[EvaluationRecord], kind: str, use: str) -> str:
    """Return the card. `kind` is the library that loads the weights, `use` says in Markdown how."""
    model, data = record.config["model"], record.config["data"]
    settings = {key: record.recipe[key] for key in ("method", "train")}
    parts = [
        front_matter(model, kind, [record.method]),
        "# " + escaped(f"{model['name']} trained with {record.method} on {data['name']}"),
        use,
        "## Base model\n\n" + base_lines(model),
        "## Training\n\n" + "\n".join(f"- {line}" for line in _training(record)),
        code(json.dumps(settings, indent=1, sort_keys=True), "json"),
        "## Scores\n\n" + score_table(evaluations),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(model: dict[str, Any], library: str, tags: Sequence[str]) -> str:
    """Return the metadata that the Hub reads. Every value is quoted as JSON, which is valid YAML."""
    values = {"base_model": hub_id(model), "library_name": library, "license": (model["license"] or "other").lower()}
    values |= {"pipeline_tag": "text-generation", "tags": list(tags)}
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items() if value is not None]
    return "\n".join(["---", *lines, "---"])


def base_lines(model: dict[str, Any]) -> str:
    """Return the name, Hub id, revision, content hash and license of the base model as a list in Markdown."""
    lines = [f"name: {escaped(model['name'])}", f"Hub id: {escaped(hub_id(model) or 'none, a local folder')}"]
    if revision(model):
        lines.append(f"revision: {escaped(str(revision(model)))}")
    lines.append(f"content: {inline_code(model['content'])}")
    if model["source"] == "package":
        lines.append("these are the dequantized weights of the package's file, which differ a little from the Hub's")
    lines.append(f"license: {escaped(model['license'] or 'not stated')}")
    return "\n".join(f"- {line}" for line in lines)


def score_table(evaluations: Sequence[EvaluationRecord]) -> str:
    """Return the table of all metrics with standard errors over items. Metrics to be minimized are marked."""
    if not evaluations:
        return "Not evaluated."
    lines = ["| task | metric | value | standard error | items |", "|:--|:--|--:|--:|--:|"]
    for evaluation in evaluations:
        for name, metric in sorted(evaluation.metrics.items()):
            error = "-" if metric.stderr is None else f"{metric.stderr:.4f}"
            lower = "" if metric.higher_is_better else " (lower is better)"
            weights = weights_of(evaluation)
            task = evaluation.evaluation["task"] + (f" ({weights})" if weights != "attached" else "")
            cells = (escaped(task), escaped(name) + lower, f"{metric.value:.4f}", error, str(evaluation.num_items))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def hub_id(model: dict[str, Any]) -> str | None:
    """Return the Hub id of files from the Hub or a package; None for a local folder, which may hold anything."""
    return None if model["source"] == "path" else model["hub_id"]


def revision(model: dict[str, Any]) -> str | None:
    """Return the commit if the files come from the Hub; otherwise None."""
    return model["revision"] if model["source"] == "hub" else None


def data_line(data: dict[str, Any]) -> str:
    """Return the name, content hash and license of training data as a line of Markdown."""
    license = escaped(data["license"] or "not stated")
    return f"data: {escaped(data['name'])}, content {inline_code(data['content'])}, license {license}"


def _training(record: RunRecord) -> list[str]:
    data, counts, counted = record.config["data"], record.measured.data, record.measured.fingerprint
    lines = [data_line(data)]
    if counts:
        digest = inline_code(counts.content_sha256)
        lines.append(f"rows: {counts.train_rows:,} trained on, SHA-256 of their content {digest}")
    lines.append(f"recipe: {inline_code(record.recipe_id)}, seed {record.seed}")
    if counted:
        lines.append(f"trained parameters: {counted.trainable_parameters:,} of {counted.total_parameters:,}")
    facts = record.current.provenance
    versions = facts.get("versions") or {}
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if versions.get(name))
    lines.append(escaped(f"made with: harness {facts.get('harness')} at commit {facts.get('commit')}, {packages}"))
    return lines


_USE = {
    "peft": "An adapter in PEFT's format: `PeftModel.from_pretrained(base, folder)`, onto the base named here alone.",
    "transformers": "Weights beside the base named here; `python -m harness.adapter merge` makes a plain model.",
}
