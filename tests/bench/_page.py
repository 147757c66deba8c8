"""What was measured, kept in a folder: `results.json`, and the page that is made of it.

Every part keeps when, at which commit and on what it was measured, so that one part can be measured again alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.records.untrusted import escaped
from harness.report.display import several, table
from harness.run import provenance
from tests.bench import Row

RESULTS, PAGE = "results.json", "README.md"
MET = {True: "yes", False: "**no**", None: "-"}
VERSIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "lm_eval")


def keep(folder: Path, part: str, rows: Sequence[Row], seconds: float, about: str) -> None:
    """Put what a part has found in the place of what it found before, and write the page again."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RESULTS
    results = json.loads(file.read_text()) if file.exists() else {}
    results[part] = {
        "about": about,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds),
        **provenance.facts(),
        "rows": [{**dataclasses.asdict(row), "met": row.met} for row in rows],
    }
    file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    (folder / PAGE).write_text(page(results))


def page(results: dict[str, dict[str, Any]]) -> str:
    """Every part with its table, below what they have in common."""
    return "\n\n".join(["# Benchmarks", *_summary(results), *_parts(results)]) + "\n"


def shown(row: Row) -> tuple[str, str, str]:
    """The number, its bar and whether it is met, as they are printed."""
    measured = "-" if row.measured is None else f"{row.measured:,.4g} {row.unit}".strip()
    bar = "-" if row.bar is None else f"{'at most' if row.at_most else 'at least'} {row.bar:,.4g}"
    return measured, bar, MET[row.met]


def _summary(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    rows = [row for part in results.values() for row in part["rows"]]
    met, missed = ([row for row in rows if row["met"] is value] for value in (True, False))
    minutes = sum(part["seconds"] for part in results.values()) / 60
    yield (
        "Made by `make bench OUT=reports/bench`. Ratios come from things that ran side by side, in turn, on the same "
        "machine; a number in seconds is that machine's. What a bar does not hold is not tuned away: it says so."
    )
    yield (
        f"Measured so far: {several(list(results), len(results))}; {minutes:.0f} minutes in all. "
        f"{len(met)} of {len(met) + len(missed)} bars are met."
    )


def _parts(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, part in results.items():
        yield f"## {escaped(name)}"
        yield part["about"]
        yield _table(Row(**{key: value for key, value in row.items() if key != "met"}) for row in part["rows"])
        yield _provenance(part)


def _table(rows: Iterable[Row]) -> str:
    lines = [(escaped(row.name), *shown(row), escaped(row.note)) for row in rows]
    return table(("What", "Measured", "Bar", "Met", "How"), lines, text=("Met", "How"))


def _provenance(part: dict[str, Any]) -> str:
    commit = (part["commit"] or "unknown")[:10] + (" with uncommitted changes" if part["uncommitted_changes"] else "")
    versions = ", ".join(f"{name} {part['versions'][name]}" for name in VERSIONS)
    units = part.get("cpu_bfloat16_units")  # unknown of what was measured before it was noted
    processor = escaped(part["cpu"] or part["system"]) + (
        f" ({', '.join(units) or 'no bf16 units'})" if units is not None else ""
    )
    return (
        f"{part['date']}, commit {commit}, {part['seconds']} s. {processor}, "
        f"{part['cpu_cores']} cores, {part['memory_bytes'] / 2**30:.0f} GiB. Python {part['python']}, {versions}."
    )
