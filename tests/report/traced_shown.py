"""How a page writes numbers: digits after the point, thousands apart, p-values, settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from ledger import Claim, Part
from traced_files import CONF
from traced_numbers import MetricComparison, Pair, Parts, error_of

PM = "\N{PLUS-MINUS SIGN}"
UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
MIB, MB, GIB = 2**20, 10**6, 2**30
NAMES = yaml.safe_load((CONF / "names.yaml").read_text())
DATA = yaml.safe_load((CONF / "data" / "science_qa.yaml").read_text())["display"]


def fixed(value: float, digits: int, signed: bool = False) -> str:
    """Never a minus before nothing."""
    text = f"{abs(value):.{digits}f}"
    sign = "-" if value < 0 and float(text) else "+" if signed else ""
    return sign + text


def amount(value: float | None) -> str:
    """Three digits that say something, and all of those before the point."""
    if value is None:
        return "-"
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def task_name(task: str) -> str:
    if task.startswith("science_qa/"):
        return f"{DATA} ({task.partition('/')[2]})"
    return NAMES["tasks"][task]["display"]


def metric_name(metric: str) -> str:
    return NAMES["metrics"].get(metric, {"display": metric})["display"]


def method_name(method: str) -> str:
    return yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())["display"]


def task_short(task: str) -> str:
    return NAMES["tasks"][task].get("short", NAMES["tasks"][task]["display"])


def metric_short(metric: str) -> str:
    return NAMES["metrics"][metric]["short"]


def contest_name(contest: MetricComparison) -> str:
    name = task_name(contest.look.task)
    return name if contest.higher else f"{name} loss"


def percent(value: float) -> str:
    return f"{fixed(100 * value, 1)} %"


def plain_number(value: float) -> str:
    """A signed number without an error: three digits that say something."""
    size = abs(value)
    return fixed(value, 0 if size >= 100 or not size else 1 if size >= 10 else 2 if size >= 1 else 3, signed=True)


def digits_for(error: float) -> int:
    """Two significant digits of an error."""
    return max(0, 1 - int(f"{error:.1e}".partition("e")[2]))


def scaled(contest: MetricComparison, value: float, error: float | None = None, signed: bool = False) -> str:
    """A score: percent with one decimal, a loss by its error."""
    if contest.higher:
        return fixed(100 * value, 1, signed)
    return fixed(value, digits_for(error) if error else 4, signed)


def with_error(contest: MetricComparison, value: float, parts: Parts, signed: bool = False) -> str:
    error = error_of(parts)
    shown = f"{100 * error:.1f}" if contest.higher else f"{error:.{digits_for(error)}f}"
    return f"{scaled(contest, value, error, signed)} {PM} {shown}"


def ends(pair: Pair, contest: MetricComparison) -> str:
    """The simultaneous interval: "low to high"."""
    low, high = pair.result.adjusted_interval
    return " to ".join(scaled(contest, end, None, signed=True) for end in (low, high))


def with_ends(pair: Pair, contest: MetricComparison) -> str:
    return f"{scaled(contest, pair.result.difference, None, signed=True)} ({ends(pair, contest)})"


def p_cell(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def listed(names: Sequence[str], most: int) -> str:
    """A, b and c; beyond `most` the others are counted."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), *names[-1:]])


def setting(value: Any) -> str:
    """A setting as people write it: 3e-4 and not 0.0003."""
    if isinstance(value, float):
        if value and not 0.01 <= abs(value) < 1e6:
            mantissa, exponent = f"{value:.6e}".split("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{value:g}"
    if isinstance(value, list):
        return ",".join(map(setting, value))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def flat(node: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def cut(text: str, most: int = 80) -> str:
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def cell(section: str, row: str | Iterable[str], column: str, *parts: Part) -> Claim:
    return Claim(section, parts, (row,) if isinstance(row, str) else tuple(row), column)


def header(section: str, *texts: str) -> list[Claim]:
    return [Claim(section, (text,), ("header",), text) for text in texts]


def quality_name(contest: MetricComparison) -> str:
    """What a figure calls a metric: with the number of items where only the first ones were asked."""
    limit = contest.look.record["evaluation"]["limit"]
    return f"{contest.look.task} {contest.metric}" + ("" if limit is None else f" ({contest.num_items} items)")


def task_heading(contest: MetricComparison) -> str:
    record = contest.look.record
    kind, limit = record["evaluation"]["kind"], record["evaluation"]["limit"]
    part = "" if kind != "lm_eval" else "all " if limit is None else "first "
    parts = [*([] if kind == "heldout" else [contest.look.role]), f"{part}{contest.num_items:,} items"]
    if kind == "heldout":
        parts.append(f"{int(contest.look.weights.sum()):,} answer tokens")
    if kind == "lm_eval":
        shots = record["num_fewshot"]
        parts.append("few-shot unknown" if shots is None else f"{shots}-shot")
    chance = record["metrics"].get("acc", {}).get("chance")
    parts += [] if chance is None else [f"chance {100 * chance:.3g} %"]
    return f"{task_name(contest.look.task)}: {', '.join(parts)}"
