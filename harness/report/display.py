"""Formatting of numbers and of tables. Records keep raw numbers; units for display live here."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

DASH = "-"
MEBIBYTE = 2**20
GIBIBYTE = 2**30
TERA = 10**12

K = TypeVar("K")
V = TypeVar("V")


def steady(value: float) -> float:
    """Return a number without the noise of its last bits, by which one half would be rounded up and an equal one down.

    A mean over 400 items and 5 seeds has half a digit to spare in every second case.
    """
    return round(value, 9)


def quantity(value: float | None) -> str:
    """A measured amount: three significant digits, all digits before the point, thousands apart."""
    if value is None:
        return DASH
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{steady(value):,.{digits}f}"


def percent(part: int, whole: int) -> str:
    """A share with three significant digits."""
    return f"{100 * part / whole:.3g}" if whole else DASH


def p_value(value: float) -> str:
    """A p-value with two digits, or that it is below 0.001."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def mean(values: Iterable[float | None]) -> float | None:
    """The mean over the seeds; None if any of them is unknown."""
    listed = list(values)
    given = [value for value in listed if value is not None]
    return sum(given) / len(given) if given and len(given) == len(listed) else None


def short(value: Any) -> str:
    """A setting as a label writes it: 2e-4, 16, all_linear, q_proj,v_proj."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        if value and (abs(value) < 0.01 or abs(value) >= 1e6):
            mantissa, _, exponent = f"{value:.6e}".partition("e")
            return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        return f"{value:.10g}"
    if isinstance(value, (list, tuple)):
        return ",".join(short(part) for part in value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def size(key: str, value: Any) -> str | None:
    """Return the value of a fact that is a number of bytes, as 23.5 GiB; None for other facts."""
    is_size = key.endswith("_bytes") and isinstance(value, (int, float))
    return f"{value / GIBIBYTE:.1f} GiB" if is_size else None


def several(names: Sequence[str], limit: int = 4) -> str:
    """Names as a sentence lists them: a, b and c; those beyond the limit are counted.

    Where one has an "and" of its own, semicolons stand between them: a and b; c; and d.
    """
    comma, last = ("; ", "; and ") if any(" and " in name for name in names) else (", ", " and ")
    if len(names) > limit:
        return f"{comma.join(names[:limit])}{last}{len(names) - limit} more"
    return names[0] if len(names) == 1 else f"{comma.join(names[:-1])}{last}{names[-1]}" if names else ""


def capital(words: str) -> str:
    """Return words that begin a sentence or name an axis; what is in capitals stays so."""
    return words[:1].upper() + words[1:]


def lowered(words: str) -> str:
    """Return the name of a setting as it stands within a sentence: learning rate, rank r, but LoRA alpha."""
    first = words.partition(" ")[0]
    return words[:1].lower() + words[1:] if first[1:].islower() else words


def counted(count: int, noun: str) -> str:
    """Return a number of things: 1 seed, 3 seeds, 2,376 items."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table(header: Sequence[str], lines: Iterable[Sequence[str]], text: Sequence[str] = ()) -> str:
    """A Markdown table: the first column and those named in `text` to the left, numbers to the right.

    Cells are Markdown already.
    """
    rule = [":--" if not i or name in text else "--:" for i, name in enumerate(header)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def collected(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Return the values of each key; keys and values stay in their order."""
    values: dict[K, list[V]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return values
