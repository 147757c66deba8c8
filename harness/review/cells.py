"""Scores, errors and numbers as the cells of a table hold them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from harness.review.row import Score

_EMPTY = ("", "-", "\u2013", "\u2014", "n/a", "na", "nan", "none", "?")
_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)"
_CELL = re.compile(
    rf"^(?P<value>{_NUMBER})\s*(?P<percent>%)?"
    rf"(?:\s*(?:\u00b1|\+/-|\+-)\s*(?P<error>{_NUMBER}))?"
    rf"(?:\s*[\(\[]\s*(?P<low>{_NUMBER})\s*%?\s*(?:to|,|;|-{{1,2}}|\u2013)\s*(?P<high>{_NUMBER})\s*%?\s*[\)\]])?"
    r"(?:\s*\((?P<beside>[-+\u2191\u2193]?\s*(?:\d+\.\d*|\.?\d+))\s*%?\))?\s*%?$"
)
_ERROR = re.compile(rf"^(\u00b1|\+/-|\+-)?\s*\(?({_NUMBER})\)?\s*%?$")
_POWER = re.compile(r"(?:(\d*\.?\d+)\s*[x\u00d7*\u00b7]\s*)?10(?:\^|(?=-))(-?\d+)")
_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u2212", "0123456789--"
)


def score(cell: str, error: str = "") -> Score | None:
    """Return the score in a cell, as printed; None where there is none."""
    match = _CELL.match(_regular(cell))
    if match is None:
        return None
    value = float(match["value"])
    ends = (float(match["low"]), float(match["high"])) if match["low"] and match["high"] else None
    beside = match["beside"] if match["beside"] and re.match(r"\d*\.", match["beside"]) else None
    beside = beside if beside and float(beside) < abs(value) / 2 else None  # an error, and no other score or rank
    spread = _ERROR.match(_regular(error))
    given = match["error"] or beside or (spread and spread[2])
    return Score(
        value=value,
        decimals=len(match["value"].partition(".")[2]),
        error=float(given) if given else None,
        interval=ends,
        bold=cell.startswith("*"),
        printed_in_percent=bool(match["percent"]) or abs(value) > 1,
    )


def _regular(cell: str) -> str:
    """Return a cell without marks, with a point before decimals and nothing between thousands."""
    text = cell.strip("* \u2020\u2021\u00a7\u00b6").replace("\u2212", "-")
    if re.search(r"[(\[]", text):
        return text
    text = text if "." in text else re.sub(r"(?<=\d),(?=\d{1,2}(?!\d))", ".", text)
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def number(text: str) -> float | None:
    """Return the number in a cell, as 3e-4, 1,319 or 3 x 10^-4; None where there is none."""
    plain = text.translate(_SUPERSCRIPTS).replace(",", "").strip("* ")
    power = _POWER.fullmatch(plain)
    try:
        value = float(f"{power[1] or 1}e{power[2]}" if power else plain)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def whole(text: str) -> int | None:
    """Return the positive whole number in a cell; None where there is none."""
    value = None if re.search(r"\d\s*,\s*\d{1,2}(?!\d)", text) else number(text)  # 0,1,2 is a list
    return None if value is None or value != int(value) or value < 1 else int(value)


def are_errors(cells: Sequence[str]) -> bool:
    """Return whether cells are errors by a sign before each, as a heading that spans two columns has them."""
    filled = [_ERROR.match(cell) for cell in cells if not is_empty(cell)]
    return bool(filled) and all(match and match[1] for match in filled)


def is_empty(cell: str) -> bool:
    """Return whether a cell holds nothing, or a sign for it."""
    return cell.lower() in _EMPTY


def is_number(cell: str) -> bool:
    """Return whether a cell holds a score or another number, as 3e-4."""
    return score(cell) is not None or number(cell) is not None
