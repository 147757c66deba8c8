"""Device hours of all attempts, tuning included, and their price, wherever they are shown."""

import dataclasses
import io
import json

import pytest

from harness.records import record
from harness.report.analysis import axes
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.data.rows import Row
from harness.report.pages.report import details
from harness.report.writers.flat import flat
from harness.report.writers.markdown import to_markdown
from tests.report.conftest import BASE, DORA, LOOKS, LORA, add_evaluation, add_run


def rewritten(folder, price=None, **changes):
    """A run's record with other facts in its last attempt, and a price in its configuration."""
    path = folder / "record.json"
    run = record.read(record.RunRecord, path)
    last = dataclasses.replace(run.current, **changes)
    config = {**run.config, "price_per_device_hour": price}
    record.write(dataclasses.replace(run, config=config, attempts=(*run.attempts[:-1], last)), path)


@pytest.fixture
def made(runs):
    folders = {}
    for kind in (BASE, LORA, DORA):
        folders[kind.name] = add_run(runs, kind)
        for look in LOOKS:
            add_evaluation(folders[kind.name], kind, look)
    return runs, folders


def test_an_attempt_counts_from_its_beginning_to_its_end_with_all_its_processes(made):
    runs, folders = made
    provenance = {"num_processes": 4, "device_name": "Some GPU"}
    rewritten(folders["lora"], price=2.0, seconds=900.0, provenance=provenance)
    rewritten(folders["dora"], seconds=1800.0)
    found = {line["method"]: line for line in flat(load([runs]).rows)}
    assert (found["lora"]["device_hours"], found["lora"]["cost"]) == (1.0, 2.0)
    assert (found["dora"]["device_hours"], found["dora"]["cost"]) == (0.5, None)
    assert found["base"]["device_hours"] == pytest.approx(3.0 / 3600), "an old record has the seconds of its phases"


def test_failed_attempts_are_paid_for(runs):
    folder = add_run(runs, LORA, status="oom", reason="no memory")
    rewritten(folder, seconds=3600.0)
    failed = record.read(record.RunRecord, folder / "record.json").attempts
    folder = add_run(runs, LORA, attempts=failed)
    rewritten(folder, seconds=1800.0)
    [row] = load([runs]).rows
    assert axes.device_hours(row) == 1.5


def cell(contestant, stage):
    return record.Cell(
        overrides=(), method="lora", recipe_id="", seed=0, eval_ids=(), stage=stage, contestant=contestant
    )


def test_a_result_is_charged_with_the_trials_of_its_contestant_and_with_none_twice(runs):
    folder = add_run(runs, LORA)
    rewritten(folder, seconds=3600.0)
    run = record.read(record.RunRecord, folder / "record.json")

    def row(recipe, contestant, stage):
        return Row(method="lora", recipe_id=recipe, seed=0, record=run, cell=cell(contestant, stage), price=10.0)

    trials = [row("a", "lora", "tune"), row("b", "lora", "tune"), row("c", "dora", "tune")]
    [result, other] = axes.with_trials([row("b", "lora", "final"), row("d", "vera", "final")], trials)
    assert (axes.device_hours(result), axes.tuning_hours(result), axes.cost_of_run(result)) == (1.0, 1.0, 20.0), (
        "b is the result"
    )
    assert axes.tuning_hours(other) is None


def test_hours_and_cost_are_in_the_appendix_and_among_the_trade_offs(made):
    runs, folders = made
    for name, seconds in (("lora", 3600.0), ("dora", 7200.0)):
        rewritten(folders[name], seconds=seconds)
    loaded = load([runs])
    plain = to_markdown("Appendix", details(Comparison(loaded)))
    assert "| Device hours with tuning |" in plain
    assert "Cost with tuning" not in plain, "nobody has set a price"
    priced = axes.priced(loaded, 1.5)
    text = to_markdown("Appendix", details(Comparison(priced)))
    assert "| Device hours with tuning | Cost with tuning |" in text
    assert "In total 3.00 device hours in 3 attempts" in text
    assert any("DoRA" in line and "2.00" in line and "3.00" in line for line in text.splitlines())


def test_the_command_takes_a_price(made, capsys):
    from harness.report.__main__ import main

    runs, folders = made
    rewritten(folders["lora"], seconds=3600.0)
    assert main([str(runs), "--price", "2.5", "--csv", "-"]) == 0
    import csv

    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["method"]: row["cost"] for row in rows}["lora"] == "2.5"
    json.dumps(rows)
