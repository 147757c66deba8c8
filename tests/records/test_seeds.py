"""One integer for three streams of random numbers, there and back."""

import pytest

from harness.records.seeds import Streams, listed, name, number, parsed, streams


@pytest.mark.parametrize("seed", [0, 1, 999, 2**32 - 1])
def test_a_plain_seed_sets_every_stream(seed):
    assert streams(seed) == (seed, seed, seed)
    assert name(seed) == str(seed)


def test_every_combination_has_a_number_of_its_own():
    given = [Streams(i, o, d) for i in (0, 1, 7, 999) for o in (0, 1, 7, 999) for d in (0, 1, 7, 999)]
    numbers = [number(one) for one in given]
    assert len(set(numbers)) == len(given) == 64
    assert [streams(one) for one in numbers] == given
    assert max(numbers) < 2**53  # exact in JSON and in every table


def test_numbers_can_be_read():
    assert number(Streams(1, 2, 3)) == 10_001_002_003
    assert name(10_001_002_003) == "init 1, order 2, data 3"
    assert number(Streams(4, 4, 4)) == 4


def test_a_mapping_is_parsed_and_an_omitted_stream_is_zero():
    assert parsed({"init": 1, "order": 2}) == 10_001_002_000
    assert parsed({"init": 5, "order": 5, "data": 5}) == parsed(5) == 5


def test_lists_of_streams_are_crossed():
    crossed = listed({"init": [0, 1], "order": [0, 1, 2]})
    assert [streams(one)[:2] for one in crossed] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert listed([3, {"order": 1}]) == (3, 10_000_001_000)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"dropout": 1}, "dropout: no such stream of random numbers; there are init, order, data"),
        ({"init": 1000}, "init=1000: a stream's seed is a whole number from 0 to 999"),
        ({"order": -1}, "order=-1: a stream's seed"),
        ({"data": "x"}, "data=x: a stream's seed"),
        ({"data": True}, "data=True: a stream's seed"),
    ],
)
def test_a_wrong_stream_is_named(value, says):
    with pytest.raises(ValueError, match="^" + says.replace("'", ".")):
        parsed(value)
