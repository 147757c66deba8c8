"""A run that was interrupted loses nothing in a report: its training, its cost and its finished evaluations stand."""

import dataclasses
import io

import pytest
from rich.console import Console

from harness.records import record
from harness.records.record import Cell, RunRecord, SweepRecord
from harness.report.analysis import remarks
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.html import overview
from harness.report.pages import report
from harness.report.pages.tables import cost
from harness.report.writers import terminal
from harness.report.writers.flat import flat
from tests.report.conftest import BASE, DORA, LOOKS, LORA, STARTED, add_evaluation, add_run, attempt, shown

REASON = "interrupted in phase evaluate at 12 of 300; can be resumed, its weights are kept"
COMMAND = "python -m harness -m method=lora,dora"


def stop(folder, kind, **changes):
    """Turn an ok run into one that was ended from outside in its evaluation."""
    path = folder / "record.json"
    made = record.read(RunRecord, path)
    changed = dataclasses.replace(made.current, status="failed", reason=REASON, ended_in="evaluate", **changes)
    record.write(dataclasses.replace(made, attempts=(*made.attempts[:-1], changed)), path)


def with_sweep(runs, folders):
    cells = tuple(
        Cell(
            overrides=(f"method={kind.name}",), method=kind.name, recipe_id=folder.parent.name, seed=0,
            eval_ids=tuple(look.eval_id for look in LOOKS),
        )
        for kind, folder in folders
    )  # fmt: skip
    sweep = SweepRecord(schema=record.SCHEMA, name="methods", question="Which?", command=COMMAND, cells=cells)
    record.write(sweep, runs / "sweeps" / "methods" / "sweep.json")
    return load([runs], "methods")


@pytest.fixture(params=[None, "evaluation"], ids=["older record", "record"])
def loaded(request, runs):
    """A finished base and LoRA, and a DoRA that was interrupted with three of its four evaluations made."""
    folders = [(kind, add_run(runs, kind)) for kind in (BASE, LORA, DORA)]
    for kind, folder in folders:
        for look in LOOKS if kind is not DORA else LOOKS[:3]:
            add_evaluation(folder, kind, look)
    stop(folders[2][1], DORA, stopped=request.param)
    return with_sweep(runs, folders)


def test_its_status_is_interrupted_and_it_is_no_failure(loaded):
    assert [row.status for row in loaded.rows] == ["ok", "ok", "interrupted"]
    line = flat(loaded.rows)[2]
    assert (line["status"], line["reason"]) == ("interrupted", REASON)
    assert loaded.unreadable == ()


def test_training_cost_and_finished_evaluations_are_shown(loaded):
    line = flat(loaded.rows)[2]
    assert line["train_seconds"] == pytest.approx(12_840 / DORA.speed)
    assert line["peak_memory_bytes"] == DORA.peak
    assert line["arc_easy/acc"] > 0.5
    assert line["hellaswag/acc"] is None
    assert line["test_loss"] is not None
    groups = Comparison(loaded).groups
    costs = shown(cost(groups))[2]
    assert (costs["Peak memory (GiB)"], costs["Tokens/s"]) == ("1.61", "141")
    scores = shown(Comparison(loaded).main_table)[2]
    assert scores["ARC-e (%) \N{UPWARDS ARROW}"].startswith(f"{100 * line['arc_easy/acc']:.1f}")
    assert scores["HSwag change (points) \N{UPWARDS ARROW}"] == "\N{EN DASH}"
    assert str(Comparison(loaded).main_table.notes[-1]).endswith("No result: interrupted.")


def test_the_report_names_what_is_missing_and_the_command_that_goes_on(loaded):
    [line] = remarks.interruptions(loaded)
    assert line.startswith(f"DoRA seed 0: {REASON}")
    assert "evaluated: ARC and OpenBookQA (validation); ARC and OpenBookQA (test); and ARC-Easy" in line
    assert "missing: HellaSwag" in line
    assert line.endswith(f"go on with: {COMMAND}")
    page = report.page(Comparison(loaded))
    assert "Interrupted, and can go on:" in page
    assert "its weights are kept; evaluated" in page
    screen = io.StringIO()
    terminal.show(Comparison(loaded), console=Console(file=screen, width=100))
    assert "interrupted DoRA seed 0" in screen.getvalue()
    assert COMMAND in " ".join(screen.getvalue().split())


def test_the_page_shows_its_numbers_and_marks_what_is_missing(loaded):
    table = overview.content(Comparison(loaded))
    keys = [column["key"] for column in table["columns"]]
    [row] = [row for row in table["rows"] if row["status"] == "interrupted"]
    cells = dict(zip(keys, row["cells"], strict=True))
    assert cells["arc_easy/acc"][1] > 0.5
    assert cells["arc_easy/acc_vs_base"][1] > 0
    assert cells["hellaswag/acc"] == ["missing", None, "the run was interrupted before this evaluation"]
    assert cells["peak_memory_bytes"][1] == DORA.peak
    assert cells["train_seconds"][1] == pytest.approx(12_840 / DORA.speed)
    assert row["reason"] == REASON


def test_its_unfinished_scores_take_part_in_no_claim(loaded):
    groups = Comparison(loaded).groups
    assert [group.label for group in groups if group.ok] == ["base", "lora"]
    assert [group.label for group in groups if group.trained] == ["lora"]


def test_an_error_is_a_failure_and_keeps_no_older_scores(runs):
    """A raised error ends a run by itself; and training that was stopped has no scores of weights made before."""
    folder = add_run(runs, LORA, seed=0)
    stop(folder, LORA, stopped="no")
    again = add_run(runs, DORA, seed=0)
    add_evaluation(again, DORA, LOOKS[2])
    made = record.read(RunRecord, again / "record.json")
    later = dataclasses.replace(
        attempt(DORA, 0), started_at=STARTED.format(59), status="failed", reason="interrupted", stopped="training",
        ended_in="train",
    )  # fmt: skip
    record.write(dataclasses.replace(made, attempts=(*made.attempts, later)), again / "record.json")
    rows = {row.method: row for row in load([runs]).rows}
    assert (rows["lora"].status, rows["dora"].status) == ("failed", "interrupted")
    assert rows["dora"].scored == ()


def test_an_attempt_that_only_evaluated_keeps_the_scores_of_its_weights(runs):
    folder = add_run(runs, LORA)
    add_evaluation(folder, LORA, LOOKS[2])
    made = record.read(RunRecord, folder / "record.json")
    later = dataclasses.replace(
        made.current, started_at=STARTED.format(59), status="failed", reason=REASON, stopped="evaluation"
    )
    record.write(dataclasses.replace(made, attempts=(*made.attempts, later)), folder / "record.json")
    [row] = load([runs]).rows
    assert (row.status, [scored.task for scored in row.scored]) == ("interrupted", ["arc_easy"])
