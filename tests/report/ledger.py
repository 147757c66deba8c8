"""Every digit of a page must be claimed: a claim is a text at a place of the page, with its numbers computed elsewhere.

A digit that no claim holds, a claim that the page does not carry out and a number that is another are problems. Nothing
is exempt: names, dates, versions and the constants of the statistics are claimed like everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

ANYWHERE = ""
_DIGITS = re.compile(r"\d+")
_WRITTEN = r"([-+]?[\d,]*\.?\d+(?:e-?\d+)?)"


@dataclass(frozen=True)
class Near:
    """A number that rests on random draws: the page may be off by so much."""

    value: float
    tolerance: float


Part = str | Near


@dataclass(frozen=True)
class Claim:
    """What must stand in a section: a whole cell of a table, or words somewhere else."""

    section: str  # its heading; ANYWHERE: wherever the words occur, and they may not occur
    parts: tuple[Part, ...]
    row: tuple[str, ...] = ()  # the first cells of the line, as many as it takes; () for words outside of tables
    column: str = ""

    def __post_init__(self) -> None:
        """Claim signs as a page is read: with plain spaces, minus signs and dashes."""
        parts = tuple(_claimed(one) if isinstance(one, str) else one for one in self.parts)
        for name, value in (("parts", parts), ("row", tuple(map(plain_signs, self.row)))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "section", plain_signs(self.section))
        object.__setattr__(self, "column", plain_signs(self.column))

    def __str__(self) -> str:
        text = "".join(one if isinstance(one, str) else f"~{one.value:.6g}" for one in self.parts)
        place = "/".join([self.section, *self.row, *([self.column] if self.column else [])])
        return f"{place}: {text!r}"


@dataclass
class Spot:
    """A heading, a line outside of tables, or a cell, and which of its characters are claimed."""

    section: str
    text: str
    row: tuple[str, ...] = ()
    column: str = ""

    def __post_init__(self) -> None:
        self.claimed = [False] * len(self.text)

    @property
    def is_claimed(self) -> bool:
        """Whether every digit is."""
        return all(self.claimed[i] for found in _DIGITS.finditer(self.text) for i in range(*found.span()))


def spots(page: str) -> list[Spot]:
    """The page's text in its places, as it is read: without the marks that keep foreign text from being Markdown."""
    found: list[Spot] = []
    section, header = "", ()
    for line in page.splitlines():
        if line.startswith("#") or line.startswith("<summary>"):
            section, header = _plain(re.sub("</?summary>", "", line).lstrip("# ")), ()
            found.append(Spot(section, section))
        elif line.startswith("| "):
            cells = tuple(_plain(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            if set("".join(cells)) <= {":", "-", " "} and ":--" in cells[0]:
                continue
            if not header:
                header = _told_apart(cells)
                found += [Spot(section, cell, ("header",), name) for cell, name in zip(cells, header, strict=True)]
            else:
                found += [Spot(section, cell, cells, name) for cell, name in zip(cells, header, strict=True)]
        else:
            header = ()
            found.append(Spot(section, _plain(line)))
    return [spot for spot in found if spot.text]


def check(places: Sequence[Spot], claims: Iterable[Claim]) -> list[str]:
    """The problems of the page; [] where every digit is claimed and every claim holds."""
    by_section: dict[str, list[Spot]] = {}
    for place in places:
        by_section.setdefault(place.section, []).append(place)
    problems = []
    for claim in claims:
        searched = places if claim.section == ANYWHERE else by_section.get(claim.section, [])
        said = [_claim(place, claim) for place in searched if _concerns(place, claim)]
        if not any(said) and claim.section != ANYWHERE:
            problems.append(f"not on the page: {claim}")
    for place in places:
        if not place.is_claimed:
            where = "/".join([place.section, *place.row[:2], place.column])
            problems.append(f"nobody computes: {where}: {place.text}")
    return problems


def is_explained(place: Spot, claims: Iterable[Claim]) -> bool:
    """Whether the claims hold every digit of this one place."""
    for claim in claims:
        if _concerns(place, claim):
            _claim(place, claim)
    return place.is_claimed


def claim_words(section: str, *parts: Part) -> Claim:
    """Words of a section, outside of its tables."""
    return Claim(section, parts)


def _concerns(place: Spot, claim: Claim) -> bool:
    if claim.section == ANYWHERE:
        return True
    return (
        place.row[: len(claim.row)] == claim.row
        and bool(place.row) == bool(claim.row)
        and (place.column == claim.column)
    )


def _claim(place: Spot, claim: Claim) -> bool:
    """Mark what the claim says of the place; False where it does not stand there, or with another number."""
    numbers = [one for one in claim.parts if isinstance(one, Near)]
    held = False
    for found in _pattern(claim.parts).finditer(place.text):
        if claim.row and found.span() != (0, len(place.text)):
            continue
        shown = [float(one.replace(",", "")) for one in found.groups()]
        if all(abs(a - b.value) <= b.tolerance for a, b in zip(shown, numbers, strict=True)):
            place.claimed[slice(*found.span())] = [True] * (found.end() - found.start())
            held = True
    return held


@cache
def _pattern(parts: tuple[Part, ...]) -> re.Pattern[str]:
    text = "".join(re.escape(one) if isinstance(one, str) else _WRITTEN for one in parts)
    return re.compile(rf"(?<![\w.+-])(?:{text})(?!\w)")


def _told_apart(header: Sequence[str]) -> tuple[str, ...]:
    """The names of columns; of those that occur twice with the column before."""
    return tuple(f"{header[i - 1]} {name}" if header.count(name) > 1 else name for i, name in enumerate(header))


def _claimed(text: str) -> str:
    """A claimed text as it is read: a whole text in bold without its marks."""
    return re.sub(r"^\*\*(.*)\*\*$", r"\1", plain_signs(text))


def plain_signs(text: str) -> str:
    for sign, plain in (("\N{NO-BREAK SPACE}", " "), ("\N{MINUS SIGN}", "-"), ("\N{EN DASH}", "-")):
        text = text.replace(sign, plain)
    return text


def _plain(text: str) -> str:
    text = re.sub(r"(?<!\\)\*\*|</?ins>", "", plain_signs(text))  # emphasis
    text = re.sub(r"\\([\\`*\[\]|~!_#>+.)$-])", r"\1", text.strip())
    return text.replace("&lt;", "<").replace("&#58;", ":").replace("&amp;", "&")
