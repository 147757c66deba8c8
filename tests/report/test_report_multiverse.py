"""The multiverse of an answer: a robust verdict holds everywhere, a planted fragile one names what turns it."""

from dataclasses import replace

import numpy as np
import pytest

from harness.report.analysis import multiverse as analysis
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.multiverse import LOST, Robustness, lines, multiverse
from harness.report.data.load import load
from tests.report.conftest import BASE, DORA, LORA, add_evaluation, add_run, evaluation

SEEDS = (0, 1, 2, 3)


@pytest.fixture
def tree(tmp_path):
    """(base, lora and a far better dora) on two tasks with four seeds; the rows, loaded."""
    runs = tmp_path / "runs"
    strong = replace(DORA, skill=1.2)
    for kind in (BASE, LORA, strong):
        for seed in SEEDS if kind is not BASE else (0,):
            folder = add_run(runs, kind, seed)
            for task in ("validation", "arc_easy"):
                add_evaluation(folder, kind, evaluation(task), seed)
            add_evaluation(folder, kind, replace(evaluation("arc_challenge", limit=200), role="target"), seed)
    return load([runs])


def changed(loaded, method, column, values):
    """The rows with other outcomes of one method in one column of arc_easy."""

    def scored(one):
        if one.task != "arc_easy":
            return one
        outcomes = {**one.items.outcomes, column: values(one.items.outcomes[column])}
        metrics = dict(one.record.metrics)
        metrics[column] = replace(metrics[column], value=float(outcomes[column].mean()))
        other = replace(one, record=replace(one.record, metrics=metrics))
        other.__dict__["_read"] = (replace(one.items, outcomes=outcomes), "")
        return other

    rows = tuple(
        row if row.method != method else replace(row, scored=tuple(map(scored, row.scored))) for row in loaded.rows
    )
    return replace(loaded, rows=rows)


def of(results, a, b):
    [one] = [one for one in results if (one.a.split()[0], one.b.split()[0]) == (a, b)]
    return one


def test_a_robust_verdict_holds_in_every_analysis(tree):
    one = of(multiverse(Comparison(tree)), "dora", "base")
    assert (one.verdict, one.share, one.turned_by) == ("better", 1.0, "")
    # acc, acc_norm and the mean of the two tasks, at three margins
    assert one.held == one.analyses == 9
    assert of(multiverse(Comparison(tree)), "dora", "lora").share == 1.0


def test_a_planted_fragile_verdict_names_what_turns_it(tree):
    random = np.random.default_rng(0)
    fragile = changed(tree, "dora", "acc_norm", lambda old: (random.random(len(old)) < 0.2).astype(float))
    one = of(multiverse(Comparison(fragile)), "dora", "lora")
    assert one.verdict == "better"
    assert one.turned_by == "length-normalized accuracy in place of accuracy"
    assert one.instead == "worse"
    assert one.held < one.analyses == 9
    assert lines([one]) == [
        f"{one.a} better than {one.b}: holds in {one.held} of 9 analyses ({one.share:.0%}); the smallest change that "
        "turns it is length-normalized accuracy in place of accuracy (worse)."
    ]


def test_the_base_is_in_no_family_of_methods_as_in_the_answer(tree):
    """Five items that only one of two methods has right are significant alone, and not among three comparisons."""
    right = changed(tree, "dora", "acc", lambda old: (np.arange(len(old)) < 70).astype(float))
    comparison = Comparison(changed(right, "lora", "acc", lambda old: (np.arange(len(old)) < 65).astype(float)))
    [pair] = comparison.claims[0].against_best
    assert (pair.a.first.method, pair.result.verdict) == ("lora", "worse")
    assert of(multiverse(comparison), "dora", "lora").verdict == "better"


def test_a_verdict_that_only_the_mean_turns(tree):
    random = np.random.default_rng(0)
    one = of(
        multiverse(
            Comparison(changed(tree, "lora", "acc", lambda old: (random.random(len(old)) < 0.95).astype(float)))
        ),
        "lora",
        "dora",
    )
    assert one.verdict == "better"
    assert one.turned_by in ("length-normalized accuracy in place of accuracy", "the mean over the target tasks")


def test_lost_seeds_are_a_fork_where_some_are_lost(tree):
    lost = replace(tree, rows=tuple(row for row in tree.rows if (row.method, row.seed) != ("lora", 2)))
    one = of(multiverse(Comparison(lost)), "dora", "base")
    assert one.analyses == 9 * len(LOST)
    sides = analysis._outcome(Comparison(lost).contests[0], "x").sides
    ways = {way: analysis._with_lost(sides, way) for way in LOST}
    [label] = [label for label, values in sides.values.items() if np.isnan(values).any()]
    assert label.startswith("lora")
    assert np.isnan(ways[LOST[0]][label]).any()
    assert {values.shape[0] for name, values in ways[LOST[1]].items() if name != "base"} == {3}
    assert (ways[LOST[2]][label][2] == sides.values["base"][0]).all()


def test_a_mean_over_tasks_weighs_every_task_the_same(tree):
    comparison = Comparison(tree)
    outcomes = analysis._outcomes(comparison.contests[0], comparison)
    [mean] = [one for one in outcomes if one.name.startswith("the mean over")]
    scores = {}
    for row in tree.rows:
        for one in row.scored:
            if one.role == "target":
                scores.setdefault(row.method, []).append(one.record.metrics["acc"].value)
    for label, values in mean.sides.values.items():
        assert values.mean() == pytest.approx(np.mean(scores[label.split()[0]]))


def test_another_rule_that_chooses_the_same_repeats_every_analysis():
    known = [([], {("a", "b"): "better"}), (["x"], {("a", "b"): "worse"})]
    same = analysis._robustness(("a", "b"), "better", known, {"one_standard_error": frozenset()})
    moved = analysis._robustness(("a", "b"), "better", known, {"one_standard_error": frozenset({"a"})})
    assert same == Robustness("a", "b", "better", 2, 4, "x", "worse")
    assert moved == Robustness("a", "b", "better", 1, 2, "x", "worse")


def test_nothing_is_said_where_nothing_is_compared(tmp_path):
    runs = tmp_path / "runs"
    add_evaluation(add_run(runs, LORA), LORA, evaluation("arc_easy"))
    assert multiverse(Comparison(load([runs]))) == []
