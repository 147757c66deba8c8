"""An A/A test of a folder: honest seeds give few false verdicts, and a planted difference between seeds many."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import tuned_tree
from statsmodels.stats.proportion import proportion_confint

from harness.report.__main__ import main
from harness.report.analysis import noise
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.noise import Tally
from harness.report.data.load import load
from harness.stats.proportion import wilson_of_rate
from tests.report.conftest import LORA, add_evaluation, add_run, evaluation


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tuned_tree.build(tmp_path_factory.mktemp("aa") / "runs")


def test_every_way_to_divide_is_taken_once():
    ways = list(noise._divided(range(6), 3))
    assert len(ways) == 10
    assert {frozenset((frozenset(a), frozenset(b))) for a, b in ways} == {
        frozenset((frozenset(a), frozenset(range(6)) - frozenset(a))) for a in combinations(range(6), 3)
    }
    assert len(list(noise._divided(range(5), 2))) == 15


def test_equal_seeds_are_not_called_different(runs):
    tallies = noise.aa_test(Comparison(load([runs], "tuned")))
    assert {one.method.partition(" ")[0] for one in tallies} == {"lora", "dora", "ia3", "full", "prompt"}
    assert {one.seeds for one in tallies} == {5, 6}
    judged = [one.false / (one.ways - one.silent) for one in tallies if one.ways > one.silent]
    assert len(judged) == len(tallies) >= 20
    assert np.mean(judged) <= 0.05


def test_seeds_of_two_kinds_are_noticed(runs):
    """Half of the seeds of one method get other answers: dividing them that way is called different."""
    loaded = load([runs], "tuned")

    def changed(row):
        if row.method != "lora" or row.seed < 3:
            return row
        return replace(row, scored=tuple(_worse(one) for one in row.scored))

    def _worse(scored):
        if scored.task != "arc_easy" or scored.items is None:
            return scored
        items = scored.items
        outcomes = {name: values * (np.arange(len(values)) % 3 > 0) for name, values in items.outcomes.items()}
        metrics = {
            name: replace(metric, value=float(outcomes[name].mean())) for name, metric in scored.record.metrics.items()
        }
        other = replace(scored, record=replace(scored.record, metrics=metrics))
        other.__dict__["_read"] = (replace(items, outcomes=outcomes), "")
        return other

    noisy = Comparison(replace(loaded, rows=tuple(map(changed, loaded.rows))))
    tallies = {(one.method, one.title): one for one in noise.aa_test(noisy)}
    assert tallies["lora", "arc_easy (acc)"].false >= 1
    assert tallies["full", "arc_easy (acc)"].false == 0


def test_the_command_prints_every_method_and_the_rate(runs, capsys):
    assert main(["aa", str(runs), "--sweep", "tuned"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("A/A test: seeds of one method named as two, in ")
    assert "at a level of 5% (95 % interval" in lines[-1]
    assert any(line.startswith("lora on arc_easy (acc): 6 seeds, 10 ways, ") for line in lines)
    assert main(["aa", str(runs), "--sweep", "tuned", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rates = [one["false"] / (one["ways"] - one["silent"]) for one in document["tallies"] if one["ways"] > one["silent"]]
    assert document["rate"] == pytest.approx(np.mean(rates))
    assert document["interval"][0] <= document["rate"] <= document["interval"][1]
    assert len(document["tallies"]) == len(lines) - 1


def test_a_folder_with_few_seeds_is_refused(tmp_path, capsys):
    add_evaluation(add_run(tmp_path / "runs", LORA), LORA, evaluation("arc_easy"))
    assert main(["aa", str(tmp_path / "runs")]) == 2
    assert "no method has 5 seeds on a target task" in capsys.readouterr().err


def test_a_rate_counts_each_method_on_a_task_once():
    tallies = [Tally("a", "t", 6, 10, 1, 0), Tally("b", "t", 6, 10, 0, 5), Tally("c", "t", 6, 10, 0, 10)]
    text = noise.aa_line(tallies)
    low, high = proportion_confint(0.1, 2, method="wilson")
    assert "in 30 ways on 3 methods and 1 task: 1 false verdicts, 15 without one: 5.0%" in text
    assert f"interval {low:.1%} to {high:.1%}" in text
    assert wilson_of_rate(0.05, 2) == pytest.approx((low, high))
    assert noise.aa_line([]) == ""
    assert "no way made a verdict" in noise.aa_line(tallies[2:])
