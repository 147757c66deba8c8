"""Changes of the outcomes or of their order that change nothing in what `compare_methods` says of them."""

from dataclasses import replace

import numpy as np
import pytest

from harness.stats import compare_methods, score_interval

MARGIN = 0.05
ENDS = ("interval", "adjusted_interval")
LENGTHS = ("difference", "standard_error", "detectable")
SHARES = ("p", "adjusted_p", "equivalence_p", "noninferiority_p")
WORDS = ("verdict", "why", "scope", "runs_differ", "seeds")


def drawn(kind, seeds=3, methods=5, items=200, lost=False):
    """Return outcomes of methods with a base, and the options of the call."""
    rng = np.random.default_rng(seeds + 10 * methods)
    latent = rng.normal(size=items) + 0.4 * rng.normal(size=(methods + 1, 1, items))
    latent = (
        latent + 0.1 * rng.normal(size=(methods + 1, seeds, 1)) + 0.3 * rng.normal(size=(methods + 1, seeds, items))
    )
    latent = latent + 0.2 * rng.normal(size=(methods + 1, 1, 1))
    values = (latent > 0).astype(float) if kind == "answers" else latent
    outcomes = {f"m{place}": values[place] for place in range(methods)} | {"base": values[-1][:1]}
    if lost:
        outcomes["m1"][0] = outcomes["m3"][seeds - 1] = np.nan
        outcomes["m2"] = outcomes["m2"][:-1]
    return outcomes, {"baseline": "base", "deterministic": ["base"], "margin": MARGIN}


def pairs(compared):
    return {(name, pair.a, pair.b): pair for name, family in compared.families.items() for pair in family.pairs}


def assert_same(first, second, scale=1.0, mirrored=False):
    """Assert that the second comparison says what the first does, its unit `scale` times as large."""
    ours, theirs = pairs(first), pairs(second)
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 1
    sign = -1.0 if mirrored else 1.0
    for key, one in ours.items():
        other = theirs[key]
        for name in ENDS:
            ends = sorted(sign * scale * end for end in getattr(one, name))
            assert getattr(other, name) == pytest.approx(tuple(ends), rel=1e-10, abs=1e-12 * scale), (key, name)
        for name in LENGTHS:
            value = getattr(one, name)
            expected = -1.0 if value is None else value * scale * (sign if name == "difference" else 1.0)
            changed = getattr(other, name)
            changed = -1.0 if changed is None else changed
            assert changed == pytest.approx(expected, rel=1e-10, abs=1e-12 * scale), (key, name)
        for name in SHARES:
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9, abs=1e-14), (key, name)
        for name in WORDS:
            assert getattr(other, name) == getattr(one, name), (key, name)
    assert second.best == first.best


DESIGNS = [
    ("answers", 1, False),
    ("answers", 3, False),
    ("answers", 4, True),
    ("graded", 3, False),
    ("graded", 4, True),
]


@pytest.mark.parametrize(("kind", "seeds", "lost"), DESIGNS)
@pytest.mark.parametrize("paired", [True, False])
def test_a_unit_and_an_origin_change_nothing(kind, seeds, lost, paired):
    """Percent for shares, a score from -1 to 1, wrong answers in place of right ones."""
    outcomes, options = drawn(kind, seeds, lost=lost)
    options["paired_seeds"] = paired
    expected = compare_methods(outcomes, **options)
    for scale, shift in ((100.0, 0.0), (2.0, -1.0), (1.0, 3.0), (1e-6, 0.0)):
        changed = {name: scale * values + shift for name, values in outcomes.items()}
        assert_same(expected, compare_methods(changed, **options | {"margin": scale * MARGIN}), scale)
    for flipped in ({n: -v for n, v in outcomes.items()}, {n: 1 - v for n, v in outcomes.items()}):
        assert_same(expected, compare_methods(flipped, **options, higher_is_better=False), mirrored=True)


@pytest.mark.parametrize("kind", ["answers", "graded"])
def test_weights_have_no_unit(kind):
    outcomes, options = drawn(kind)
    weights = np.random.default_rng(3).integers(0, 30, size=200).astype(float)
    assert (weights == 0).any()
    weighted = {name: values * weights for name, values in outcomes.items()}
    expected = compare_methods(weighted, **options, weights=weights)
    tenfold = {name: 10 * values for name, values in weighted.items()}
    assert_same(expected, compare_methods(tenfold, **options, weights=10 * weights))
    for factor in (10.0, 1 / weights.sum()):
        smaller = options | {"margin": MARGIN / factor}
        assert_same(expected, compare_methods(weighted, **smaller, weights=factor * weights), 1 / factor)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize(("kind", "seeds", "lost"), DESIGNS)
def test_items_without_weight_and_outcome_are_no_items(kind, seeds, lost, clustered):
    """A mask by weights is the comparison of the items that are left, wherever the others stand."""
    outcomes, options = drawn(kind, seeds, lost=lost)
    rng = np.random.default_rng(8)
    kept = rng.uniform(size=200) < 0.2
    assert 20 < kept.sum() < 60
    weights = np.where(kept, rng.integers(1, 9, size=200), 0).astype(float)
    clusters = rng.integers(0, 40, size=200)
    weighted = {name: values * weights for name, values in outcomes.items()}
    part = {name: values[:, kept] for name, values in weighted.items()}
    groups = {"clusters": clusters} if clustered else {}
    groups_of_part = {"clusters": clusters[kept]} if clustered else {}
    expected = compare_methods(part, **options, weights=weights[kept], **groups_of_part)
    assert_same(expected, compare_methods(weighted, **options, weights=weights, **groups))


def test_an_outcome_without_weight_counts():
    outcomes, options = drawn("graded")
    weights = (np.arange(200) % 4 > 0).astype(float)
    fewer = {name: values[:, weights > 0] for name, values in outcomes.items()}
    whole = compare_methods(outcomes, **options, weights=weights)
    assert whole.scores["m0"] == pytest.approx(outcomes["m0"].mean(axis=0).sum() / 150)
    assert whole.scores["m0"] != pytest.approx(compare_methods(fewer, **options).scores["m0"])


def test_equal_weights_are_none():
    outcomes, options = drawn("answers")
    assert_same(compare_methods(outcomes, **options), compare_methods(outcomes, **options, weights=np.ones(200)))


@pytest.mark.parametrize("two", [(0.0, 100.0), (-1.0, 1.0), (0.25, 0.75)])
def test_two_values_are_right_or_wrong_whichever_they_are(two):
    """Agreement on a few items is no proof in percent either."""
    wrong, right = two
    answers = np.where(np.arange(40) % 3 == 0, right, wrong)[None]
    pair = compare_methods({"a": answers, "b": answers}).pair("a", "b")
    square = 2.0227**2  # Student's, 39 degrees of freedom
    assert pair.interval[1] == pytest.approx((right - wrong) * square / (40 + square), rel=1e-3)


def test_constants_are_not_right_or_wrong():
    constant = {"a": np.full((3, 40), 0.7), "b": np.full((3, 40), 0.2), "c": np.full((3, 40), 0.2)}
    for pair in compare_methods(constant).families["all"].pairs:
        assert "no spread" in pair.why
    assert score_interval(np.full((3, 40), 0.7)) is None


@pytest.mark.parametrize(("kind", "seeds", "lost"), DESIGNS)
def test_the_order_of_methods_seeds_and_items_changes_no_number(kind, seeds, lost):
    outcomes, options = drawn(kind, seeds, lost=lost)
    expected = compare_methods(outcomes, **options)
    rng = np.random.default_rng(5)
    items = rng.permutation(200)
    assert_same(expected, compare_methods({name: values[:, items] for name, values in outcomes.items()}, **options))
    most = max(map(len, outcomes.values()))
    full = {name: values if name == "base" else filled(values, most) for name, values in outcomes.items()}
    assert_same(expected, compare_methods(full, **options))
    moved = rng.permutation(most)
    by_seed = {name: values if name == "base" else values[moved] for name, values in full.items()}
    assert_same(expected, compare_methods(by_seed, **options))
    for names in ([*outcomes][::-1], rng.permutation([*outcomes]).tolist()):
        assert_same(expected, ordered(compare_methods({name: outcomes[name] for name in names}, **options), expected))


def filled(values, seeds):
    """Return outcomes with a row for every seed, NaN for those that the method lacks."""
    return np.vstack([values, np.full((seeds - len(values), values.shape[1]), np.nan)])


def ordered(compared, expected):
    """Return a comparison with the pairs of `expected`, those the other way around turned."""
    families = {}
    for name, family in expected.families.items():
        theirs = {frozenset((pair.a, pair.b)): pair for pair in compared.families[name].pairs}
        assert len(theirs) == len(family.pairs)
        chosen = [(theirs[frozenset((pair.a, pair.b))], pair) for pair in family.pairs]
        families[name] = replace(
            family, pairs=tuple(other if other.a == pair.a else turned(other, pair) for other, pair in chosen)
        )
    return replace(compared, families=families)


def turned(pair, expected):
    """Return a pair the other way around; its one-sided p-value is of the other side, and that of `expected`."""
    return replace(
        pair,
        a=pair.b,
        b=pair.a,
        difference=-pair.difference,
        interval=(-pair.interval[1], -pair.interval[0]),
        adjusted_interval=(-pair.adjusted_interval[1], -pair.adjusted_interval[0]),
        verdict={"better": "worse", "worse": "better"}.get(pair.verdict, pair.verdict),
        noninferiority_p=expected.noninferiority_p,
    )


@pytest.mark.parametrize("kind", ["answers", "graded"])
def test_a_family_is_the_same_whichever_others_are_asked_for(kind):
    outcomes, options = drawn(kind)
    whole = compare_methods(outcomes, **options)
    assert [*whole.families] == ["baseline", "best", "all"]
    for name in whole.families:
        alone = compare_methods(outcomes, **options, families=(name,))
        assert_same(replace(whole, families={name: whole.families[name]}), alone)


@pytest.mark.parametrize(("kind", "seeds"), [("graded", 2), ("answers", 3), ("answers", 5)])
def test_a_pair_has_one_adjusted_p_value_in_the_best_family_and_among_all(kind, seeds):
    """Both families are adjusted for the same comparisons, so that no verdict depends on the table it stands in."""
    outcomes, options = drawn(kind, seeds)
    methods = {name: values for name, values in outcomes.items() if name != "base"}
    for best in (
        compare_methods(methods, margin=MARGIN).families["best"],
        compare_methods(outcomes, **options).families["best"],
    ):
        every = {frozenset((p.a, p.b)): p for p in compare_methods(methods, margin=MARGIN).families["all"].pairs}
        assert len(best.pairs) == 4
        for pair in best.pairs:
            other = every[frozenset((pair.a, pair.b))]
            assert pair.adjusted_p == pytest.approx(other.adjusted_p, rel=1e-11)
            assert pair.equivalence_p == pytest.approx(other.equivalence_p, rel=1e-11)
            assert pair.detectable == pytest.approx(other.detectable, rel=1e-11)


def test_of_equal_scores_the_first_is_the_best():
    answers = np.tile([[1.0, 0.0]], (3, 20))
    outcomes = {"b": answers, "a": 1 - answers, "c": 0 * answers}
    assert compare_methods(outcomes).best == "b"
    assert compare_methods({name: outcomes[name] for name in "acb"}).best == "a"


@pytest.mark.parametrize("scale", [1e-50, 1e-13, 1e-9, 1.0, 1e6, 1e12, 1e50])
def test_the_best_is_the_same_in_any_unit(scale):
    """Equal but for rounding are scores that differ by a millionth of a millionth of their size, not of one."""
    rng = np.random.default_rng(2)
    items = rng.normal(size=(3, 30))
    close = {"a": items, "b": items + 1e-4, "c": items + 2e-4}
    assert compare_methods({name: scale * values for name, values in close.items()}).best == "c"
    moved = {"a": items, "b": items[:, ::-1], "c": np.roll(items, 7, axis=1)}
    unequal = 0
    for shift in np.arange(12) / 7:  # sums in another order differ by rounding
        outcomes = {name: scale * (values + shift) for name, values in moved.items()}
        unequal += len({values.mean() for values in outcomes.values()}) > 1
        assert compare_methods(outcomes).best == "a"
    assert unequal >= 3
