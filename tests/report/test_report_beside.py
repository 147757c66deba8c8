"""What stands beside the rows of a comparison: general text in the main table, the rows of others in the plots."""

import dataclasses

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from harness.records import record
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.figures import scatter
from harness.report.pages import report
from harness.report.pages.tables import losses
from harness.report.writers.folder import named_tables
from tests.report.conftest import (
    BASE,
    IA3,
    LOOKS,
    LORA,
    STARTED,
    add_evaluation,
    add_run,
    evaluation,
    provenance,
    shown,
)

TEXT = dataclasses.replace(evaluation("arc_easy"), kind="text", task="general_text", role="retention", limit=40)


def add_text(folder, kind) -> np.ndarray:
    losses = 3.0 + np.random.default_rng([*kind.name.encode()]).normal(0, 0.1, 40) + kind.skill / 10
    score = record.Metric(value=float(losses.mean()), stderr=0.01, higher_is_better=False)
    result = record.EvaluationRecord(
        schema=record.SCHEMA, recipe_id=folder.parent.name, seed=0, eval_id=TEXT.eval_id,
        evaluation=dataclasses.asdict(TEXT), metrics={"loss": score}, num_items=40, num_tokens=None, num_fewshot=None,
        seconds=2.0, weights_from=None if kind is BASE else STARTED.format(len(kind.name)), provenance=provenance(),
    )  # fmt: skip
    path = record.write(result, record.evaluation_path(folder, TEXT.eval_id))
    names = [f"t{i:02}" for i in range(40)]
    columns = {"item_id": names, "prompt_hash": names, "metric/loss": losses}
    parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))
    return losses


def test_the_loss_on_general_text_is_beside_the_other_losses_with_its_difference(runs):
    of_base, of_lora = (add_text(add_run(runs, kind), kind) for kind in (BASE, LORA))
    base, lora = shown(losses(Comparison(load([runs])).groups))
    gap, heading = of_lora - of_base, "General text loss \N{DOWNWARDS ARROW}"
    assert float(base[heading].split()[0]) == pytest.approx(of_base.mean(), abs=0.006)
    value, error = lora["Delta to base"].split(" \N{PLUS-MINUS SIGN} ")
    assert float(value) == pytest.approx(gap.mean(), abs=5e-4)
    assert float(error) == pytest.approx(gap.std(ddof=1) / 40**0.5, abs=5e-4)


def external(name: str, task: str) -> record.ExternalRecord:
    return record.ExternalRecord(
        schema=record.SCHEMA, origin="Somebody's benchmark", name=name, method="LORA", status="success", seeds=1,
        facts={}, scores={f"{task}/accuracy": record.Metric(value=0.99, stderr=0.01, higher_is_better=True)},
        trainable_parameters=10, total_parameters=100, peak_memory_bytes=2**20, train_seconds=1.0, saved_bytes=1,
        published_at="2026-01-01",
    )  # fmt: skip


@pytest.mark.parametrize(("task", "drawn"), [("arc_easy", True), ("gsm8k", False)])
def test_rows_of_others_are_drawn_apart_and_never_ranked(runs, tmp_path, task, drawn):
    for kind in (BASE, LORA, IA3):
        add_evaluation(add_run(runs, kind), kind, LOOKS[2])
    record.write(external("theirs", task), runs / "external" / "theirs.json")
    loaded = load([runs])
    fronts = []
    for name, rows in (("beside", loaded.external), ("alone", ())):
        made = scatter.tradeoffs(Comparison(loaded).groups, None, rows)[0]
        made.save(tmp_path / name)
        fronts.append(made.element(tmp_path / name).count("stroke: #999999"))
        assert ("Gray crosses: Somebody's benchmark, one seed" in made.caption) == (drawn and name == "beside")
        assert ("theirs" in made.element(tmp_path / name)) == (drawn and name == "beside")
    assert fronts[0] == fronts[1] > 0
    made = named_tables(report.details(Comparison(loaded))).values()
    ranked = [table for table in made if table.title.startswith("Against")]
    assert ranked
    assert not any("theirs" in cell for table in ranked for line in shown(table) for cell in line.values())


def test_memory_that_ran_out_is_a_cross(tuned_report):
    page = (tuned_report / "report.md").read_text()
    assert "| Full fine-tuning | 5 | oom |" in page
    assert "Crosses: memory in use when it ran out." in page
    assert "OOM at 2.44" in (tuned_report / "figures" / "memory.svg").read_text()
