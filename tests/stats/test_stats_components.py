"""Variance components held against REML of another library, and their intervals against simulation."""

import warnings
from itertools import product

import numpy as np
import pytest

from harness.stats.components import REST, components

STREAMS = ("init", "order", "data")


def crossed(random, shape, deviations, rest):
    """Scores of a full crossing with the given standard deviations."""
    effects = [random.normal(0, sd, n) for sd, n in zip(deviations, shape, strict=True)]
    keys = list(product(*map(range, shape)))
    return {key: 0.5 + sum(e[i] for e, i in zip(effects, key, strict=True)) + random.normal(0, rest) for key in keys}


def reml(scores):
    """(init, order, rest) of statsmodels' crossed mixed model."""
    import pandas
    from statsmodels.regression.mixed_linear_model import MixedLM

    frame = pandas.DataFrame([{"init": k[0], "order": k[1], "score": 100 * v} for k, v in scores.items()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MixedLM.from_formula(
            "score ~ 1", frame, groups=np.ones(len(frame)), re_formula="0",
            vc_formula={"init": "0 + C(init)", "order": "0 + C(order)"},
        )  # fmt: skip
        fit = model.fit(reml=True)
    found = dict(zip(model.exog_vc.names, fit.vcomp, strict=True))
    return [found["init"] / 1e4, found["order"] / 1e4, fit.scale / 1e4]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_balanced_crossing_equals_reml(seed):
    scores = crossed(np.random.default_rng(seed), (6, 5), (0.02, 0.015), 0.006)
    ours = [one.variance for one in components(scores, STREAMS[:2])]
    assert min(ours) > 0
    assert ours == pytest.approx(reml(scores), rel=2e-3)


def test_three_streams_are_told_apart():
    scores = crossed(np.random.default_rng(5), (12, 10, 8), (0.03, 0.0, 0.01), 0.002)
    found = {one.name: one for one in components(scores, STREAMS)}
    assert list(found) == [*STREAMS, REST]
    assert found["init"].variance == pytest.approx(9e-4, rel=0.9)
    assert found["order"].high < 1e-6
    assert found["init"].low > found["data"].variance > found[REST].high
    assert [found[name].levels for name in found] == [12, 10, 8, 0]


@pytest.mark.parametrize(("deviations", "rest"), [((0.02, 0.01), 0.01), ((0.0, 0.02), 0.01), ((0.01, 0.01), 0.02)])
def test_intervals_cover(deviations, rest):
    random = np.random.default_rng(11)
    truth = (*(sd**2 for sd in deviations), rest**2)
    repeats = 400
    hits = np.zeros(3)
    for _ in range(repeats):
        found = components(crossed(random, (4, 5), deviations, rest), STREAMS[:2])
        hits += [one.low <= value <= one.high for one, value in zip(found, truth, strict=True)]
    assert (hits / repeats >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / repeats)).all()


def test_what_is_not_crossed_is_refused():
    scores = crossed(np.random.default_rng(1), (3, 3), (0.1, 0.1), 0.1)
    with pytest.raises(ValueError, match="no run has init 1, order 2"):
        components({key: value for key, value in scores.items() if key != (1, 2)}, STREAMS[:2])
    with pytest.raises(ValueError, match="at least two streams with several seeds"):
        components({(0, 0, 0): 0.1, (1, 0, 0): 0.2}, STREAMS)
