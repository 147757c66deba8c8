"""The seed of a run, and the three streams of random numbers that it may be divided into.

A plain seed n sets all three: `init` (new weights of the method), `order` (order of the training rows, and dropout)
and `data` (the rows drawn by `data.resample`). Records, folders and tables carry one integer. Three streams that
differ are packed into it behind a leading ten: init 1, order 2, data 3 is 10001002003.
"""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

NAMES = ("init", "order", "data")
MOST_PLAIN = 2**32 - 1  # numpy takes no larger seed
MOST_STREAM = 999
_BASE = 10**10  # above every plain seed


class Streams(NamedTuple):
    """The seed of each stream."""

    init: int
    order: int
    data: int


def streams(seed: int) -> Streams:
    """Return the streams of a run's seed."""
    if seed < _BASE:
        return Streams(seed, seed, seed)
    code = seed - _BASE
    return Streams(code // 10**6, code // 1000 % 1000, code % 1000)


def number(given: Streams) -> int:
    """Return the integer that stands for three streams: equal ones are a plain seed."""
    if len(set(given)) == 1:
        return given.init
    return _BASE + given.init * 10**6 + given.order * 1000 + given.data


def name(seed: int) -> str:
    """Return the seed as a report shows it: `3`, or `init 0, order 1, data 2`."""
    return str(seed) if seed < _BASE else ", ".join(f"{key} {n}" for key, n in streams(seed)._asdict().items())


def parsed(value: Any) -> Any:
    """Return a setting's value with a mapping of streams as the number that stands for it; others as they are.

    Raises:
        ValueError: a stream that does not exist, or a number that is out of range.
    """
    if not isinstance(value, Mapping):
        return value
    if unknown := [key for key in value if key not in NAMES]:
        raise ValueError(f"{unknown[0]}: no such stream of random numbers; there are {', '.join(NAMES)}")
    given = {key: value.get(key, 0) for key in NAMES}
    for key, seed in given.items():
        if type(seed) is not int or not 0 <= seed <= MOST_STREAM:
            raise ValueError(f"{key}={seed}: a stream's seed is a whole number from 0 to {MOST_STREAM}")
    return number(Streams(**given))


def listed(value: Any) -> Any:
    """Return seeds given as a list, or as a mapping stream -> list, which crosses its streams.

    `{init: [0, 1], order: [0, 1, 2]}` are six seeds.

    Raises:
        ValueError: as `parsed`.
    """
    if isinstance(value, Mapping):
        lists = [seeds if isinstance(seeds, list) else [seeds] for seeds in value.values()]
        return tuple(parsed(dict(zip(value, seeds, strict=True))) for seeds in product(*lists))
    return tuple(map(parsed, value)) if isinstance(value, list) else value


def _check(seed: int) -> int:
    if MOST_PLAIN < seed < _BASE or seed >= _BASE + 10**9:
        allowed = f"Input should be less than {MOST_PLAIN + 1}, or a mapping of {', '.join(NAMES)}"
        raise PydanticCustomError("seed", "{allowed}", {"allowed": allowed})
    return seed


Seed = Annotated[int, Field(ge=0), AfterValidator(_check)]
