"""A look at a sweep whose seeds are added until it is decided: levels, what is open, and the line in the report."""

import json
from dataclasses import replace

import pytest
import tuned_tree

from harness.records import record
from harness.records.record import Looks, SweepRecord
from harness.report.__main__ import main
from harness.report.analysis import tested_claims
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.data.rows import claim_level, family_level
from harness.stats.sequential import look_levels


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tuned_tree.build(tmp_path_factory.mktemp("looks") / "runs")


def with_looks(runs, **changes):
    loaded = load([runs], "tuned")
    tuning = replace(loaded.sweep.tuning, looks=Looks(first=3, most=8, methods=5), **changes)
    return replace(loaded, sweep=replace(loaded.sweep, tuning=tuning))


def test_the_level_is_that_of_the_look(runs):
    plain, looked = load([runs], "tuned"), with_looks(runs)
    assert family_level(plain.sweep, 0.05) == 0.05
    assert claim_level(plain.sweep, 0.05, 10) == pytest.approx(0.005)
    assert family_level(looked.sweep, 0.05) == look_levels(3, 8, 5)[3]
    assert claim_level(looked.sweep, 0.05, 10) == look_levels(3, 8, 2, 0.005)[3]


def test_every_interval_of_the_report_is_drawn_at_it(runs):
    wide, plain = (Comparison(loaded).claims[0] for loaded in (with_looks(runs), load([runs], "tuned")))
    assert wide.comparison.level == look_levels(3, 8, 5)[3] < plain.comparison.level == 0.05
    for one, other in zip(wide.against_base, plain.against_base, strict=True):
        assert one.result.adjusted_interval[0] < other.result.adjusted_interval[0]


def test_the_line_counts_what_was_saved(runs):
    text = tested_claims.looks_line(Comparison(with_looks(runs)))
    assert "at most 8: 6 for each of 5 methods" in text
    assert "saving 10 runs" in text
    assert f"The level of this look is {look_levels(3, 8, 5)[3]:.4f}" in text
    assert tested_claims.looks_line(Comparison(load([runs], "tuned"))) == ""


def test_the_command_says_what_is_open(runs, capsys, tmp_path):
    assert main(["look", str(runs), "--sweep", "tuned"]) == 1
    assert capsys.readouterr().out.startswith("undecided: ")
    assert main(["look", str(runs), "--sweep", "tuned", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["decided"] is False
    assert len(document["undecided"]) >= 1
    assert document["answer"].startswith("undecided: ")
    assert main(["look", str(runs), "--sweep", "other"]) == 2
    assert "no sweep 'other'" in capsys.readouterr().err


def test_claims_decide_where_there_are_some(runs, capsys):
    path = runs / "sweeps" / "tuned" / "sweep.json"
    before = path.read_bytes()
    made = record.read(SweepRecord, path)
    claim = record.ClaimRecord(claim="lora > base on arc_easy/acc", source=None, note=None)
    try:
        record.write(replace(made, claims=(claim,)), path)
        assert main(["look", str(runs), "--sweep", "tuned"]) == 0
        assert capsys.readouterr().out == "decided: every comparison has a verdict\n"
        record.write(replace(made, claims=(replace(claim, claim="lora > dora on arc_easy/acc"),)), path)
        assert main(["look", str(runs), "--sweep", "tuned"]) == 1
        assert "lora > dora on arc_easy/acc" in capsys.readouterr().out
    finally:
        path.write_bytes(before)
