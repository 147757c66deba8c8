"""Outcomes behind a score: seeds that pair, items that give it, scores that guessing could have made."""

import dataclasses
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from harness.records import record
from harness.report.analysis import verdicts
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.remarks import contradicted
from harness.report.data import groups
from harness.report.data.groups import Measure, aligned, difference, grouped, paired_outcomes, unranked
from harness.report.data.load import load
from harness.stats import estimate
from tests.report import conftest
from tests.report.conftest import BASE, DORA, IA3, LORA, add_evaluation, add_run, evaluation

LOOK = evaluation("arc_easy")
ACC = Measure(LOOK.eval_id, "acc")


def add(runs, kind, seed=0, status="ok"):
    folder = add_run(runs, kind, seed, status, "" if status == "ok" else "the loss is no number")
    if status == "ok":
        add_evaluation(folder, kind, LOOK, seed)
    return folder / "evaluations" / f"{LOOK.eval_id}.json"


def groups_of(runs):
    return {group.label: group for group in grouped(load([runs]).rows)}


def rewrite(path, columns=None, **changes):
    """Replace items, and fields of the record."""
    found = record.read(record.EvaluationRecord, path)
    if columns is not None:
        parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))
        changes["num_items"] = len(columns["item_id"])
    record.write(dataclasses.replace(found, **changes), path)


def scored(path, right, chance=0.25, items=1319, higher=True):
    """Give an evaluation so many right answers."""
    values = [1.0] * right + [0.0] * (items - right)
    error = float(np.std(values, ddof=1) / items**0.5)
    metric = record.Metric(value=right / items, stderr=error, higher_is_better=higher, chance=chance)
    columns = {
        "item_id": [f"i{i:05}" for i in range(items)],
        "prompt_hash": [f"p{i}" for i in range(items)],
        "metric/acc": values,
    }
    rewrite(path, columns, metrics={"acc": metric})


@pytest.mark.parametrize("accuracy", [0.40, 0.32])
@pytest.mark.parametrize("spread", [(0.0,), (-0.02, 0.02), (-0.03, 0.03), (-0.02, 0.0, 0.02)])
def test_seeds_that_vary_put_no_method_at_chance(runs, accuracy, spread):
    for seed, shift in enumerate(spread):
        scored(add(runs, LORA, seed), round((accuracy + shift) * 1319))
    [group] = groups_of(runs).values()
    assert unranked(group, ACC) == ""


def test_a_guessing_method_is_at_chance_whatever_the_number_of_seeds(tmp_path):
    rng, told = np.random.default_rng(3), {1: 0, 2: 0, 3: 0}
    for seeds in told:
        for repeat in range(40):
            runs = tmp_path / f"{seeds}-{repeat}"
            runs.mkdir()
            for seed in range(seeds):
                scored(add(runs, LORA, seed), int(rng.binomial(1319, 0.25)))
            [group] = groups_of(runs).values()
            told[seeds] += bool(unranked(group, ACC))
    assert all(count >= 33 for count in told.values()), told  # 95 % of 40 and more, less four Monte Carlo errors


def test_a_score_below_chance_is_said_to_be_below_it(runs):
    scored(add(runs, LORA), round(0.15 * 1319))
    scored(add(runs, IA3), round(0.245 * 1319))
    found = groups_of(runs)
    assert unranked(found["lora"], ACC) == "below chance: 0.150, where guessing scores 0.250"
    assert unranked(found["ia3"], ACC) == "at chance: 0.245, not distinguishable from guessing, 0.250"


def test_a_score_that_should_be_low_is_held_against_chance_from_the_other_side(runs):
    scored(add(runs, LORA), round(0.60 * 1319), chance=0.75, higher=False)
    scored(add(runs, IA3), round(0.75 * 1319), chance=0.75, higher=False)
    found = groups_of(runs)
    assert unranked(found["lora"], ACC) == ""
    assert unranked(found["ia3"], ACC).startswith("at chance")


def test_a_lost_seed_does_not_unpair_the_others(runs):
    for seed in (0, 1, 2):
        add(runs, LORA, seed)
        add(runs, DORA, seed, "diverged" if seed == 1 else "ok")
    found = groups_of(runs)
    assert (found["lora"].num_seeds, found["dora"].num_seeds) == ("3", "2 of 3")
    first, second, _, paired = paired_outcomes(found["lora"], found["dora"], ACC)
    assert paired
    assert first.shape == second.shape == (2, 300)
    own = [row.scored[0].items.outcomes["acc"] for row in found["lora"].rows]
    assert np.array_equal(first, np.stack([own[0], own[2]]))
    assert difference(found["lora"], found["dora"], ACC).value == pytest.approx(float((first - second).mean()))


def test_outcomes_are_aligned_by_seed_with_a_gap_where_one_is_lost(runs):
    add(runs, BASE)
    for seed in (0, 1, 2):
        add(runs, LORA, seed)
        add(runs, DORA, seed, "diverged" if seed == 1 else "ok")
    found = groups_of(runs)
    everyone = [found["base"], found["dora"], found["lora"]]
    together = aligned(everyone, ACC)
    assert together.seeds == (0, 1, 2)
    assert {label: values.shape for label, values in together.values.items()} == {
        "base": (1, 300), "dora": (3, 300), "lora": (3, 300),
    }  # fmt: skip
    assert np.isnan(together.values["dora"]).all(axis=1).tolist() == [False, True, False]
    assert (together.untouched, together.unpaired, together.clusters) == (("base",), (), None)


def test_who_was_asked_other_items_is_not_aligned(runs):
    add(runs, LORA)
    path = add(runs, DORA).with_suffix(".parquet")
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(1, "prompt_hash", [["other"] * table.num_rows]), path)
    found = groups_of(runs)
    together = aligned([found["lora"], found["dora"]], ACC)
    assert (list(together.values), together.unpaired) == (["lora"], ("dora",))


def test_the_mean_over_subtasks_is_what_is_tested_where_it_is_what_is_shown(runs):
    columns = {
        "item_id": [f"i{i:03}" for i in range(100)], "prompt_hash": ["p"] * 100,
        "task": ["small"] * 10 + ["large"] * 90, "metric/acc": [1.0] * 10 + [0.0] * 60 + [1.0] * 30,
    }  # fmt: skip
    metric = record.Metric(value=(1.0 + 1 / 3) / 2, stderr=0.05, higher_is_better=True)
    for kind in (LORA, DORA):
        rewrite(add(runs, kind), columns, metrics={"acc": metric})
    columns["metric/acc"] = [0.0] * 10 + [0.0] * 60 + [1.0] * 30
    path = next(p for p in runs.glob(f"*/seed-0/evaluations/{LOOK.eval_id}.json") if _method(p) == "dora")
    rewrite(path, columns, metrics={"acc": dataclasses.replace(metric, value=1 / 6)})
    found = groups_of(runs)
    assert contradicted(load([runs]).rows) == []
    # ten of a hundred items differ, and they are half of the score
    assert difference(found["lora"], found["dora"], ACC).value == pytest.approx(0.5)


def test_a_score_that_its_own_items_do_not_give_is_named_and_not_tested(runs):
    add(runs, DORA)
    path = add(runs, LORA)
    metrics = record.read(record.EvaluationRecord, path).metrics
    value = metrics["acc"].value
    rewrite(path, metrics={**metrics, "acc": dataclasses.replace(metrics["acc"], value=0.75)})
    found = groups_of(runs)
    [line] = contradicted(load([runs]).rows)
    assert line.startswith(f"LoRA seed 0, arc_easy acc: the record says 0.75 and its items give {value:.6g}")
    assert paired_outcomes(found["lora"], found["dora"], ACC) is None
    assert difference(found["lora"], found["dora"], ACC) is None


def test_reports_and_tests_call_the_same_scores_equal():
    """Two constants, since a report must not load numpy to know it."""
    assert groups.EQUAL == estimate.EQUAL


def _method(path):
    return json.loads((path.parents[1] / "record.json").read_text())["method"]


def test_runs_that_are_equal_on_every_item_and_seed_have_a_report(runs, monkeypatch):
    """Such as those of a learning rate of zero: nothing varies, so that no seed variance has a source."""
    drawn = conftest.items_of
    monkeypatch.setattr(conftest, "items_of", lambda kind, seed, look: drawn(conftest.BASE, 0, look))
    for kind, seeds in ((conftest.BASE, (0,)), (conftest.LORA, (0, 1, 2)), (conftest.DORA, (0, 1, 2))):
        for seed in seeds:
            folder = conftest.add_run(runs, kind, seed)
            conftest.add_evaluation(folder, kind, conftest.evaluation("validation"), seed)
    comparison = Comparison(load([runs]))
    [contest] = comparison.contests
    result = comparison.claims_of(contest)
    assert len(result.pairs) >= 3
    assert all("no spread to judge by" in pair.result.why for pair in result.pairs)
    lines = verdicts.explained(result)
    assert any(line.startswith("Test: t test") and line.endswith("(standard deviation).") for line in lines)
    assert any(line.startswith("No verdict: the difference is the same on every item") for line in lines)
