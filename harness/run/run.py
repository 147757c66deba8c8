"""Orchestration of one run: one Experiment becomes one RunRecord."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from harness.config.experiment import Experiment, Todo, canonical, evaluations, recipe
from harness.measure import hardware
from harness.records import disk, record, redact
from harness.records.events import Emit, Message, PhaseStarted
from harness.records.record import RunRecord, Status
from harness.records.settings import Fallback
from harness.run import isolate, lock, model_card, run_folder
from harness.run.interrupts import signals_held_back
from harness.run.outcome import AttemptLog, LostError, is_machines_fault, ladder, outcome, without_others
from harness.run.state import RunState, inspect, keeps_no_weights, lacks_inference, work_left
from harness.train import checkpoint
from harness.train.signals import SIGNALS

WORK = "harness.run.worker:execute"  # the function that a run's own process executes


def run(experiment: Experiment, watch: Emit) -> RunRecord:
    """Do the missing work of a run in its own process, and record the attempt, however it ends.

    If another process is making the run, here or on another machine, wait for it and do not make the run again.
    """
    state = inspect(experiment)
    if state.record is not None and work_left(experiment, state) is None:
        return state.record
    with _locked(experiment, watch) as session:
        state = session.state()
        todo = work_left(experiment, state)
        if todo is not None and not todo.train:
            state = session.with_intact_weights(state)
            todo = work_left(experiment, state)
        if state.record is not None and todo is None:
            return state.record
        assert todo is not None, "a run without a record lacks all of its work"
        result = _with_fallbacks(session, state.record, todo)
    return result or run(experiment, watch)


def evaluate(experiment: Experiment, watch: Emit) -> RunRecord:
    """Make the missing task evaluations of a run with weights. Never train.

    Raises:
        ValueError: the method trains, and there are no weights.
    """
    with _locked(experiment, watch) as session:
        state = session.with_intact_weights(session.state())
        run_record = state.record
        if experiment.method.trains and not state.has_weights:
            reason = " (keep=none removed them)" if run_record is not None and keeps_no_weights(run_record) else ""
            raise ValueError(f"{experiment.folder}: there are no weights to evaluate{reason}; train them first")
        tasks = [evaluation for evaluation in evaluations(experiment) if evaluation.kind == "lm_eval"]
        wanted = tuple(task for task in tasks if experiment.force or task.eval_id not in state.evaluations)
        if run_record is not None and not wanted:
            return run_record
        todo = Todo(train=False, evaluations=wanted, weights_from=state.weights_from)
        result = _with_retries(session, run_record, todo)
    return result or evaluate(experiment, watch)


def skip(experiment: Experiment, reason: str) -> None:
    """Record a run that cannot be made here as skipped, unless another process makes it or it cannot be read."""
    other = lock.holder(experiment.folder)
    if other is not None and not lock.is_gone(other):
        return
    with contextlib.suppress(ValueError), _locked(experiment, lambda _: None) as session:
        session.record_unstarted("skipped", reason)


def fail(experiment: Experiment, reason: str, patience: float = lock.PATIENCE_SECONDS) -> None:
    """Record the failure of a run whose process could not do so; `patience` in seconds is for its lock."""
    with _locked(experiment, lambda _: None, patience) as session:
        session.record_unstarted("failed", reason)


@dataclasses.dataclass(frozen=True)
class _Session:
    """A run whose lock this process holds. Only such a process changes the run's folder."""

    experiment: Experiment
    watch: Emit
    lease: lock.Claim

    def say(self, text: str) -> None:
        """Print a line about the run."""
        self.watch(Message(text))

    def state(self) -> RunState:
        """Clean the folder, and read the state of the run."""
        for line in run_folder.clear(self.experiment.folder):
            self.say(line)
        return inspect(self.experiment)

    def with_intact_weights(self, state: RunState) -> RunState:
        """Return the state after a check of the weights by their content. Damaged weights are set aside."""
        attempt, folder = state.weights_from, self.experiment.folder
        if attempt is None or not state.has_weights or not self.experiment.method.trains:
            return state
        self.watch(PhaseStarted("checks the weights"))
        fault = run_folder.damage(folder, attempt, by_content=True)
        if not fault:
            return state
        self.say(f"{fault}; the weights are set aside as {run_folder.set_weights_aside(folder)}")
        return dataclasses.replace(state, has_weights=False)

    def record_unstarted(self, status: Status, reason: str) -> None:
        """Record an attempt whose process never started, unless the run is done."""
        state = self.state()
        if work_left(self.experiment, state) is not None:
            self.record(state.record, AttemptLog(self.watch), status, reason)

    def record(self, before: RunRecord | None, log: AttemptLog, status: Status, reason: str) -> RunRecord:
        """Add an attempt to the run's record and write it."""
        experiment = self.experiment
        attempt = log.attempt(status, reason, before.current.weights_from if before else None)
        result = RunRecord(
            schema=record.SCHEMA,
            recipe_id=experiment.recipe_id,
            seed=experiment.run_seed,
            method=experiment.method.name,
            recipe=redact.anything(recipe(experiment)),
            config=redact.anything(json.loads(canonical(dataclasses.asdict(experiment)))),
            attempts=(*(before.attempts if before else ()), attempt),
        )
        try:
            model_card.write(experiment.folder, result)  # first: a run with a complete record is not visited again
        finally:
            run_folder.write_record(result, experiment.folder)
        return result


@contextlib.contextmanager
def _locked(experiment: Experiment, watch: Emit, patience: float | None = None) -> Iterator[_Session]:
    """Hold the lock of a run, and report what stood in the place of its folder."""
    for line in disk.make_folder(experiment.folder, Path(experiment.runs_dir)):
        watch(Message(line))
    patience = lock.PATIENCE_SECONDS if patience is None else patience
    waits = lambda other: watch(PhaseStarted(f"waits for {other}"))  # noqa: E731
    with lock.hold(experiment.folder, waits, patience=patience) as lease:
        yield _Session(experiment, watch, lease)


def _with_fallbacks(session: _Session, before: RunRecord | None, todo: Todo) -> RunRecord | None:
    """Make a run, with fallbacks if memory runs out in training; return None if another process took it over.

    Another process takes a run over when this one has missed its heartbeats.
    """
    experiment, name = session.experiment, session.experiment.method.name
    if not todo.train:
        return _with_retries(session, before, todo)
    if before is not None and before.status == "ok" and keeps_no_weights(before) and not experiment.force:
        session.say(f"{name}: keep=none removed its weights; they are trained again")
    left = _remaining(ladder(experiment), checkpoint.rung(experiment.folder))
    for fallback, following in zip(left, (*left[1:], None), strict=True):
        result = _with_retries(session, before, dataclasses.replace(todo, rung=fallback))
        if result is None or following is None or not _training_needs_less(result):
            return result
        session.say(f"{name}: out of memory with {fallback}; trying {following}")
        before = result
    raise AssertionError("the last fallback returns")


def _remaining(fallbacks: tuple[Fallback, ...], reached: Fallback | None) -> tuple[Fallback, ...]:
    """Return the fallbacks from that of the checkpoint on: those before it ran out of memory."""
    return fallbacks[fallbacks.index(reached) :] if reached in fallbacks else fallbacks


def _training_needs_less(result: RunRecord) -> bool:
    """Return True if memory ran out in training: loading and evaluation need the same with any micro batch."""
    return result.status == "oom" and result.current.ended_in == "train"


def _with_retries(session: _Session, before: RunRecord | None, todo: Todo) -> RunRecord | None:
    """Make an attempt, and retry it after faults of the machine; return None if another process took the run over."""
    experiment = session.experiment
    for number in range(1, experiment.max_retries + 2):
        with run_folder.reserved(experiment.folder), signals_held_back():
            result, is_machines_fault = _attempt(session, before, todo)
        if result is None or not is_machines_fault or number > experiment.max_retries:
            return result
        session.say(
            f"{experiment.method.name}: {result.current.reason}; try {number + 1} of {experiment.max_retries + 1}"
        )
        before, todo = result, _after(experiment, result, todo)
    raise AssertionError("the last try returns")


def _after(experiment: Experiment, result: RunRecord, todo: Todo) -> Todo:
    """Return the remaining work after an attempt that the machine ended: weights that it made are reused."""
    if todo.train and result.current.weights_from != result.current.started_at:
        return todo
    state, weights_from = inspect(experiment), result.current.weights_from
    if experiment.force:
        return dataclasses.replace(todo, train=False, weights_from=weights_from)
    left = tuple(evaluation for evaluation in todo.evaluations if evaluation.eval_id not in state.evaluations)
    inference = todo.inference and lacks_inference(experiment, state)
    return dataclasses.replace(todo, train=False, evaluations=left, weights_from=weights_from, inference=inference)


def _attempt(session: _Session, before: RunRecord | None, todo: Todo) -> tuple[RunRecord | None, bool]:
    """Make one attempt in its own process.

    Returns:
        (the run's record, or None if another process took the run over; True if the machine is at fault)
    """
    experiment, lease = session.experiment, session.lease
    log = AttemptLog(session.watch, lease, trains=todo.train)
    todo = dataclasses.replace(todo, weights_from=log.started_at) if todo.train else todo
    terms = terms_of(experiment)
    try:
        ended = isolate.call(WORK, experiment, todo, log=experiment.folder / "log.txt", on_event=log, terms=terms)
    except LostError:
        return None, False
    except (KeyboardInterrupt, SystemExit) as stop:
        log.stop()
        if not lease.lost:
            session.record(before, log, "failed", f"{_how(stop)} {log.where()}{log.resume_hint()}")
        raise
    ended = without_others(ended, isolate.environment(terms).get(hardware.VISIBLE))
    status, reason = outcome(ended, log)
    if lease.lost:
        return None, False
    return session.record(before, log, status, reason), status == "failed" and is_machines_fault(ended)


def _how(stop: BaseException) -> str:
    """Return in a word or two how an attempt was ended; a command also ends because the reader of its output has."""
    if isinstance(stop, SystemExit):
        return "preempted" if stop.code in [128 + number for number in SIGNALS] else "interrupted"
    return str(stop) or "interrupted"


def terms_of(experiment: Experiment) -> isolate.Terms:
    """Return the options of a run's process: it sees one GPU per process, or all if `device_map` is "auto".

    A share of the machine with its own GPU is left unchanged.
    """
    own, method = isolate.share.get(), experiment.method
    number = experiment.launch.processes_per_node if method.trains else 1
    is_placed = own is not None and hardware.VISIBLE in own.environment
    visible = {} if is_placed or experiment.model.device_map == "auto" else hardware.showing(number)
    return isolate.Terms(environment=visible, imports_first=method.imports_first)
