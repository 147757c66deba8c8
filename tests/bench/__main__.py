"""python -m tests.bench [PART...] [--out FILE.json]: one table of ratios and their bars.

Exit codes: 0 every bar is met, 1 one is not or a part broke, 2 there is no such part.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench import Row

FOLDER = Path(__file__).parent


def parts() -> list[str]:
    """Every part there is, by its module's name."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def measure(name: str) -> list[Row]:
    """The rows of one part; a part that breaks is a row that says so."""
    try:
        return list(importlib.import_module(f"tests.bench.{name}").rows())
    except Exception as error:  # the other parts go on
        traceback.print_exc()
        first_line = (str(error).splitlines() or [""])[0]
        return [Row(name="broke", measured=None, bar=0.0, unit="", note=f"{type(error).__name__}: {first_line}")]


def table(rows: Sequence[tuple[str, Row]]) -> Table:
    """Part, name, number, bar and whether it is met."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("Part", "What", "Measured", "Bar", "", "Note"):
        shown.add_column(column, justify="right" if column in ("Measured", "Bar") else "left", overflow="fold")
    for part, row in rows:
        sign = "<=" if row.at_most else ">="
        shown.add_row(
            part,
            row.name,
            "-" if row.measured is None else f"{row.measured:.4g} {row.unit}",
            "-" if row.bar is None else f"{sign} {row.bar:.4g}",
            {True: "ok", False: "MISSED", None: "-"}[row.met],
            row.note,
        )
    return shown


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and write only where `--out` asks for it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=f"{', '.join(parts()) or 'none'}; all of them by default")
    parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
    asked = parser.parse_args(words)
    unknown = sorted(set(asked.part) - set(parts()))
    if unknown:
        print(f"error: {', '.join(unknown)}: no such part; there are {', '.join(parts())}", file=sys.stderr)
        return 2
    rows = [(part, row) for part in asked.part or parts() for row in measure(part)]
    Console(width=None if sys.stdout.isatty() else 140).print(table(rows))
    if asked.out:
        content = [{"part": part, **dataclasses.asdict(row), "met": row.met} for part, row in rows]
        asked.out.write_text(json.dumps(content, indent=1) + "\n")
    broke = any(row.name == "broke" for _, row in rows)
    return 1 if broke or any(row.met is False for _, row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
