from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from harness.config.overrides import base_of, expand, names
from harness.records.identity import recipe_keys


def test_nothing_asked_for_is_one_cell_of_defaults():
    assert expand([], []) == [()]
    assert names([()]) == ["(the defaults)"]


def test_commas_make_a_product_in_the_order_of_the_line():
    cells = expand([], ["method=lora,dora", "train=smoke", "seed=0,1"])
    assert cells == [
        ("method=lora", "train=smoke", "seed=0"),
        ("method=lora", "train=smoke", "seed=1"),
        ("method=dora", "train=smoke", "seed=0"),
        ("method=dora", "train=smoke", "seed=1"),
    ]
    assert names(cells)[0] == "method=lora train=smoke seed=0"


def test_grids_are_united_and_not_multiplied():
    grids = [{"method": "lora", "method.r": [8, 16]}, {"method": ["full", "base"]}]
    assert expand(grids, []) == [
        ("method=lora", "method.r=8"),
        ("method=lora", "method.r=16"),
        ("method=full",),
        ("method=base",),
    ]


def test_a_line_multiplies_every_grid():
    cells = expand([{"method": ["lora", "full"]}, {"method": "dora"}], ["seed=0,1", "sweep=question"])
    assert len(cells) == 6
    assert all("sweep=question" in cell for cell in cells)
    assert [cell[0] for cell in cells] == ["seed=0", "seed=0", "seed=1", "seed=1", "seed=0", "seed=1"]


def test_the_line_wins_over_the_file():
    assert expand([{"method": ["lora", "dora"], "seed": [0, 1, 2]}], ["seed=7"]) == [
        ("seed=7", "method=lora"),
        ("seed=7", "method=dora"),
    ]


def test_a_line_that_wins_leaves_no_repetitions():
    grids = [{"method": "lora", "seed": [0, 1]}, {"method": ["lora", "dora"], "seed": 0}]
    assert expand(grids, ["seed=5"]) == [("seed=5", "method=lora"), ("seed=5", "method=dora")]
    assert expand([], ["seed=0,0,1"]) == [("seed=0",), ("seed=1",)]


def test_hydras_own_sweeps_are_understood():
    assert expand([], ["method.r=range(8,25,8)"]) == [("method.r=8",), ("method.r=16",), ("method.r=24",)]
    assert expand([], ["train=choice(smoke,demo)"]) == [("train=smoke",), ("train=demo",)]
    assert expand([], ["target=[q_proj,v_proj],mlp"]) == [("target=[q_proj,v_proj]",), ("target=mlp",)]


def test_additions_and_deletions_are_kept_as_they_are():
    assert expand([], ["+method.x=1", "~eval.path", "++seed=3"]) == [("+method.x=1", "~eval.path", "++seed=3")]


def test_what_is_no_override_is_refused():
    with pytest.raises(HydraException, match="method"):
        expand([], ["method"])


@pytest.mark.parametrize(
    "word", ["method.init_text= a", "method.init_text=a ", "+data.invocation=\ta b", "data.file= a.jsonl"]
)
def test_white_space_around_a_text_is_not_left_out_in_silence(word):
    with pytest.raises(ValueError, match="is left out unless the text is quoted once more"):
        expand([], [word])


@pytest.mark.parametrize("word", ["seed= 1", "method.init_text=' a '", "eval.tasks=[ a, b ]", "~data.x"])
def test_white_space_that_is_kept_or_means_nothing_passes(word):
    assert expand([], [word]) == [(word,)]


def test_several_sweeps_at_once_are_refused():
    with pytest.raises(ValueError, match="one sweep at a time"):
        expand([], ["sweep=smoke,other"])


ODD_VALUES: list[Any] = [
    None, True, False, 0, -3, 1e-4, 1e22, "", " ", "a b", "a,b", "null", "true", "NaN", "inf", "it's", 'say "so"',
    "back\\slash", "ends in \\", "\\'", "x=y", "a:b", "#5", "100%", "@here", "~gone", "$", "re:.*_proj",
    "re:.*layers\\.(0|1)\\..*(q|v)_proj$", "(parentheses)", "[brackets]", "{braces}", "caf\u00e9", "1e-4", "007",
    "2024-01-01", "/a/path/x-1.jsonl", "C:\\x", "\\\\", [], ["q_proj", "v_proj"], ["re:(q|v)_proj", None, 1, True],
    [["a", "b"], ["c,d"]], {"a": 1, "b": ["x y", None]},
]  # fmt: skip


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_a_value_of_a_file_survives_hydras_grammar(value):
    # a value that is a list is an element of the list of alternatives
    [[word]] = expand([{"target": [value]}], [])
    override = OverridesParser.create().parse_overrides([word])[0]
    assert not override.is_sweep_override()
    found = override.value()
    assert OmegaConf.to_container(OmegaConf.create({"value": found}))["value"] == value
    assert type(found) is type(value) or isinstance(value, str | dict)


@pytest.mark.parametrize("target", ["re:.*_proj", "re:.*layers\\.(0|1)\\..*(q|v)_proj", ["q_proj", "v_proj"], "mlp"])
def test_a_target_of_a_file_reaches_the_experiment(compose, target):
    from harness.config import config

    [cell] = expand([{"method": "lora", "target": [target]}], [])
    experiment = config.build(compose(*cell))
    assert experiment.method.target == (tuple(target) if isinstance(target, list) else target)


def test_the_base_of_a_cell_is_asked_the_same_of_the_untouched_model():
    cell = (
        "method=lora",
        "method.r=8",
        "lr_scale=2",
        "target=mlp",
        "seed=3",
        "data=gsm8k",
        "eval.limit=4",
        "train=smoke",
    )
    assert base_of(cell) == ("data=gsm8k", "eval.limit=4", "train=smoke", "method=base")
    assert base_of(("+method.x=1", "++target=mlp", "~lr_scale", "model=gpt2")) == ("model=gpt2", "method=base")
    assert base_of(base_of(cell)) == base_of(cell)


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        (["data.file"], ("data",)),
        (["data.file", "data.test_file", "seed"], ("data",)),
        (["model.path"], ("model",)),
        (["model.hub_id", "model.revision"], ("model",)),
        (["target"], ("method.target",)),
        (["lr_scale"], ("train.lr",)),
        (["data.max_rows"], ("data.max_rows",)),
    ],
    ids=str,
)
def test_a_setting_that_varies_covers_what_a_recipe_knows_of_it(settings, keys):
    """A recipe holds the content of a file, and not its place."""
    assert recipe_keys(settings) == keys


TWICE = ("method.r=8,16 method.r=4", "method=lora,dora seed=1 method=full", "seed=0,1 seed=2,3", "+a.b=1,2 ++a.b=3",
         "method.r=range(1,4) method.r=4")  # fmt: skip
REPLACED = {"method.r=4 method.r=8,16": {"8", "16"}, "method.r=4 method.r=8": {"8"}, "method.r=8,16 seed=1": {"1"}}


@pytest.mark.parametrize("words", TWICE)
def test_several_values_that_one_behind_them_would_replace_are_refused(words):
    """Their cells were dropped as one run without a word."""
    first, last = words.split()[0], words.split()[-1]
    with pytest.raises(ValueError, match="is given twice, and the last would be that of every run; give") as refused:
        expand((), words.split())
    assert str(refused.value).startswith(f"{first} {last}: {first.partition('=')[0].lstrip('+')} is given")


@pytest.mark.parametrize("words", REPLACED)
def test_one_value_is_replaced_by_what_is_given_behind_it(words):
    assert {cell[-1].partition("=")[2] for cell in expand((), words.split())} == REPLACED[words]


RATES = {
    "method.lr=1e-3 train.lr=1e-4": False, "method.lr=1e-3,1e-4 train.lr=1e-4": False,
    "train.lr=1,2 method.lr=3": False,
    "method.lr=null train.lr=1e-4": True, "method.lr=1e-3 train.lr=null": True, "train.lr=1e-4": True,
    "method.lr=1e-3,1e-4": True, "method.lr=1e-3 train.lr=${method.lr}": True,
}  # fmt: skip


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("words", RATES)
def test_a_rate_of_the_method_that_would_change_nothing_is_refused(words, in_file):
    given = words.split()
    grids = (
        [
            {
                key: [None if one == "null" else one for one in value.split(",")]
                for key, _, value in [given.pop(0).partition("=")]
            }
        ]
        if in_file
        else ()
    )
    if RATES[words]:
        assert expand(grids, given)
        return
    with pytest.raises(ValueError, match=r"^method\.lr=\S+ train\.lr=\S+: train\.lr takes the place of"):
        expand(grids, given)
