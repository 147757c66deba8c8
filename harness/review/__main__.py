"""`harness review WHAT`: what a referee would ask about results, whoever made them. Needs neither torch nor a network.

Exit codes: 0 no fault; 1 faults; 2 the input was wrong.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.records.help_text import HelpFormatter
from harness.records.untrusted import echo
from harness.review.row import Finding, Submission

KINDS = {
    "records": "records of this project's runs",
    "peft": "result files of PEFT's method comparison",
    "trainer": "runs of transformers' Trainer",
    "table": "a table",
}
_EXAMPLES = """\
WHAT is one of
  runs                 records of this project
  results/             result files of PEFT's method comparison (*.json)
  outputs/             runs of transformers' Trainer: trainer_state.json, and beside it, if present,
                       adapter_config.json and the output of lm_eval --log_samples
  table.csv table.tex  tables with a heading: method, scores (47.2, 47.2 +- 1.4, 47.2 (44.5 to 49.9)) and any of
                       n, seeds (or seed, with a row for each), lr, r, alpha, tuned, epochs, batch_size, ...

Faults come first: settings that differ beside the method, scales and learning rates, seeds, selection on test data,
impossible numbers. Notes bound what each difference can mean over all pairings of n items.

  harness review table.tex --items gsm8k=1319
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the review and return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        request = _read(given.what, dict(given.items or []), given.sweep)
    except (ValueError, OSError) as error:
        echo(f"harness.review: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    result = [(name, submission, review(submission)) for name, submission in request]
    if given.json:
        echo(json.dumps([_document(*entry) for entry in result], indent=2, ensure_ascii=False))
    else:
        echo("\n\n".join(_page(*entry) for entry in result))
    return 1 if any(entry.severity == "fault" for _, _, findings in result for entry in findings) else 0


def review(submission: Submission) -> list[Finding]:
    """Return the findings, faults in a referee's order before notes."""
    from harness.review.checks import SETTINGS
    from harness.review.score_checks import SCORES

    result = [
        *submission.findings,
        *(finding for check in (*SETTINGS, *SCORES) for finding in check(submission)),
    ]
    places = {name: place for place, name in enumerate(_ORDER)}
    return sorted(result, key=lambda entry: (entry.severity != "fault", places.get(entry.check, len(places))))


_ORDER = (
    "unreadable", "settings", "scale", "rate", "one-rate", "undertuned", "seeds", "chosen-on-test", "twice", "status",
    "unfinished", "diverged", "broken-run", "contradicted", "impossible", "units", "items", "no-interval", "interval",
    "error", "average", "bold", "identical", "pairing",
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness review",
        description="Review published or own results the way a referee would.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("what", type=Path, metavar="WHAT", help="see below")
    parser.add_argument(
        "--items",
        type=_items,
        action="append",
        metavar="[COLUMN=]N",
        help="number of items behind the scores of a table, or of one column",
    )
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep (for records)")
    parser.add_argument(
        "--json", action="store_true", help="print a list: what, kind, rows, findings of each comparison"
    )
    return parser


def _items(text: str) -> tuple[str, int]:
    column, _, number = text.rpartition("=")
    if not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number of items, as in 1319 or gsm8k=1319")
    return column, int(number)


def _read(what: Path, items: Mapping[str, int], sweep: str | None) -> list[tuple[str, Submission]]:
    """Return what there is to review, each with a name.

    Raises:
        ValueError: it is nothing that can be reviewed.
    """
    if not what.exists():
        raise ValueError(f"{what}: no such file or folder")
    if what.is_file() and what.suffix.lower() in (".csv", ".tsv", ".tex"):
        from harness.review.tables import read_tables

        _refuse("--sweep", sweep, "records of this project")
        return read_tables(what, items)
    _refuse("--items", items, "a table")
    if what.is_dir():
        if any(what.glob("*/seed-*/record.json")) or any(what.glob("sweeps/*/sweep.json")):
            from harness.review.our_records import records

            return records(what, sweep)
        from harness.review.published import STATE, peft_results, trainer_folders

        _refuse("--sweep", sweep, "records of this project")
        if any(what.rglob(STATE)):
            return [(str(what), trainer_folders(what))]
        if any(what.glob("*.json")):
            return [(str(what), peft_results(what))]
    raise ValueError(
        f"{what}: nothing to review: no records of runs (<recipe>/seed-<n>/record.json), no PEFT result files "
        "(*.json), no trainer_state.json below it, and no .csv, .tsv or .tex table"
    )


def _refuse(option: str, given: object, what: str) -> None:
    """Refuse an option that is of no use for what is reviewed.

    Raises:
        ValueError: it was given.
    """
    if given:
        raise ValueError(f"{option} is for {what}: leave it out")


def _page(name: str, submission: Submission, findings: Sequence[Finding]) -> str:
    faults = [entry for entry in findings if entry.severity == "fault"]
    notes = [entry for entry in findings if entry.severity != "fault"]
    lines = [f"{name}: {len(submission.rows)} rows, {KINDS[submission.kind]}"]
    lines += [f"{number:>3}. [{entry.check}] {entry.text}" for number, entry in enumerate(faults, 1)]
    if not faults:
        lines.append("  no fault found")
    pairings = [f"   - {entry.text}" for entry in notes if entry.check == "pairing"]
    others = [f"   - {entry.text}" for entry in notes if entry.check != "pairing"]
    if others:
        lines += ["  not read:", *others]
    if pairings:
        lines += ["  what the differences can mean, over all pairings of the items:", *pairings]
    return "\n".join(lines)


def _document(name: str, submission: Submission, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "what": name,
        "kind": submission.kind,
        "rows": [row.name for row in submission.rows],
        "findings": [asdict(entry) for entry in findings],
    }


if __name__ == "__main__":
    from harness.__main__ import run_command

    run_command(main)
