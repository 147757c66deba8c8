"""Execution of a run in its own process: load, train, validate, evaluate. Imports the whole stack.

Every fact is emitted as soon as it is known, so that a process that is killed loses only what it was working on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from harness.config import kernels
from harness.config.experiment import Evaluation, Experiment, Todo, check_id
from harness.data import Drawn, Packed, Short, TokenRows, Wanted, tokenized
from harness.measure import mfu
from harness.measure.fingerprint import fingerprint
from harness.measure.memory import Phases
from harness.methods.base import Setting
from harness.records import items, lm_eval_items, record
from harness.records.events import Emit, Measured, PhaseStarted, TaskStarted
from harness.records.record import DevicePeak, EvaluationRecord, Phase, Training
from harness.records.settings import Fallback, LaunchSpec, TrainSpec
from harness.run import converted, device_map, inference, model_card, provenance, run_folder
from harness.run.evaluations import Found, Scores
from harness.sources import models
from harness.train import checkpoint, deterministic, distributed, launcher
from harness.train.checkpoint import Belongs
from harness.train.loop import Job, compute_dtype, total_steps, train
from harness.train.nodes import Attempt, Node
from harness.train.resume import Checkpoints
from harness.train.signals import PreemptedError, Preemption


def execute(experiment: Experiment, todo: Todo, emit: Emit) -> None:
    """Do the missing work of one run.

    Raises:
        ValueError: the experiment does not fit the model or the data.
        DivergedError: training produced NaN or infinity, or its loss rose for good.
        PreemptedError: this process was told to end.
    """
    quiet()
    preemption = Preemption()
    with preemption.watched():
        trained = None
        if todo.train and experiment.method.trains and experiment.launch.num_processes > 1:
            attempt = Attempt(experiment.recipe_id, todo.rung)
            train_as_rank = partial(_train_as_rank, experiment, todo, preemption)
            trained = launcher.launch(experiment.launch, train_as_rank, emit, preemption, attempt)
        work = _Work(experiment, todo, preemption, emit)
        try:
            if trained is None:
                work.make(LaunchSpec())
            else:
                work.go_on(trained)
            checkpoint.end(experiment.folder, keep=False)  # of weights that an attempt before this one made
            work.evaluate()
            if todo.inference:
                work.infer()
            if experiment.keep == "none":
                shutil.rmtree(experiment.weights_folder, ignore_errors=True)
        except BaseException:  # the peaks so far are a result if memory ran out
            work.emit_phases()
            raise


def join(experiment: Experiment, attempt: Attempt, node: Node, emit: Emit) -> None:
    """Take part, on a further node, in one attempt at a run, or send the reason why not to its first node."""
    quiet()
    todo = Todo(train=True, evaluations=(), weights_from=None, rung=attempt.rung)
    launcher.join(experiment.launch, attempt, node, partial(_train_as_rank, experiment, todo, Preemption()))


@dataclasses.dataclass(frozen=True)
class _Trained:
    """Phases of rank 0 and memory of each rank, in bytes, for the process that evaluates."""

    phases: dict[str, Phase]
    peaks: list[int | None]
    required: list[int | None]


def _train_as_rank(experiment: Experiment, todo: Todo, launched: Preemption, emit: Emit) -> _Trained:
    """Load and train as one rank of a run; rank 0 writes the weights."""
    preemption = Preemption()
    with preemption.watched() if distributed.rank() == 0 else contextlib.nullcontext():
        if launched.requested:
            raise PreemptedError("told to end")
        work = _Work(experiment, todo, preemption, emit)
        try:
            work.make(experiment.launch)
        except BaseException:
            work.emit_phases()
            raise
    return _Trained(work.phases.done, work.peaks, work.required)


class _Work(Scores):
    """One run in progress. The methods are called in the order in which they are defined."""

    def __init__(self, experiment: Experiment, todo: Todo, preemption: Preemption, emit: Emit) -> None:
        self.experiment, self.todo, self.preemption = experiment, todo, preemption
        deterministic.prepare(experiment.train.deterministic)
        self.emit = preemption.whole(emit)
        # reads the memory in use on the device before this process takes any
        self.phases = Phases(torch.cuda.is_available(), lambda name: self.emit(PhaseStarted(name)))
        self.peaks: list[int | None] = []  # of all ranks, once they have trained
        self.required: list[int | None] = []  # bytes that the GPU of each must have
        self.dtype = compute_dtype(experiment.train.precision)
        self.weights = experiment.eval.weights if experiment.method.trains else "attached"
        self.model: Any = None

    def make(self, launch: LaunchSpec) -> None:
        """Load the model and, if the task says so, train it."""
        made_by = kernels.facts(self.experiment.train.kernels)
        made_by |= provenance.with_versions_of(self.experiment.method.imports_first)
        self.emit(Measured(device={**provenance.device(), **device_map.shared_by(launch), **made_by}))
        self.load()
        if self.todo.train:
            with self.preemption.deferred():
                self.train()

    def go_on(self, trained: _Trained) -> None:
        """Continue after ranks that have trained and ended."""
        self.phases.done.update(trained.phases)
        self.peaks, self.required = trained.peaks, trained.required

    def load(self) -> None:
        experiment, method = self.experiment, self.experiment.method
        with self.phases("load"):
            self._read()
            transformers.set_seed(experiment.streams.init)  # adapters are drawn from it
            base = self._base()
            expected = method.expected_trainable(base)
            if self.todo.train or not method.trains:
                self.model = method.attach(base, setting(experiment, self.tokenizer, self.rows))
            else:
                self.model = self._made(base)
        if self.todo.train or not method.trains:
            self.fingerprint = fingerprint(self.model, expected, method.merges)
            method.check_count(expected, self.fingerprint.trainable_parameters)
            self.emit(Measured(fingerprint=self.fingerprint))

    def train(self) -> None:
        if self.experiment.method.trains:
            distributed.barrier()  # ranks that are still loading would keep the processor busy
            is_first = distributed.rank() == 0
            before = self._device_peak() if is_first else None  # between the phases, so that no phase includes its time
            training = self.fit()
            if is_first:
                self.emit(Measured(training=training))
                self.emit_phases()  # all facts of the weights are emitted before the weights are announced
                self._save()
                training = mfu.with_share(training, before, self._device_peak())
                self.emit(Measured(training=training))
        else:
            self._save()

    def fit(self) -> Training:
        """Train, on every rank of the run, and gather the ranks' memory and energy."""
        with self.phases("train"):
            training = train(self._job())
        self.peaks = distributed.all_gather(self.phases.headline_bytes())
        self.required = distributed.all_gather(self.phases.required_bytes())
        for name in ("load", "train"):
            self.phases.add_energy(name, distributed.all_gather(self.phases.done[name].energy_joules))
        return training

    def _device_peak(self) -> DevicePeak | None:
        """Return the peak FLOP rate of all processes' devices, or parts of one, together; None if it is unknown."""
        own = mfu.measured(self.dtype, torch.cuda.is_available(), self.experiment.train.kernels.tf32)
        return (
            None
            if own is None
            else dataclasses.replace(own, flops_per_second=own.flops_per_second * distributed.world_size())
        )

    def evaluate(self) -> None:
        is_elsewhere = self.model is None  # it was trained by ranks that have ended
        if self.todo.train and (self.weights != "attached" or is_elsewhere):
            with self.phases("evaluate"):
                self.model = None
                device_map.clear()
                if is_elsewhere:
                    self._read()
                self.model = self._made(self._base())
        self.model.eval()
        for evaluation in sorted(
            self.todo.evaluations, key=lambda evaluation: evaluation.is_served
        ):  # a server frees the model
            with self.phases(evaluation.phase):
                self._evaluate_one(evaluation)
            self.emit_phases()

    def infer(self) -> None:
        self.model = self.server = None  # each measured model is loaded afresh
        rows, base = self.heldout["validation"], self._base
        made = inference.Making(self.tokenizer, rows, self.phases, base, lambda: self._merged(base()))
        inference.keep(self.experiment, self.todo.weights_from, made)
        self.emit_phases()

    def _read(self) -> None:
        """Read the tokenizer, and the rows if any are needed."""
        self.tokenizer = models.tokenizer(self.experiment.model)
        self.rows: Sequence[dict[str, list[int]]] = []
        kinds = {evaluation.kind for evaluation in self.todo.evaluations}
        if self.todo.train or self.todo.inference or kinds & {"heldout", "generation"}:
            self._load_data()

    def _base(self) -> Any:
        experiment, method = self.experiment, self.experiment.method
        options = {**method.load_options(self.dtype), **device_map.options(experiment)}
        return models.load(experiment.model, options, method.read)

    def _made(self, base: Any) -> Any:
        """Return the trained model: restored from its saved weights, merged, or converted."""
        make = {"attached": self._attached, "merged": self._merged, "converted": self._converted}[self.weights]
        return make(base)

    def _attached(self, base: Any) -> Any:
        return self.experiment.method.restore(base, self.experiment.weights_folder)

    def _converted(self, base: Any) -> Any:
        """Return the base with the LoRA adapter that `harness.adapter convert` writes, and write what is lost."""
        return converted.attach(self.experiment, base, self._base, self.todo.weights_from, self.emit)

    def _merged(self, base: Any) -> Any:
        """Return the plain model that `harness.adapter merge` writes."""
        experiment, method = self.experiment, self.experiment.method
        merged = method.merge(method.restore(models.dequantized(base), experiment.weights_folder))
        return merged.to(method.load_options(self.dtype)["dtype"])

    def _load_data(self) -> None:
        experiment = self.experiment
        data = tokenized(experiment.data, self.tokenizer, wanted_tokens(experiment))
        rows: TokenRows | Short = data.train
        self.heldout = {"validation": data.validation, "test": data.test}
        counts = dataclasses.replace(data.counts, check=check_id(experiment))
        max_length = (self.todo.rung and self.todo.rung.max_length) or experiment.train.max_length
        if max_length < experiment.train.max_length:
            rows = Short(data.train, max_length)
            left_out = len(data.train) - len(rows)
            counts = dataclasses.replace(
                counts, train_rows=len(rows), removed_too_long=counts.removed_too_long + left_out
            )
        trained = Drawn(rows, experiment.streams.data) if experiment.data.resample else rows
        self.rows = Packed(trained, max_length) if experiment.train.packing else trained
        if experiment.train.packing:
            counts = dataclasses.replace(counts, packed_rows=len(self.rows))
        self.emit(Measured(data=counts))

    def _job(self) -> Job:
        experiment = self.experiment
        return Job(
            model=self.model,
            method=experiment.method,
            rows=self.rows,
            spec=self._train_spec(),
            seed=experiment.streams.order,
            tokenizer=self.tokenizer,
            validate=self._validate,
            sample=self.phases.sample,
            aside=self.phases.aside,
            emit=self.emit,
            scratch=str(experiment.folder / "trainer"),
            checkpoints=checkpoints(experiment, self.todo.rung, lambda: self.preemption.requested),
            sharding=experiment.launch.sharding,
        )

    def _validate(self) -> float:
        """Return the validation loss during training, in its own phase: its memory does not count as training's."""
        with self.phases("validate"):
            return self.validation_loss()

    def _train_spec(self) -> TrainSpec:
        """Return the training settings, modified by the out-of-memory fallback if there is one."""
        rung = self.todo.rung
        if rung is None:
            return self.experiment.train
        self.emit(Measured(**dataclasses.asdict(rung)))
        return rung.applied(self.experiment.train)

    def _save(self) -> None:
        experiment, attempt = self.experiment, self.todo.weights_from
        assert attempt is not None, "weights are some attempt's"
        saved = run_folder.keep_weights(experiment.folder, attempt, self._write_weights)
        shutil.rmtree(experiment.folder / "trainer", ignore_errors=True)
        fingerprint = dataclasses.replace(self.fingerprint, saved_bytes=saved)
        self.emit(Measured(fingerprint=fingerprint, weights_from=attempt))
        # here, where no request to end comes between: an attempt that only evaluates keeps no checkpoint
        checkpoint.end(experiment.folder, keep=experiment.keep == "checkpoint")

    def _write_weights(self, folder: Path) -> None:
        self.experiment.method.save(self.model, folder)
        model_card.name_base(folder, dataclasses.asdict(self.experiment.model))

    def emit_phases(self) -> None:
        """Emit the phases, the highest peak memory of all ranks, and the sum of the peaks if there are several."""
        peaks = [value for value in self.peaks if value is not None]
        headline = max(peaks) if len(peaks) == len(self.peaks) > 1 else self.phases.headline_bytes()
        required = max((value for value in self.required if value is not None), default=self.phases.required_bytes())
        self.emit(
            Measured(
                phases=dict(self.phases.done),
                peak_memory_bytes=headline,
                required_memory_bytes=required,
                summed_peak_memory_bytes=sum(peaks) if len(peaks) == len(self.peaks) > 1 else None,
            )
        )

    def _evaluate_one(self, evaluation: Evaluation) -> None:
        write_evaluation(self.experiment, evaluation, self.score, self.todo.weights_from, self.emit)


def write_evaluation(
    experiment: Experiment,
    evaluation: Evaluation,
    score: Callable[[Evaluation], Found],
    weights_from: str | None,
    emit: Emit,
) -> None:
    """Score a run on one task, and write its items and then its record."""
    emit(TaskStarted(evaluation.task))
    start = time.perf_counter()
    metrics, columns, facts = score(evaluation)
    path = record.evaluation_path(experiment.folder, evaluation.eval_id)
    items.write(columns, path.with_suffix(".parquet"))
    num_fewshot = facts.pop("num_fewshot", None)
    result = EvaluationRecord(
        schema=record.SCHEMA,
        recipe_id=experiment.recipe_id,
        seed=experiment.run_seed,
        eval_id=evaluation.eval_id,
        evaluation=dataclasses.asdict(evaluation),
        metrics={name: m for name, m in metrics.items() if math.isfinite(m.value)},
        num_items=len(columns["item_id"]),
        num_tokens=sum(columns["num_tokens"]) if "num_tokens" in columns else None,
        num_fewshot=num_fewshot,
        num_unparsable=lm_eval_items.num_unparsable(columns),
        seconds=time.perf_counter() - start,
        weights_from=weights_from,
        provenance={**provenance.facts(), **provenance.device(), **facts},
    )
    record.write(result, path)


def wanted_tokens(experiment: Experiment) -> Wanted:
    """Return the settings that determine a run's tokens besides its data."""
    spec = experiment.train
    return Wanted(model_content=experiment.model.content, max_length=spec.max_length, loss_on=spec.loss_on)


def setting(experiment: Experiment, tokenizer: Any, rows: Sequence[dict[str, list[int]]]) -> Setting:
    """Return the facts of this run that its method may use; `rows` is empty in checks and plans."""
    return Setting(
        total_steps=total_steps(experiment.train, len(rows)),
        compute_dtype=compute_dtype(experiment.train.precision),
        tokenizer=tokenizer,
        seed=experiment.streams.init,
        max_length=experiment.train.max_length,
        rows=rows,
        model_content=experiment.model.content,
        original=partial(models.load, experiment.model, {"dtype": torch.float32}),
    )


def quiet() -> None:
    """Send the libraries' warnings to the log file, and switch off their progress bars."""
    warnings.simplefilter("default")
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")


def checkpoints(experiment: Experiment, rung: Fallback | None, preemption_requested: Callable[[], bool]) -> Checkpoints:
    """Return the checkpoints of a run with the fallback `rung`; None stands for the settings as configured."""
    spec = experiment.train
    computed = rung or Fallback(spec.micro_batch_size, spec.gradient_checkpointing)
    launch = experiment.launch
    run = (experiment.recipe_id, experiment.run_seed, provenance.training_code())
    of = Belongs(*run, computed, launch.num_processes, launch.sharding)
    return Checkpoints(
        folder=checkpoint.folder(experiment.folder),
        of=of,
        every_seconds=spec.checkpoint_seconds,
        requested=preemption_requested,
        last=experiment.keep == "checkpoint",
    )
