"""Runs that were interrupted: what they have, what they lack, and the command that goes on."""

from __future__ import annotations

from harness.report import names
from harness.report.data.rows import Loaded, Row
from harness.report.display import several


def lines(loaded: Loaded) -> list[str]:
    """Return a line for each interrupted run of a report, its trials included."""
    titles = _titles(loaded)
    return [_line(row, loaded, titles) for row in (*loaded.rows, *loaded.trials) if row.status == "interrupted"]


def command(row: Row, loaded: Loaded) -> str:
    """Return the command that finishes the run: the sweep's, else the run's own; "" where no record has it."""
    if loaded.sweep is not None:
        return loaded.sweep.command
    return str(row.current.provenance.get("command") or "") if row.current else ""


def _line(row: Row, loaded: Loaded, titles: dict[str, str]) -> str:
    done = [names.task(scored.task).display for scored in row.scored]
    parts = [f"{row.title}: {row.reason}"]
    if done:
        parts.append(f"evaluated: {several(done, 12)}")
    if row.unfinished:
        parts.append(f"missing: {several([titles.get(eval_id, eval_id) for eval_id in row.unfinished], 12)}")
    if resume := command(row, loaded):
        parts.append(f"go on with: {resume}")
    return "; ".join(parts)


def _titles(loaded: Loaded) -> dict[str, str]:
    """Return the task of every evaluation that some run of the report has."""
    every = (scored for row in (*loaded.rows, *loaded.trials) for scored in row.scored)
    return {scored.record.eval_id: names.task(scored.task).display for scored in every}
