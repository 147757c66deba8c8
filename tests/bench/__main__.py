"""python -m tests.bench [PART...] [--out FOLDER]: one table of ratios and their bars.

`python -m tests.bench gpu-check` tries the paths of a GPU instead; see `tests.bench.gpu_check`.

Exit codes: 0 every bar is met, 1 one is not or a part broke, 2 there is no such part.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import Row

if TYPE_CHECKING:
    from rich.table import Table

FOLDER = Path(__file__).parent
BROKE = "broke"
GPU_CHECK = "gpu-check"


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
        return [Row(name=BROKE, measured=None, bar=0.0, unit="", note=f"{type(error).__name__}: {first_line}")]


def about(name: str) -> str:
    """What a part shows: the first line of its docstring, and what it says about how."""
    return " ".join((importlib.import_module(f"tests.bench.{name}").__doc__ or "").split())


def table(rows: Sequence[tuple[str, Row]]) -> Table:
    """Part, name, number, bar and whether it is met."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from tests.bench import _page

    shown = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("Part", "What", "Measured", "Bar", "Met", "How"):
        shown.add_column(column, justify="right" if column in ("Measured", "Bar") else "left", overflow="fold")
    for part, row in rows:
        measured, bar, met = _page.shown(row)
        shown.add_row(part, row.name, measured, bar, met.strip("*"), escape(row.note))
    return shown


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and write only where `--out` asks for it."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == [GPU_CHECK]:
        from tests.bench.gpu_check import command

        return command.main(words[1:])
    from rich.console import Console

    from tests.bench import _page

    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=f"{', '.join(parts()) or 'none'}; all of them by default")
    parser.add_argument("--out", type=Path, help="also keep what is found in this folder, with a page of it")
    asked = parser.parse_args(words)
    unknown = sorted(set(asked.part) - set(parts()))
    if unknown:
        print(f"error: {', '.join(unknown)}: no such part; there are {', '.join(parts())}", file=sys.stderr)
        return 2
    found = []
    for part in asked.part or parts():
        print(f"measuring {part}", file=sys.stderr, flush=True)
        start = time.monotonic()
        rows = measure(part)
        found += [(part, row) for row in rows]
        if asked.out and not any(row.name == BROKE for row in rows):  # what was found before stays
            _page.keep(asked.out, part, rows, time.monotonic() - start, about(part))
    Console(width=None if sys.stdout.isatty() else 140).print(table(found))
    broke = any(row.name == BROKE for _, row in found)
    return 1 if broke or any(row.met is False for _, row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
