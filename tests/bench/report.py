"""Reports at a size: ten thousand records read and framed, a thousand runs with a thousand items each reported.

The bars are seconds and bytes, because that is what they are promised in; each is measured in a process of its own.
Seconds are those of the processor, which a busy machine does not lengthen: nothing here uses two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import Row, _records

_MEASURED = """
import json, resource, sys
from harness.report import {what}
{call}
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20]))
"""


def rows() -> list[Row]:
    """Two sizes, the second with few seeds of many recipes and with many seeds of fewer."""
    return [*_framed(10_000), *_reported(1000, 1), *_reported(200, 5)]


def _framed(number: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        _records.write(Path(folder) / "runs", number // 4, 4, 0)
        call = f"assert len(frame({str(Path(folder) / 'runs')!r})) == {number + 1}"
        seconds, gibibytes = _elsewhere("frame", call)
    return [
        Row(
            name=f"{number:,} records read and framed",
            measured=seconds,
            bar=10.0,
            unit="s",
            note=f"{gibibytes:.2f} GiB",
        )
    ]


def _reported(recipes: int, seeds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        _records.write(Path(folder) / "runs", recipes, seeds, 1000)
        call = f"from pathlib import Path\nwrite(Path({str(Path(folder) / 'runs')!r}), None, Path({folder!r}) / 'out')"
        seconds, gibibytes = _elsewhere("write", call)
    name = f"report of {recipes:,} recipes x {seeds} seeds x 1,000 items, two tasks"
    return [
        Row(name=name, measured=seconds, bar=60.0, unit="s"),
        Row(name=f"{name}: peak memory", measured=gibibytes, bar=2.0, unit="GiB"),
    ]


def _elsewhere(what: str, call: str) -> tuple[float, float]:
    """Processor seconds and the peak of resident memory, in GiB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED.format(what=what, call=call)], capture_output=True, text=True, check=True
    )
    seconds, gibibytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, gibibytes
