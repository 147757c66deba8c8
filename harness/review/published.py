"""PEFT's result files and folders of transformers' Trainer, as rows for the referee. Nothing in them is run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.report.analysis.comparable import UNKNOWN, differences
from harness.report.analysis.external import PEFT_VARIES, read_peft
from harness.report.analysis.facts import effective_scale, text
from harness.report.data.lm_eval_import import SEED_PATTERN
from harness.report.data.lm_eval_logs import Log, find_logs
from harness.review.row import Finding, Row, Score, Submission, lacking, method_of_peft, over_seeds

STATE = "trainer_state.json"
_SEED = re.compile(SEED_PATTERN, re.IGNORECASE)
_RATE = "train_config.optimizer_kwargs.lr"
_OF_RUN = ("train_config.seed", "tokens", "steps", "system_info", "package_info")
_WENT_UP, _WENT_DOWN = 2.0, 4.0  # a loss that left: twice its lowest value, and a quarter of its first one
_SHARES = ("acc", "acc_norm", "exact_match")


def peft_results(folder: Path) -> Submission:
    """Return the rows of a folder of PEFT's result files.

    Raises:
        ValueError: it holds none, as a folder of lm-eval's logs does.
    """
    records, problems = read_peft(folder)
    if not records:
        raise ValueError(
            f"{folder}: none of its {len(problems)} JSON files is a result file of PEFT's method comparison "
            f"({problems[0]}). For logs of lm_eval --log_samples: harness report import-lm-eval FOLDER..."
        )
    runs: dict[str, list[Row]] = {}
    for record in records:
        settings = {
            key.removeprefix("peft_config."): value
            for key, value in record.facts.items()
            if key.startswith("peft_config.")
        }
        rate = record.facts.get(_RATE)
        scores = {
            name: Score(value=member.value, share=member.higher_is_better, items=record.num_items, error=None)
            for name, member in record.scores.items()
            if member.higher_is_better
        }
        status = "" if record.status == "success" else record.status
        same = {key: value for key, value in record.facts.items() if not _is_free(key, _OF_RUN)}
        runs.setdefault(repr((status, sorted(same.items(), key=repr))), []).append(
            Row(
                name=record.name,
                method=method_of_peft(settings),
                settings=_beside(record.facts),
                rate=None if rate is None else float(rate),
                scale=effective_scale(settings),
                seeds=record.seeds,
                scores=scores,
                status=status,
                losses=_losses_of_peft(folder / f"{record.name}.json"),
            )
        )
    rows = [over_seeds(own[0].name, own) for own in runs.values()]
    unread = tuple(Finding(check="unreadable", text=problem) for problem in problems)
    return Submission(kind="peft", rows=tuple(rows), findings=unread)


def _losses_of_peft(path: Path) -> tuple[float, ...]:
    metrics = _json(path).get("train_info", {}).get("metrics") or () if path.is_file() else ()
    return tuple(float(entry["train loss"]) for entry in metrics if isinstance(entry.get("train loss"), int | float))


def _beside(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts that are no part of the method and no consequence of it."""
    return {key: text(value) for key, value in facts.items() if not _is_free(key, (*PEFT_VARIES, *_OF_RUN))}


def _is_free(key: str, free: Sequence[str]) -> bool:
    return any(key == member or key.startswith(f"{member}.") for member in free)


def trainer_folders(folder: Path) -> Submission:
    """Return the runs of transformers' Trainer below a folder, each with `trainer_state.json`.

    Of a run, the newest state counts. `adapter_config.json` and lm-eval's results beside it are read where there are.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    states = sorted(folder.rglob(STATE))
    if not states:
        raise ValueError(f"{folder}: no {STATE} below it")
    newest: dict[Path, tuple[int, Mapping[str, Any]]] = {}
    for path in states:
        state = _json(path)
        run = path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent
        step = int(state.get("global_step") or 0)
        if run not in newest or step >= newest[run][0]:
            newest[run] = (step, state)
    findings: list[Finding] = []
    runs: dict[str, list[Row]] = {}
    for run, (_, state) in newest.items():
        row = _run(run, state, folder, findings)
        name = _SEED.sub("", row.name).strip("/") or folder.resolve().name  # a folder of seeds is one method's
        runs.setdefault(name, []).append(row)
    for name, own in runs.items():
        findings += _unlike_seeds(name, own)
    rows = _filled([over_seeds(name, own) for name, own in runs.items()])
    return Submission(kind="trainer", rows=tuple(rows), findings=tuple(findings))


def _unlike_seeds(name: str, runs: Sequence[Row]) -> Iterator[Finding]:
    """Yield how runs of one name differ beside their seed, and the tasks that some of them lack."""
    facts = {}
    for run in _filled(runs):
        own = {"method": run.method, "learning rate": run.rate, "scale": run.scale}
        facts[run.name] = {**run.settings, **{key: UNKNOWN if v is None else text(v) for key, v in own.items()}}
    for entry in differences(facts):
        yield Finding(check="settings", text=f"seeds of {name} differ: {entry}", rows=tuple(facts))
    yield from lacking(name, runs)


def _filled(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with what only others record as unknown: full fine-tuning has no adapter that names its base."""
    keys = dict.fromkeys((key for row in rows for key in row.settings), UNKNOWN)
    return [replace(row, settings={**keys, **row.settings}) for row in rows]


def _run(run: Path, state: Mapping[str, Any], folder: Path, findings: list[Finding]) -> Row:
    name = run.relative_to(folder).as_posix() if run != folder else run.name
    recorded = state.get("log_history")
    history = [entry for entry in recorded if isinstance(entry, Mapping)] if isinstance(recorded, list) else []
    findings += _of_curve(name, state, history)
    config = next((_json(file) for file in sorted(run.rglob("adapter_config.json"))), None)
    rates = _numbers(history, "learning_rate")
    settings = {
        key: text(state.get(key)) for key in ("max_steps", "num_train_epochs", "train_batch_size") if key in state
    }
    if rates and max(rates) > 0:
        settings["learning rate at the end / at its highest"] = f"{rates[-1] / max(rates):.1f}"
    settings |= _lm_eval_settings(run)
    if config:
        settings["base_model_name_or_path"] = text(config.get("base_model_name_or_path"))
    return Row(
        name=name,
        method=method_of_peft(config),
        settings=settings,
        rate=max(rates) if rates else None,
        scale=effective_scale(config or {}),
        seeds=1,
        scores=dict(_lm_eval_scores(run)),
        losses=tuple(_numbers(history, "loss")),
    )


def _numbers(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    numbers = []
    for entry in history:
        with suppress(KeyError, TypeError, ValueError):  # null and text are no numbers
            numbers.append(float(entry[key]))
    return numbers


def _of_curve(name: str, state: Mapping[str, Any], history: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield what a training curve says: losses that are no numbers or rose, an early end, tests among validations."""
    losses = _numbers(history, "loss")
    norms = _numbers(history, "grad_norm")  # of a loss that is no number transformers writes 0
    first, lowest, last = _levels(losses)
    if any(not math.isfinite(loss) for loss in losses) or (norms and math.isnan(norms[-1])):
        yield Finding(check="diverged", text=f"{name}: the training loss is not a number", rows=(name,))
    elif last > max(_WENT_UP * lowest, first / _WENT_DOWN):
        text_ = f"{name}: the training loss ends at {last:.3g}, after {lowest:.3g}: it diverged"
        yield Finding(check="diverged", text=text_, rows=(name,))
    step, most = int(state.get("global_step") or 0), int(state.get("max_steps") or 0)
    if 0 < step < most and not _was_stopped(state):
        yield Finding(
            check="unfinished", text=f"{name}: it ended at step {step:,} of {most:,}, and is not finished", rows=(name,)
        )
    tests = sorted({key for entry in history for key in entry if key.startswith("eval_") and "test" in key.split("_")})
    if tests:
        best = " and its best checkpoint was chosen" if state.get("best_model_checkpoint") else ""
        yield Finding(
            check="chosen-on-test",
            text=f"{name}: the test was read while it trained ({', '.join(tests[:3])}){best}",
            rows=(name,),
        )


def _levels(losses: Sequence[float]) -> tuple[float, float, float]:
    """Return the first, the lowest and the last mean of a tenth of a curve: single batches scatter."""
    size = max(1, len(losses) // 10)
    means = [sum(losses[i : i + size]) / size for i in range(len(losses) - size + 1)]
    return (means[0], min(means), means[-1]) if means else (0.0, 0.0, 0.0)


def _was_stopped(state: Mapping[str, Any]) -> bool:
    """Return whether a callback ended the training, as early stopping does."""
    callbacks = state.get("stateful_callbacks")
    control = callbacks.get("TrainerControl") if isinstance(callbacks, Mapping) else None
    own = control.get("args") if isinstance(control, Mapping) else None
    return isinstance(own, Mapping) and own.get("should_training_stop") is True


def _logs(run: Path) -> list[Log]:
    try:
        return find_logs(run)
    except ValueError:
        return []


def _lm_eval_settings(run: Path) -> dict[str, str]:
    """Return the version and the number of examples of each task that lm-eval's results below a run name."""
    settings: dict[str, str] = {}
    for log in _logs(run):
        for task in log.tasks:
            shots = (log.results.get("n-shot") or {}).get(task, log.config(task).get("num_fewshot"))
            version = (log.results.get("versions") or {}).get(task)
            for name, value in (("version", version), ("num_fewshot", shots)):
                settings[f"{task}.{name}"] = "not recorded" if value is None else text(value)
    return settings


def _lm_eval_scores(run: Path) -> Iterator[tuple[str, Score]]:
    """Yield the newest scores of lm-eval's results below a run."""
    for log in _logs(run):
        for task in log.tasks:
            counts = (log.results.get("n-samples") or {}).get(task) or {}
            # a task that scores by a function of its own may give shares of an item, as MC2 of TruthfulQA does
            is_counted = not log.config(task).get("process_results")
            for key, value in log.results["results"][task].items():
                metric, _, selection = key.partition(",")
                if selection and metric in _SHARES and isinstance(value, int | float):
                    error = log.results["results"][task].get(f"{metric}_stderr,{selection}")
                    label = f"{task}/{metric}" if selection == "none" else f"{task}/{key}"
                    recorded = float(error) if isinstance(error, int | float) else None
                    items = counts.get("effective") if is_counted else None
                    yield label, Score(value=float(value), items=items, error=recorded)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(result, dict):
        raise ValueError(f"{path}: no JSON object")
    return result
