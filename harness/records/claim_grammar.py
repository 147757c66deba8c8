"""Claims that are written before the runs, as text: parsed, checked, and matched with the cells of a sweep.

    lora@best >= full@best - 0.01 on arc_easy/acc      a difference, on the paired outcomes of a metric
    vera == lora +- 0.01 on arc_easy/acc               equivalence within a margin
    full[data.mix.0.share=0.1] >= 0.5 * full[data.mix=[]] + 0.5 * base on hellaswag/acc
    lora / full in [1.2, 1.5] on tokens_per_second     a ratio of measured quantities
    best_lr(lora) / best_lr(full) in [5, 20]           a ratio of the best learning rates of two tuned contestants

A name is a method. Brackets select among its cells by the settings that were asked for: `lora[r=64]` is `method=lora`
with `method.r=64`. `@best` is the recipe that the sweep's rule chose. Every claim says that a number lies in a range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

MEASURED = (
    "trainable_parameters", "peak_memory_bytes", "tokens_per_second", "train_seconds", "train_energy_joules",
    "device_hours",
)  # fmt: skip
_FORMS = "A >= B, A <= B, A > B, A < B, A == B +- MARGIN (each with on METRIC), or A / B in [LOW, HIGH]"
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_CELL = re.compile(r"([A-Za-z]\w*)\s*(?:\[((?:[^\[\]]|\[[^\[\]]*\])*)\])?\s*(?:@(\w*))?")
_PART = re.compile(rf"\s*([+-])?\s*(?:({_NUMBER})\s*(\*)?)?\s*")
_SPLIT = re.compile(r"==|>=|<=|>|<")


@dataclass(frozen=True)
class Selector:
    """A method, and the settings that tell one of its cells from the others."""

    method: str
    settings: tuple[tuple[str, str], ...] = ()
    best: bool = False

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.settings)
        return self.method + (f"[{inside}]" if inside else "") + ("@best" if self.best else "")

    def matches(self, method: str | None, words: Sequence[str]) -> bool:
        """Return whether it selects a cell of this method and these overrides; a method of None is not known yet."""
        values = dict(word.lstrip("+~").partition("=")[::2] for word in words)
        if method not in (self.method, None):
            return False
        return all(
            any(_same(values.get(name), value) for name in (key, f"method.{key}")) for key, value in self.settings
        )


@dataclass(frozen=True)
class Term:
    """A cell's score times a number."""

    factor: float
    cell: Selector


@dataclass(frozen=True)
class Range:
    """Bounds of the number that a claim is about; None is no bound. An open range excludes its bound."""

    low: float | None
    high: float | None
    is_open: bool = False

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"in [{self.low:g}, {self.high:g}]"
        if self.low is not None:
            return f"{'>' if self.is_open else '>='} {self.low:g}"
        return f"{'<' if self.is_open else '<='} {self.high:g}"


@dataclass(frozen=True)
class Difference:
    """A sum of scores lies in a range."""

    text: str
    terms: tuple[Term, ...]
    range: Range
    metric: str

    @property
    def cells(self) -> tuple[Selector, ...]:
        """Return the cells that the claim names."""
        return tuple(term.cell for term in self.terms)


@dataclass(frozen=True)
class Ratio:
    """The ratio of two cells lies in a range: of a measured quantity, or of the best learning rates (no metric)."""

    text: str
    above: Selector
    below: Selector
    range: Range
    metric: str | None

    @property
    def cells(self) -> tuple[Selector, ...]:
        """Return the cells that the claim names."""
        return (self.above, self.below)


Claim = Difference | Ratio


def parse(text: str) -> Claim:
    """Return the claim that a text makes.

    Raises:
        ValueError: the text is no claim; names the part that is wrong and what is allowed there.
    """
    try:
        return _parsed(text.strip())
    except ValueError as error:
        raise ValueError(f'claim "{text}": {error}') from error


def select(selector: Selector, cells: Sequence[tuple[str | None, Sequence[str]]]) -> int:
    """Return the place of the only cell, given as (method, overrides), that is selected.

    Raises:
        ValueError: none is, or several are; lists the cells of the method.
    """
    chosen = [place for place, (method, words) in enumerate(cells) if selector.matches(method, words)]
    if len(chosen) == 1:
        return chosen[0]
    of_method = [" ".join(words) for method, words in cells if method in (selector.method, None)]
    if not of_method:
        methods = ", ".join(dict.fromkeys(method for method, _ in cells if method))
        raise ValueError(f"{selector}: no cell has the method {selector.method}; there are {methods}")
    what = f"{len(chosen)} cells of {selector.method} match" if chosen else f"no cell of {selector.method} matches"
    advice = "select one by its settings, as in lora[r=64]" if chosen else "select one of them"
    raise ValueError(f"{selector}: {what}; {advice}: {'; '.join(of_method)}")


def _parsed(text: str) -> Claim:
    body, separator, metric = text.rpartition(" on ")
    if not separator:
        body, metric = text, ""
    if " in " in body or "best_lr" in body:
        return _ratio(text, body, _metric(metric) if separator else None)
    sign = _SPLIT.search(_blanked(body))
    if sign is None:
        raise ValueError(f"no comparison in it; allowed are {_FORMS}")
    if not separator:
        raise ValueError(f"it says not on which metric: end it with on METRIC, such as on arc_easy/acc ({_FORMS})")
    left, right = body[: sign.start()], body[sign.end() :]
    return _difference(text, left, sign.group(), right, _metric(metric))


def _blanked(body: str) -> str:
    """Return the text with the contents of brackets blanked, at the same length."""
    letters, depth = [], 0
    for letter in body:
        depth += (letter == "[") - (letter == "]")
        letters.append(letter if depth == 0 and letter != "]" else " ")
    return "".join(letters)


def _difference(text: str, left: str, sign: str, right: str, metric: str) -> Difference:
    margin = 0.0
    if sign == "==":
        right, separator, given = right.rpartition("+-")
        if not separator or not re.fullmatch(rf"\s*{_NUMBER}\s*", given) or float(given) <= 0:
            raise ValueError("== needs a margin above zero behind +-, as in A == B +- 0.01: equality cannot be shown")
        margin = float(given)
    terms, constant = _sum(left, 1.0)
    others, other = _sum(right, -1.0)
    bound = -(constant + other)
    if not terms + others:
        raise ValueError("it names no cell; a side is a sum of cells and numbers, such as full@best - 0.01")
    if sign == "==":
        limits = Range(bound - margin, bound + margin)
    else:
        low, high = (bound, None) if sign[0] == ">" else (None, bound)
        limits = Range(low, high, is_open=len(sign) == 1)
    if not all(map(math.isfinite, (bound, margin, *(term.factor for term in terms + others)))):
        raise ValueError("a number in it is too large to count with")
    if metric in MEASURED and len(terms + others) != 2:
        raise ValueError(f"{metric} is measured a run: compare two cells, or give their ratio: A / B in [LOW, HIGH]")
    return Difference(text, terms + others, limits, metric)


def _sum(side: str, sign: float) -> tuple[tuple[Term, ...], float]:
    """Return (the terms of one side, its constant), with the sign of that side."""
    terms, constant, place = [], 0.0, 0
    if not side.strip():
        raise ValueError("one side is empty; a side is a sum of cells and numbers, such as full@best - 0.01")
    while side[place:].strip():
        part = _PART.match(side, place)
        assert part is not None, "every piece of it is optional"
        given, number, star = part.groups()
        if place and given is None:
            raise ValueError(f'"{side[place:].strip()}": + or - is needed between two parts of a sum')
        factor = sign * (-1 if given == "-" else 1) * (float(number) if number else 1.0)
        place = part.end()
        if number and not star:
            constant += factor
            continue
        cell, place = _cell(side, place)
        terms.append(Term(factor, cell))
    return tuple(terms), constant


def _cell(text: str, place: int) -> tuple[Selector, int]:
    match = _CELL.match(text, place)
    if match is None:
        remainder = text[place:].strip()
        raise ValueError(f'"{remainder}": a cell is needed here: a method, as in lora, lora[r=64] or lora@best')
    method, inside, best = match.groups()
    if best is not None and best != "best":
        raise ValueError(f'"{match.group().strip()}": @{best} is not known; @best is the recipe that the rule chose')
    return Selector(method, _settings(inside), best is not None), match.end()


def _settings(inside: str | None) -> tuple[tuple[str, str], ...]:
    if inside is None:
        return ()
    pairs = re.split(r",(?![^\[]*\])", inside)
    chosen = [tuple(map(str.strip, pair.partition("=")[::2])) for pair in pairs]
    if wrong := [pair for pair, (key, value) in zip(pairs, chosen, strict=True) if not (key and value)]:
        raise ValueError(f'"[{inside}]": {wrong[0].strip() or "an empty part"} is not setting=value, as in lora[r=64]')
    return tuple((key, value) for key, value in chosen)


def _ratio(text: str, body: str, metric: str | None) -> Ratio:
    fraction, _, limits = body.rpartition(" in ")
    numbers = re.fullmatch(rf"\s*\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]\s*", limits)
    if not fraction or numbers is None:
        raise ValueError("a ratio needs its range as in [5, 20], two numbers from zero up")
    low, high = map(float, numbers.groups())
    if low > high or not math.isfinite(high):
        raise ValueError(f"[{low:g}, {high:g}]: the lower end comes first")
    sides = _blanked(fraction).split("/")
    if len(sides) != 2:
        raise ValueError(f'"{fraction.strip()}": a ratio is of two cells, A / B')
    cut = len(sides[0])
    above, below = _rate(fraction[:cut]), _rate(fraction[cut + 1 :])
    if above[1] != below[1]:
        raise ValueError("best_lr stands on one side only; a ratio of best rates is best_lr(A) / best_lr(B)")
    if above[1] and metric is not None:
        raise ValueError(f"on {metric}: best learning rates are those of the validation loss; leave it out")
    if not above[1] and metric not in MEASURED:
        raise ValueError(
            f"a ratio is of best_lr(A) / best_lr(B), or on one of {', '.join(MEASURED)}; scores are compared by their "
            "difference, as in A >= 0.5 * B on arc_easy/acc"
        )
    return Ratio(text, above[0], below[0], Range(low, high), metric)


def _rate(text: str) -> tuple[Selector, bool]:
    """Return (the cell, whether its best learning rate is meant)."""
    inside = re.fullmatch(r"\s*best_lr\s*\((.*)\)\s*", text)
    given = inside.group(1) if inside else text
    cell, end = _cell(given, len(given) - len(given.lstrip()))
    if given[end:].strip():
        raise ValueError(f'"{given[end:].strip()}": nothing may stand behind the cell {cell} in a ratio')
    return cell, inside is not None


def _metric(given: str) -> str:
    metric = given.strip()
    if metric in ("validation_loss", "test_loss", *MEASURED) or re.fullmatch(r"[^\s/][^\s]*/[^\s/]+", metric):
        return metric
    allowed = f"validation_loss, test_loss, <task>/<metric>, {', '.join(MEASURED)}"
    raise ValueError(f"on {metric or 'nothing'}: no such metric; allowed are {allowed}")


def _same(given: str | None, wanted: str) -> bool:
    """Return whether two values of a setting are the same: as numbers where both are."""
    if given is None:
        return False
    try:
        return float(given) == float(wanted)
    except ValueError:
        return given.strip("'\"").lower() == wanted.strip("'\"").lower()
