"""A run that was made again with `force=true`: how far its scores moved, and what it was made with then and now."""

import dataclasses
import json
import shutil

import pytest

from harness.report import names
from harness.report.analysis import remarks
from harness.report.data.load import load
from harness.report.pages.notes import origin
from harness.run.run_folder import keep_weights
from tests.report.conftest import BASE, LORA, add_evaluation, add_run, evaluation

LOOKS = [evaluation("validation"), evaluation("arc_easy")]


@pytest.fixture
def again(runs):
    """A run whose weights were trained a second time, by another version, and scored worse."""
    add_run(runs, BASE)
    folder = add_run(runs, LORA)
    for look in LOOKS:
        add_evaluation(folder, LORA, look)
    keep_weights(folder, "anew", lambda weights: (weights / "adapter.txt").write_text("new"))
    return folder


def score_again(folder, kind=LORA, **changes):
    for look in LOOKS:
        path = add_evaluation(folder, kind, look)
        table = json.loads(path.read_text())
        table["provenance"] |= changes
        path.write_text(json.dumps(table))


def test_the_drift_is_a_line_with_what_changed(runs, again):
    worse = dataclasses.replace(LORA, skill=0.4)
    score_again(again, worse, commit="b" * 40, uncommitted_changes="1234", versions={"torch": "2", "peft": "9"})
    loaded = load([runs])
    [row] = [row for row in loaded.rows if row.method == "lora"]
    assert {one.eval_id for one in row.replaced} == {look.eval_id for look in LOOKS}
    [line] = remarks.retrained(loaded.rows)
    assert line in origin(loaded)
    for old in row.replaced:
        [new] = [scored.record for scored in row.scored if scored.record.eval_id == old.eval_id]
        for name, metric in old.metrics.items():
            now = new.metrics[name].value
            assert f"{names.metric(name).display} {metric.value:.4g} -> {now:.4g} ({now - metric.value:+.2g})" in line
    assert line.startswith("trained again: LoRA seed 0: ")
    assert f"-> {'b' * 12}," in line
    assert "uncommitted changes" in line
    assert "-> 9" in line


def test_the_same_again_says_so(runs, again):
    score_again(again)
    [line] = remarks.retrained(load([runs]).rows)
    assert line.count("(+0)") == 4
    assert line.endswith("; made with the same code and versions")


def test_the_last_weights_before_count_and_damaged_scores_are_left_out(runs, again):
    score_again(again, dataclasses.replace(LORA, skill=0.1))
    keep_weights(again, "third", lambda weights: (weights / "adapter.txt").write_text("third"))
    score_again(again, dataclasses.replace(LORA, skill=0.1))
    assert sorted(path.name for path in (again / "earlier").iterdir()) == ["1", "2"]
    [line] = remarks.retrained(load([runs]).rows)
    assert line.count("(+0)") == 4
    for path in (again / "earlier" / "2").glob("*.json"):
        path.write_text("{")
    assert remarks.retrained(load([runs]).rows) == []


def test_a_run_that_was_made_once_has_no_line(tree):
    assert remarks.retrained(load([tree]).rows) == []


def asked_with(tree, runs, **changes):
    """The tree's sweep as if it had been asked again, by a program that may be another."""
    path = shutil.copytree(tree, runs, dirs_exist_ok=True) / "sweeps" / "methods" / "sweep.json"
    facts = next(row for row in load([tree]).rows if row.current).current.provenance
    known = {key: facts.get(key) for key in ("harness", "commit", "uncommitted_changes", "versions")}
    path.write_text(json.dumps({**json.loads(path.read_text()), "asked_with": {**known, **changes}}))
    return load([runs], sweep="methods")


def test_a_sweep_that_is_asked_again_by_another_program_says_what_its_runs_were_made_with(tree, runs):
    loaded = asked_with(tree, runs, commit="c" * 40, versions={"torch": "99"})
    [line] = remarks.older(loaded.rows, loaded.sweep.asked_with)
    assert line in origin(loaded)
    assert line.startswith("made with another program than the sweep was last asked with: ")
    assert f"-> {'c' * 12}," in line
    assert "torch" in line and "-> 99" in line
    made = [row for row in loaded.rows if row.current]
    assert f" and {len(made) - 3} more: commit " in line


STATES = {  # (commit, uncommitted changes, digest of the code) of two programs -> what has changed
    "a commit of the registration": (("a", False, "1"), ("b", False, "1"), []),
    "notes that are not committed": (("a", False, "1"), ("a", True, "1"), []),
    "the same state": (("a", True, "1"), ("a", True, "1"), []),
    "no checkout": ((None, None, "1"), ("b", False, "1"), []),
    "a commit of the code": (("a", False, "1"), ("b", False, "2"), ["commit a -> b"]),
    "two states of one commit": (("a", True, "1"), ("a", True, "2"), ["code 1 -> 2"]),
    "two installed packages": ((None, None, "1"), (None, None, "2"), ["code 1 -> 2"]),
    "no digest before": (("a", False, None), ("b", True, "1"), ["commit a -> b", "uncommitted changes no -> yes"]),
    "no digest at all": (("a", False, None), ("a", False, None), []),
    "nothing known": ((None, None, None), (None, None, None), []),
}


@pytest.mark.parametrize(("before", "after", "expected"), STATES.values(), ids=STATES)
def test_another_commit_of_the_same_code_is_no_change(before, after, expected):
    keys = ("commit", "uncommitted_changes", "program")
    old, new = ({**dict(zip(keys, facts, strict=True)), "versions": {"peft": "1"}} for facts in (before, after))
    assert list(remarks.program_changes(old, new)) == expected
    moved = {**new, "versions": {"peft": "2"}}
    assert {*remarks.program_changes(old, moved)} == {*expected, "peft 1 -> 2"}


def test_a_sweep_that_is_asked_again_by_the_same_program_says_nothing(tree, runs):
    loaded = asked_with(tree, runs)
    assert remarks.older(loaded.rows, loaded.sweep.asked_with) == []
    assert remarks.older(loaded.rows, None) == []
