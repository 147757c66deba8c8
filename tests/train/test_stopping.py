"""Divergence, patience and overfitting on curves written down."""

import math

import pytest

from harness.train.callback import DivergedError, Divergence, Patience, overfitted


def diverges_at(losses, factor=3.0, steps=3, norms=None):
    watch = Divergence(factor, steps)
    for step, loss in enumerate(losses, start=1):
        try:
            watch.check(step, loss, norms[step - 1] if norms else 1.0)
        except DivergedError:
            return step
    return None


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([2, 7, 7, 7], 4),
        ([2, 7, 7, 6, 7, 7], None),  # 6 is three times the first, and not above
        ([2, 7, 7, 1, 7, 7, 7], 7),
        ([2, 1, 0.5], None),
        ([2, math.nan], 2),
        ([2, math.inf], 2),
    ],
)
def test_a_loss_that_stays_above_a_multiple_of_the_first_is_a_divergence(losses, step):
    assert diverges_at(losses) == step


def test_without_a_factor_only_what_is_no_number_is_one():
    assert diverges_at([1, 1e9, 1e9, 1e9, 1e9], factor=None) is None
    assert diverges_at([1, 1, 1], factor=None, norms=[1, math.inf, 1]) == 2


def test_the_reason_says_what_was_stated():
    watch = Divergence(2.0, 1)
    watch.check(1, 1.5, 1.0)
    with pytest.raises(DivergedError, match=r"^step 2: loss 4, for 1 steps above 2 times the first loss 1\.5$"):
        watch.check(2, 4.0, 1.0)


def test_patience_counts_validations_without_a_new_lowest_loss():
    patience, found = Patience(2), []
    for loss in (3.0, 2.0, 2.5, 1.9, 1.9, 2.0):
        found.append((patience.improved(loss), patience.over))
    assert [improved for improved, _ in found] == [True, True, False, True, False, False]
    assert [over for _, over in found] == [False] * 5 + [True]
    endless = Patience(None)
    assert not any((endless.improved(1.0), endless.over)[1] for _ in range(50))


@pytest.mark.parametrize(
    ("losses", "validation", "expected"),
    [
        ([4, 3, 2, 1], [(2, 3.0), (4, 3.5)], True),
        ([4, 3, 2, 1], [(2, 3.0), (4, 2.5)], False),
        ([4, 3, 2, 1], [(2, 3.0), (4, 3.02)], False),  # within a hundredth
        ([1, 2, 3, 4], [(2, 3.0), (4, 3.5)], False),  # both rise: not overfitted but lost
        ([4, 3, 2, 1], [(4, 3.0)], None),
        ([4, 3, 2, 1], [], None),
    ],
)
def test_overfitted_is_a_validation_loss_that_rises_while_the_training_loss_falls(losses, validation, expected):
    assert overfitted(losses, validation) is expected
