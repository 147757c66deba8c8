"""Runs mirrored to Weights & Biases or TensorBoard while they happen, from a process of its own.

The process that is measured does not carry the client, the sweep's process stays small, and a failure of the mirror can
never be a failure of a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from queue import Empty
from typing import Any

from harness.config.experiment import Experiment, recipe
from harness.records import record, redact
from harness.records.specs import TrackingSpec

_LOGGED = ("loss", "gradient_norm", "learning_rate", "tokens_per_second")
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 2.0  # how often the mirror looks whether anyone still talks to it


class Tracker:
    """Sends what happens to the mirror's process; does nothing with `tracking=none`."""

    def __init__(self, spec: TrackingSpec, runs_dir: Path, group: str | None) -> None:
        self._spec, self._group = spec, group
        self._log = runs_dir / spec.name / "tracking.log"
        self._process: Any = None
        if spec.name == "none":
            return
        context = multiprocessing.get_context("spawn")
        self._queue = context.Queue()
        settings = {"project": spec.project, "entity": spec.entity, "mode": spec.mode, "group": group}
        mirror = (f"harness.sweep.tracking.{spec.name}", str(runs_dir), settings)
        self._process = context.Process(target=_serve, args=(self._queue, mirror, str(self._log)))
        self._process.daemon = True
        self._process.start()

    def begin(self, experiment: Experiment) -> None:
        """A run starts."""
        name = _name(experiment)
        tags = {"recipe_id": experiment.recipe_id, "seed": experiment.run_seed, "method": experiment.method.name}
        self._send("begin", name, (name, {**recipe(experiment), **tags}))

    def event(self, experiment: Experiment, event: dict[str, Any]) -> None:
        """An optimizer step is logged, everything else is not."""
        if "loss" in event:
            values = {k: event[k] for k in _LOGGED if event[k] is not None}
            self._send("step", _name(experiment), (event["done"], values))

    def end(self, experiment: Experiment, result: record.RunRecord) -> None:
        """A run is over: its summary is what the record says."""
        if self._process is not None:
            self._send("end", _name(experiment), (summary(experiment, result),))

    def close(self) -> None:
        """Wait for the mirror to be written; says nothing if it fails, its log does."""
        if self._process is not None:
            self._send("close", "", ())
            self._process.join(_PATIENCE_SECONDS)
            self._process.kill()
            self._queue.cancel_join_thread()  # what a mirror that is gone has not read must not be waited for

    def _send(self, kind: str, name: str, content: tuple[Any, ...]) -> None:
        if self._process is not None:
            with contextlib.suppress(Exception):
                self._queue.put((kind, name, redact.anything(content)))


def _name(experiment: Experiment) -> str:
    """What tells a run from the others under way."""
    return f"{experiment.method.name}-{experiment.recipe_id}-s{experiment.run_seed}"


def summary(experiment: Experiment, result: record.RunRecord) -> dict[str, Any]:
    """The headline numbers of a run as a flat table; what is not known is left out."""
    attempt = result.current
    values: dict[str, Any] = {"status": attempt.status, "reason": attempt.reason}
    values["peak_memory_bytes"] = attempt.peak_memory_bytes
    if attempt.fingerprint is not None:
        counted = dataclasses.asdict(attempt.fingerprint)
        values |= {name: counted[name] for name in ("trainable_parameters", "total_parameters", "saved_bytes")}
    if attempt.training is not None:
        values["train_seconds"] = attempt.training.train_seconds
    for path in sorted((experiment.folder / "evaluations").glob("*.json")):
        with contextlib.suppress(ValueError):  # a damaged one is the report's to name
            scores = record.read(record.EvaluationRecord, path)
            values |= {f"{scores.evaluation['task']}/{name}": metric.value for name, metric in scores.metrics.items()}
    return {name: value for name, value in values.items() if value is not None}


def _next(queue: Any) -> tuple[str, str, tuple[Any, ...]]:
    """The next message; "close" when the process that sends them is gone without a word."""
    parent = multiprocessing.parent_process()
    while True:
        with contextlib.suppress(Empty):
            message: tuple[str, str, tuple[Any, ...]] = queue.get(timeout=_LOOK_SECONDS)
            return message
        if parent is not None and not parent.is_alive():
            return "close", "", ()


def _serve(queue: Any, mirror: tuple[str, str, dict[str, Any]], log: str) -> None:
    """Keep the mirror of the runs under way until told to close."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was begun is finished; the sweep's process says when
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    del sys.argv[1:]  # which a mirror would keep, whatever stands there
    module, runs_dir, settings = mirror
    kind_of_run = import_module(module).Run
    under_way: dict[str, Any] = {}
    while (message := _next(queue))[0] != "close":
        kind, name, content = message
        try:
            if kind == "begin":
                under_way[name] = kind_of_run(runs_dir, settings)
            getattr(under_way[name], kind)(*content)  # begin, step or end
        except Exception:  # a mirror that breaks is its own log's business
            traceback.print_exc()
