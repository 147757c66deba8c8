"""Cells of a sweep: each is a tuple of Hydra overrides that composes to one run.

A file in `sweeps/` may hold several grids. Each is a product of its values, and their union is run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from harness.sources.packages import conf_dir

Cell = tuple[str, ...]
# settings on which the untouched model does not depend: it is neither trained nor adapted
_NOT_OF_BASE = ("method", "target", "lr_scale", "seed")


def expand(grids: Sequence[dict[str, Any]], arguments: Sequence[str]) -> list[Cell]:
    """Return the cells of a sweep, without repetitions, in the order in which they were requested.

    Args:
        grids: tables of setting -> list of values (or one value), as in `sweeps/<name>.yaml`; each is a product.
        arguments: command-line overrides, in which commas sweep; they win over a grid's values for the same setting.

    Raises:
        HydraException: an argument is no override.
        ValueError: several sweeps are requested at once, a text has white space around it that Hydra leaves out, a list
            of options stands where one is chosen, or values would change nothing, since others take their place.
    """
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    for override in overrides:
        _check_space(override)
    given = {override.get_key_element() for override in overrides}
    from_line = [_choices(override) for override in overrides]
    if sum(override.get_key_element() == "sweep" and override.is_sweep_override() for override in overrides):
        raise ValueError("sweep: one sweep at a time; a file in sweeps/ may hold several grids")
    _check_once(overrides)
    _check_options(from_line)
    cells: list[Cell] = []
    for grid in grids or [{}]:
        from_file = [_alternatives(key, values) for key, values in grid.items() if key not in given]
        _check_options(from_file)
        cells += itertools.product(*from_line, *from_file)
    for cell in cells:
        _check_rates(cell)
    return list(dict.fromkeys(cells))


def base_of(cell: Cell) -> Cell:
    """Return the cell of the untouched model with which `cell` is compared."""
    words = (word for word in cell if re.split(r"[.=@]", word.lstrip("+~"), maxsplit=1)[0] not in _NOT_OF_BASE)
    return (*words, "method=base")


def _check_space(override: Override) -> None:
    key, _, given = (override.input_line or "").partition("=")
    text = given.strip()
    if given != text and not text.startswith(("'", '"')) and isinstance(override.value(), str):
        raise ValueError(
            f"{key}={given!r}: the white space around it is left out unless the text is quoted once more, as in "
            f'"{key}={given!r}"; leave it out, or quote the text'
        )


def _check_once(overrides: Sequence[Override]) -> None:
    """Refuse several values of a setting that is given once more behind them: each of their runs would have the last.

    One value that is given again is replaced, as on any command line.
    """
    last = {_setting(override): override for override in overrides}
    for override in overrides:
        again = last[_setting(override)]
        if override.is_sweep_override() and again is not override:
            raise ValueError(
                f"{override.input_line} {again.input_line}: {_setting(override)} is given twice, and the last would be "
                "that of every run; give all of its values in one word, separated by commas, or leave one word out"
            )


def _setting(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _check_rates(cell: Cell) -> None:
    """Refuse a rate of the method where another takes its place: cells that vary it would be one run."""
    given = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in cell)}
    center, rate = given.get("method.lr", "null"), given.get("train.lr", "null")
    if "null" not in (center, rate) and "${" not in rate:
        raise ValueError(
            f"method.lr={center} train.lr={rate}: train.lr takes the place of method.lr x lr_scale, so that method.lr "
            "would change nothing; leave one of the two out"
        )


def _check_options(alternatives: Iterable[Sequence[str]]) -> None:
    """Refuse a list of a group's options, of which Hydra would make one that is none of them: `method=[lora,dora]`."""
    for word in itertools.chain.from_iterable(alternatives):
        group, _, options = word.partition("=")
        if not options.startswith("[") or group.startswith("hydra/") or not (conf_dir() / group).is_dir():
            continue
        [override] = OverridesParser.create().parse_overrides([word])
        names = override.value()
        if len(names) > 1:
            apart = f"leave the brackets out: {group}={','.join(map(str, names))}"
            way = "give a command for each" if group == "sweep" else apart
            raise ValueError(
                f"{word}: one {group} at a time, since a list would mix the settings of all; to run each of them, {way}"
            )


def _choices(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _alternatives(key: str, values: Any) -> list[str]:
    return [f"{key}={_literal(value)}" for value in (values if isinstance(values, list) else [values])]


def _literal(value: Any) -> str:
    """Return a YAML value in Hydra's override grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII) and value.lower() not in (
            "null",
            "true",
            "false",
            "nan",
            "inf",
        )
        return value if plain else _quoted(value)
    return json.dumps(value)


def _quoted(value: str) -> str:
    """Return a quoted string. Hydra reads a backslash as it is unless a quote follows, so only there it is doubled."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", value)
    return "'" + re.sub(r"\\+$", lambda match: match[0] * 2, escaped) + "'"


def verbatim(value: str) -> str:
    """Return a text in Hydra's override grammar that stays what it is: no number, no list and no interpolation."""
    return _quoted(re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value))


def names(cells: Iterable[Cell]) -> list[str]:
    """Return cells as a person would type them."""
    return [" ".join(cell) or "(the defaults)" for cell in cells]
