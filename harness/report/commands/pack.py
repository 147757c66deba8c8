"""`harness report pack NAME`: the report of a sweep with `records.zip`, from which everybody can make it again."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.records.untrusted import echo


def main(arguments: Sequence[str]) -> int:
    """Write the report and its archive; 0, 2 for wrong input, 3 where the rows cannot be compared."""
    from harness.report.analysis.comparable import IncomparableError

    given = _parser().parse_args(arguments)
    try:
        lines = _pack(given)
    except IncomparableError as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    echo("\n".join(lines))
    return 0


def _pack(given: argparse.Namespace) -> list[str]:
    """Write both and return the lines to print. The report is made of the archive, so that the two always agree.

    Raises:
        ValueError: the sweep or a file of it cannot be packed; nothing has been written.
        IncomparableError: its rows differ in what was not declared to vary; nothing has been written.
    """
    from harness.report import write_comparison
    from harness.report.analysis.comparison import Comparison
    from harness.report.archive import MEBIBYTE, NAME, OPTIONS, anonymous, container, members, oversized, verify

    options = members.Options(
        sweep=given.name,
        allow=tuple(key for key in given.allow.split(",") if key),
        margin=given.margin,
        price=given.price,
        license=given.license,
        anonymous=given.anonymous,
        made_with=members.installed(),
    )
    content = members.collect(given.runs, given.name)
    if given.anonymous:
        content = anonymous.redacted(content, given.hide)
    content[OPTIONS] = members.options_bytes(options)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report pack",
        description="Write the report of a sweep and records.zip beside it: records, items, registration and a lock of "
        "versions, with RO-Crate metadata. `harness report verify` makes the report again from it. Equal records give "
        "equal bytes.",
    )
    parser.add_argument("name", metavar="NAME", help="the sweep")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[Path("runs")], metavar="RUNS", help="runs folders (default: runs)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the report's folder (default: REPORTS/NAME)")
    parser.add_argument("--reports-dir", type=Path, default=Path("reports"), metavar="REPORTS")
    parser.add_argument("--allow", metavar="KEYS", default="", help="as for `harness report`")
    parser.add_argument("--margin", type=float, metavar="DIFFERENCE", help="as for `harness report`")
    parser.add_argument("--price", type=float, metavar="P", help="as for `harness report`")
    parser.add_argument("--license", metavar="TEXT", help="of the archive: an SPDX identifier or a URL")
    parser.add_argument(
        "--anonymous",
        action="store_true",
        help="for double-blind review: remove accounts, hosts, paths, e-mail addresses, commits and what names them "
        "from every record, and make the report of that",
    )
    parser.add_argument(
        "--hide", action="append", default=[], metavar="WORD", help="with --anonymous: a further word to remove"
    )
    return parser
