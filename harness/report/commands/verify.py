"""`harness report verify FOLDER`: every file and number of a report, made again from the archive beside it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.records.untrusted import echo


def main(arguments: Sequence[str]) -> int:
    """Print the differences; 0 if there are none, 1 if there are, 2 for wrong input or an archive that is refused."""
    given = _parser().parse_args(arguments)
    try:
        wrong = _verify(given.folder)
        wrong += _retrain(given.folder) if given.retrain else []
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    return 1 if wrong else 0


def _verify(folder: Path) -> list[str]:
    """Print the result of the comparison, and return the differences.

    Raises:
        ValueError: there is no archive, or it is refused.
    """
    from harness.report.archive.verify import verify

    verdict = verify(folder)
    for line in verdict.wrong:
        echo(line)
    what = f"{verdict.files:,} files and {verdict.numbers:,} numbers made again from {verdict.records:,} records"
    if not verdict.wrong:
        echo(f"verified: {folder}: {what}, all equal")
        return []
    count = len(verdict.wrong)
    echo(f"not verified: {folder}: {what}; {count} difference{'' if count == 1 else 's'}")
    if verdict.libraries:
        echo(f"The report was written with other versions, which may draw otherwise: {'; '.join(verdict.libraries)}")
    return [*verdict.wrong]


def _retrain(folder: Path) -> list[str]:
    """Train the cheapest run again, print how it compares, and return the differences.

    Raises:
        ValueError: nothing can be trained again.
    """
    from harness.report.archive import NAME, container, members, retrain
    from harness.report.archive.verify import loaded_from

    content = container.read(folder / NAME)
    with tempfile.TemporaryDirectory(prefix="harness-retrain-") as place:
        loaded = loaded_from(content, members.options_of(content, folder / NAME), Path(place) / "archive")
        row = retrain.cheapest(loaded)
        name = f"{row.label or row.method} seed {row.seed} ({row.recipe_id})"
        echo(f"retraining {name}, the cheapest run")
        made = retrain.retrained(row, Path(place))
        assert row.record is not None, "the cheapest run has a record"
        wrong, how = retrain.differences(row.record, made)
    echo(f"retrained: {name}: {how}: {'; '.join(wrong) if wrong else 'equal'}")
    return wrong


def _parser() -> argparse.ArgumentParser:
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
    return parser
