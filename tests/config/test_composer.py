"""Many cells are composed at a fraction of Hydra's price, to the same configuration, with the same errors."""

import time

import pytest
from hydra.errors import HydraException

from harness.config import config
from harness.config.compose import Composer
from harness.sweep import stages
from harness.sweep.planned_runs import compose_all, resolve

CELLS = [
    (),
    ("method=lora", "method.r=4", "lr_scale=3", "seed=2"),
    ("method=lora", "target=[q_proj,v_proj]", "train=smoke", "train.warmup_steps=0"),
    ("method=lora", "method.lora_alpha='${times:2,${method.r}}'", "method.r=4"),
    ("train.lr=1e-3", "method=full", "method.lr=null"),
    ("method=peft", "+method.options.r=4", "data=gsm8k", "data.max_rows=null"),
    ("sweep=smoke", "method=dora", "eval.tasks=[piqa]", "data.train.0.prompt='{{question}} x'"),
    ("data.source=path", "++data.path=/x", "method=ia3", "seed=1"),
]


@pytest.fixture
def composer(compose):
    return Composer(lambda cell: compose(*cell))


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_a_cell_composes_to_what_hydra_composes(compose, composer, cell):
    assert config.build(composer(cell)) == config.build(compose(*cell))
    assert config.build(composer(cell)) == config.build(compose(*cell))  # from what is known by now


def test_one_cell_leaves_the_next_alone(composer):
    assert config.build(composer(("method=lora", "method.r=4"))).method.r == 4
    assert config.build(composer(("method=lora",))).method.r == 16


@pytest.mark.parametrize("word", ["method.rnak=8", "methd=lora", "train.0=1", "method=nosuch"])
def test_what_hydra_refuses_is_refused_with_its_words(compose, composer, word):
    with pytest.raises(HydraException) as hydras:
        compose("method=lora", word)
    with pytest.raises(HydraException) as ours:
        composer(("method=lora", word))
    assert str(ours.value) == str(hydras.value)


def test_hydra_composes_every_choice_of_groups_once(compose):
    asked = []

    def counted(cell):
        asked.append(cell)
        return compose(*cell)

    composer = Composer(counted)
    for seed in range(50):
        composer(("method=lora", f"seed={seed}", "lr_scale=2"))
        composer(("method=full", f"seed={seed}"))
    assert asked == [("method=lora",), ("method=full",)]


def test_planning_costs_the_same_for_every_cell(compose, tiny_overrides):
    """Linear in the cells, and far below Hydra's price for composing each of them."""
    compose_seconds = _seconds(lambda: compose(*tiny_overrides, "method=lora"))

    def planned(count):
        composer = Composer(lambda cell: compose(*cell))
        scales = ",".join(str(1 + i / 1000) for i in range(count))
        wanted = stages.first_cells(None, [*tiny_overrides, "method=lora", f"lr_scale={scales}"])
        assert len(wanted) == count
        plan = compose_all(wanted, composer)
        assert len({one.experiment.recipe_id for one in plan}) == count
        resolve(plan)

    planned(5)  # imports, parsers
    few, many = _seconds(lambda: planned(50)), _seconds(lambda: planned(200))
    assert many < 8 * few, "four times the cells: linear, with room for a noisy machine"
    assert many / 200 < compose_seconds / 2


def _seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start
