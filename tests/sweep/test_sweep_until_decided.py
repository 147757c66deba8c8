"""Seeds until it is decided, through the real command: tuning, looks, the end, and a report that is valid after it."""

import json

import pytest

from harness.records import record
from harness.records.record import RunRecord, SweepRecord
from harness.stats.sequential import look_levels

FIRST, MOST = 3, 5
SWEEP = f"""
name: until
question: Does it stop where it is decided?
primary: test_loss
varies: [method]
cells:
  - method: [full, ia3]
    lr_scale: [0.3, 1]
stages:
  tune: {{settings: [lr_scale], seeds: [0], rule: lowest_validation_loss}}
  final: {{seeds: {{first: {FIRST}, most: {MOST}, until: decided}}}}
"""


@pytest.fixture(scope="module")
def swept(harness, shared_overrides, tmp_path_factory):
    """(the folder, the words of the command, what it printed) of a sweep in which one method hardly learns."""
    folder = tmp_path_factory.mktemp("until")
    for place in ("sweeps", "conf/sweep"):
        (folder / place).mkdir(parents=True)
        (folder / place / "until.yaml").write_text(SWEEP)
    tests = folder / "tests.jsonl"
    rows = [{"prompt": f"Say {chr(97 + i % 26)}{i}:", "completion": " " + chr(97 + i % 26) * 4} for i in range(90, 130)]
    tests.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [word for word in shared_overrides() if not word.startswith(("runs_dir=", "reports_dir="))]
    words += ["sweep=until", "train.max_steps=12", "eval.heldout_limit=40", f"data.test_file={tests}"]
    words += [f"hydra.searchpath=[file://{folder}/conf]"]
    return folder, words, harness("-m", *words, cwd=folder)


def test_it_stops_at_the_first_look_that_decides(swept):
    folder, _, done = swept
    assert done.code == 0, done.err
    tuning = record.read(SweepRecord, folder / "runs" / "sweeps" / "until" / "sweep.json").tuning
    taken = len(tuning.final_seeds)
    assert taken == FIRST  # a method that learns against one that hardly does
    assert (tuning.looks.first, tuning.looks.most, tuning.looks.methods) == (FIRST, MOST, 2)
    assert set(tuning.final_seeds).isdisjoint(tuning.seeds)
    runs = [record.read(RunRecord, path) for path in record.find_runs(folder / "runs")]
    assert len(runs) == 1 + 2 * 2 + 2 * taken  # the base, the trials, the final runs


def test_the_report_counts_the_seeds_and_draws_intervals_at_the_level_of_the_look(swept):
    folder, _, _ = swept
    [page] = (folder / "reports").rglob("report.md")
    text = " ".join((page.read_text() + (page.parent / "appendix.md").read_text()).split())
    level = look_levels(FIRST, MOST, 2)[0]
    assert f"{FIRST} for each of 2 methods (every comparison was decided), saving {2 * (MOST - FIRST)} runs" in text
    assert f"The level of this look is {level:.4f}" in text


def test_the_same_command_looks_again_and_runs_nothing(harness, swept):
    folder, words, _ = swept
    before = {path: path.stat().st_mtime_ns for path in record.find_runs(folder / "runs")}
    done = harness("-m", *words, cwd=folder)
    assert done.code == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in record.find_runs(folder / "runs")} == before
