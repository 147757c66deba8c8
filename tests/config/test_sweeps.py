"""The questions that are shipped in `sweeps/`: what each of them must hold for its answer to be believed."""

import re
from pathlib import Path

import pytest
import yaml

from harness.config.overrides import expand
from harness.config.sweep_file import read
from harness.report.commands import run
from harness.sweep.stages import contestants

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
TUNED = [path for path in SWEEPS if yaml.safe_load(path.read_text()).get("stages")]
FEWEST_SEEDS = 5


def test_every_shipped_sweep_is_found():
    assert (len(SWEEPS), len(TUNED)) == (14, 12)


@pytest.mark.parametrize("margin", [0, -0.01, float("inf"), float("nan")])
def test_a_margin_is_a_positive_number(margin):
    values = {"name": "mine", "question": "Which?", "cells": [{"method": "lora"}], "varies": ["method"]}
    assert read(values | {"margin": 0.02}).margin == 0.02
    with pytest.raises(ValueError, match=r"sweep=mine: margin=.*: input should be (greater than 0|a finite number)"):
        read(values | {"margin": margin})


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_a_tuned_sweep_answers_with_seeds_and_numbers_that_it_did_not_choose_by(path):
    question = read(yaml.safe_load(path.read_text()))
    seeds = question.stages.final.seeds
    assert not set(seeds) & set(question.stages.tune.seeds)
    assert len(set(seeds)) >= FEWEST_SEEDS
    assert question.primary != "validation_loss"


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_the_power_in_a_sweeps_file_is_what_the_command_prints(path, capsys):
    question = read(yaml.safe_load(path.read_text()))
    written = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    [words] = re.findall(r"\(harness report power ([^)]*)\)", written)
    given = dict(zip(words.split()[::2], words.split()[1::2], strict=True))
    compared = set(contestants(expand(question.cells, []), question.tuned))
    assert int(given["--methods"]) == len(compared)
    assert int(given["--seeds"]) == len(question.stages.final.seeds)
    assert run("power", words.split()) == 0
    first, adjusted = capsys.readouterr().out.splitlines()[:2]
    assert f"{words}): {first} {adjusted}" in written


STUDIES = ("folklore", "learning_rate_matters")


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_states_the_source_of_every_claim_and_its_expected_hours(name):
    path = next(path for path in SWEEPS if path.stem == name)
    question = read(yaml.safe_load(path.read_text()))
    text = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    assert len(question.claims) >= 6
    assert all(claim.source for claim in question.claims)
    assert ("Not run yet." in text) == (name == "folklore")
    assert float(re.search(r"(\d\.\d) hours of two quiet cores", text)[1]) <= 4


def test_the_folklore_has_ten_methods_and_five_rates_each():
    [path] = [path for path in SWEEPS if path.stem == "folklore"]
    question = read(yaml.safe_load(path.read_text()))
    methods = {method for grid in question.cells for method in _listed(grid["method"])}
    assert len(methods) >= 10
    assert {len(grid["lr_scale"]) for grid in question.cells} == {5}
    assert len(set(question.stages.final.seeds)) >= 5


@pytest.mark.parametrize(("name", "within"), [("folklore", 0.003), ("target_modules", 0.025)])
def test_grids_that_tell_place_from_number_train_equal_numbers_of_parameters(name, within):
    from harness.config.compose import experiments
    from harness.plan import count

    question = read(yaml.safe_load(next(path for path in SWEEPS if path.stem == name).read_text()))
    everywhere = next(grid for grid in question.cells if "all_linear" in _listed(grid.get("target")))
    [fewer] = [grid for grid in question.cells if grid.get("target") == "attention_qv"]
    for method in _listed(fewer["method"]):
        rank = _listed(everywhere["method.r"])[0]
        words = [f"method.r={rank}", "target=all_linear"], [f"method.r={fewer['method.r']}", "target=attention_qv"]
        asked = [experiments([f"method={method}", *these])[0][1] for these in words]
        usual, other = (table["trainable_parameters"] for table in count.cells(asked, lambda event: None))
        assert other == pytest.approx(usual, rel=within)


def _listed(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_can_be_registered(name, tiny_model, tmp_path, monkeypatch, capsys):
    """On the tiny model, in another folder, so that nothing is registered here."""
    from harness.records import registration
    from harness.sweep.sweep_records import register

    monkeypatch.chdir(tmp_path)
    words = ["model.source=path", f"model.path={tiny_model}", "model.name=tiny"]
    lines = register(name, words, tmp_path / "runs")
    made = registration.read(registration.path(tmp_path / "runs", name))
    question = read(yaml.safe_load(next(path for path in SWEEPS if path.stem == name).read_text()))
    assert len(made.claims) == len(question.claims)
    assert made.primary == question.primary
    assert made.digest in lines[-1]
    trials = [cell for cell in made.cells if cell.method != "base"]
    assert len({cell.recipe_id for cell in trials}) == len(set(expand(question.cells, [])))
    assert not (tmp_path / "sweeps").exists()
