"""Inputs of `compare_methods`: the same outcomes in any container, and what is refused in place of a wrong number."""

import re

import numpy as np
import pytest

from harness.stats import compare_methods

ITEMS = 60
FLAT = {"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}


def _answers(seeds=3):
    rng = np.random.default_rng(1)
    return {name: rng.uniform(size=(seeds, ITEMS)) < rate for name, rate in zip("abc", (0.6, 0.5, 0.55), strict=True)}


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, int, np.float16, np.float32, float, object])
def test_right_or_wrong_is_the_same_in_any_type(kind):
    answers = _answers()
    expected = compare_methods(answers)
    assert compare_methods({name: one.astype(kind) for name, one in answers.items()}) == expected
    assert compare_methods({name: one.astype(kind).tolist() for name, one in answers.items()}) == expected


def test_a_masked_seed_is_a_lost_one():
    answers = {name: one.astype(float) for name, one in _answers(4).items()}
    lost = answers | {"a": np.where(np.arange(4)[:, None] == 2, np.nan, answers["a"])}
    masked = answers | {"a": np.ma.masked_array(answers["a"], mask=np.isnan(lost["a"]))}
    assert compare_methods(masked) == compare_methods(lost)
    item = np.ma.masked_array(answers["a"], mask=np.arange(4 * ITEMS).reshape(4, ITEMS) == 7)
    with pytest.raises(ValueError, match="a lost seed is a whole row of NaN"):
        compare_methods(answers | {"a": item})


def test_names_may_come_from_an_iterator():
    answers = _answers()
    answers["base"] = answers["a"][:1]
    lists = {"families": ["baseline", "all"], "deterministic": ["base"]}
    expected = compare_methods(answers, baseline="base", **lists)
    assert [*expected.families] == ["baseline", "all"]
    iterators = {name: iter(listed) for name, listed in lists.items()}
    assert compare_methods(answers, baseline="base", **iterators) == expected


@pytest.mark.parametrize(
    "labels",
    [
        range(ITEMS),
        np.arange(ITEMS),
        [f"passage {i}" for i in range(ITEMS)],
        [("book", i) for i in range(ITEMS)],
        [i if i % 2 else str(i - 1) if i > 1 else "first" for i in range(ITEMS)],
    ],
    ids=["range", "array", "text", "tuples", "numbers and text"],
)
def test_items_in_clusters_of_their_own_are_items(labels):
    assert len({*labels}) == ITEMS
    assert compare_methods(_answers(), clusters=labels) == compare_methods(_answers())


def test_labels_of_clusters_are_names_alone():
    """Sizes and members count, not what a label is called or where its items stand."""
    answers, places = _answers(), np.arange(ITEMS) // 4
    expected = compare_methods(answers, clusters=places)
    assert compare_methods(answers, clusters=[f"p{place}" for place in places]) == expected
    assert compare_methods(answers, clusters=(-places).astype(float)) == expected


def test_one_cluster_makes_no_verdict():
    pair = compare_methods(_answers(), clusters=["whole book"] * ITEMS).pair("a", "b")
    assert (pair.verdict, pair.p) == ("no verdict", 1.0)
    assert "a single item (or cluster) has no spread" in pair.why


@pytest.mark.parametrize(
    ("outcomes", "options", "message"),
    [
        ([[[1.0, 0.0]], [[1.0, 0.0]]], {}, "a dict is needed"),
        ({1: [[1.0, 0.0]], 2: [[1.0, 0.0]]}, {}, "a dict is needed, from the name of each method"),
        ({}, {}, "0 methods"),
        (FLAT | {"b": [["yes", "no"]]}, {}, "b: outcomes must be numbers"),
        (FLAT | {"b": [[1.0, 0.0], [1.0]]}, {}, "b: outcomes must be numbers"),
        (FLAT | {"b": None}, {}, "b: outcomes of shape ()"),
        (FLAT | {"b": np.zeros((2, 0))}, {}, "b: outcomes of shape (2, 0)"),
        (FLAT | {"b": np.zeros((0, 2))}, {}, "b: outcomes of shape (0, 2)"),
        (FLAT | {"b": np.zeros((1, 1, 2))}, {}, "b: outcomes of shape (1, 1, 2)"),
        (FLAT, {"weights": [1.0, np.inf]}, "2 non-negative, finite ones"),
        (FLAT, {"weights": [1.0, -1.0]}, "2 non-negative, finite ones"),
        (FLAT, {"weights": [0.0, 0.0]}, "with a positive sum"),
        (FLAT, {"weights": [[1.0, 1.0]]}, "weights of shape (1, 2)"),
        (FLAT, {"clusters": ["p", float("nan")]}, "1 of 2 items have no label"),
        (FLAT, {"clusters": "ab"}, "clusters of shape ()"),
        (FLAT, {"clusters": np.zeros((2, 1))}, "clusters of shape (2, 1)"),
        (FLAT, {"clusters": [{}, {}]}, "a label is a number, a name or a tuple"),
        (FLAT, {"margin": np.inf}, "must be positive and finite"),
        (FLAT, {"margin": -0.01}, "must be positive and finite"),
        (FLAT, {"level": 0.5}, "between 0 and 0.5"),
        (FLAT, {"level": 0.0}, "between 0 and 0.5"),
        (FLAT, {"deterministic": [1]}, "deterministic: 1: no such method"),
        (FLAT, {"deterministic": [["a"]]}, "deterministic: ['a']: no such method; there are a, b"),
        (FLAT, {"deterministic": None}, "deterministic=None: a list of names is needed, and an empty one for none"),
        (FLAT, {"families": None}, "families=None: a list of names is needed"),
        (FLAT, {"families": 5}, "families=5: a list of names is needed"),
        (FLAT, {"baseline": ["a"]}, "baseline=['a']: no such method; there are a, b"),
        (FLAT, {"level": "0.05"}, "level='0.05': a number is needed, such as 0.05"),
        (FLAT, {"level": None}, "level=None: a number is needed"),
        (FLAT, {"level": [0.05]}, "level=[0.05]: a number is needed"),
        (FLAT, {"margin": "0.1"}, "margin='0.1': a number is needed"),
        (FLAT, {"margin": True}, "margin=True: a number is needed"),
        (FLAT, {"margin": 10**400}, "must be positive and finite"),
        (FLAT, {"paired_seeds": "no"}, "paired_seeds='no': True or False is needed"),
        (FLAT, {"higher_is_better": "min"}, "higher_is_better='min': True or False is needed"),
        (FLAT, {"weights": ["x", "y"]}, "weights: 2 numbers are needed, one for each item: could not convert"),
        (FLAT, {"weights": [[1.0], [1.0, 2.0]]}, "weights: 2 numbers are needed, one for each item: setting an array"),
        (FLAT, {"weights": np.array([1.0, 1j])}, "weights: 2 numbers are needed, one for each item: these are complex"),
        (FLAT, {"weights": np.ma.masked_array([1.0, 2.0], mask=[True, False])}, "2 non-negative, finite ones"),
        (FLAT, {"weights": [1e-308, 1.0]}, "of items that weigh 1e-308 to 1"),
        (FLAT, {"weights": [1e200, 1e200]}, "of items that weigh 1e+200 to 1e+200"),
        (FLAT | {"b": np.array([[1.0, 1j]])}, {}, "b: outcomes must be numbers in an array of shape (seeds, items): "),
        (FLAT | {"b": np.array([["2020", "2021"]], dtype="M8[D]")}, {}, "these are dates"),
        (FLAT | {"b": np.array([[3, 4]], dtype="m8[s]")}, {}, "these are durations"),
        (FLAT | {"b": np.zeros((1, 2), dtype=[("right", float)])}, {}, "these are records of several fields"),
        (FLAT | {"b": [[10**400, 1]]}, {}, "b: outcomes must be numbers"),
        (FLAT | {"b": [[1e200, 0.0]]}, {}, "outcomes of up to 1e+200: give them in a unit in which the largest and"),
        ({"a": [[1e-100, 0.0]], "b": [[0.0, 0.0]]}, {}, "outcomes of up to 1e-100: give them in a unit"),
    ],
)
def test_what_would_make_a_wrong_number_is_refused(outcomes, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        compare_methods(outcomes, **options)


def test_a_method_with_one_seed_lowers_no_measured_noise():
    """Its pairs show no noise between seeds, which is not a noise of zero."""
    from harness.stats import measured_noise

    rng = np.random.default_rng(2)
    hard = rng.uniform(size=4000)
    answers = {name: (hard + rng.normal(0, 0.1, (5, 4000)) < 0.6).astype(float) for name in "abcd"}
    whole = measured_noise(answers)
    fewer = measured_noise(answers | {name: answers[name][:1] for name in "cd"})
    assert whole.right_or_wrong
    assert fewer.rerun_disagreement == pytest.approx(whole.rerun_disagreement, rel=0.05)
    assert fewer.disagreement == pytest.approx(whole.disagreement, rel=0.05)
    single = measured_noise({name: one[:1] for name, one in answers.items()})
    assert single.disagreement == pytest.approx(whole.disagreement, rel=0.05)
    assert (single.rerun_disagreement, single.seed_deviation, single.degrees) == (None, None, 0.0)
    percent = measured_noise({name: 100 * one for name, one in answers.items()})
    assert not percent.right_or_wrong  # its disagreement is a variance in squared points, and no share of the items
    assert percent.disagreement == pytest.approx(1e4 * whole.disagreement)
