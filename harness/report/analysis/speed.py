"""Training speed in operations per second and as a share of the device's peak, and the energy of training."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records.record import Training
from harness.report.data.groups import Group
from harness.report.display import DASH, decimals, mean, quantity
from harness.report.pages.summary import Table, trainings

GIGA = 1e9
TEXT = (
    "Operations are those of one optimizer step, counted as they were computed and scaled by the positions of all "
    "counted steps; MFU is their rate over the device's peak, the best of several matrix products in the run's own "
    "precision, measured before and after training. Energy is the whole GPU's while training."
)


def table(groups: Sequence[Group]) -> Table | None:
    """Return the table of speeds as means over the seeds; None where no rate is known."""
    lines = []
    for group in groups:
        runs = trainings(group) if group.trained else []
        if any(one.flops_per_second for one in runs):
            lines.append((group.label, *_rates(runs), quantity(_energy(group))))
    header = ("Method", "GFLOP/s", "Peak, GFLOP/s", "MFU, %", "Energy, J")
    return Table("Speed", header, tuple(lines)) if lines else None


def unknown(groups: Sequence[Group]) -> list[str]:
    """Return a line for each reason of a missing MFU, with the groups without it."""
    found: dict[str, list[str]] = {}
    for group in groups:
        peaks = [one.device_peak for one in trainings(group)] if group.trained else []
        for reason in dict.fromkeys(peak.doubt for peak in peaks if peak and peak.doubt):
            found.setdefault(reason, []).append(group.label)
    return [f"No MFU of {', '.join(who)}: {reason}." for reason, who in found.items()]


def _rates(runs: Sequence[Training]) -> tuple[str, ...]:
    rate = mean(one.flops_per_second for one in runs)
    peak = mean(one.device_peak.flops_per_second if one.device_peak else None for one in runs)
    share = mean(one.mfu for one in runs)
    return (
        quantity(None if rate is None else rate / GIGA),
        quantity(None if peak is None else peak / GIGA),
        DASH if share is None else decimals(100 * share, 1),
    )


def _energy(group: Group) -> float | None:
    phases = [row.current.phases.get("train") if row.current else None for row in group.rows]
    return mean(phase.energy_joules if phase else None for phase in phases)
