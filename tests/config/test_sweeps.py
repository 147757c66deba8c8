"""The questions that are shipped in `sweeps/`: what each of them must hold for its answer to be believed."""

import re
from pathlib import Path

import pytest
import yaml

from harness.config.overrides import expand
from harness.config.sweep_file import read
from harness.report.commands import power
from harness.sweep.stages import contestants

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
TUNED = [path for path in SWEEPS if yaml.safe_load(path.read_text()).get("stages")]
FEWEST_SEEDS = 5


def test_every_shipped_sweep_is_found():
    assert (len(SWEEPS), len(TUNED)) == (12, 10)


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
    assert power.main(words.split()) == 0
    first, adjusted = capsys.readouterr().out.splitlines()[:2]
    assert f"{words}): {first} {adjusted}" in written
