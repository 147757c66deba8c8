"""`compare_methods` against closed forms, scipy and its own promises: what it claims, refuses and borrows."""

import math

import numpy as np
import pytest
import scipy.stats

from harness import stats
from harness.stats.seeds import interaction, seed_variances


def _graded(seed, shapes, items=300, seed_sd=0.3):
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=items)
    return {
        name: skill
        + rng.normal(0, 0.5, size=items)
        + rng.normal(0, seed_sd, size=(seeds, 1))
        + rng.normal(size=(seeds, items))
        for name, seeds in shapes.items()
    }


def _answers(seed, shapes, items=260, rate=0.6):
    rng = np.random.default_rng(seed)
    return {name: (rng.uniform(size=(seeds, items)) < rate).astype(float) for name, seeds in shapes.items()}


def _only(outcomes, **options):
    return stats.compare_methods(outcomes, families=("all",), **options).families["all"].pairs[0]


def test_a_pair_alone_has_students_quantiles_of_seeds_and_items():
    """Closed form: the items' variance less the item x seed noise, the seeds' never below it."""
    outcomes = _graded(1, {"a": 4, "b": 4})
    pair = _only(outcomes)
    d = outcomes["a"] - outcomes["b"]
    seeds, items = d.shape
    by_seed, by_item = d.mean(axis=1), d.mean(axis=0)
    rest = d - by_seed[:, None] - by_item + d.mean()
    noise = (rest**2).sum() / ((seeds - 1) * (items - 1)) / (items * seeds)
    of_seeds, of_items = max(by_seed.var(ddof=1) / seeds, noise), max(by_item.var(ddof=1) / items - noise, 0)

    def reach(tail):
        t_seeds, t_items = scipy.stats.t.isf(tail, seeds - 1), scipy.stats.t.isf(tail, items - 1)
        total = of_seeds + of_items
        return np.sqrt(t_items**2 * total + (t_seeds**2 - t_items**2) * of_seeds * np.sqrt(of_seeds / total))

    assert pair.difference == pytest.approx(d.mean())
    assert pair.interval == pytest.approx((d.mean() - reach(0.025), d.mean() + reach(0.025)))
    assert reach(pair.p / 2) == pytest.approx(abs(d.mean()))
    assert (pair.adjusted_p, pair.adjusted_interval) == (pytest.approx(pair.p), pytest.approx(pair.interval))
    assert pair.standard_error**2 == pytest.approx(of_seeds + of_items)


def test_two_rows_without_seed_noise_are_the_paired_t_test():
    outcomes = _graded(2, {"a": 1, "b": 1})
    pair = _only(outcomes, deterministic=["a", "b"])
    expected = scipy.stats.ttest_rel(outcomes["a"][0], outcomes["b"][0])
    assert pair.p == pytest.approx(expected.pvalue)
    assert pair.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert pair.scope == "methods"


def test_a_ratio_of_sums_has_the_delta_methods_error():
    outcomes = _graded(3, {"a": 1, "b": 1})
    weights = np.random.default_rng(3).integers(1, 40, size=300).astype(float)
    pair = _only(outcomes, deterministic=["a", "b"], weights=weights, higher_is_better=False)
    gap = outcomes["a"][0] - outcomes["b"][0]
    value = gap.sum() / weights.sum()
    error = np.sqrt(300 * (gap - value * weights).var(ddof=1)) / weights.sum()
    assert pair.difference == pytest.approx(value)
    assert pair.standard_error == pytest.approx(error)


def test_clusters_are_sums_of_their_items():
    """Every item three times over is a third of the evidence, not three times of it."""
    outcomes = _graded(4, {"a": 3, "b": 3, "c": 3}, items=100)
    alone = _only(outcomes)
    thrice = _only(
        {name: np.repeat(one, 3, axis=1) for name, one in outcomes.items()}, clusters=np.repeat(range(100), 3)
    )
    assert thrice.interval == pytest.approx(alone.interval)
    assert thrice.p == pytest.approx(alone.p)


def test_the_pooled_variance_is_the_mean_square_of_the_interaction():
    outcomes = _graded(5, {"a": 3, "b": 3, "c": 3, "d": 3})
    table = np.stack([one.mean(axis=1) for one in outcomes.values()])
    rest = table - table.mean(axis=0) - table.mean(axis=1)[:, None] + table.mean()
    compared = stats.compare_methods(outcomes)
    assert compared.seed_deviation**2 == pytest.approx((rest**2).sum() / 6)
    assert "pooled over 4 methods, 6 degrees of freedom" in compared.families["all"].pairs[0].pooled


def test_a_shared_seed_effect_cancels_between_methods_and_not_against_the_base():
    outcomes = _graded(6, {"a": 3, "b": 3, "c": 3})
    effect = np.array([[-2.0], [0.5], [1.5]])
    moved = {name: one + effect for name, one in outcomes.items()}
    base = {"base": outcomes["a"][:1]}
    options = {"deterministic": ["base"], "baseline": "base"}
    before, after = (stats.compare_methods(one | base, **options) for one in (outcomes, moved))
    assert after.pair("a", "b").interval == pytest.approx(before.pair("a", "b").interval)
    wide, narrow = (one.families["baseline"].pairs[0].standard_error for one in (after, before))
    assert wide > 3 * narrow


def test_lost_seeds_leave_the_others_paired():
    outcomes = _answers(7, {"a": 4, "b": 4, "c": 4})
    cut = {name: one.copy() for name, one in outcomes.items()}
    cut["a"][1] = np.nan
    compared = stats.compare_methods(cut, families=("all",))
    pair = compared.pair("a", "b")
    used = [0, 2, 3]
    assert pair.seeds == 3
    assert pair.difference == pytest.approx((outcomes["a"][used] - outcomes["b"][used]).mean())
    assert compared.pair("b", "c").seeds == 4
    shorter = cut | {"c": cut["c"][:2]}
    assert stats.compare_methods(shorter).pair("b", "c").seeds == 2


def test_seeds_that_one_method_alone_has_show_nothing_of_its_own_variance():
    table = np.random.default_rng(3).normal(size=(4, 10))
    table[1:, 3:] = np.nan
    found, whole = interaction(table), interaction(table[:, :3])
    assert (found.pooled, found.degrees) == pytest.approx((whole.pooled, whole.degrees))
    np.testing.assert_allclose(found.own, whole.own, atol=1e-12)
    np.testing.assert_allclose(found.free, whole.free)


def test_seeds_in_a_chain_show_no_interaction_and_the_whole_variance_stands_for_it():
    outcomes = _graded(9, {"a": 3, "b": 3, "c": 3})
    outcomes["a"][2] = outcomes["b"][0] = outcomes["c"][[0, 2]] = np.nan
    compared = stats.compare_methods(outcomes)
    assert compared.seed_deviation > 0.1
    pair = compared.pair("a", "c")
    assert pair.standard_error**2 > 1.5 * pair.item_variance


def test_methods_without_common_seeds_have_no_more_degrees_of_freedom_than_their_own():
    scores = np.full((4, 8), np.nan)
    for method in range(4):
        scores[method, 2 * method : 2 * method + 2] = [0.5, 0.5 + 0.01 * (method + 1)]
    found = seed_variances(scores, np.zeros(4, dtype=bool), paired=True)
    assert (found.total_degrees, found.degrees) == (4, 4)


def test_unpaired_seeds_are_welchs_beside_the_items():
    outcomes = _graded(8, {"a": 3, "b": 6}, items=4000, seed_sd=3.0)
    pair = _only(outcomes, paired_seeds=False)
    scores = [one.mean(axis=1) for one in outcomes.values()]
    pooled = scipy.stats.ttest_ind(*scores)
    assert pair.standard_error == pytest.approx(abs(pair.difference / pooled.statistic), rel=0.01)


@pytest.mark.parametrize(
    ("outcomes", "options", "why"),
    [
        ({"a": 1, "b": 1}, {}, "each has one seed"),
        ({"a": 1, "b": 1}, {"paired_seeds": False}, "not the same one"),
        ({"a": 2, "b": 2}, {}, "two seeds, and no other method"),
        ({"a": 3, "b": 1}, {}, "b has one seed, and its seed variance is borrowed"),
        ({"a": 1, "b": 1}, {"deterministic": ["b"]}, "a has one seed"),
        ({"a": 2, "b": 1}, {"deterministic": ["b"]}, "two seeds, and no other method"),
    ],
)
def test_too_few_seeds_make_no_verdict_however_large_the_difference(outcomes, options, why):
    drawn = _answers(9, outcomes, rate=0.5)
    drawn["a"] = np.ones_like(drawn["a"])
    pair = _only(drawn, margin=0.9, **options)
    assert pair.verdict == "no verdict"
    assert why in pair.why
    assert pair.equivalence_p == pair.noninferiority_p == 1.0


def test_single_runs_are_compared_as_runs():
    drawn = _answers(10, {"a": 1, "b": 1}, rate=0.5)
    drawn["a"] = np.ones_like(drawn["a"])
    pair = _only(drawn)
    assert (pair.scope, pair.runs_differ) == ("runs", True)
    assert pair.adjusted_interval[0] > 0


def test_two_seeds_borrow_from_other_methods_and_say_from_where():
    pair = _only(_answers(11, {"a": 2, "b": 2, "c": 2, "d": 2}))
    assert pair.verdict == "not significant"
    assert pair.pooled == "seed variance pooled over 4 methods, 3 degrees of freedom"


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_interval_is_empty_where_nothing_differs(seeds):
    answers = np.repeat(_answers(12, {"a": 1})["a"], seeds, axis=0)
    pair = _only({"a": answers, "b": answers})
    assert pair.interval[0] < 0 < pair.interval[1]
    graded = np.full((seeds, 50), 0.7)
    pair = _only({"a": graded, "b": graded})
    assert pair.interval == (-math.inf, math.inf)
    assert "no spread" in pair.why


def test_seeds_that_agree_by_chance_borrow_the_spread_of_the_others():
    """Two methods that are alike on every item and seed, beside methods that vary: no interval of length zero."""
    outcomes = _graded(18, dict.fromkeys("abc", 3), items=40)
    outcomes |= {"d": np.full((3, 40), 0.5), "base": np.full((1, 40), 0.5)}
    for shift in (0.0, 0.7):
        outcomes["base"] = np.full((1, 40), 0.5 + shift)
        compared = stats.compare_methods(outcomes, baseline="base", deterministic=["base"])
        pair = compared.pair("d", "base", "baseline")
        assert pair.interval[0] < -shift < pair.interval[1]
        assert 0 < pair.p <= pair.adjusted_p


def test_a_spread_of_rounding_alone_is_none():
    """Equal losses per token: sums over tokens differ in the last digit from one order of the items to another."""
    rng = np.random.default_rng(19)
    weights = rng.integers(1, 30, size=260).astype(float)
    loss = weights * rng.gamma(2.0, 0.5, size=260)
    for shift in (0.0, 0.25):
        outcomes = {name: np.tile(loss + shift * place * weights, (3, 1)) for place, name in enumerate("abcd")}
        for _ in range(10):
            order = rng.permutation(260)
            compared = stats.compare_methods(
                {name: values[:, order] for name, values in outcomes.items()}, weights=weights[order], margin=0.5
            )
            for pair in compared.families["all"].pairs:
                assert pair.interval == (-math.inf, math.inf)
                assert "no spread" in pair.why


def test_a_far_margin_beside_two_degrees_of_freedom_has_a_p_value():
    """An extreme tail at 2.0000000000000004 degrees of freedom, for which scipy has no quantile."""
    from harness.stats.reach import Noise

    degrees = np.array([[99.0] * 40, 2 + np.arange(40) * 2.0**-51])
    noise = Noise(np.array([[7.9e-6] * 40, [3e-6] * 40]), degrees, np.zeros(40), 100)
    p = noise.p_values(np.full(40, 0.98))
    assert p == pytest.approx(np.full(40, p[0]))
    assert p[0] == pytest.approx(3.1e-6, rel=0.05)


@pytest.mark.parametrize("level", [1e-5, 1e-4, 0.001, 0.01, 0.05])
@pytest.mark.parametrize("degrees", [2, 22, 400])
def test_the_adjusted_p_value_grows_with_the_single_one_and_is_inverted_at_any_level(level, degrees):
    from harness.stats.simultaneous import adjustment

    pairs = np.array([(i, j) for i in range(21) for j in range(i)])
    adjusted = adjustment(np.eye(21), pairs, 0.6, degrees)
    single = np.geomspace(1e-12, 1.0, 4000)
    p = adjusted.p_values(single)
    assert (np.diff(p) >= 0).all()
    assert (p <= np.minimum(len(pairs) * single, 1.0) * (1 + 1e-9)).all()
    exact = adjusted.single_level(level)
    below, above = adjusted.p_values(np.array([exact * 0.999, exact * 1.001]))
    assert below < level < above or below == pytest.approx(level, rel=0.01)


@pytest.mark.parametrize(("items", "expected"), [(8, False), (200, False), (350, False), (450, True)])
def test_agreement_on_a_few_items_is_no_equivalence(items, expected):
    answers = np.tile([[1.0, 0.0]] * 3, items // 2)
    pair = _only({"a": answers, "b": answers}, margin=0.01)
    assert (pair.verdict == "equivalent") is expected


def test_a_family_of_the_best_is_adjusted_for_every_pair_that_could_have_been_it():
    compared = stats.compare_methods(_answers(13, dict.fromkeys("abcdef", 4)))
    assert compared.families["best"].comparisons == compared.families["all"].comparisons == 15
    assert len(compared.families["best"].pairs) == 5
    assert {pair.b for pair in compared.families["best"].pairs} == {compared.best}
    assert compared.families["best"].single_level == pytest.approx(compared.families["all"].single_level)
    assert 0.05 / 15 <= compared.families["all"].single_level < 0.05


def test_of_scores_that_are_equal_but_for_rounding_the_first_is_the_best():
    right = {"first": (158, 156, 155), "second": (159, 155, 155)}  # the means of their shares differ in the last bit
    outcomes = {
        name: np.array([np.arange(260) < count for count in counts], dtype=float) for name, counts in right.items()
    }
    scores = {name: one.mean(axis=1).mean() for name, one in outcomes.items()}
    assert scores["second"] > scores["first"]
    assert stats.compare_methods(outcomes).best == "first"


def test_the_simulated_adjustment_is_tukeys_where_tukeys_holds():
    """Equal methods with independent errors and one pooled variance: the studentized range."""
    for methods, degrees in ((4, 6), (12, 22), (5, 200)):
        pairs = np.array([(i, j) for i in range(methods) for j in range(i)])
        from harness.stats.simultaneous import adjustment

        level = adjustment(np.eye(methods), pairs, 1.0, degrees).single_level(0.05)
        expected = scipy.stats.studentized_range.isf(0.05, methods, degrees) / np.sqrt(2)
        assert scipy.stats.t.isf(level / 2, degrees) == pytest.approx(expected, rel=0.03)


def test_a_verdict_never_contradicts_its_interval():
    rng = np.random.default_rng(14)
    seen = set()
    for _ in range(60):
        rates = dict(zip("abcd", rng.uniform(0.4, 0.7, size=4), strict=True))
        outcomes = {name: (rng.uniform(size=(3, 150)) < rate).astype(float) for name, rate in rates.items()}
        compared = stats.compare_methods(outcomes, baseline="a", margin=0.2)
        for pair in (pair for family in compared.families.values() for pair in family.pairs):
            low, high = pair.adjusted_interval
            assert (pair.verdict in ("better", "worse")) == (low > 0 or high < 0) == (pair.adjusted_p < 0.05)
            assert (pair.verdict == "better") == (low > 0)
            assert low <= pair.interval[0] <= pair.interval[1] <= high
            assert pair.p <= pair.adjusted_p
            assert pair.verdict != "equivalent" or (low > -0.2 and high < 0.2)
            seen.add(pair.verdict)
    assert seen >= {"better", "worse", "not significant"}


def test_lower_is_better_for_a_loss():
    outcomes = {"a": np.random.default_rng(15).normal(1, 0.1, size=(3, 200)), "b": np.ones((3, 200)) * 3}
    assert _only(outcomes, higher_is_better=False).verdict == "better"
    assert stats.compare_methods(outcomes, higher_is_better=False).best == "a"


def test_a_method_whose_seeds_scatter_is_named():
    outcomes = _graded(16, dict.fromkeys("abcdef", 5), seed_sd=0.05)
    outcomes["c"] = outcomes["c"] + np.array([[-2.0], [1.5], [0.5], [-1.0], [1.0]])
    compared = stats.compare_methods(outcomes)
    assert [*compared.unlike] == ["c"]
    assert compared.pair("a", "c").unlike == ("c",)
    assert compared.pair("a", "b").unlike == ()


def test_a_method_whose_seeds_scatter_is_adjusted_against_the_base_too():
    """Its own seeds are the only guard against it there: with twice the p-value the family stays at its level."""
    rng = np.random.default_rng(30)
    skill = rng.normal(size=400)
    scale = {"wild": 0.6} | dict.fromkeys("bcdef", 0.05)
    outcomes = {name: skill + sd * rng.normal(size=(5, 1)) + rng.normal(0, 0.5, (5, 400)) for name, sd in scale.items()}
    outcomes["base"] = (skill + rng.normal(0, 0.5, 400))[None]
    compared = stats.compare_methods(outcomes, baseline="base", deterministic=["base"])
    assert [*compared.unlike] == ["wild"]
    pair = compared.pair("wild", "base", family="baseline")
    assert pair.adjusted_p >= min(2 * pair.p, 1.0)
    two = stats.compare_methods(
        {name: outcomes[name] for name in ("wild", "base")}, baseline="base", deterministic=["base"]
    )
    alone = two.pair("wild", "base", family="baseline")
    assert alone.adjusted_p == pytest.approx(alone.p)


@pytest.mark.parametrize("items", [1, 2, 3, 5])
@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("methods", [2, 4])
def test_a_handful_of_items_gives_numbers_that_agree_with_each_other(items, seeds, methods):
    rng = np.random.default_rng(31)
    drawn = [(rng.uniform(size=(methods, seeds, items)) < rate).astype(float) for rate in (0.0, 0.5, 0.7, 1.0)] * 3
    for values in drawn:
        compared = stats.compare_methods(dict(zip("abcd", values, strict=False)), margin=0.05)
        for pair in (pair for family in compared.families.values() for pair in family.pairs):
            (low, high), (least, most) = pair.interval, pair.adjusted_interval
            assert 0 <= pair.p <= pair.adjusted_p <= 1
            assert least <= low < high <= most
            assert (pair.adjusted_p < 0.05) == (least > 0 or most < 0)
            assert pair.verdict != "equivalent"


def test_the_same_call_gives_the_same_numbers():
    outcomes = _answers(17, {"a": 3, "b": 3, "c": 3})
    assert stats.compare_methods(outcomes) == stats.compare_methods(outcomes)


@pytest.mark.parametrize(
    ("outcomes", "options", "message"),
    [
        ({"a": [[1.0]]}, {}, "at least two"),
        ({"a": [[1.0, 0.0]], "b": [[1.0]]}, {}, "the same items"),
        ({"a": [1.0, 0.0], "b": [1.0, 0.0]}, {}, "(seeds, items)"),
        ({"a": [[1.0, np.nan]], "b": [[1.0, 0.0]]}, {}, "a lost seed is a whole row of NaN"),
        ({"a": [[1.0, np.inf]], "b": [[1.0, 0.0]]}, {}, "must be finite"),
        ({"a": [[np.nan, np.nan]], "b": [[1.0, 0.0]]}, {}, "every seed is lost"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"baseline": "c"}, "no such method; there are a, b"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"families": ("some",)}, "no such family"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"level": 5}, "between 0 and 0.5"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"margin": 0}, "must be positive"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"weights": [1.0]}, "2 non-negative"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"clusters": [1]}, "one for each of the 2 items"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"clusters": [1, np.nan]}, "1 of 2 items have no label"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"clusters": [None, "p"]}, "1 of 2 items have no label"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"weights": [1.0, np.nan]}, "non-negative"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"families": "best"}, "such as ['best']"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"deterministic": "a"}, "such as ['a']"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"margin": np.nan}, "must be positive"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"level": np.nan}, "between 0 and 0.5"),
        ({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}, {"deterministic": ["c"]}, "no such method"),
        ({"a": [[1.0, 0.0]] * 2, "b": [[1.0, 0.0]]}, {"deterministic": ["a"]}, "shape (1, items)"),
    ],
)
def test_wrong_input_says_what_is_needed(outcomes, options, message):
    import re

    with pytest.raises(ValueError, match=re.escape(message)):
        stats.compare_methods(outcomes, **options)
