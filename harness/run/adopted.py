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
    for one in adopted:
        by_base.setdefault((one.experiment.model, one.experiment.train.precision), []).append(one)
    made = {id(one): result for members in by_base.values() for one, result in _of_one_base(members, log, emit)}
    return [made[id(one)] for one in adopted]


def _of_one_base(members: Sequence[Adopted], log: Path, emit: Emit) -> list[tuple[Adopted, RunRecord]]:
    with contextlib.ExitStack() as held:
        for one in sorted(members, key=lambda member: str(member.experiment.folder)):  # one order for every process
            experiment = one.experiment
            disk.make_folder(experiment.folder, Path(experiment.runs_dir))
            held.enter_context(lock.hold(experiment.folder))
        attempts = [_store(one) for one in members]
        wanted = [_wanted(one.experiment, attempt) for one, attempt in zip(members, attempts, strict=True)]
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
        return [
            (one, _recorded(one, attempts[position], facts.get(position), reason if position in left else ""))
            for position, one in enumerate(members)
        ]


def _store(one: Adopted) -> str:
    """Copy an adapter's files into its run's folder, unless these very files are there; return the attempt's start."""
    folder = one.experiment.folder
    list(run_folder.clear(folder))
    known = state.read(one.experiment)
    there = known is not None and (known.config.get("adapter") or {}).get("content") == one.adapter.content
    if known is not None and there and run_folder.has_weights(folder, known.current.weights_from):
        assert known.current.weights_from is not None, "weights are some attempt's"
        return known.current.weights_from
    attempt = datetime.now(UTC).isoformat(timespec="milliseconds")

    def copy(to: Path) -> None:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(one.adapter.folder / name, to / name)

    run_folder.keep_weights(folder, attempt, copy)
    return attempt


def _wanted(experiment: Experiment, attempt: str) -> tuple[Evaluation, ...]:
    tasks = tuple(look for look in evaluations(experiment) if look.kind == "lm_eval")
    if experiment.force:
        return tasks
    return tuple(look for look in tasks if not run_folder.has_evaluation(experiment.folder, look.eval_id, attempt))


def _recorded(one: Adopted, attempt: str, made: dict[str, Any] | None, reason: str) -> RunRecord:
    """Write the record: what is known of the adapter, and that it was trained elsewhere."""
    experiment, adapter = one.experiment, one.adapter
    known = state.read(experiment)
    is_done = not _wanted(dataclasses.replace(experiment, force=False), attempt)
    if known is not None and made is None and is_done and known.current.weights_from == attempt:
        return known
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
                fingerprint=_fingerprint(adapter, made, known),
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


def _fingerprint(adapter: Adapter, made: dict[str, Any] | None, known: RunRecord | None) -> Fingerprint | None:
    """Return the count of the adapter's parameters, beside those of its base; None until that has been loaded."""
    if made is None:
        return known.current.fingerprint if known is not None else None
    return Fingerprint(
        trained=adapter.trained,
        trainable_parameters=adapter.parameters,
        expected_trainable_parameters=adapter.parameters,
        total_parameters=made["base_parameters"] + adapter.parameters,
        saved_bytes=sum((adapter.folder / name).stat().st_size for name in (CONFIG, WEIGHTS)),
    )
