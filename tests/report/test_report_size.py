"""Reports of many records: how often each thing is read and computed, and what is said about what is left out.

How long the promised sizes take is measured by `python -m tests.bench report`.
"""

import base64
import gzip
import json
import re

import pytest
import sized_tree

from harness.report import frame, write
from harness.report.analysis.comparison import Comparison
from harness.report.data import items as items_module
from harness.report.data.groups import Measure, outcomes
from harness.report.data.load import load
from harness.report.figures.curves import MOST_LINES
from harness.report.html import items
from harness.stats import resample
from tests.bench import _records
from tests.bench._records import TASK

RECIPES = MOST_LINES + 2


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return _records.write(tmp_path_factory.mktemp("many") / "runs", RECIPES, 1, 40)


def test_items_are_read_once_and_draws_are_made_once(many, tmp_path, monkeypatch):
    read, drawn = [], []
    read_items, resampled = items_module.read_items, resample._resampled
    monkeypatch.setattr(items_module, "read_items", lambda path, n: read.append(path) or read_items(path, n))
    monkeypatch.setattr(resample, "_resampled", lambda *given: drawn.append(given) or resampled(*given))
    resample._kept.cache_clear()
    page = write(many, None, tmp_path / "out").read_text()
    assert len(read) == len({*read}) == 2 * (RECIPES + 1)
    assert len(drawn) == len({*drawn})
    lines = [line for line in page.splitlines() if line.startswith("| LoRA")]
    assert len(lines) >= RECIPES // 10
    assert f"{RECIPES} methods: compared with the base model and the best, not in all pairs." in page
    assert f"The best {MOST_LINES} of {RECIPES} methods." in page


def test_a_task_of_too_many_outcomes_has_its_best_methods_in_the_page(many, monkeypatch):
    monkeypatch.setattr(items, "MOST_CELLS", 5 * 40 + 39)
    [packed] = items.tasks(Comparison(load([many])).groups)
    task = unpacked(packed)
    means = {
        group.label: outcomes(group, Measure(TASK.eval_id, "acc"))[0].mean()
        for group in Comparison(load([many])).groups
    }
    assert len(task["groups"]) == 5
    assert task["left_out"] == RECIPES + 1 - 5
    assert min(means[group["label"]] for group in task["groups"]) >= sorted(means.values())[-5]


def test_no_task_is_missing_where_all_outcomes_are_too_many(tmp_path, monkeypatch):
    """The first task of a large study took the room of all others, and nothing said that they were gone."""
    groups = Comparison(load([sized_tree.build(tmp_path / "runs", sized_tree.kinds(8))], "sized")).groups
    whole = {task["title"]: len(unpacked(task)["groups"]) for task in items.tasks(groups)}
    assert len(whole) == len(sized_tree.TASKS) + 1
    assert {*whole.values()} == {9}
    cells = 9 * (sum(sized_tree.TASKS.values()) + 100)
    monkeypatch.setattr(items, "MOST_CELLS", cells // 2)
    halved = {task["title"]: unpacked(task) for task in items.tasks(groups)}
    assert halved.keys() == whole.keys()
    assert {len(task["groups"]) for task in halved.values()} == {4}
    assert {task["left_out"] for task in halved.values()} == {5}


def unpacked(task):
    return json.loads(gzip.decompress(base64.b64decode(task["data"])))


def test_a_frame_has_every_run_with_a_label_of_its_own(many):
    found = frame(many)
    assert len(found) == RECIPES + 1
    assert found["label"].is_unique
    assert found["validation_loss"].notna().all()
    assert all(re.match(r"\w+( r=\d+)?( lr=\S+)?( \[\w+\])?$", label) for label in found["label"])
