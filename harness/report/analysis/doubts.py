"""Reasons to doubt a timing: interference while it was taken, such as other processes or a throttled clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records.record import Attempt, Phase
from harness.report.data.groups import Group
from harness.report.display import quantity

OTHERS = 0.1  # share of the cores that other processes keep busy; timings vary by as much anyway
THROTTLED = 0.05  # share of a phase's seconds
TIMED = ("train", "validate", "evaluate", "generate", "inference")  # the phases whose seconds and rates are shown
HELD_BACK = 0.01  # share of a phase's seconds in which a limit held the GPU's clock down
# The power limit is not among them: it belongs to the card and holds for every run on it. These come and go.
LIMITS = ("thermal", "reliability")
SLOWED = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")

CPU, LIMIT, COMPANY, CLOCK = (
    "other processes kept part of the processor busy",
    "the control group's limit on processor time held the run back",
    "other processes computed on the GPU",
    "heat or power held the GPU's clock down",
)


def of_phase(phase: Phase) -> dict[str, str]:
    """Return each reason to doubt a phase's seconds with its amount; {} without any, or without measurements."""
    seen, found = phase.conditions, {}
    if seen is None:
        return {}
    if seen.cpu_cores and (seen.other_cpu_cores or 0) > OTHERS * seen.cpu_cores:
        found[CPU] = f"{quantity(seen.other_cpu_cores)} of {seen.cpu_cores} cores"
    if (seen.throttled_seconds or 0) > THROTTLED * phase.seconds:
        found[LIMIT] = f"{quantity(seen.throttled_seconds)} s"
    if seen.other_device_processes:
        found[COMPANY] = str(seen.other_device_processes)
    slowed = [reason for reason in seen.throttle_reasons or () if reason in SLOWED]
    limited = seen.limited_seconds or {}
    least = HELD_BACK * phase.seconds
    slowed += [f"{name} {quantity(limited[name])} s" for name in LIMITS if limited.get(name, 0) > least]
    if slowed:
        found[CLOCK] = ", ".join(slowed)
    return found


def of_attempt(attempt: Attempt | None, phases: Iterable[str] = TIMED) -> dict[str, str]:
    """Return the reasons of an attempt's phases, each with the first phase that has it and the amount there."""
    found: dict[str, str] = {}
    for name in phases:
        phase = attempt.phases.get(name) if attempt else None
        for reason, amount in (of_phase(phase) if phase else {}).items():
            found.setdefault(reason, f"{amount} in {name}")
    return found


def lines(groups: Sequence[Group]) -> list[str]:
    """Return one line for each reason, with the groups that were timed under it."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for row in group.rows if group.ok else ():
            who = group.name if len(group.rows) == 1 else f"{group.name} seed {row.seed}"
            for reason, amount in of_attempt(row.current).items():
                found.setdefault(reason, []).append(f"{who} ({amount})")
    return [f"Timing caveat: {reason}: {'; '.join(who)}." for reason, who in found.items()]
