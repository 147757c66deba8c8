"""The questions that are shipped in `sweeps/`: what each of them must hold for its answer to be believed."""

from pathlib import Path

import pytest
import yaml

from harness.config.question import read

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
