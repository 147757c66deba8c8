"""python -m tests.bench gpu-check [CHECK...] [--out FOLDER]: try the main paths of a GPU, and say PASS, FAIL or SKIP.

Exit codes: 0 no check failed, 1 one did, 2 there is no such check or the project's packages are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.bench.gpu_check import Check, Result
    from tests.bench.gpu_check.lab import Lab

OUT = Path(__file__).parents[3] / "reports" / "bench" / "gpu"
BUDGET_SECONDS = 570.0  # what has not begun by then is skipped
_NEEDED = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "lm_eval", "hydra", "rich")


def main(words: Sequence[str]) -> int:
    """Make the checks, print each result as it comes, and keep it at once where it was made on a GPU."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: {', '.join(missing)} cannot be imported: pip install -e . installs them", file=sys.stderr)
        return 2
    from harness.measure import hardware
    from tests.bench.gpu_check import page
    from tests.bench.gpu_check.checks import CHECKS
    from tests.bench.gpu_check.lab import Lab, scale_of

    names = [check.name for check in CHECKS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench gpu-check", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("check", nargs="*", help=f"{', '.join(names)}; all of them by default")
    parser.add_argument("--out", type=Path, help=f"folder of results and page; on a GPU {OUT} by default")
    arguments = parser.parse_args(words)
    unknown = sorted(set(arguments.check) - set(names))
    if unknown:
        print(f"error: {', '.join(unknown)}: no such check; there are {', '.join(names)}", file=sys.stderr)
        return 2
    os.environ.setdefault(
        "HF_HUB_OFFLINE", "1"
    )  # nothing is fetched, and nothing waits for a network that is not there
    device = hardware.device()
    if not hardware.torch_has_cuda() and (cards := hardware.cards()):
        print(
            f"this torch is not built for CUDA: {cards[0].name} is not tried, the checks run at tiny sizes on the CPU",
            file=sys.stderr,
        )
    chosen = [check for check in CHECKS if check.name in (arguments.check or names)]
    out = arguments.out or (OUT if device == "cuda" and not arguments.check else None)
    begun = time.monotonic()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        lab = Lab(Path(folder), scale_of(device))
        about = _about(lab)
        for result in printed(made(chosen, lab)):
            results.append(result)
            if out is not None:  # a machine that is lent for minutes may be gone before the last check
                page.keep(out, about, results, time.monotonic() - begun)
    seconds = time.monotonic() - begun
    counts = {verdict: sum(result.verdict == verdict for result in results) for verdict in ("PASS", "FAIL", "SKIP")}
    print(
        ", ".join(f"{number} {verdict}" for verdict, number in counts.items()) + f" on {about['name']}, {seconds:.0f} s"
    )
    return 1 if counts["FAIL"] else 0


def _about(lab: Lab) -> dict[str, Any]:
    """Return the facts of the device that the page states, without those of libraries if no process can use it."""
    from harness.measure import hardware

    try:
        facts: dict[str, Any] = lab.call("machine")
    except RuntimeError as error:
        print(f"the device cannot be used: {error}", file=sys.stderr)
        name = next((card.name for card in hardware.usable_cards()), "CPU")
        return {"name": name, "cuda": None, "cudnn": None, "memory_bytes": hardware.memory_bytes()}
    return facts


def made(checks: Sequence[Check], lab: Lab, budget_seconds: float = BUDGET_SECONDS) -> Iterator[Result]:
    """Make the checks one after the other; an error of one is its failure, and the others go on."""
    end = time.monotonic() + budget_seconds
    for check in checks:
        yield _result(check, lab, time.monotonic() > end)


def _result(check: Check, lab: Lab, too_late: bool) -> Result:
    from tests.bench.gpu_check import Result, Skipped, verdict_of

    begun = time.monotonic()
    rows, reason = [], ""
    try:
        if too_late:
            raise Skipped(f"{BUDGET_SECONDS:.0f} s were over: python -m tests.bench gpu-check {check.name}")
        for row in check.rows(lab):
            rows.append(row)
        verdict = verdict_of(rows)
    except Skipped as skipped:
        verdict, reason = "SKIP", str(skipped)
    except Exception as error:  # the other checks are wanted all the same
        traceback.print_exc()
        verdict, reason = "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())}"
    seconds = time.monotonic() - begun
    return Result(
        name=check.name, expected=check.expected, verdict=verdict, seconds=seconds, rows=tuple(rows), reason=reason
    )


def printed(results: Iterator[Result]) -> Iterator[Result]:
    """Print each result: its verdict, and of every row what was measured and what was expected."""
    from tests.bench import _page

    for result in results:
        print(f"{result.verdict} {result.name} ({result.seconds:.1f} s): {result.expected}", flush=True)
        for row in result.rows:
            measured, bar, met = _page.shown(row)
            expected = "" if row.bar is None else f", expected {bar}: {met.strip('*')}"
            print(f"     {row.name}: {measured}{expected}{f' ({row.note})' if row.note else ''}", flush=True)
        if result.reason:
            print(f"     {result.reason}", flush=True)
        yield result
