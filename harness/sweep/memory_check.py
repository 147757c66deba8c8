"""Memory predictions before a sweep starts. Cells that cannot fit on the device are not started.

There is no prediction without a limit, which is the memory of the machine's GPU or of `plan.device`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config.experiment import Experiment, canonical, recipe
from harness.measure import hardware
from harness.plan.devices import Device, named
from harness.run import isolate, run
from harness.run.fallbacks import instead, ladder
from harness.run.progress import board
from harness.sweep.planned_runs import PlannedRun

_GIB = 2**30
_NO_MATTER = (  # training settings that do not change memory
    "lr", "max_steps", "epochs", "lr_scheduler_type", "warmup_steps", "weight_decay", "loss_on", "group_by_length",
)  # fmt: skip


def set_aside(pending: list[PlannedRun], runs_dir: Path) -> list[PlannedRun]:
    """Print the plan, record cells that cannot fit as skipped unless `plan.enforce` is false, and return the others.

    Raises:
        ValueError: `plan.device` is neither a known device nor an amount of memory.
    """
    device = _device(pending[0].experiment) if pending else None
    trained = [planned.experiment for planned in pending if _is_predicted(planned.experiment)]
    if device is None or not trained:
        return pending
    asked = {_key(one): one for one in trained}
    least = {key: _with_least(one) for key, one in asked.items()}
    every = {_key(one): one for one in (*asked.values(), *least.values())}
    plans = _predicted(every, device, runs_dir)
    _show(asked, plans, device)
    left = []
    for planned in pending:
        experiment = planned.experiment
        reason = _reason(plans.get(_key(_with_least(experiment))), device) if _is_predicted(experiment) else ""
        if reason and experiment.plan.enforce:
            run.skip(experiment, f"{reason}; plan.enforce=false runs it all the same")
        else:
            left.append(planned)
    return left


def peak_bytes(plan: Sequence[PlannedRun], device: Device, runs_dir: Path) -> int | None:
    """Return the highest predicted peak of training these runs; None if one of them is not predicted."""
    if not all(_is_predicted(planned.experiment) for planned in plan):
        return None
    plans = _predicted({_key(planned.experiment): planned.experiment for planned in plan}, device, runs_dir)
    peaks = [one["peak_bytes"] for one in plans.values()]
    return max(peaks) if peaks and all(peaks) else None


def _is_predicted(experiment: Experiment) -> bool:
    """Return True if the training step is predicted. The memory of a sharded step is not."""
    return experiment.method.trains and experiment.launch.sharding == "none"


def _device(experiment: Experiment) -> Device | None:
    if experiment.plan.device is not None:
        return named(experiment.plan.device, "plan.device")
    memory = hardware.memory_bytes()
    return None if memory is None else Device("this GPU", memory, None, on_gpu=True)


def _with_least(experiment: Experiment) -> Experiment:
    """Return the experiment after the last fallback for exhausted memory, which needs the least."""
    least = instead(experiment) or experiment
    return dataclasses.replace(least, train=ladder(least)[-1].applied(least.train))


def _key(experiment: Experiment) -> str:
    """Return a key that cells of equal memory share. Seed, learning rate and data are not part of it."""
    found = recipe(experiment)
    method = {name: value for name, value in found["method"].items() if name != "lr"}
    train = {name: value for name, value in found["train"].items() if name not in _NO_MATTER}
    return canonical([found["model"], method, train, experiment.launch.num_processes])


_known: dict[tuple[str, Device], dict[str, Any]] = {}


def _predicted(every: dict[str, Experiment], device: Device, runs_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the plan of each experiment, computed in a process that has the libraries. Plans are cached."""
    new = {key: one for key, one in every.items() if (key, device) not in _known}
    if new:
        board.start_bar("planning")
        try:
            arguments = (list(new.values()), device, None)
            ended = isolate.call(
                "harness.plan.predict:cells", *arguments, log=runs_dir / "check.log", on_event=board,
                terms=isolate.WITHOUT_GPU,
            )  # fmt: skip
        finally:
            board.end()
        if ended.kind != "returned":
            board.say(f"not planned: {ended.reason}")
            return {}
        _known.update({(key, device): plan for key, plan in zip(new, ended.value, strict=True)})
    return {key: _known[key, device] for key in every}


def _show(asked: dict[str, Experiment], plans: dict[str, dict[str, Any]], device: Device) -> None:
    board.say(f"plan for {device.name}: {device.usable_bytes / _GIB:.2f} GiB are counted as usable")
    for key, experiment in asked.items():
        plan, least = plans.get(key), plans.get(_key(_with_least(experiment)))
        if plan is None or least is None:
            continue
        spec = experiment.train
        what = (
            f"{experiment.method.name} on {experiment.model.name}, {spec.micro_batch_size} x {spec.max_length} tokens"
        )
        if plan["unpredicted"] or least["unpredicted"]:
            board.say(f"  {what}: not predicted")
            continue
        quantized = ", its base in 4 bits" if instead(experiment) else ""
        smaller = f"fits with {ladder(experiment)[-1]}{quantized}" if least["fits"] else "does not fit"
        board.say(f"  {what}: {plan['peak_bytes'] / _GIB:.2f} GiB, {'fits' if plan['fits'] else smaller}")


def _reason(plan: dict[str, Any] | None, device: Device) -> str:
    if plan is None or plan["unpredicted"] or plan["fits"]:
        return ""
    return (
        f"would need {plan['peak_bytes'] / _GIB:.2f} GiB of the {device.usable_bytes / _GIB:.2f} that {device.name} "
        f"offers ({plan['micro_batch_size']} rows of {plan['max_length']:,} tokens at once)"
    )
