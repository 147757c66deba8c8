"""Training speed in operations per second and as a share of the device's peak, and the energy of training."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records.record import Training
from harness.report.analysis.axes import trainings
from harness.report.data.groups import Group
from harness.report.display import mean
from harness.report.document import Cell, Column, Missing, Number, Table, Text

GIGA = 1e9
TEXT = (
    "Operations are those of one optimizer step, counted as they were computed and scaled by the positions of all "
    "counted steps; MFU is their rate over the device's peak, the best of several matrix products in the run's own "
    "precision, measured before and after training. Energy is the whole GPU's while training."
)


def table(groups: Sequence[Group]) -> Table | None:
    """Return the table of speeds as means over the seeds; None where no rate is known."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        runs = trainings(group) if group.trained else []
        if any(run.flops_per_second for run in runs):
            known = (*_rates(runs), _energy(group))
            cells = [Missing("not measured") if value is None else Number(value) for value in known]
            rows.append((Text(group.name, group.label), *cells))
    columns = (
        Column("method", "Method", text=True),
        Column("flops_per_second", "Operations", "GFLOP/s", 1 / GIGA),
        Column("device_peak_flops_per_second", "Peak of the device", "GFLOP/s", 1 / GIGA),
        Column("mfu", "MFU", "%", 100.0, 1),
        Column("train_energy_joules", "Energy", "J"),
    )
    return Table(columns, tuple(rows), caption=f"Training speed and energy. {TEXT}", label="speed") if rows else None


def unknown(groups: Sequence[Group]) -> list[str]:
    """Return a line for each reason of a missing MFU, with the groups without it."""
    found: dict[str, list[str]] = {}
    for group in groups:
        peaks = [training.device_peak for training in trainings(group)] if group.trained else []
        for reason in dict.fromkeys(peak.doubt for peak in peaks if peak and peak.doubt):
            found.setdefault(reason, []).append(group.name)
    return [f"No MFU of {', '.join(who)}: {reason}." for reason, who in found.items()]


def _rates(runs: Sequence[Training]) -> tuple[float | None, float | None, float | None]:
    """Return operations per second, those of the device's peak, and their ratio."""
    return (
        mean(run.flops_per_second for run in runs),
        mean(run.device_peak.flops_per_second if run.device_peak else None for run in runs),
        mean(run.mfu for run in runs),
    )


def _energy(group: Group) -> float | None:
    phases = [row.current.phases.get("train") if row.current else None for row in group.rows]
    return mean(phase.energy_joules if phase else None for phase in phases)
