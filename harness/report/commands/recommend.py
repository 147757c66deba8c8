"""`python -m harness.report recommend RUNS --memory 24GiB --tolerance 1.0`: the method to use, and what says so."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.report.commands.shared import add_answer_options, answered, as_json, compared, parser_of

if TYPE_CHECKING:
    from harness.report.analysis.recommend import Advice
    from harness.report.data.groups import Group

_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def main(arguments: Sequence[str]) -> int:
    """Print the advice for every base model; 0, or 2 for wrong input, or 3 where the rows cannot be compared."""
    given = _parser().parse_args(arguments)
    return answered(lambda: _shown(_advice(given), given.json))


def _shown(every: Sequence[Advice], plain: bool) -> str:
    from harness.report.analysis.recommend import record, sentences

    if plain:
        return as_json([record(advice) for advice in every])
    return "\n".join(line for advice in every for line in sentences(advice))


def _advice(given: argparse.Namespace) -> list[Advice]:
    from harness.report.analysis.claims import main_contests
    from harness.report.analysis.recommend import Need, advise, options

    comparison = compared(given)
    groups = comparison.groups
    primary = given.primary or comparison.loaded.primary
    contests = [contest for contest in main_contests(groups, primary) if contest.groups]
    if not contests and given.primary and given.primary not in (columns := _columns(groups)):
        raise ValueError(f"--primary {given.primary}: no such column; there is {', '.join(columns) or 'none'}")
    if not contests:
        raise ValueError("no trained method has a score that may be ranked: nothing can be recommended")
    need = Need(
        memory_bytes=given.memory,
        seconds=given.time,
        tolerance=given.tolerance / 100,
        overhead=not given.no_overhead,
        minimize=given.minimize,
    )
    return [advise(contest, options(contest, groups), need) for contest in contests]


def _columns(groups: Sequence[Group]) -> list[str]:
    """Return the names that can be requested: the metrics of the tasks and the losses of the trained methods."""
    from harness.report.analysis.claims import ROLES

    scored = [score for group in groups if group.trained for role in ROLES for score in group.role(role)]
    names = [
        f"{score.task}/{metric}" for score in scored if not score.loss_only for metric in sorted(score.record.metrics)
    ]
    losses = [f"{score.role}_loss" for score in scored if score.heldout]
    return list(dict.fromkeys([*names, *losses]))


def _parser() -> argparse.ArgumentParser:
    description = (
        "Among the options that keep the limits, take the best and those shown not to be worse by more than the "
        "tolerance (one-sided test at 5 %, paired by item); of these recommend the cheapest. Prompting the base model "
        "is an option where it was evaluated."
    )
    parser = parser_of("recommend", description)
    memory = "of the device, such as 24GiB: on a GPU what its allocator held and CUDA's context, else the peak"
    parser.add_argument("--memory", type=_bytes, metavar="SIZE", help=memory)
    parser.add_argument("--time", type=_seconds, metavar="TIME", help="training time, such as 90min or 2h")
    parser.add_argument(
        "--tolerance",
        type=_not_negative,
        default=0.0,
        metavar="POINTS",
        help="quality that may be given up, in points: 1.0 is 0.01 of a score or of a loss in nats (default: 0)",
    )
    parser.add_argument(
        "--no-overhead", action="store_true", help="leave out what makes inference dearer: unmerged methods, few-shot"
    )
    parser.add_argument("--minimize", choices=("memory", "time", "parameters", "bytes"), default="memory")
    parser.add_argument("--primary", metavar="COLUMN", help="such as arc_easy/acc (default: the sweep's)")
    json_help = "print a list with one object per base model; scores are fractions, costs in bytes and seconds"
    add_answer_options(parser, json_help)
    return parser


def _bytes(text: str) -> float:
    return _quantity(text, _BYTES, "24GiB, 24GB, 800MiB")


def _seconds(text: str) -> float:
    return _quantity(text, _SECONDS, "90s, 30min, 2h")


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of points, zero or more")
    return value


def _quantity(text: str, units: dict[str, int], examples: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as in {examples}")
    return float(match[1]) * units[match[2].lower()]
