"""The results of `make gpu-check`: a JSON file for each device, and one page made of all of them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.records.untrusted import escaped
from harness.report.display import table
from harness.run import provenance
from tests.bench import Row, _page
from tests.bench.gpu_check import Result

PAGE = "README.md"
_ABOUT = (
    "Made by `make gpu-check`, which tries the main paths of a GPU at one billion random parameters: see "
    "`tests/bench/gpu_check`. A check passes when every number meets its bar."
)
_NEVER = (
    "**Prepared, not yet run on a GPU.** No card was at hand. The same script runs at tiny sizes on a CPU, as a test; "
    "that shows that the script works, and nothing about a card."
)


def keep(folder: Path, about: dict[str, Any], results: Sequence[Result], seconds: float) -> Path:
    """Write a device's results in the place of its earlier ones, and the page again; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "device": about["name"],
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds),
        "cuda": about["cuda"],
        "cudnn": about["cudnn"],
        "memory_bytes_of_device": about["memory_bytes"],
        **provenance.facts(),
        "checks": [
            {**dataclasses.asdict(result), "rows": [{**dataclasses.asdict(row), "met": row.met} for row in result.rows]}
            for result in results
        ],
    }
    file = folder / f"{re.sub('[^a-z0-9]+', '-', about['name'].lower()).strip('-')}.json"
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    (folder / PAGE).write_text(page(folder))
    return file


def page(folder: Path) -> str:
    """Return the page of every device with results in the folder."""
    devices = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    on_cards = any(content["memory_bytes_of_device"] for content in devices)
    parts = ["# Checks on a GPU", _ABOUT, *([] if on_cards else [_NEVER])]
    return "\n\n".join([*parts, *(line for content in devices for line in _device(content))]) + "\n"


def _device(content: dict[str, Any]) -> Iterator[str]:
    yield f"## {escaped(content['device'])}"
    verdicts = [check["verdict"] for check in content["checks"]]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("PASS", "FAIL", "SKIP"))
    yield f"{counts}. {_provenance(content)}"
    yield table(("Check", "Verdict", "Expected", "Seconds", "Why"), map(_line, content["checks"]), text=(
        "Verdict", "Expected", "Why",
    ))  # fmt: skip
    rows = [(check["name"], row) for check in content["checks"] for row in check["rows"]]
    lines = [(escaped(name), escaped(row["name"]), *_page.shown(_row(row)), escaped(row["note"])) for name, row in rows]
    yield table(("Check", "What", "Measured", "Bar", "Met", "How"), lines, text=("What", "Met", "How"))


def _line(check: dict[str, Any]) -> tuple[str, ...]:
    verdict = check["verdict"] if check["verdict"] != "FAIL" else "**FAIL**"
    return (
        escaped(check["name"]),
        verdict,
        escaped(check["expected"]),
        f"{check['seconds']:.0f}",
        escaped(check["reason"]),
    )


def _row(content: dict[str, Any]) -> Row:
    return Row(**{key: value for key, value in content.items() if key != "met"})


def _provenance(content: dict[str, Any]) -> str:
    commit = (content["commit"] or "unknown")[:10]
    changed = " with uncommitted changes" if content["uncommitted_changes"] else ""
    versions = ", ".join(f"{name} {content['versions'][name]}" for name in _page.VERSIONS)
    return (
        f"{content['date']}, commit {commit}{changed}, {content['seconds']} s. Python {content['python']}, {versions}."
    )
