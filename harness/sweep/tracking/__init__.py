"""Live logging of runs to Weights & Biases, TensorBoard or Trackio from a separate process, the mirror.

The measured process does not load the client, the sweep's process stays small, and a failure of the mirror is never a
failure of a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from queue import Empty
from typing import Any

from harness.config.experiment import Experiment, digest, evaluations, recipe
from harness.measure import hardware
from harness.records import record, redact
from harness.records.events import Event, StepLogged, Validated
from harness.records.settings import TrackingSpec
from harness.run import provenance, server
from harness.train.signals import SIGNALS

_LOGGED = ("loss", "gradient_norm", "learning_rate", "tokens_per_second")  # of an optimizer step
_LONGEST_TAG = 64  # characters that W&B accepts
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 2.0  # interval at which the mirror checks that its parent lives


class Tracker:
    """Sender of events to the mirror's process. It does nothing with `tracking=none`."""

    def __init__(self, spec: TrackingSpec, runs_dir: Path) -> None:
        self._spec = spec
        self._log = runs_dir / spec.name / "tracking.log"
        self._process: Any = None
        if spec.name == "none":
            return
        context = multiprocessing.get_context("spawn")
        self._queue = context.Queue()
        settings = {"project": spec.project, "entity": spec.entity, "mode": spec.mode, "group": spec.group}
        mirror = (f"harness.sweep.tracking.{spec.name}", str(runs_dir), settings)
        self._process = context.Process(target=_serve, args=(self._queue, mirror, str(self._log)))
        self._process.daemon = True
        with server.STARTING, server.main_left_out():  # as for the process of a run
            self._process.start()
        # multiprocessing would ask it to end by SIGTERM, and wait, where nobody has called `close`
        self._left = multiprocessing.util.Finalize(None, self._process.kill, exitpriority=0)

    def begin(self, experiment: Experiment) -> None:
        """Start a run with its configuration and tags."""
        if self._process is not None:
            name = _name(experiment)
            self._send("begin", name, (name, configuration(experiment), tags(experiment, self._spec.group)))

    def event(self, experiment: Experiment, event: Event) -> None:
        """Log an optimizer step or a validation loss. Other events are ignored."""
        if isinstance(event, Validated):
            self._send("step", _name(experiment), (event.step, {"val/loss": event.loss}))
        elif isinstance(event, StepLogged):
            logged = {key: getattr(event, key) for key in _LOGGED}
            values = {f"train/{key}": value for key, value in logged.items() if value is not None}
            self._send("step", _name(experiment), (event.done, values))

    def end(self, experiment: Experiment, result: record.RunRecord) -> None:
        """Finish a run with the summary of its record."""
        if self._process is not None:
            self._send("end", _name(experiment), (summary(experiment, result),))

    def close(self) -> None:
        """Wait until the mirror has written everything. An error appears in its log only."""
        if self._process is not None:
            self._send("close", "", ())
            self._process.join(_PATIENCE_SECONDS)
            self._process.kill()
            self._left.cancel()
            self._queue.cancel_join_thread()  # do not wait for messages that a dead mirror never reads

    def _send(self, kind: str, name: str, content: tuple[Any, ...]) -> None:
        if self._process is not None:
            with contextlib.suppress(Exception):
                self._queue.put((kind, name, redact.anything(content)))


def _name(experiment: Experiment) -> str:
    """Return a name that identifies a run among those in progress."""
    return f"{experiment.method.name}-{experiment.recipe_id}-s{experiment.run_seed}"


def configuration(experiment: Experiment) -> dict[str, Any]:
    """Return the settings of a run for a dashboard: its recipe and seed, and the code and device that make it."""
    made_by = provenance.facts()
    cards = [card.name for card in hardware.usable_cards()]
    model = experiment.model
    return {
        **recipe(experiment),
        "method_name": experiment.method.name,
        "recipe_id": experiment.recipe_id,
        "seed": experiment.run_seed,
        "lr_scale": experiment.lr_scale,
        "model_id": model.path if model.source == "path" else model.hub_id or model.name,
        "model_revision": model.revision,
        "device": hardware.device(),
        "device_name": cards[0] if cards else made_by["cpu"],
        "harness": made_by["harness"],
        "commit": made_by["commit"],
    }


def tags(experiment: Experiment, group: str | None) -> list[str]:
    """Return the tags of a run: its method, model and data, and its sweep."""
    data = experiment.data.name if experiment.method.trains else None
    names = (experiment.method.name, experiment.model.name, data, group)
    return list(dict.fromkeys(name[:_LONGEST_TAG] for name in names if name))


def summary(experiment: Experiment, result: record.RunRecord) -> dict[str, Any]:
    """Return the headline numbers of a run as a flat table, without unknown values.

    A score has its standard error, its number of items and, where the base model has been evaluated on the same items,
    the difference to it beside it.
    """
    attempt = result.measured
    values: dict[str, Any] = {"status": attempt.status, "reason": attempt.reason}
    values["peak_memory_bytes"] = attempt.peak_memory_bytes
    if attempt.fingerprint is not None:
        counted = dataclasses.asdict(attempt.fingerprint)
        values |= {name: counted[name] for name in ("trainable_parameters", "total_parameters", "saved_bytes")}
    if attempt.training is not None:
        values["train_seconds"] = attempt.training.train_seconds
    before = {} if not experiment.method.trains else _evaluations(_base_folder(experiment), "attached")
    weights = next((look.weights for look in evaluations(experiment)), "attached")
    for key, scores in _evaluations(experiment.folder, weights).items():
        values |= _scores(scores, before.get(key))
    return {name: value for name, value in values.items() if value is not None}


def _scores(scores: record.EvaluationRecord, base: record.EvaluationRecord | None) -> dict[str, Any]:
    task = f"eval/{scores.evaluation['task']}"
    values: dict[str, Any] = {f"{task}/n": scores.num_items}
    for name, metric in scores.metrics.items():
        values |= {f"{task}/{name}": metric.value, f"{task}/{name}_stderr": metric.stderr}
        if base is not None and name in base.metrics:
            values[f"{task}/{name}_vs_base"] = metric.value - base.metrics[name].value
    return values


def _evaluations(folder: Path, weights: str) -> dict[str, record.EvaluationRecord]:
    """Return the evaluations of these weights in a run's folder, by the identity of their questions."""
    by_questions = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        with contextlib.suppress(ValueError):  # the report names damaged files
            scores = record.read(record.EvaluationRecord, path)
            if scores.evaluation.get("weights", "attached") == weights:
                by_questions[scores.eval_id.partition("-")[0]] = scores
    return by_questions


def _base_folder(experiment: Experiment) -> Path:
    """Return the folder of the untrained model's run."""
    untrained = {"model": recipe(experiment)["model"], "method": {"name": "base"}, "data": None, "train": None}
    return Path(experiment.runs_dir) / digest(untrained) / "seed-0"


def _next(queue: Any) -> tuple[str, str, tuple[Any, ...]]:
    """Return the next message; "close" if the sending process has died."""
    parent = multiprocessing.parent_process()
    while True:
        with contextlib.suppress(Empty):
            message: tuple[str, str, tuple[Any, ...]] = queue.get(timeout=_LOOK_SECONDS)
            return message
        if parent is not None and not parent.is_alive():
            return "close", "", ()


def _serve(queue: Any, mirror: tuple[str, str, dict[str, Any]], log: str) -> None:
    """Log the runs in progress until the message "close"."""
    with contextlib.suppress(OSError):  # a client's own processes heed signals, so none that is for all may reach them
        os.setsid()
    for number in (signal.SIGINT, *SIGNALS):  # begun runs are finished; the sweep's process sends "close"
        signal.signal(number, signal.SIG_IGN)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    del sys.argv[1:]  # a client may store the arguments, and they may hold secrets
    module, runs_dir, settings = mirror
    kind_of_run = import_module(module).Run
    under_way: dict[str, Any] = {}
    while (message := _next(queue))[0] != "close":
        kind, name, content = message
        try:
            if kind == "begin":
                under_way[name] = kind_of_run(runs_dir, settings)
            getattr(under_way[name], kind)(*content)  # begin, step or end
        except Exception:  # errors of the mirror go to its log only
            traceback.print_exc()
