"""Commands on the comparison of a sweep: its answer, a recommendation, an A/A test, and whether it is decided."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records.untrusted import echo
from harness.report.commands import keys, not_negative

if TYPE_CHECKING:
    from harness.report.analysis.comparison import Comparison
    from harness.report.data.groups import Group

_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_MOST_NAMED = 4  # undecided comparisons


def answer(arguments: Sequence[str]) -> str:
    """Return the answer for every base model, as sentences or as JSON, without writing a report."""
    description = (
        "Print the answer: the best method, the methods that tie with it, and the cheapest that is good enough. --json "
        "prints a list with one object per base model: lines, task, metric, base, best, others, detectable, tolerance, "
        "cheapest, memory; scores are fractions, memory is in bytes, unknown values are null."
    )
    parser = _parser("answer", description)
    _add_answer_options(parser, "print plain values")
    given = parser.parse_args(arguments)
    answers = _compared(given).answers
    if given.json:
        return as_json([entry.record() for entry in answers])
    return "\n".join(line for entry in answers for line in entry.lines)


def recommend(arguments: Sequence[str]) -> str:
    """Return the method to use within the given limits, for every base model, and what says so."""
    from harness.report.analysis.claims import main_contests
    from harness.report.analysis.recommend import Need, advise, options, record, sentences

    given = _needs_parser().parse_args(arguments)
    comparison = _compared(given)
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
    every = [advise(contest, options(contest, groups), need) for contest in contests]
    if given.json:
        return as_json([record(advice) for advice in every])
    return "\n".join(line for advice in every for line in sentences(advice))


def aa(arguments: Sequence[str]) -> str:
    """Return a line for each method and task of an A/A test, then the rate of false verdicts; or all as JSON."""
    description = (
        "A/A test of a runs folder. The seeds of each method are split into two halves in every way, at most 200 of "
        "them evenly chosen, and compared as two methods. Every difference that is found is false; their rate should "
        "be near the level."
    )
    parser = _parser("aa", description)
    parser.add_argument("--json", action="store_true", help="print one JSON object: level, rate, interval, tallies")
    given = parser.parse_args(arguments)
    from harness.report import load
    from harness.report.analysis.claims import LEVEL
    from harness.report.analysis.noise import FEWEST, aa_line, aa_rate, aa_test

    tallies = aa_test(load(given.runs, given.sweep))
    if not tallies:
        raise ValueError(f"no method has {FEWEST} seeds on a target task or the test rows: nothing can be divided")
    if given.json:
        rate = aa_rate(tallies)
        value, interval = (rate.value, (rate.low, rate.high)) if rate else (None, None)
        return as_json({"level": LEVEL, "rate": value, "interval": interval, "tallies": list(map(asdict, tallies))})
    rows = [
        f"{tally.method} on {tally.title}: {tally.seeds} seeds, {tally.ways} ways, {tally.false} false verdicts"
        + (f", {tally.silent} without a verdict" if tally.silent else "")
        for tally in tallies
    ]
    return "\n".join([*rows, aa_line(tallies)])


def look(arguments: Sequence[str]) -> int:
    """Print what is undecided, and return 1 if anything is; rows that cannot be compared are wrong input."""
    from harness.report.analysis.comparable import IncomparableError
    from harness.report.analysis.tested_claims import undecided

    parser = _parser("look", "Check whether every comparison or claim of a sweep has a verdict.")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object: decided, undecided (a list), answer (a sentence)"
    )
    given = parser.parse_args(arguments)
    try:
        lines = undecided(_compared(given))
    except IncomparableError as error:
        raise ValueError(error) from error
    more = f" and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
    text = f"undecided: {'; '.join(lines[:_MOST_NAMED])}{more}" if lines else "decided: every comparison has a verdict"
    echo(as_json({"decided": not lines, "undecided": list(lines), "answer": text}) if given.json else text)
    return int(bool(lines))


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser that takes runs folders and a sweep."""
    parser = argparse.ArgumentParser(prog=f"harness report {name}", description=description)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folders that hold <recipe_id>/seed-<n>/")
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep")
    return parser


def _add_answer_options(parser: argparse.ArgumentParser, json_help: str) -> None:
    """Let the command compare as a report does, and print plain values."""
    parser.add_argument("--allow", type=keys, metavar="KEYS", default=(), help="as for `harness report`")
    parser.add_argument("--json", action="store_true", help=json_help)


def _compared(given: argparse.Namespace) -> Comparison:
    """Return the comparison of the given runs.

    Raises:
        ValueError: there is no such folder, no record, or several sweeps and none was named.
        IncomparableError: the rows differ in what was not declared to vary.
    """
    from harness.report import load
    from harness.report.data.load import only_sweep

    comparison = load(given.runs, only_sweep(given.runs, given.sweep), getattr(given, "allow", ()))
    assert comparison.guard, "rows that may be compared"
    return comparison


def as_json(values: Any) -> str:
    """Return plain values as JSON for people; an unknown value is null."""
    return json.dumps(values, allow_nan=False, ensure_ascii=False, indent=2)


def _columns(groups: Sequence[Group]) -> list[str]:
    """Return the names that can be requested: the metrics of the tasks and the losses of the trained methods."""
    from harness.report.analysis.claims import ROLES

    scored = [score for group in groups if group.trained for role in ROLES for score in group.role(role)]
    names = [
        f"{score.task}/{metric}" for score in scored if not score.loss_only for metric in sorted(score.record.metrics)
    ]
    losses = [f"{score.role}_loss" for score in scored if score.heldout]
    return list(dict.fromkeys([*names, *losses]))


def _needs_parser() -> argparse.ArgumentParser:
    description = (
        "Among the options that keep the limits, take the best and those shown not to be worse by more than the "
        "tolerance (one-sided test at 5 %, paired by item); of these recommend the cheapest. Prompting the base model "
        "is an option where it was evaluated."
    )
    parser = _parser("recommend", description)
    memory = "of the device, such as 24GiB: on a GPU what its allocator held and CUDA's context, else the peak"
    parser.add_argument("--memory", type=_bytes, metavar="SIZE", help=memory)
    parser.add_argument("--time", type=_seconds, metavar="TIME", help="training time, such as 90min or 2h")
    parser.add_argument(
        "--tolerance",
        type=not_negative,
        default=0.0,
        metavar="POINTS",
        help="non-inferiority margin in points: 1.0 is 0.01 of a score or of a loss in nats (default: 0)",
    )
    parser.add_argument(
        "--no-overhead",
        action="store_true",
        help="exclude what slows inference down: unmerged methods and few-shot prompts",
    )
    parser.add_argument("--minimize", choices=("memory", "time", "parameters", "bytes"), default="memory")
    parser.add_argument(
        "--primary", metavar="COLUMN", help="primary metric, such as arc_easy/acc (default: that of the sweep)"
    )
    json_help = "print a list with one object per base model; scores are fractions, costs in bytes and seconds"
    _add_answer_options(parser, json_help)
    return parser


def _bytes(text: str) -> float:
    return _quantity(text, _BYTES, "24GiB, 24GB, 800MiB")


def _seconds(text: str) -> float:
    return _quantity(text, _SECONDS, "90s, 30min, 2h")


def _quantity(text: str, units: dict[str, int], examples: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise argparse.ArgumentTypeError(f"{text!r}: write a number with its unit, as in {examples}")
    return float(match[1]) * units[match[2].lower()]
