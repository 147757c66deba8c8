"""The measure of items that a graded outcome saves, on outcomes whose saving is known."""

import numpy as np
import pytest

from tests.bench import graded


def models(random, noise):
    """Models that differ by a planted skill; the graded outcome has `noise` of the variance of right and wrong."""
    tables = []
    for skill in np.linspace(-0.1, 0.1, 8):
        table = {}
        for task in graded.TASKS:
            for metric, scale in (("acc", 0.4), ("p_right", 0.4 * noise**0.5)):
                table[f"{task} {metric}"] = (0.5 + skill + random.normal(0, scale, 4000)).tolist()
        tables.append(table)
    return tables


@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_half_the_variance_saves_half_of_the_items(noise):
    same, saved = graded.compared(models(np.random.default_rng(1), noise), "acc", "p_right")
    assert same.measured == 1.0
    assert saved.measured == pytest.approx(1 / noise, rel=0.1)
    assert "56 pairs of 8 models and 2 tasks" in same.note
