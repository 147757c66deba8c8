"""A sweep with stages: trials on validation, a choice from records, then the chosen recipes with every seed."""

import csv
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.config import config
from harness.config.sweep_file import read
from harness.records import record, selection
from harness.records.record import EvaluationRecord, RunRecord, SweepRecord
from harness.sweep import stages, sweep
from harness.sweep.planned_runs import Wanted, compose_all, resolve

QUESTION = {
    "name": "tuned",
    "question": "Does choosing work?",
    "primary": "test_loss",
    "varies": ["method"],
    "cells": [{"method": ["lora", "full"], "lr_scale": [0.3, 1, 3]}],
    "stages": {
        "tune": {"settings": ["lr_scale"], "seeds": [0], "rule": "lowest_validation_loss"},
        "final": {"seeds": [0, 1], "allow_tuning_seeds": True},
    },
}


@dataclass(frozen=True)
class Tuned:
    folder: Path
    words: list[str]
    done: Any

    @property
    def question(self) -> SweepRecord:
        return record.read(SweepRecord, self.folder / "runs" / "sweeps" / "tuned" / "sweep.json")

    def run(self, cell: record.Cell) -> RunRecord:
        return record.read(RunRecord, self.run_folder(cell) / "record.json")

    def run_folder(self, cell: record.Cell) -> Path:
        return self.folder / "runs" / cell.recipe_id / f"seed-{cell.seed}"

    def roles(self, cell: record.Cell) -> list[str]:
        paths = self.run_folder(cell).glob("evaluations/*.json")
        return sorted(record.read(EvaluationRecord, path).evaluation["role"] for path in paths)


@pytest.fixture(scope="module")
def tuned(harness, shared_overrides, tmp_path_factory):
    """The real command, with the question in a folder of the user's own."""
    own = tmp_path_factory.mktemp("own")
    (own / "sweep").mkdir()
    (own / "sweep" / "tuned.yaml").write_text(json.dumps(QUESTION))
    rows = [{"prompt": f"Tell {i}:", "completion": f" {chr(97 + i)}"} for i in range(8)]
    (own / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = shared_overrides()
    words = [*shared, f"data.test_file={own / 'test.jsonl'}", f"hydra.searchpath=[{own}]", "sweep=tuned"]
    folder = Path(next(word for word in shared if word.startswith("runs_dir=")).partition("=")[2]).parent
    return Tuned(folder, words, harness(*words[:3], "-m", *words[3:], cwd=own))  # -m may stand anywhere


def cells(tuned, stage, method=None):
    return [c for c in tuned.question.cells if c.stage == stage and method in (None, c.method)]


def test_both_stages_end_well_and_are_announced(tuned):
    assert tuned.done.code == 0, tuned.done.err
    assert "2 contestants x 3 trials (lr_scale 0.3, 1, 3) x 1 seed: 6 runs" in tuned.done.err
    assert len(re.findall(r"^\d/6 .*: ok", tuned.done.err, re.MULTILINE)) == 6
    assert len(re.findall(r"^\d/5 .*: ok", tuned.done.err, re.MULTILINE)) == 5
    assert len(re.findall(r"^\d/6 \w+ lr_scale=(?:0\.3|1|3) seed 0: ok", tuned.done.err, re.MULTILINE)) == 6
    assert "Traceback" not in tuned.done.err


def test_a_run_of_a_packed_question_is_trained_again_alone(tuned, tmp_path, capsys):
    """Its cells hold the word sweep=tuned, which would run all of them."""
    from harness.report.commands import run

    assert any("sweep=tuned" in cell.overrides for cell in tuned.question.cells)
    report = str(tmp_path / "report")
    assert run("pack", ["tuned", "--runs", str(tuned.folder / "runs"), "--out", report]) == 0
    assert run("verify", [report, "--retrain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("retrained: ") and line.endswith(": equal")]) == 1


def test_trials_share_the_machine_and_say_so_and_final_runs_have_it_alone(tuned):
    cores = len(os.sched_getaffinity(0))
    shared = min(cores, 6)
    if shared > 1:
        assert f"at once     {shared} trials, each with 1 thread; their timings are not compared" in tuned.done.err
    trials = [tuned.run(cell).attempts[0] for cell in cells(tuned, "tune")]
    assert [trial.concurrent_runs for trial in trials] == [shared] * 6
    assert len({trial.provenance["threads"] for trial in trials}) == 1
    tried = {cell.recipe_id for cell in cells(tuned, "tune") if cell.seed == 0}
    alone = [cell for cell in cells(tuned, "final") if cell.seed != 0 or cell.recipe_id not in tried]
    assert len(alone) == 3
    assert [attempt.concurrent_runs for cell in alone for attempt in tuned.run(cell).attempts] == [1] * 3


def test_the_record_says_how_was_chosen_and_the_records_choose_the_same(tuned):
    question = tuned.question
    assert len(cells(tuned, "tune")) == 6
    assert [cell.method for cell in cells(tuned, "final")] == ["base", "lora", "lora", "full", "full"]
    assert question.primary == "test_loss"
    assert question.varies == ("method", "train.lr")
    tuning = question.tuning
    assert (tuning.rule, tuning.settings, tuning.trials) == ("lowest_validation_loss", ("lr_scale",), 3)
    assert (tuning.seeds, tuning.final_seeds) == ((0,), (0, 1))
    looks = []
    for cell in cells(tuned, "tune"):
        [eval_id] = cell.eval_ids
        validation = record.read(EvaluationRecord, record.evaluation_path(tuned.run_folder(cell), eval_id))
        looks.append(selection.Look(cell=cell, run=tuned.run(cell), validation=validation))
    found = selection.trials(looks, tuning.settings)
    assert [selection.choose(name, tried, tuning.rule) for name, tried in found.items()] == list(tuning.choices)
    for one in tuning.choices:
        losses = {trial.recipe_id: trial.loss for trial in found[one.contestant]}
        assert losses[one.recipe_id] == min(losses.values())


def test_a_trial_never_reads_the_test_unless_it_is_chosen(tuned):
    chosen = {one.recipe_id for one in tuned.question.tuning.choices}
    assert len(chosen) == 2
    for cell in cells(tuned, "tune"):
        assert tuned.roles(cell) == (["test", "validation"] if cell.recipe_id in chosen else ["validation"])
        assert len(cell.eval_ids) == 1
        first = tuned.run(cell).attempts[0]
        assert "evaluate" not in first.phases, "the trial itself has read the test"
    for cell in cells(tuned, "final"):
        assert tuned.roles(cell) == ["test", "validation"]


def test_what_was_chosen_is_not_trained_again(tuned):
    final = [cell for cell in cells(tuned, "final") if cell.seed == 0 and cell.method != "base"]
    assert len(final) == 2
    for cell in final:
        tried, looked_at = tuned.run(cell).attempts
        assert looked_at.weights_from == tried.started_at
        assert looked_at.training is None
        assert tuned.run(cell).training == tried.training is not None
        assert "evaluate" in looked_at.phases
    repeated = [cell for cell in cells(tuned, "final") if cell.seed == 1]
    assert [len(tuned.run(cell).attempts) for cell in repeated] == [1, 1]
    assert sum("training" in path.read_text() for path in tuned.folder.glob("runs/*/seed-*/record.json")) == 9


def test_the_report_shows_the_trials_before_the_results(tuned):
    folder = tuned.folder / "reports" / "tuned"
    page = (folder / "report.md").read_text()
    compared, folded, tuning = page.partition("<summary>Tuning</summary>")
    assert folded
    said = "Each method was tuned with 3 trials over the learning rate (seed 0), selected by the lowest"
    assert said in compared.partition("## What was compared")[2]
    assert "| LoRA\N{DOUBLE DAGGER} | 1.5e-4, 5e-4, 1.5e-3 | 1.5e-3 | 3 | 0 |" in tuning.partition("</details>")[0]
    rows = list(csv.DictReader(io.StringIO((folder / "records.csv").read_text())))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("base", "0"), ("lora", "0"), ("lora", "1"), ("full", "0"), ("full", "1"),
    ]  # fmt: skip
    trials = list(csv.DictReader(io.StringIO((folder / "tuning.csv").read_text())))
    assert len(trials) == 6
    assert sum(int(row["chosen"]) for row in trials) == 2
    assert all(float(row["device_seconds"]) > 0 for row in trials)
    assert (folder / "figures" / "tuning_budget.svg").is_file()
    assert (folder / "figures" / "sensitivity.svg").is_file()
    for row in trials:  # a value at an end of its grid is marked wherever the row is named
        if row["chosen"] == "1" and row["lr_scale"] in ("0.3", "3"):
            assert "\N{DOUBLE DAGGER} |" in page.partition("## Results")[2]


def test_asked_again_nothing_is_run(tuned, compose):
    before = {path: path.stat().st_mtime_ns for path in tuned.folder.glob("runs/*/seed-*/**/*") if path.is_file()}
    assert len(before) > 30
    assert sweep.execute(compose(*tuned.words), tuned.words, lambda cell: compose(*cell), launch=pytest.fail) == 0
    after = {path: path.stat().st_mtime_ns for path in tuned.folder.glob("runs/*/seed-*/**/*") if path.is_file()}
    assert after == before
    assert len(tuned.question.already_done) == 9


# --- without a run ---


def asked(**changed):
    return read({**QUESTION, **changed})


def test_a_trial_is_a_cell_that_never_reads_the_test():
    wanted = stages.first_cells(asked(), ["train=smoke", "seed=4,5", "eval.test=selected"])
    assert len(wanted) == 6
    assert wanted[0] == Wanted(
        ("train=smoke", "method=lora", "lr_scale=0.3", "eval.test=never", "seed=0"), "tune", "lora"
    )
    assert {one.contestant for one in wanted} == {"lora", "full"}


def test_the_line_wins_over_the_tuned_values_of_the_file():
    wanted = stages.first_cells(asked(), ["lr_scale=0.1,10"])
    assert [one.cell[:2] for one in wanted][:2] == [("lr_scale=0.1", "method=lora"), ("lr_scale=0.1", "method=full")]
    assert len(wanted) == 4


def test_the_final_seeds_are_the_lines_and_else_the_files():
    assert stages.seed_words(asked(), []) == ["seed=0", "seed=1"]
    assert stages.seed_words(asked(), ["method=lora", "seed=7,8,9"]) == ["seed=7", "seed=8", "seed=9"]
    divided = ["seed={init:0,order:1},{init:2,order:1,data:0}"]
    assert stages.seed_words(asked(), divided) == ["seed=10000001000", "seed=10002001000"]
    with pytest.raises(ValueError, match=r"seed=\{noise:1\}: noise: no such stream"):
        stages.seed_words(asked(), ["seed={noise:1}"])


def test_a_final_seed_of_the_line_that_was_tuned_on_is_refused():
    strict = {**QUESTION["stages"], "final": {"seeds": [1, 2]}}
    assert stages.seed_words(asked(stages=strict), ["seed=5,6"]) == ["seed=5", "seed=6"]
    with pytest.raises(ValueError, match=r"sweep=tuned: seed=0,1: final seeds 0 are tuning seeds as well"):
        stages.seed_words(asked(stages=strict), ["seed=0,1"])


def test_contestants_are_named_by_what_tells_them_apart():
    def named(*cells):
        return stages.contestants([tuple(cell.split()) for cell in cells], ["lr_scale"])

    assert named("a=1 method=lora method.r=8 lr_scale=1", "a=1 method=lora method.r=8 lr_scale=3") == ["lora"] * 2
    assert named("method=lora method.r=8 lr_scale=1", "method=lora method.r=16 lr_scale=1") == [
        "r=8",
        "r=16",
    ]
    assert named("method=lora lr_scale=1", "method=lora method.r=16 lr_scale=1") == ["the rest", "r=16"]
    assert named("lr_scale=1", "lr_scale=3") == ["the defaults"] * 2


def test_different_numbers_of_trials_are_refused(compose):
    uneven = asked(cells=[{"method": "lora", "lr_scale": [0.3, 1, 3]}, {"method": ["full", "ia3"], "lr_scale": [1, 3]}])
    plan = compose_all(stages.first_cells(uneven, []), _composer(compose))
    with pytest.raises(ValueError, match=r"2: full, ia3; 3: lora.*as many values"):
        stages.check_budget(uneven, plan)


def test_two_values_that_mean_the_same_are_one_trial(compose):
    twice = asked(cells=[{"method": "lora", "lr_scale": [1, 1.0]}, {"method": "full", "lr_scale": [1, 3]}])
    plan = compose_all(stages.first_cells(twice, []), _composer(compose))
    with pytest.raises(ValueError, match="1: lora"):
        stages.check_budget(twice, plan)


def test_a_rate_of_ones_own_leaves_nothing_to_tune_by_a_scale(compose):
    fixed = asked(cells=[{"method": ["lora", "full"], "lr_scale": [1, 3], "train.lr": 1e-4}])
    with pytest.raises(ValueError, match=r"lr_scale=3 with train\.lr=0\.0001: .*give method\.lr=0\.0001 instead"):
        compose_all(stages.first_cells(fixed, []), _composer(compose))


def test_the_untouched_model_is_no_contestant_that_is_tuned(compose):
    cells = [*QUESTION["cells"], {"method": "base", "eval.num_fewshot": [0, 5], "lr_scale": 1}]
    with_base = asked(cells=cells, varies=["method", "eval.num_fewshot"])
    plan = compose_all(stages.first_cells(with_base, []), _composer(compose))
    stages.check_budget(with_base, plan)
    assert len(stages.trained(plan)) == 6
    final = stages.final_cells(plan, (), "eval.test=always", ["seed=0", "seed=1"])
    assert [one.cell for one in final] == [
        ("method=base", "eval.num_fewshot=0", "lr_scale=1", "eval.test=always"),
        ("method=base", "eval.num_fewshot=5", "lr_scale=1", "eval.test=always"),
    ]  # fmt: skip


def test_nothing_to_tune_is_refused(compose):
    only_base = asked(cells=[{"method": "base", "lr_scale": [1, 3]}])
    with pytest.raises(ValueError, match="no cell trains anything"):
        stages.check_budget(only_base, compose_all(stages.first_cells(only_base, []), _composer(compose)))


def test_the_test_cannot_be_read_while_choosing():
    assert stages.test_word([]) == stages.test_word(["eval.test=selected"]) == "eval.test=always"
    assert stages.test_word(["eval.test=never"]) == "eval.test=never"
    with pytest.raises(ValueError, match=r"eval\.test=always: a sweep with stages chooses on validation"):
        stages.test_word(["eval.test=always"])


def test_a_wrong_final_seed_is_found_before_the_first_trial(compose, tiny_overrides, tmp_path):
    from omegaconf import OmegaConf

    master = OmegaConf.create({"sweep": QUESTION})
    with pytest.raises(ValueError, match="seed=-1: must be greater than or equal to 0"):
        sweep.execute(master, [*tiny_overrides, "seed=0,-1"], lambda cell: compose(*cell), launch=pytest.fail)
    assert not (tmp_path / "runs").exists()


def test_what_a_forced_trial_has_just_trained_is_not_forced_again(compose, tiny_overrides):
    words = [*tiny_overrides, "force=true"]
    plan = resolve(compose_all(stages.first_cells(asked(), words), _composer(compose)))
    chosen = record.Choice(contestant="lora", recipe_id=plan[0].identity[0], reason="")
    final = compose_all(
        stages.final_cells(plan, (chosen,), "eval.test=always", ["seed=0", "seed=1"]), _composer(compose)
    )
    assert [planned.experiment.force for planned in final] == [False, True]


def test_what_was_chosen_before_stays_in_the_record(compose, tiny_overrides, tmp_path):
    from harness.sweep.sweep_records import Written, write_question

    plan = resolve(compose_all(stages.first_cells(asked(), tiny_overrides), _composer(compose)))
    path = Path(plan[0].experiment.runs_dir) / "sweeps" / "tuned" / "sweep.json"

    def write(*recipes):
        made = tuple(record.Choice(contestant=str(i), recipe_id=one, reason="") for i, one in enumerate(recipes))
        tuning = stages.tuning(asked(), plan, ["seed=1"], made or None)
        write_question(Written(asked(), (), plan, set(), tuning))
        return [[one.recipe_id for one in choices] for choices in record.read(SweepRecord, path).tuning.earlier]

    first, second = plan[0].identity[0], plan[1].identity[0]
    assert write() == []
    assert write(first) == []
    assert write(first) == []  # asked again
    assert write() == [[first]]  # extended: the trials are being made
    assert write(second) == [[first]]
    assert write() == [[first], [second]]
    assert write(second) == [[first]]  # extended, and the choice stood


def test_selected_is_never_outside_of_stages(compose):
    from harness.config.experiment import evaluations

    roles = {
        test: {e.role for e in evaluations(config.build(compose(f"eval.test={test}")))}
        for test in ("selected", "never")
    }
    assert roles == {"selected": {"validation"}, "never": {"validation"}}


def _composer(compose):
    from harness.config.compose import Composer

    return Composer(lambda cell: compose(*cell))
