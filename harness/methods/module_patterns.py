"""Module names of a repeated layer as one line: model.layers.{0..31}.mlp.up_proj."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|(?<=\[)\d+(?=\])")


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Return pattern -> the names that differ from it in their numbers alone, both in the order of the names."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(_NUMBER.sub("#", name), []).append(name)
    return {_pattern(kind, members): members for kind, members in kinds.items()}


def _pattern(kind: str, members: Sequence[str]) -> str:
    """Return the kind with the numbers of each place in it."""
    numbers = [[int(number) for number in _NUMBER.findall(name)] for name in members]
    places = iter(_range(sorted({row[i] for row in numbers})) for i in range(len(numbers[0])))
    return re.sub("#", lambda _: next(places), kind)


def _range(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"
