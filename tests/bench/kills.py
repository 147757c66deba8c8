"""Three hundred kills of real runs at seeded moments, which leave nothing lost, doubled or silently wrong.

Sweeps load a tiny model, train it and evaluate it. They, or the process that trains, are killed by SIGKILL, half of the
times when a file is about to be touched and half by the clock; then they go on, and losses, gradients, scores of every
row and weights are compared with those of a sweep that nobody disturbs, to the bit. The tests make ten such kills
(`tests/faults/test_faults_kills.py`); this part makes `HARNESS_KILLS` of them, 300 by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import Row
from tests.bench._plain import ROOT

KILLS = 300
_LONGEST_SECONDS = 7200


def rows() -> list[Row]:
    """Return the number of kills that spoiled nothing. The first that does spoil something ends the part."""
    asked = int(os.environ.get("HARNESS_KILLS", str(KILLS)))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kills.json"
        environment = {**os.environ, "HARNESS_KILLS": str(asked), "HARNESS_KILLS_OUT": str(out)}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            f"--timeout={_LONGEST_SECONDS}",
        ]
        test = "tests/faults/test_faults_kills.py::test_kills_of_real_training"
        done = subprocess.run([*command, test], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        found = json.loads(out.read_text()) if out.is_file() else {"kills": 0, "sweeps": 0, "seconds": 0.0}
    spoiled = done.returncode != 0
    note = f"{found['sweeps']} sweeps in {found['seconds']:.0f} s" + (f"; {done.stdout[-2000:]}" if spoiled else "")
    return [
        Row(name="kills of real runs", measured=found["kills"], bar=float(asked), unit="", note=note, at_most=False),
        Row(name="spoiled by one", measured=float(spoiled), bar=0.0, unit="", note="1: the part ended with it"),
    ]
