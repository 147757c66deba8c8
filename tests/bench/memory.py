"""Peaks of resident memory: a run's process against those of the plain script, a sweep's parent, the fork server.

LoRA on SmolLM2-135M with evaluation, as in the part `sweep`; of the plain script's two processes the larger one counts.
`HARNESS_BENCH=quick` takes three steps and a few items.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench import Row
from tests.bench._plain import Plain, asked_size
from tests.bench._watch import peaks
from tests.bench.sweep import command_of

METHOD = "lora"
MEGABYTE = 10**6


def rows() -> list[Row]:
    """One ratio and two promises."""
    size = asked_size()
    with tempfile.TemporaryDirectory() as folder:
        ours = peaks(command_of([METHOD], size, Path(folder)))
        plain = Plain(Path(folder), size)
        theirs = [
            max(peaks(each, plain.environment).values()) for each in (plain.train(METHOD), plain.evaluate(METHOD))
        ]
    if not {0, 1, 2} <= set(ours):
        raise RuntimeError(f"processes at depths {sorted(ours)}, where a command, a server and its runs are expected")
    run, rest = ours[2] / MEGABYTE, " and ".join(f"{peak / MEGABYTE:.0f}" for peak in theirs)
    note = f"{METHOD}: {run:.0f} MB, what it shares with the server included / {rest} MB (training, lm_eval)"
    return [
        Row(name="a run's process / the plain script's", measured=ours[2] / max(theirs), bar=1.05, unit="x", note=note),
        Row(name="a sweep's parent", measured=ours[0] / MEGABYTE, bar=150.0, unit="MB"),
        Row(name="the fork server", measured=ours[1] / MEGABYTE, bar=700.0, unit="MB", note="shared with its children"),
    ]
