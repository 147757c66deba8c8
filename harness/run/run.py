"""Orchestration of one run: one Experiment becomes one RunRecord."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.config.experiment import Evaluation, Experiment, Todo, canonical, evaluations, recipe
from harness.measure import hardware
from harness.records import disk, record, redact
from harness.records.events import Emit, Message, PhaseStarted
from harness.records.record import Attempt, InferenceRecord, RunRecord, Status
from harness.records.settings import Fallback
from harness.run import isolate, lock, model_card, provenance, run_folder
from harness.run.fallbacks import ladder
from harness.run.outcome import AttemptLog, LostError, is_machines_fault, outcome, without_others
from harness.train import checkpoint

WORK = "harness.run.worker:execute"  # the function that a run's own process executes
_FINAL = ("ok", "oom", "diverged")  # results that are not made again on a later call


def run(experiment: Experiment, watch: Emit) -> RunRecord:
    """Do the missing work of a run in its own process, and record the attempt, however it ends.

    If another process is making the run, here or on another machine, wait for it and do not make the run again.
    """
    known = read(experiment)
    if known is not None and done(experiment):
        return known
    with _held(experiment, watch) as held:
        known = _known(experiment, watch)
        if known is not None and done(experiment):
            return known
        if known is not None and experiment.method.trains and not missing(experiment)[0]:
            _check_weights(experiment, known, watch)
        result = _make(experiment, known, _Doing(watch, held, *missing(experiment)))
    return result or run(experiment, watch)


def evaluate(experiment: Experiment, watch: Emit) -> RunRecord:
    """Make the missing task evaluations of a run with weights. Never train.

    Raises:
        ValueError: the method trains, and there are no weights.
    """
    with _held(experiment, watch) as held:
        known = _known(experiment, watch)
        if known is not None and experiment.method.trains:
            _check_weights(experiment, known, watch)
        if experiment.method.trains and not run_folder.has_weights(experiment.folder, _weights_from(known)):
            reason = " (keep=none removed them)" if known is not None and removed(known) else ""
            raise ValueError(f"{experiment.folder}: there are no weights to evaluate{reason}; train them first")
        tasks = tuple(one for one in evaluations(experiment) if one.kind == "lm_eval")
        wanted = tasks if experiment.force else _not_there(experiment, known, tasks)
        if known is not None and not wanted:
            return known
        result = _make(experiment, known, _Doing(watch, held, False, wanted, infer=False))
    return result or evaluate(experiment, watch)


@contextlib.contextmanager
def _held(experiment: Experiment, watch: Emit, patience: float | None = None) -> Iterator[lock.Claim]:
    """Hold the claim of a run, and say what stood in the place of its folder."""
    for line in disk.make_folder(experiment.folder, Path(experiment.runs_dir)):
        watch(Message(line))
    folder = experiment.folder
    patience = lock.PATIENCE_SECONDS if patience is None else patience
    with lock.hold(folder, lambda other: watch(PhaseStarted(f"waits for {other}")), patience=patience) as held:
        yield held


def _check_weights(experiment: Experiment, known: RunRecord, watch: Emit) -> None:
    """Set weights aside whose content is not the one that was saved, before they are used."""
    attempt = _weights_from(known)
    if attempt is None or not run_folder.has_weights(experiment.folder, attempt):
        return
    watch(PhaseStarted("checks the weights"))
    if fault := run_folder.damage(experiment.folder, attempt, by_content=True):
        watch(Message(f"{fault}; the weights are set aside as {run_folder.set_weights_aside(experiment.folder)}"))


@dataclasses.dataclass(frozen=True)
class _Doing:
    """Work to do for a run, and the claim on it."""

    watch: Emit
    held: lock.Claim
    train: bool
    wanted: tuple[Evaluation, ...]
    infer: bool = True  # measure the cost of inference, if the experiment asks for it
    tries: int = 0  # earlier attempts that a fault of the machine ended


def _make(experiment: Experiment, known: RunRecord | None, doing: _Doing) -> RunRecord | None:
    """Make a run, with fallbacks if memory runs out; return None if another process took it over.

    Another process takes a run over when this one has missed its heartbeats.
    """
    if not doing.train:
        return _try(experiment, known, doing, None)
    if known is not None and known.status == "ok" and removed(known) and not experiment.force:
        doing.watch(Message(f"{experiment.method.name}: keep=none removed its weights; they are trained again"))
    rungs = _left(ladder(experiment), checkpoint.rung(experiment.folder))
    for rung, following in zip(rungs, (*rungs[1:], None), strict=True):
        result = _try(experiment, known, doing, rung)
        if result is None or following is None or not _training_needs_less(result):
            return result
        doing.watch(Message(f"{experiment.method.name}: out of memory with {rung}; trying {following}"))
        known = result
    raise AssertionError("the last rung returns")


def _left(rungs: tuple[Fallback, ...], reached: Fallback | None) -> tuple[Fallback, ...]:
    """Return the fallbacks from that of the checkpoint on: those before it ran out of memory."""
    return rungs[rungs.index(reached) :] if reached in rungs else rungs


def _training_needs_less(result: RunRecord) -> bool:
    """Return True if memory ran out in training: loading and evaluation need the same with any micro batch."""
    return result.status == "oom" and result.current.ended_in == "train"


def _try(experiment: Experiment, known: RunRecord | None, doing: _Doing, rung: Fallback | None) -> RunRecord | None:
    """Make one attempt in its own process, and retry it after a fault of the machine."""
    started_at = _now()
    train, wanted, held = doing.train, doing.wanted, doing.held
    weights_from = (started_at if train else _weights_from(known)) if experiment.method.trains else None
    infer = doing.infer and inference_missing(experiment, weights_from)
    todo = Todo(train=train, evaluations=wanted, weights_from=weights_from, inference=infer, rung=rung)
    told = AttemptLog(doing.watch, held, trains=train)
    log = experiment.folder / "log.txt"
    terms = _terms(experiment)
    try:
        ended = isolate.call(WORK, experiment, todo, log=log, on_event=told, terms=terms)
    except LostError:
        return None
    except (KeyboardInterrupt, SystemExit) as stop:
        told.stop()
        if not held.lost:
            what = "preempted" if isinstance(stop, SystemExit) else str(stop) or "interrupted"
            _keep(experiment, known, started_at, told, "failed", f"{what} {told.where()}{told.resume_hint()}")
        raise
    ended = without_others(ended, isolate.environment(terms).get(hardware.VISIBLE))
    status, reason = outcome(ended, told)
    if held.lost:
        return None
    result = _keep(experiment, known, started_at, told, status, reason)
    if status != "failed" or doing.tries >= experiment.max_retries or not is_machines_fault(ended):
        return result
    doing.watch(Message(f"{experiment.method.name}: {reason}; try {doing.tries + 2} of {experiment.max_retries + 1}"))
    return _try(experiment, result, _rest(experiment, result, doing), rung)


def _terms(experiment: Experiment) -> isolate.Terms:
    """Return the options of a run's process: it sees one GPU per process, or all if `device_map` is "auto".

    A share of the machine with its own GPU is left unchanged.
    """
    own, method = isolate.share.get(), experiment.method
    number = experiment.launch.processes_per_node if method.trains else 1
    is_placed = own is not None and hardware.VISIBLE in own.environment
    shown = {} if is_placed or experiment.model.device_map == "auto" else hardware.showing(number)
    links = hardware.link_settings() if number > 1 else {}
    return isolate.Terms(environment={**shown, **links}, imports_first=method.imports_first)


def _rest(experiment: Experiment, result: RunRecord, doing: _Doing) -> _Doing:
    """Return the remaining work after an attempt that the machine ended: weights that it made are reused."""
    train = doing.train and result.current.weights_from != result.current.started_at
    wanted = doing.wanted if train or experiment.force else _not_there(experiment, result, doing.wanted)
    return dataclasses.replace(doing, train=train, wanted=wanted, tries=doing.tries + 1)


def skip(experiment: Experiment, reason: str) -> None:
    """Record a run that cannot be made here as skipped, unless another process makes it or it cannot be read."""
    other = lock.holder(experiment.folder)
    if other is not None and not lock.is_gone(other):
        return
    with contextlib.suppress(ValueError), _held(experiment, lambda _: None):
        known = _known(experiment, lambda _: None)
        if not done(experiment):
            _keep(experiment, known, _now(), AttemptLog(lambda _: None), "skipped", reason)


def fail(experiment: Experiment, reason: str, patience: float = lock.PATIENCE_SECONDS) -> None:
    """Record the failure of a run whose process could not do so; `patience` in seconds is for its claim."""
    with _held(experiment, lambda _: None, patience):
        known = _known(experiment, lambda _: None)
        if not done(experiment):
            _keep(experiment, known, _now(), AttemptLog(lambda _: None), "failed", reason)


def missing(experiment: Experiment) -> tuple[bool, tuple[Evaluation, ...]]:
    """Return (True if weights have to be trained, the evaluations that have to be made)."""
    wanted = evaluations(experiment)
    known = read(experiment)
    if experiment.force or known is None:
        return experiment.method.trains, wanted
    left = wanted if _knows_nothing(known) else _not_there(experiment, known, wanted)
    trained = not experiment.method.trains or run_folder.has_weights(experiment.folder, _weights_from(known))
    complete = known.status == "ok" and not left and not inference_missing(experiment, _weights_from(known))
    if trained or (complete and removed(known)):
        return False, left
    return experiment.method.trains, wanted


def _knows_nothing(known: RunRecord) -> bool:
    """Return True if every attempt at evaluating the untrained model ended before it reported its data."""
    untrained = known.recipe.get("train") is None
    return untrained and known.status == "failed" and all(attempt.data is None for attempt in known.attempts)


def removed(known: RunRecord) -> bool:
    """Return True if the run is configured to keep no weights."""
    return known.config.get("keep") == "none"


def _not_there(
    experiment: Experiment, known: RunRecord | None, wanted: tuple[Evaluation, ...]
) -> tuple[Evaluation, ...]:
    attempt = _weights_from(known)
    return tuple(one for one in wanted if not run_folder.has_evaluation(experiment.folder, one.eval_id, attempt))


def done(experiment: Experiment) -> bool:
    """Return True if the run has a result and every requested evaluation; False with `force`."""
    known = read(experiment)
    if known is None or experiment.force or known.status not in _FINAL or known.status in experiment.rerun:
        return False
    if known.status != "ok":
        return True
    return missing(experiment) == (False, ()) and not inference_missing(experiment, _weights_from(known))


def inference_missing(experiment: Experiment, weights_from: str | None) -> bool:
    """Return True if the cost of inference is requested and not measured for these weights; False for tuning trials."""
    spec = experiment.inference
    if not spec.enabled or experiment.eval.test != "always":
        return False
    try:
        found = run_folder.read(InferenceRecord, experiment.folder / "inference.json", experiment.folder)
    except (FileNotFoundError, ValueError):
        return True
    asked = json.loads(canonical(dataclasses.asdict(spec)))
    return experiment.force or (found.weights_from, canonical(found.settings)) != (weights_from, canonical(asked))


def read(experiment: Experiment) -> RunRecord | None:
    """Return the run's record; None if there is none or it is damaged.

    The process that makes the run sets a damaged record aside.

    Raises:
        ValueError: another version of this program wrote it, or it cannot be read; names the file.
    """
    try:
        return run_folder.read(RunRecord, experiment.folder / "record.json", experiment.folder)
    except (FileNotFoundError, record.DamagedError):
        return None


def readable(experiment: Experiment) -> RunRecord | None:
    """Return the run's record; None also where it cannot be read. What keeps it from being read ends that run alone."""
    try:
        return read(experiment)
    except ValueError:
        return None


def _known(experiment: Experiment, watch: Emit) -> RunRecord | None:
    """Clean the folder of a run whose claim is held, and return its record."""
    for line in run_folder.clear(experiment.folder):
        watch(Message(line))
    return read(experiment)


def _keep(
    experiment: Experiment, known: RunRecord | None, started_at: str, told: AttemptLog, status: Status, reason: str
) -> RunRecord:
    """Add the attempt to the run's record and write it."""
    attempt = _attempt(known, started_at, told, status, reason)
    result = RunRecord(
        schema=record.SCHEMA,
        recipe_id=experiment.recipe_id,
        seed=experiment.run_seed,
        method=experiment.method.name,
        recipe=redact.anything(recipe(experiment)),
        config=redact.anything(json.loads(canonical(dataclasses.asdict(experiment)))),
        attempts=(*(known.attempts if known else ()), attempt),
    )
    try:
        model_card.write(experiment.folder, result)  # first: a run with a complete record is not visited again
    finally:
        record.write(result, experiment.folder / "record.json")
    return result


def _attempt(known: RunRecord | None, started_at: str, told: AttemptLog, status: Status, reason: str) -> Attempt:
    facts = told.facts
    weights_from = facts.weights_from or _weights_from(known)
    # an attempt that only evaluates repeats the facts of the attempt that trained
    before = next((a for a in known.attempts if a.started_at == weights_from), None) if known else None
    untrained = known is not None and known.recipe.get("train") is None
    same = next((a for a in reversed(known.attempts) if a.data), None) if known and untrained else before
    if before is not None and facts.training is None:
        phases = {**before.phases, **_looks(facts.phases or {})}
        training, peak, required = before.training, before.peak_memory_bytes, before.required_memory_bytes
        data = before.data or facts.data
    else:
        phases = facts.phases or {}
        training, peak = facts.training, facts.peak_memory_bytes
        required = facts.required_memory_bytes
        data = facts.data or (same.data if same else None)
    if known is not None and facts.resumed_at_step is not None:
        peak = _higher(peak, known.current.peak_memory_bytes)
        required = _higher(required, known.current.required_memory_bytes)
    computed = facts if before is None or facts.micro_batch_size is not None else before
    trained_with = {"liger": facts.liger, "optimizer": facts.optimizer}
    return Attempt(
        started_at=started_at,
        status=status,
        reason=redact.text(reason),
        phases=phases,
        data=data,
        fingerprint=facts.fingerprint or (same.fingerprint if same else None),
        training=training,
        peak_memory_bytes=peak,
        required_memory_bytes=required,
        weights_from=weights_from,
        summed_peak_memory_bytes=facts.summed_peak_memory_bytes,
        resumed_at_step=facts.resumed_at_step,
        micro_batch_size=computed.micro_batch_size,
        gradient_checkpointing=computed.gradient_checkpointing,
        max_length=computed.max_length,
        ended_in=told.phase or None,
        killed_by=told.killed_by,
        stopped=told.stopped,
        seconds=told.seconds,
        provenance={
            **provenance.facts(),
            "command": provenance.command(),
            **isolate.sharing(),
            **(facts.device or {}),
            **{name: value for name, value in trained_with.items() if value is not None},
        },
    )


def _higher(peak: int | None, before: int | None) -> int | None:
    """Return the peak of a run over several attempts; None counts as unknown: a killed attempt may report none."""
    return max((one for one in (peak, before) if one is not None), default=None)


def _looks(phases: dict[str, Any]) -> dict[str, Any]:
    return {name: phase for name, phase in phases.items() if name not in ("load", "train")}


def _weights_from(known: RunRecord | None) -> str | None:
    return known.current.weights_from if known else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
