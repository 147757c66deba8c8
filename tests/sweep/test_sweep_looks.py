"""Final seeds until it is decided: the rule in the file, the order of looks, what ends them, and what is recorded."""

import copy
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.config.sweep_file import UntilDecided, read
from harness.records import record
from harness.records.record import Cell, Choice, Looks, SweepRecord, Tuning
from harness.sweep import stages, sweep
from harness.sweep.sweep_records import Written, has_looks_at, write_question

FILE = {
    "name": "tuned", "question": "Does it stop?", "primary": "test_loss", "varies": ["method"],
    "cells": [{"method": ["lora", "full"], "lr_scale": [0.3, 1, 3]}],
    "stages": {
        "tune": {"settings": ["lr_scale"], "seeds": [0, 2], "rule": "lowest_validation_loss"},
        "final": {"seeds": {"first": 3, "most": 6, "until": "decided"}},
    },
}  # fmt: skip
CHOICES = tuple(Choice(contestant=name, recipe_id=recipe, reason="") for name, recipe in (("a", "1"), ("b", None)))


def asked(**final):
    content = copy.deepcopy(FILE)
    content["stages"]["final"]["seeds"].update(final)
    return read(content)


def test_seeds_are_the_first_that_were_not_tuned_on():
    assert stages.seed_words(asked(), []) == [f"seed={seed}" for seed in (1, 3, 4, 5, 6, 7)]
    assert stages.rounds(stages.until_decided(asked(), []), range(6)) == [3, 4, 5, 6]


def test_seeds_of_the_command_line_are_a_fixed_number():
    rule = stages.until_decided(asked(), ["seed=7,8"])
    assert rule is None
    assert stages.rounds(rule, ["seed=7", "seed=8"]) == [2]
    assert stages.seed_words(asked(), ["seed=7", "seed=8,9"]) == ["seed=8", "seed=9"]


@pytest.mark.parametrize(
    ("final", "says"),
    [
        ({"first": 1}, "first: Input should be greater than or equal to 2; needed are first, most, until"),
        ({"first": 6}, "first=6 is not below most=6"),
        ({"until": "bored"}, "until: Input should be 'decided'"),
        ({"patience": 3}, "patience: "),
        ({"most": 2.5}, "most: Input should be a valid integer"),
    ],
)
def test_a_wrong_rule_is_one_line(final, says):
    with pytest.raises(ValueError, match=r"^sweep=tuned: stages\.final\.seeds.*" + says.replace("'", ".")) as refused:
        asked(**final)
    assert "\n" not in str(refused.value)


def test_the_rule_is_recorded_with_who_takes_part():
    tuning = Tuning(rule="r", settings=(), seeds=(0,), final_seeds=(1, 3, 4), trials=3, choices=CHOICES)
    rule = UntilDecided(first=3, most=6, until="decided")
    assert stages.recorded(tuning, rule, CHOICES).looks == Looks(first=3, most=6, methods=1)
    assert stages.recorded(tuning, None, CHOICES) == tuning


PLAN = ("1", "2")  # recipes of the trials


def planned(folder, recipe, seed, stage):
    """A planned run, as far as a sweep's record and the order of its looks need one."""
    words = ("method=lora", f"seed={seed}")
    cell = Cell(overrides=words, recipe_id=recipe, seed=seed, eval_ids=(), method="lora", stage=stage, contestant="a")
    experiment = SimpleNamespace(runs_dir=str(folder))
    return SimpleNamespace(experiment=experiment, identity=(recipe, seed, ()), written=lambda: cell)


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """(a final stage without any run, what happened, answers of the looks). The sweep's record is real."""
    happened, answers = [], []
    trials = [planned(tmp_path, recipe, 0, "tune") for recipe in PLAN]
    tuning = Tuning(rule="r", settings=(), seeds=(0, 2), final_seeds=(), trials=3, choices=CHOICES)

    def seeds_of(asked, plan, seeds, choices):
        return replace(tuning, final_seeds=tuple(map(stages.seed_number, seeds)))

    def look(experiment, name):
        answer = answers.pop(0)
        return answer() if callable(answer) else answer

    def written(asked_for, write=sweep.write_look):
        return write(asked_for) and (happened.append(on_record(tmp_path).tuning) or True)

    def final_cells(plan, choices, test, seeds):
        return [planned(tmp_path, "1", stages.seed_number(seed), "final") for seed in seeds]

    monkeypatch.setattr(stages, "final_cells", final_cells)
    monkeypatch.setattr(stages, "tuning", seeds_of)
    monkeypatch.setattr(sweep, "compose_all", lambda wanted, compose, bases: wanted)
    monkeypatch.setattr(sweep, "_identified", lambda plan: plan)
    monkeypatch.setattr(sweep, "_checked", lambda plan: [])
    monkeypatch.setattr(sweep, "write_look", written)
    monkeypatch.setattr(sweep, "_grouped", lambda plan, asked: plan)
    monkeypatch.setattr(sweep.messages, "runs", lambda *_: None)
    monkeypatch.setattr(sweep, "work", lambda *arguments: happened.append("run") is None)
    monkeypatch.setattr(stages, "decided", look)
    question = asked()
    seeds = stages.seed_words(question, [])
    made = sweep._FinalStage(
        question, trials, trials, [], CHOICES, [], "eval.test=always", seeds, stages.until_decided(question, [])
    )
    return sweep._Sweep(question, (), None, None, False), made, happened, answers


def on_record(folder):
    return record.read(SweepRecord, folder / "sweeps" / "tuned" / "sweep.json")


def write_record(folder, seeds, choices=CHOICES, looks=(3, 6), trials=PLAN):
    """Write the record as another worker or an earlier call does, with the trials alone where `seeds` is empty."""
    numbers = tuple(map(stages.seed_number, seeds))
    tuning = Tuning(rule="r", settings=(), seeds=(0, 2), final_seeds=numbers, trials=3, choices=choices)
    tuning = replace(tuning, looks=Looks(first=looks[0], most=looks[1], methods=1) if choices and looks else None)
    plan = [planned(folder, recipe, 0, "tune") for recipe in trials]
    plan += [planned(folder, choices[0].recipe_id, seed, "final") for seed in numbers] if choices else []
    write_question(Written(asked(), (), plan, set(), tuning))


def final_seeds(folder):
    return [cell.seed for cell in on_record(folder).cells if cell.stage == "final"]


@pytest.mark.parametrize(
    ("answers", "taken", "ended_well"),
    [([True], [3], True), ([False, False, True], [3, 4, 5], True), ([False] * 4, [3, 4, 5, 6], True),
     ([False, None], [3, 4], False)],
)  # fmt: skip
def test_the_next_seed_is_run_until_it_is_decided(stage, answers, taken, ended_well):
    whole, made, happened, given = stage
    given += answers
    final, looked = whole._final(made)
    assert [len(one.final_seeds) for one in happened if one != "run"] == taken
    assert happened.count("run") == len(taken)
    assert all(one.looks == Looks(first=3, most=6, methods=1) for one in happened if one != "run")
    assert len(final) == taken[-1]
    assert looked is ended_well
    assert not given  # started again, it asks the same and comes to the same seeds


@pytest.mark.parametrize(
    ("code", "out", "expected"),
    [(0, '{"decided": true, "undecided": [], "answer": "decided"}', True),
     (1, '{"decided": false, "undecided": ["a", "b"], "answer": "undecided: a; b"}', False),
     (1, "", None), (2, "", None)],
)  # fmt: skip
def test_a_look_that_breaks_is_no_answer(monkeypatch, code, out, expected):
    """Python ends with 1 after an error that nothing catches, and another seed of every recipe takes hours."""
    ended = subprocess.CompletedProcess([], code, out, "" if out else "Traceback\nMemoryError\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **options: ended)
    monkeypatch.setattr(stages.board, "say", lambda text: None)
    assert stages.decided(SimpleNamespace(runs_dir="runs"), "tuned") is expected


OTHER = (replace(CHOICES[0], recipe_id="2"), CHOICES[1])
SEEDS = [f"seed={seed}" for seed in (1, 3, 4, 5, 6, 7)]
BEFORE = {  # record of an earlier call -> numbers of seeds at which the next one looks, where the last look decides
    "none": (None, [3]),
    "three seeds": ([{"seeds": SEEDS[:3]}], [3]),
    "five seeds": ([{"seeds": SEEDS[:5]}], [5]),
    "all seeds": ([{"seeds": SEEDS}], [6]),
    "further trials are under way": ([{"seeds": SEEDS[:5]}, {"seeds": SEEDS, "choices": None}], [5]),
    "another recipe was chosen": ([{"seeds": SEEDS[:5], "choices": OTHER}], [3]),
    "another rule": ([{"seeds": SEEDS[:5], "looks": (3, 8)}], [3]),
    "a fixed number of seeds": ([{"seeds": SEEDS[:5], "looks": None}], [3]),
    "other seeds": ([{"seeds": ["seed=8", *SEEDS[:4]]}], [3]),
}


@pytest.mark.parametrize("before", BEFORE)
def test_a_sweep_that_goes_on_takes_back_no_seed(stage, tmp_path, before):
    """A kill would leave a report of fewer seeds than were run."""
    written, expected = BEFORE[before]
    for one in written or ():
        write_record(tmp_path, **one)
    whole, made, happened, given = stage
    given += [True]
    _, looked = whole._final(made)
    assert looked
    assert [len(one.final_seeds) for one in happened if one != "run"] == expected
    assert len(final_seeds(tmp_path)) == expected[-1]


@pytest.mark.parametrize("answer", [True, False, None])
def test_a_look_at_seeds_that_another_worker_has_begun_is_no_answer(stage, tmp_path, answer):
    """That worker's own look, of whole seeds, has decided nothing: this one read some seeds half made."""
    whole, made, happened, given = stage
    given += [False, lambda: write_record(tmp_path, SEEDS[:6]) or answer, True]
    final, looked = whole._final(made)
    assert looked
    assert [len(one.final_seeds) for one in happened if one != "run"] == [3, 4, 6]
    assert (len(final), len(final_seeds(tmp_path)), given) == (6, 6, [])


@pytest.mark.parametrize("others", range(3, 7))
def test_a_worker_that_starts_late_takes_back_no_seed_of_another(stage, tmp_path, monkeypatch, others):
    whole, made, happened, given = stage
    checked = iter([lambda: write_record(tmp_path, SEEDS[:others])])
    monkeypatch.setattr(sweep, "_checked", lambda plan: next(checked, list)() or [])
    given += [True]
    whole._final(made)
    assert [len(one.final_seeds) for one in happened if one != "run"] == [others]
    assert len(final_seeds(tmp_path)) == others


@pytest.mark.parametrize(
    ("before", "trials", "stands"),
    [({"seeds": SEEDS[:4]}, PLAN, True), ({"seeds": SEEDS[:4]}, (*PLAN, "3"), False),
     ({"seeds": SEEDS[:4], "choices": None}, PLAN, False), ({"seeds": SEEDS[:4], "looks": None}, PLAN, False),
     (None, PLAN, False)],
)  # fmt: skip
def test_the_final_runs_stay_on_record_while_a_trial_is_made_again(tmp_path, before, trials, stands):
    if before is not None:
        write_record(tmp_path, **before)
    assert has_looks_at([planned(tmp_path, recipe, 0, "tune") for recipe in trials], "tuned") is stands
