"""Runs of adapters from elsewhere: their weights in the store, their scores, and records that name the unknown."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.config.experiment import Evaluation, Experiment, canonical, evaluations, recipe
from harness.records import disk, record, redact
from harness.records.events import Emit
from harness.records.record import Attempt, Fingerprint, RunRecord
from harness.run import isolate, lock, provenance, run, run_folder, state
from harness.run.foreign import CONFIG, ORIGIN, WEIGHTS, Adapter

WORK = "harness.run.swapped:execute"


@dataclass(frozen=True)
class Adopted:
    """An adapter, and the experiment that it is scored as."""

    adapter: Adapter
    experiment: Experiment


def evaluate(adopted: Sequence[Adopted], log: Path, emit: Emit) -> list[RunRecord]:
    """Make the missing task evaluations of adapters, those of one base in one process, and return their records."""
    by_base: dict[Any, list[Adopted]] = {}
    for entry in adopted:
        by_base.setdefault((entry.experiment.model, entry.experiment.train.precision), []).append(entry)
    made = {id(entry): result for members in by_base.values() for entry, result in _of_one_base(members, log, emit)}
    return [made[id(entry)] for entry in adopted]


def _of_one_base(members: Sequence[Adopted], log: Path, emit: Emit) -> list[tuple[Adopted, RunRecord]]:
    with contextlib.ExitStack() as held:
        for entry in sorted(members, key=lambda member: str(member.experiment.folder)):  # one order for every process
            experiment = entry.experiment
            disk.make_folder(experiment.folder, Path(experiment.runs_dir))
            held.enter_context(lock.hold(experiment.folder))
        attempts = [_store(entry) for entry in members]
        wanted = [_wanted(entry.experiment, attempt) for entry, attempt in zip(members, attempts, strict=True)]
        left = [position for position, looks in enumerate(wanted) if looks]
        facts: dict[int, dict[str, Any]] = {}
        reason = ""
        if left:
            experiments = [members[position].experiment for position in left]
            looks = [wanted[position] for position in left]
            words = (experiments, looks, [attempts[position] for position in left])
            ended = isolate.call(WORK, *words, log=log, on_event=emit, terms=run.terms_of(experiments[0]))
            reason = ended.reason if ended.kind != "returned" else ""
            facts = dict(zip(left, ended.value or [], strict=False))
        reasons = {position: facts.get(position, {}).get("reason") or reason for position in left}
        return [
            (entry, _recorded(entry, attempts[position], facts.get(position), reasons.get(position, "")))
            for position, entry in enumerate(members)
        ]


def _store(entry: Adopted) -> str:
    """Copy an adapter's files into its run's folder, unless these very files are there; return the attempt's start."""
    folder = entry.experiment.folder
    list(run_folder.clear(folder))
    recorded = state.read(entry.experiment)
    there = recorded is not None and (recorded.config.get("adapter") or {}).get("content") == entry.adapter.content
    if recorded is not None and there and run_folder.has_weights(folder, recorded.current.weights_from):
        assert recorded.current.weights_from is not None, "weights are some attempt's"
        return recorded.current.weights_from
    attempt = datetime.now(UTC).isoformat(timespec="milliseconds")

    def copy(to: Path) -> None:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(entry.adapter.folder / name, to / name)

    run_folder.keep_weights(folder, attempt, copy)
    return attempt


def _wanted(experiment: Experiment, attempt: str) -> tuple[Evaluation, ...]:
    tasks = tuple(look for look in evaluations(experiment) if look.kind == "lm_eval")
    if experiment.force:
        return tasks
    return tuple(look for look in tasks if not run_folder.has_evaluation(experiment.folder, look.eval_id, attempt))


def _recorded(entry: Adopted, attempt: str, made: dict[str, Any] | None, reason: str) -> RunRecord:
    """Write the record: what is known of the adapter, and that it was trained elsewhere."""
    experiment, adapter = entry.experiment, entry.adapter
    recorded = state.read(experiment)
    is_done = not _wanted(dataclasses.replace(experiment, force=False), attempt)
    if recorded is not None and made is None and is_done and recorded.current.weights_from == attempt:
        return recorded
    config = json.loads(canonical(dataclasses.asdict(experiment)))
    config |= {"data": None, "train": None, "lr_scale": None}
    config["adapter"] = {"content": adapter.content, "place": adapter.place, "config": dict(adapter.config)}
    result = RunRecord(
        schema=record.SCHEMA,
        recipe_id=experiment.recipe_id,
        seed=experiment.run_seed,
        method=experiment.method.name,
        recipe=redact.anything(recipe(experiment)),
        config=redact.anything(config),
        attempts=(
            Attempt(
                started_at=attempt,
                status="ok" if is_done else "failed",
                reason="" if is_done else redact.text(reason) or "not every evaluation was made",
                phases={},
                data=None,
                fingerprint=_fingerprint(adapter, made, recorded),
                training=None,
                peak_memory_bytes=None,
                weights_from=attempt,
                provenance={
                    **provenance.facts(),
                    "command": provenance.command(),
                    **((made or {}).get("device") or {}),
                },
                stopped="no",
            ),
        ),
        origin=ORIGIN,
    )
    record.write(result, experiment.folder / "record.json")
    return result


def _fingerprint(adapter: Adapter, made: dict[str, Any] | None, recorded: RunRecord | None) -> Fingerprint | None:
    """Return the count of the adapter's parameters, beside those of its base; None until that has been loaded."""
    if made is None:
        return recorded.current.fingerprint if recorded is not None else None
    return Fingerprint(
        trained=adapter.trained,
        trainable_parameters=adapter.parameters,
        expected_trainable_parameters=adapter.parameters,
        total_parameters=made["base_parameters"] + adapter.parameters,
        saved_bytes=sum((adapter.folder / name).stat().st_size for name in (CONFIG, WEIGHTS)),
    )
