"""The streams of random numbers of a run: each moves its own part of training and nothing else."""

import hashlib

import pytest

from harness.config import config
from harness.config.experiment import Todo, evaluations
from harness.data import TokenRows
from harness.data.token_rows import Drawn
from harness.run import inputs
from harness.run.worker import _Work
from harness.train.signals import Preemption


@pytest.fixture
def described(compose, tiny_overrides):
    def made(*overrides):
        return inputs.resolve(config.build(compose(*tiny_overrides, "method.lora_dropout=0.5", *overrides)))

    return made


def loaded(experiment):
    work = _Work(experiment, Todo(train=True, evaluations=(), weights_from="then"), Preemption(), lambda event: None)
    work.load()
    return work


def seen(experiment):
    """(digest of the new weights, of the training rows, the first losses) of a run under way."""
    work = loaded(experiment)
    weights = hashlib.sha256()
    for _, parameter in sorted(work.model.named_parameters()):
        weights.update(parameter.detach().float().numpy().tobytes())
    rows = [row["input_ids"] for row in work.rows]
    return weights.hexdigest(), rows, work.fit().losses


def test_each_stream_moves_its_own_part(described):
    draw = "data.resample=bootstrap"
    start = seen(described(draw, "seed={init:1,order:2,data:3}"))
    init = seen(described(draw, "seed={init:4,order:2,data:3}"))
    order = seen(described(draw, "seed={init:1,order:4,data:3}"))
    data = seen(described(draw, "seed={init:1,order:2,data:4}"))
    assert init[0] != start[0] and init[1] == start[1]
    assert order[:2] == start[:2] and order[2] != start[2]
    assert data[0] == start[0] and data[1] != start[1]


def test_a_plain_seed_is_all_three(described):
    draw = "data.resample=bootstrap"
    assert seen(described(draw, "seed=2")) == seen(described(draw, "seed={init:2,order:2,data:2}"))


def test_identities_and_folders_of_plain_seeds_stay(described):
    plain, divided = described("seed=3"), described("seed={init:3,order:1}")
    assert plain.folder.name == "seed-3"
    assert divided.folder.name == "seed-10003001000"
    assert plain.recipe_id == divided.recipe_id != described("data.resample=bootstrap").recipe_id


def test_rows_are_drawn_with_replacement(described):
    rows = loaded(described()).rows
    assert isinstance(rows, TokenRows)
    drawn = [Drawn(rows, seed) for seed in range(200)]
    assert {len(one) for one in drawn} == {len(rows)}
    assert drawn[0][0] in list(rows)
    different = [len(set(one._places)) / len(rows) for one in drawn]
    expected = 1 - (1 - 1 / len(rows)) ** len(rows)  # of a bootstrap sample
    assert abs(sum(different) / len(different) - expected) < 0.02
    assert drawn[0].row_lengths == [len(row["input_ids"]) for row in drawn[0]]


def test_a_seed_for_rows_that_nobody_draws_is_refused(described):
    with pytest.raises(ValueError, match=r"^seed\.data=1: no training rows are drawn.*data\.resample=bootstrap"):
        described("seed={init:0,data:1}")
    with pytest.raises(ValueError, match=r"^seed\.dropout: no such stream"):
        described("seed={dropout:1}")


def test_validation_rows_do_not_depend_on_the_draw(described):
    assert evaluations(described("data.resample=bootstrap", "seed=1")) == evaluations(described("seed=0"))
