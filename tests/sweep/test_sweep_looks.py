"""Final seeds until it is decided: the rule in the file, the order of looks, what ends them, and what is recorded."""

import copy
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.config.sweep_file import UntilDecided, read
from harness.records.record import Choice, Looks, Tuning
from harness.sweep import stages, sweep

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


@pytest.fixture
def stage(monkeypatch):
    """(a final stage without any run, what happened, answers of the looks)."""
    happened, answers = [], []
    tuning = Tuning(rule="r", settings=(), seeds=(0, 2), final_seeds=(), trials=3, choices=CHOICES)

    def seeds_of(asked, plan, seeds, choices):
        return replace(tuning, final_seeds=tuple(map(stages.seed_number, seeds)))

    class Run:
        experiment = None

    monkeypatch.setattr(stages, "final_cells", lambda plan, choices, test, seeds: [Run()] * len(seeds))
    monkeypatch.setattr(stages, "tuning", seeds_of)
    monkeypatch.setattr(sweep, "compose_all", lambda wanted, compose, bases: wanted)
    monkeypatch.setattr(sweep, "_identified", lambda plan: plan)
    monkeypatch.setattr(sweep, "_checked", lambda plan: [])
    monkeypatch.setattr(sweep, "_runs", lambda plan: set())
    monkeypatch.setattr(sweep, "write_question", lambda written: happened.append(written.tuning))
    monkeypatch.setattr(sweep, "_grouped", lambda plan, asked: plan)
    monkeypatch.setattr(sweep.messages, "runs", lambda *_: None)
    monkeypatch.setattr(sweep, "work", lambda *arguments: happened.append("run") is None)
    monkeypatch.setattr(stages, "decided", lambda experiment, name: answers.pop(0))
    question = asked()
    seeds = stages.seed_words(question, [])
    made = sweep._FinalStage(
        question, [], [], [], CHOICES, [], "eval.test=always", seeds, stages.until_decided(question, [])
    )
    return sweep._Sweep(question, (), None, None, False), made, happened, answers


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
