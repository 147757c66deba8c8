import itertools
import random

import pytest

from harness.train.loop import LengthGroupedSampler

LENGTHS = random.Random(0).choices(range(5, 300), k=203)


def batches(order, size=8):
    return [order[i : i + size] for i in range(0, len(order), size)]


def spread(order):
    groups = batches([LENGTHS[i] for i in order])
    return sum(max(group) - min(group) for group in groups) / len(groups)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("size", [1, 8, 500])
def test_every_row_comes_once_per_epoch(grouped, size):
    sampler = LengthGroupedSampler(LENGTHS, size, 0, grouped)
    assert len(sampler) == 203
    epochs = [list(sampler) for _ in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(203))
    assert len({tuple(order) for order in epochs}) == 3, "every epoch has its own order"


@pytest.mark.parametrize("grouped", [True, False])
def test_the_order_follows_the_seed(grouped):
    first, again, other = (list(LengthGroupedSampler(LENGTHS, 8, seed, grouped)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_seeds_share_no_epoch():
    """Else the second epoch of one seed would be the first of the next."""
    orders = []
    for seed in range(4):
        sampler = LengthGroupedSampler(LENGTHS, 8, seed, True)
        orders += [tuple(sampler) for _ in range(3)]
    assert len(set(orders)) == 12


def test_batches_are_of_like_length_and_come_in_random_order():
    order = list(LengthGroupedSampler(LENGTHS, 8, 0, True))
    assert spread(order) < spread(list(LengthGroupedSampler(LENGTHS, 8, 0, False))) / 4
    means = [sum(LENGTHS[i] for i in batch) for batch in batches(order)[:-1]]
    rising = sum(a < b for a, b in itertools.pairwise(means))
    assert 0.25 < rising / len(means) < 0.75


def test_the_short_batch_is_the_last():
    order = list(LengthGroupedSampler(LENGTHS, 8, 0, True))
    whole, short = batches(order)[:-1], batches(order)[-1]
    assert len(short) == 3
    assert all(len(batch) == 8 for batch in whole)


def test_fewer_rows_than_a_batch_are_all_there():
    assert sorted(LengthGroupedSampler([5, 9, 7], 8, 0, True)) == [0, 1, 2]
