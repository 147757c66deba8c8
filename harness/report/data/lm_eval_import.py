"""Records made of the logs of lm-eval: models that were trained elsewhere, with their scores and items.

How such a model was trained is not known, and nothing of it is made up: its record has an `origin`, no data and no
training settings. Everything else is a record like any other, so that a report of it is like any other.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.records import items, lm_eval_items
from harness.records.evaluation import Evaluation
from harness.records.identity import canonical, digest
from harness.records.record import (
    SCHEMA,
    Attempt,
    Cell,
    EvaluationRecord,
    RunRecord,
    SweepRecord,
    evaluation_path,
    write,
)
from harness.report.data.lm_eval_logs import HOW, Log, by_content
from harness.report.display import collected

ORIGIN = "lm-eval logs"
BASE = "base"
SEED_PATTERN = r"[-_./ ]*seed[-_=. ]?(\d+)"
UNKNOWN = "unknown"
_SAYS_NOTHING = re.compile(r"final|last|best|model|adapter|merged|hf|checkpoint-\d+")  # as the name of a folder
_SCORED_BY = ("output_type", "metric_list", "filter_list", "generation_kwargs", "repeats")
Scores = list[tuple[EvaluationRecord, dict[str, list[Any]]]]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model by its name, with the logs of one seed.

    Attributes:
        name: for people.
        seed: of its training; None where its name holds none.
        logs: the oldest first.
    """

    name: str
    seed: int | None
    logs: tuple[Log, ...]

    @property
    def identifier(self) -> str:
        """Return the name as the name of a file."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-._+")[:120] or "model"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Settings of the comparison that the logs are imported for."""

    name: str
    base: str | None = None  # the name of the untouched model among them
    primary: str | None = None
    margin: float | None = None
    retention: tuple[str, ...] = ()
    command: str = ""


def named(logs: Sequence[tuple[str | None, Log]], pattern: str) -> list[Model]:
    """Return the models by name and seed, in their order. Logs come with the name that the user gave, or None.

    Raises:
        ValueError: the pattern is wrong, or one name stands for several folders without a seed, or with seed 0 too.
    """
    seeds = _compiled(pattern)
    free = _names({log.model for given, log in logs if given is None}, seeds)
    keyed = []
    for given, log in logs:
        if given is None:
            keyed.append((free[log.model], log))
            continue
        match = seeds.search(given)
        name = _without(given, match) if match else given
        keyed.append(((name, _seed(match or seeds.search(log.model))), log))
    models = [Model(name=name, seed=seed, logs=tuple(own)) for (name, seed), own in collected(keyed).items()]
    for model in models:
        if len(several := {log.model for log in model.logs}) > 1:
            which = f"{model.name} with seed {model.seed}" if model.seed is not None else model.name
            raise ValueError(
                f"{which} stands for several models: {', '.join(sorted(several))}. Give each folder a name "
                f"(NAME=FOLDER) and --seed-pattern an expression whose group is the seed (now {pattern!r})"
            )
    numbered = {(model.name, model.seed) for model in models}
    if both := [name for name, seed in numbered if seed is None and (name, 0) in numbered]:
        raise ValueError(
            f"{both[0]} is there with seed 0 and without a seed, which would be one run: give one of them another name "
            "(NAME=FOLDER)"
        )
    return models


def untouched(models: Sequence[Model], base: str | None) -> str | None:
    """Return the name of the untouched model: the named one, `base`, or the one whose adapters all others are.

    Raises:
        ValueError: no model has the name.
    """
    names = list(dict.fromkeys(model.name for model in models))
    if base is not None and base not in names:
        raise ValueError(f"--base {base}: no such model; there is {', '.join(names)}")
    if base is not None or BASE in names:
        return base or BASE
    adapters = [model for model in models if all(log.adapter for log in model.logs)]
    bases = {log.base for model in adapters for log in model.logs}
    others = [model for model in models if model not in adapters]
    if len(others) == len(bases) == 1 and {log.base for log in others[0].logs} == bases:
        return others[0].name
    return None


def write_records(models: Sequence[Model], question: Question, runs: Path) -> list[str]:
    """Write the records below a runs folder, with a sweep that asks for them, and return lines on what was left out.

    Raises:
        ValueError: samples are missing or damaged, or two names make one file name.
    """
    identifiers: dict[str, str] = {}
    for model in models:
        other = identifiers.setdefault(model.identifier, model.name)
        if other != model.name:
            raise ValueError(f"{other} and {model.name} are both {model.identifier} as the name of a file: rename one")
    notes: list[str] = []
    made = [_made(model, question, notes) for model in models]  # everything is read before anything is written
    for record, scores in made:
        folder = runs / record.recipe_id / f"seed-{record.seed}"
        for score, columns in scores:
            path = evaluation_path(folder, score.eval_id)
            items.write(columns, path.with_suffix(".parquet"))
            write(score, path)
        write(record, folder / "record.json")
    write(_sweep([(entry, scores) for entry, scores in made], question), runs / "sweeps" / question.name / "sweep.json")
    return notes


def _made(model: Model, question: Question, notes: list[str]) -> tuple[RunRecord, Scores]:
    """Return the record of a model, and its evaluations with their items. The newest log of a task counts."""
    record = _run(model, question)
    newest: dict[str, Log] = {}
    for log in model.logs:
        for task in log.tasks:
            if task in newest:
                notes.append(f"{model.name}: {task} is also in {newest[task].path}, which is older and left out")
            newest[task] = log
    if not newest:
        raise ValueError(f"{model.logs[0].path}: no task in it has a score, as where --predict_only was given")
    return record, [_evaluation(log, task, record, question) for task, log in newest.items()]


def _run(model: Model, question: Question) -> RunRecord:
    log = model.logs[-1]
    is_base = model.name == question.base
    identifier = BASE if is_base else model.identifier
    of = log.base if log.adapter or is_base else None
    base = {"name": of or question.base} if of or question.base else {}
    own = {"name": identifier}
    recipe: dict[str, Any] = {"model": base, "method": own, "data": None, "train": None, "origin": ORIGIN}
    started = datetime.fromtimestamp(log.date, UTC).isoformat(timespec="milliseconds")
    return RunRecord(
        schema=SCHEMA,
        recipe_id=digest(recipe),
        seed=model.seed or 0,
        method=identifier,
        recipe=recipe,
        config={"model": base, "method": {**own, **({} if is_base else {"display": model.name})}},
        attempts=(
            Attempt(
                started_at=started,
                status="ok",
                reason="",
                phases={},
                data=None,
                fingerprint=None,
                training=None,
                peak_memory_bytes=None,
                weights_from=None if is_base else started,
                provenance=_stack(log),
            ),
        ),
        origin=ORIGIN,
    )


def _stack(log: Log) -> dict[str, Any]:
    """Return the versions and the device that a log names."""
    results = log.results
    torch = re.search(r"PyTorch version: (\S+)", str(results.get("pretty_env_info") or ""))
    versions = {"transformers": results.get("transformers_version"), "torch": torch[1] if torch else None}
    return {"versions": {name: str(value) for name, value in versions.items() if value}}


def _evaluation(
    log: Log, task: str, record: RunRecord, question: Question
) -> tuple[EvaluationRecord, dict[str, list[Any]]]:
    leaves = log.tasks[task]
    try:
        delimiters = {leaf: lm_eval_items.delimiter(log.config(leaf), chat_template=False) for leaf in leaves}
        columns = lm_eval_items.columns({leaf: log.samples(leaf) for leaf in leaves}, delimiters)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{log.path}: a sample of {task} is not as lm-eval writes it ({error}); {HOW}") from error
    columns["item_id"] = by_content(columns["item_id"])
    types = [str(log.config(leaf).get("output_type")) for leaf in leaves]
    result = {
        "results": log.results["results"],
        "groups": log.results.get("groups") or {},
        "higher_is_better": log.better([*leaves, task]),
    }
    by_task = lm_eval_items.means_over_tasks(result, task, columns)
    metrics = {
        **lm_eval_items.metrics(result, task, leaves, lm_eval_items.chance(types, columns, by_task)),
        **lm_eval_items.graded_metrics(columns, by_task),
    }
    if odd := next((name for name, metric in metrics.items() if not math.isfinite(metric.value)), None):
        raise ValueError(
            f"{log.path}: {odd} of {task} is {metrics[odd].value}, which is no score: the model diverged, or the task "
            "does not fit it. Take the task out of the log, or leave the model out"
        )
    look = _look(log, task, question)
    return (
        EvaluationRecord(
            schema=SCHEMA,
            recipe_id=record.recipe_id,
            seed=record.seed,
            eval_id=digest(look),
            evaluation=look,
            metrics=metrics,
            num_items=len(columns["item_id"]),
            num_tokens=None,
            num_fewshot=look["num_fewshot"],
            seconds=None,
            weights_from=record.current.weights_from,
            provenance={**_stack(log), **_asked_with(log, leaves, look["num_fewshot"])},
            num_unparsable=lm_eval_items.num_unparsable(columns),
        ),
        columns,
    )


def _look(log: Log, task: str, question: Question) -> dict[str, Any]:
    """Return the identity of an evaluation, as far as a log tells it."""
    results, config = log.results, log.results.get("config") or {}
    shots = results.get("n-shot") or {}
    counts = {int(shots[entry]) for entry in (task, *log.tasks[task]) if isinstance(shots.get(entry), int | float)}
    limit = config.get("limit")
    own = Evaluation(
        kind="lm_eval",
        task=task,
        role="retention" if task in question.retention else "target",
        rows=ORIGIN,
        limit=None,
        num_fewshot=counts.pop() if len(counts) == 1 else None,
        chat_template=bool(results.get("chat_template")),
        precision=UNKNOWN,  # what a log says of it stands in the provenance
        batch_size=None,
    )
    fields: dict[str, Any] = {name: getattr(own, name) for name in own.__dataclass_fields__}
    return {**fields, "limit": limit, "system_instruction": results.get("system_instruction_sha")}


def _asked_with(log: Log, leaves: Sequence[str], shots: int | None) -> dict[str, Any]:
    """Return what a score was computed with: compared between rows, or named under the table where it differs."""
    results, config = log.results, log.results.get("config") or {}
    scored_by = {leaf: {key: log.config(leaf).get(key) for key in _SCORED_BY} for leaf in leaves}
    facts: Mapping[str, Any] = {
        "lm_eval": results.get("lm_eval_version") or UNKNOWN,  # versions before 0.4.6 do not say
        "task_versions": {leaf: str((results.get("versions") or {}).get(leaf)) for leaf in leaves},
        "task_config_sha256": items.text_hash(canonical(scored_by)),
        "fewshot_seed": config.get("fewshot_seed") if shots else None,
        "dtype": log.arguments.get("dtype") or config.get("model_dtype"),
        "batch_size": config.get("batch_size"),
        "quantized": [key for key in ("load_in_4bit", "load_in_8bit") if log.arguments.get(key, "").lower() == "true"]
        or None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _sweep(made: Sequence[tuple[RunRecord, Scores]], question: Question) -> SweepRecord:
    cells = [
        Cell(
            overrides=(f"method={record.method}", f"seed={record.seed}"),
            method=record.method,
            recipe_id=record.recipe_id,
            seed=record.seed,
            eval_ids=tuple(score.eval_id for score, _ in scores),
        )
        for record, scores in made
    ]
    return SweepRecord(
        schema=SCHEMA,
        name=question.name,
        question=None,
        command=question.command,
        cells=tuple(cells),
        primary=question.primary,
        margin=question.margin,
        varies=("method",),
    )


def _names(models: Iterable[str], seeds: re.Pattern[str]) -> dict[str, tuple[str, int | None]]:
    """Return the name and the seed of models that have no name of the user.

    The seed is taken off first, so that `lora/seed-0` and `lora/seed-1` are one model. Of paths, the parts in which
    they differ make the name; of a single one, the part that holds the seed, else the last that says something.
    """
    matches = {model: seeds.search(model) for model in models}
    plain = {model: _without(model, match) if match else model for model, match in matches.items()}
    short = _short_names(sorted(set(plain.values())))
    names = {}
    for model, match in matches.items():
        name = short[plain[model]]
        if match and not _differ(short) and _is_path(model):
            start = model.rfind("/", 0, match.end()) + 1
            own = _without(model[start:].partition("/")[0], seeds.search(model[start:]))
            name = own if own and not seeds.fullmatch(own) else name
        names[model] = (name, _seed(match))
    return names


def _seed(match: re.Match[str] | None) -> int | None:
    """Return the seed that a name holds; raise ValueError where the pattern's group is no number."""
    if match is not None and not (match[1] or "").isdecimal():
        pattern = match.re.pattern
        raise ValueError(f"--seed-pattern {pattern!r} finds {match[1]!r} in {match.string}, which is no number")
    return int(match[1]) if match else None


def _without(text: str, match: re.Match[str] | None) -> str:
    """Return a name without its seed, or as it is where nothing else is in it."""
    plain = text[: match.start()] + text[match.end() :] if match else text
    return (plain if _is_path(plain) else plain.strip("-_./ @")) or text


def _is_path(text: str) -> bool:
    return text.startswith(("/", ".", "~"))


def _differ(short: Mapping[str, str]) -> bool:
    return sum(map(_is_path, short)) > 1


def _short_names(texts: Sequence[str]) -> dict[str, str]:
    """Return a name for each model without its seed: of paths, the parts in which they differ."""
    parts = {text: [part for part in text.split("/") if part] for text in texts if _is_path(text)}
    while len(parts) > 1 and all(len(own) > 1 for own in parts.values()) and len({p[0] for p in parts.values()}) == 1:
        parts = {text: own[1:] for text, own in parts.items()}
    while len(parts) > 1 and all(len(own) > 1 for own in parts.values()) and len({p[-1] for p in parts.values()}) == 1:
        parts = {text: own[:-1] for text, own in parts.items()}
    if len(parts) == 1:
        parts = {
            text: [next((p for p in own[::-1] if not _SAYS_NOTHING.fullmatch(p)), text)] for text, own in parts.items()
        }
    return {text: "/".join(parts[text]) if parts.get(text) else text for text in texts}


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"--seed-pattern {pattern!r} is no regular expression: {error}") from error
    if compiled.groups != 1:
        raise ValueError(f"--seed-pattern {pattern!r} has {compiled.groups} groups: give one, which is the seed")
    return compiled


def as_question(models: Sequence[Model], question: Question) -> Question:
    """Return the question with its base: an untrained model has no seed, and is named once.

    Raises:
        ValueError: the base has several seeds, or another model has its name, or there is nothing beside it to compare.
    """
    base = untouched(models, question.base)
    if base not in (None, BASE) and any(model.identifier == BASE for model in models):
        raise ValueError(
            f"--base {base}: another model is named {BASE}, as the untouched model is in the report; give that one "
            "another name (NAME=FOLDER)"
        )
    own = [model for model in models if model.name == base]
    if len(own) > 1:
        raise ValueError(f"{base}: the untouched model has no seed, and there are {len(own)} of it; see --seed-pattern")
    if len(models) < 2:
        raise ValueError(f"only {models[0].name}: give the logs of at least two models, or of two seeds")
    return replace(question, base=base)
