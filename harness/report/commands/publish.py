"""Commands that publish: a report with its records, the report made again from them, and scores for other tools."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.records.untrusted import echo
from harness.report.commands import above_zero, keys, warn
from harness.report.display import counted
from harness.sources.packages import Say, silent


def pack(arguments: Sequence[str]) -> list[str]:
    """Write the report of a sweep and its archive. The report is made of the archive, so that the two always agree.

    Raises:
        ValueError: the sweep or a file of it cannot be packed; nothing has been written.
        IncomparableError: its rows differ in what was not declared to vary; nothing has been written.
    """
    given = _pack_parser().parse_args(arguments)
    from harness.report import write_comparison
    from harness.report.analysis.comparison import Comparison
    from harness.report.archive import MEBIBYTE, NAME, OPTIONS, anonymous, container, members, oversized, verify

    options = members.Options(
        sweep=given.name,
        allow=given.allow,
        margin=given.margin,
        price=given.price,
        license=given.license,
        anonymous=given.anonymous,
        made_with=members.installed(),
    )
    content = members.collect(given.runs, given.name)
    if given.anonymous:
        content = anonymous.redacted(content, given.hide)
    content[OPTIONS] = members.to_json(asdict(options))
    content = members.described(content, options)
    out = given.out or given.reports_dir / given.name
    with tempfile.TemporaryDirectory(prefix="harness-pack-") as place:
        page = write_comparison(Comparison(verify.loaded_from(content, options, Path(place))), out)
    archive = container.write(content, out / NAME)
    size = archive.stat().st_size / MEBIBYTE
    lines = [f"report: {page}", f"archive: {archive}, {len(content):,} files, {size:.2g} MiB", *oversized(out)]
    if given.anonymous:
        lines.append("Look through both before you publish them: text of your question, data and model names is yours.")
    return lines


def verify(arguments: Sequence[str]) -> int:
    """Print the differences between a report and the one that its archive gives; return 1 if there are any."""
    given = _verify_parser().parse_args(arguments)
    say = silent if given.json else echo
    document, wrong = _verified(given.folder, say)
    document["retrained"], more = _retrained(given.folder, say) if given.retrain else (None, [])
    if given.json:
        echo(json.dumps(document, indent=2))
    return int(bool(wrong or more))


def export(arguments: Sequence[str]) -> int:
    """Write the documents; return 1 where one is not valid (--check)."""
    from harness.report.data.load import load, only_sweep
    from harness.report.writers.every_eval_ever import Evaluator, faults, write

    given = _export_parser().parse_args(arguments)
    loaded = load(given.runs, only_sweep(given.runs, given.sweep))
    paths = write(loaded.rows, Evaluator(given.organization, given.relationship), given.out)
    wrong = faults(paths) if given.check else []
    if given.json:
        echo(json.dumps({"written": [str(path) for path in paths], "faults": wrong if given.check else None}, indent=2))
    else:
        checked = f", {len(wrong)} faults" if given.check else ""
        echo(f"{len(paths)} runs written to {given.out}{checked}")
    for line in wrong:
        warn(line)
    return int(bool(wrong))


def _verified(folder: Path, say: Say) -> tuple[dict[str, Any], list[str]]:
    """Say the result of the comparison, and return it as a document and as a list of differences.

    Raises:
        ValueError: there is no archive, or it is refused.
    """
    from harness.report.archive.verify import verify

    verdict = verify(folder)
    for line in verdict.wrong:
        say(line)
    what = f"{verdict.files:,} files and {verdict.numbers:,} numbers made again from {verdict.records:,} records"
    if not verdict.wrong:
        say(f"verified: {folder}: {what}, all equal")
    else:
        say(f"not verified: {folder}: {what}; {counted(len(verdict.wrong), 'difference')}")
        if verdict.libraries:
            say(f"The report was written with other versions, which may draw otherwise: {'; '.join(verdict.libraries)}")
    document = {"folder": str(folder), "verified": not verdict.wrong, "differences": list(verdict.wrong)}
    counts = {"files": verdict.files, "numbers": verdict.numbers, "records": verdict.records}
    return {**document, **counts, "libraries": list(verdict.libraries)}, [*verdict.wrong]


def _retrained(folder: Path, say: Say) -> tuple[dict[str, Any], list[str]]:
    """Train the cheapest run again, say how it compares, and return that as a document and as a list of differences.

    Raises:
        ValueError: nothing can be trained again.
    """
    from harness.report.archive import NAME, container, members, verify
    from harness.report.archive.verify import loaded_from

    content = container.read(folder / NAME)
    with tempfile.TemporaryDirectory(prefix="harness-retrain-") as place:
        loaded = loaded_from(content, members.options_of(content, folder / NAME), Path(place) / "archive")
        row = verify.cheapest(loaded)
        name = f"{row.label or row.method} seed {row.seed} ({row.recipe_id})"
        say(f"retraining {name}, the cheapest run")
        made = verify.retrained(row, Path(place))
        assert row.record is not None, "the cheapest run has a record"
        wrong, how = verify.retrained_differences(row.record, made)
    say(f"retrained: {name}: {how}: {'; '.join(wrong) if wrong else 'equal'}")
    return {"run": name, "compared": how, "differences": list(wrong)}, wrong


def _pack_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report pack",
        description="Write the report of a sweep and records.zip beside it: records, items, registration and a lock of "
        "versions, with RO-Crate metadata. `harness report verify` makes the report again from it. Equal records give "
        "equal bytes.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[Path("runs")], metavar="RUNS", help="runs folders (default: runs)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the report's folder (default: REPORTS/NAME)")
    parser.add_argument("--reports-dir", type=Path, default=Path("reports"), metavar="REPORTS")
    parser.add_argument("--allow", type=keys, metavar="KEYS", default=(), help="as for `harness report`")
    parser.add_argument("--margin", type=above_zero, metavar="DIFFERENCE", help="as for `harness report`")
    parser.add_argument("--price", type=above_zero, metavar="P", help="as for `harness report`")
    parser.add_argument("--license", metavar="TEXT", help="license of the archive: an SPDX identifier or a URL")
    parser.add_argument(
        "--anonymous",
        action="store_true",
        help="for double-blind review: remove accounts, hosts, paths, e-mail addresses, commits and what names them "
        "from every record, and make the report of that",
    )
    parser.add_argument(
        "--hide", action="append", default=[], metavar="WORD", help="a further word to remove with --anonymous"
    )
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report verify",
        description="Make a report again from records.zip in its folder, without torch, and name every file, byte and "
        "number that differs, and every record or table of items that was changed.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the report's folder")
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="also train the cheapest run again: equal to the bit with the same processor and libraries, else losses "
        "within 2 %%",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with the counts and the differences")
    return parser


def _export_parser() -> argparse.ArgumentParser:
    from harness.report.writers.every_eval_ever import RELATIONSHIPS, UNKNOWN

    parser = argparse.ArgumentParser(
        prog="harness report export", description="Export every run with its scores as an Every Eval Ever document."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder, one JSON file per run")
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep")
    parser.add_argument(
        "--organization",
        default=UNKNOWN,
        metavar="WHO",
        help="organization that publishes the scores (default: unknown)",
    )
    parser.add_argument(
        "--relationship",
        choices=RELATIONSHIPS,
        default="other",
        metavar="RELATIONSHIP",
        help="its relationship to the model: %(choices)s (default: other)",
    )
    parser.add_argument(
        "--check", action="store_true", help="validate against the schema of the every-eval-ever package"
    )
    parser.add_argument("--json", action="store_true", help="print one object: written, faults")
    return parser
