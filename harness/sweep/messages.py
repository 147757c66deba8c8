"""Messages of a sweep before it starts: the number and size of its runs, and with stages the rule of selection."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence

from harness.config.experiment import Experiment, evaluations
from harness.config.sweep_file import SweepFile, setting_of
from harness.measure import hardware
from harness.records.record import Choice, Tuning
from harness.records.seeds import name as seed_name
from harness.records.selection import RULE_TEXTS
from harness.run import provenance, state
from harness.run.progress import board
from harness.sweep.checks import display, written_bytes
from harness.sweep.planned_runs import PlannedRun


def runs(plan: Sequence[PlannedRun], pending: Sequence[PlannedRun]) -> None:
    """Print three lines: the number of runs with the disk space that they take, the training, and the evaluation."""
    board.say(f"runs        {len(plan)}{_done(plan, pending)}{_disk(pending)}")
    _sizes(plan)
    _devices(plan, pending)


def plan(sweep_file: SweepFile, trials: Sequence[PlannedRun], pending: Sequence[PlannedRun], tuning: Tuning) -> None:
    """Print the question and the plan of both stages before the first one starts."""
    methods = len({planned.wanted.contestant for planned in trials})
    seeds = len(tuning.final_seeds)
    tuning_text = (
        f"{_counted(tuning.trials, 'trial')} ({_tried(trials, tuning)}) x {_counted(len(tuning.seeds), 'seed')}"
    )
    total = f"{_counted(len(trials), 'run')}{_done(trials, pending)}{_disk(pending)}"
    board.say(f"question    {sweep_file.question}")
    board.say(f"tune        {_counted(methods, 'contestant')} x {tuning_text}: {total}")
    board.say(
        f"final       {_counted(methods, 'recipe')} x {_counted(seeds, 'seed')}, chosen by "
        f"{RULE_TEXTS[tuning.rule]}: at most {_counted(methods * seeds, 'run')} beside the base model; only these read "
        "the test"
    )
    _sizes(trials)
    _devices(trials, pending)


def choices(sweep_file: SweepFile, trials: Sequence[PlannedRun], chosen: Sequence[Choice]) -> None:
    """Print the chosen values of each contestant and the reason for the choice."""
    board.say(f"chosen by {sweep_file.name}'s rule:")
    for choice in chosen:
        cell = next((p.cell for p in trials if p.identity[0] == choice.recipe_id), ())
        values = [word for word in cell if setting_of(word) in sweep_file.tuned]
        board.say(f"  {choice.contestant}: {' '.join(values) or 'nothing'} ({choice.reason})")


def title(plan: Sequence[PlannedRun]) -> str:
    """Return the comparison in words, such as `lora, dora on science_qa with smollm2-135m`."""
    experiments = [planned.experiment for planned in plan]
    trained = [experiment for experiment in experiments if experiment.method.trains]
    methods = ", ".join(dict.fromkeys(experiment.method.name for experiment in trained)) or "base"
    data = ", ".join(dict.fromkeys(experiment.data.name for experiment in trained))
    models = ", ".join(dict.fromkeys(experiment.model.name for experiment in experiments))
    return f"{methods}{f' on {data}' if data else ''} with {models}"


def labels(plan: Sequence[PlannedRun]) -> dict[tuple[str, int], str]:
    """Return a label such as `lora method.r=8 seed 0` for each (recipe_id, seed), with the settings that differ."""
    shared = set.intersection(*(set(planned.cell) for planned in plan))
    texts = {}
    for planned in plan:
        words = (word for word in planned.cell if word not in shared and setting_of(word) not in ("method", "seed"))
        texts[planned.identity[:2]] = label(planned.experiment, *words)
    return texts


def label(experiment: Experiment, *words: str) -> str:
    """Return a label such as `lora method.r=8 seed 0`. The untrained base model has no seed."""
    name = experiment.method.name
    return " ".join((name, *words, f"seed {seed_name(experiment.run_seed)}") if experiment.method.trains else (name,))


def _tried(trials: Sequence[PlannedRun], tuning: Tuning) -> str:
    """Return the tuned settings and their values, such as `lr_scale 0.3, 1, 3; method.r 8, 16`."""
    values: dict[str, dict[str, None]] = {setting: {} for setting in tuning.settings}
    for planned in trials:
        for word in planned.cell:
            name, _, value = word.partition("=")
            if name in values:
                values[name][value] = None
    return "; ".join(f"{name} {', '.join(tried_values)}" for name, tried_values in values.items())


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _devices(plan: Sequence[PlannedRun], pending: Sequence[PlannedRun]) -> None:
    """Print how many finished runs were made on another device, since a recipe does not contain the device."""
    if hardware.RUNS_ON in os.environ:
        return
    here = {card.name for card in hardware.usable_cards()} or {provenance.facts()["cpu"]}
    waiting = {planned.identity[:2] for planned in pending}
    others = Counter(
        result.current.provenance.get("device_name")
        for planned in plan
        if planned.identity[:2] not in waiting and (result := state.readable(planned.experiment)) is not None
    )
    for name, number in others.items():
        if name is not None and name not in here:
            board.say(f"made on     {name}: {number} of those done; force=true makes them again on this machine")


def _done(plan: Sequence[PlannedRun], pending: Sequence[PlannedRun]) -> str:
    """Return how many runs are not started again: those that are done, and those that were skipped."""
    started = {planned.identity for planned in pending}
    others = [state.readable(planned.experiment) for planned in plan if planned.identity not in started]
    skipped = sum(record is not None and record.status == "skipped" for record in others)
    counts = {"already done": len(others) - skipped, "skipped": skipped}
    return "".join(f", {count} {fate}" for fate, count in counts.items() if count)


def _sizes(plan: Sequence[PlannedRun]) -> None:
    """Print the size of the training and of the evaluation; where cells differ, the first and how many others."""
    trained = [planned.experiment for planned in plan if planned.experiment.method.trains]
    training = list(dict.fromkeys(map(_training_size, trained)))
    evaluation = list(dict.fromkeys(_evaluation_size(planned.experiment) for planned in plan))
    for name, sizes in (("training", training), ("evaluation", evaluation)):
        if sizes:
            others = f"; {_counted(len(sizes) - 1, 'other size')} in other runs" if len(sizes) > 1 else ""
            board.say(f"{name:<12}{sizes[0]}{others}")


def _disk(pending: Sequence[PlannedRun]) -> str:
    """Return how much the pending runs will write to disk."""
    sized = [(planned.sizes, planned.experiment.keep) for planned in pending if planned.sizes is not None]
    if not sized:
        return ""
    stays, most = sum(sizes.kept(keep) for sizes, keep in sized), written_bytes(pending)
    free = shutil.disk_usage(pending[0].experiment.runs_dir).free
    what = "/".join(dict.fromkeys(keep for _, keep in sized))
    return f"; disk: {display(stays)} kept (keep={what}), at most {display(most)} during training, {display(free)} free"


def _training_size(experiment: Experiment) -> str:
    spec = experiment.train
    length = f"{spec.max_steps} steps" if spec.max_steps else f"{spec.epochs:g} epochs"
    emulates = hardware.without_bfloat16_units() if spec.precision == "bf16" else ""
    return (
        f"{experiment.model.name} on {experiment.data.name}: {length} of {spec.global_batch_size} rows, "
        f"{spec.precision} on {hardware.device()}{f' ({emulates} has no units for it)' if emulates else ''}, "
        f"loss on {spec.loss_on}"
    )


def _evaluation_size(experiment: Experiment) -> str:
    """Return the evaluations with their sizes.

    For example `answer loss on validation (200 rows), test (200 rows); hellaswag (100 items, retention)`.
    """
    looks = evaluations(experiment)
    parts = [f"{e.role} ({e.limit or 'all'} rows)" for e in looks if e.kind == "heldout"]
    tasks = [
        f"{e.task} ({e.limit or 'all'} items{', retention' if e.role == 'retention' else ''})"
        for e in looks
        if e.kind == "lm_eval"
    ]
    return f"answer loss on {', '.join(parts)}" + (f"; {', '.join(tasks)}" if tasks else "")
