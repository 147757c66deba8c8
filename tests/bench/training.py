"""Training steps of the harness against a bare PyTorch loop and against TRL's SFTTrainer, on SmolLM2-135M and GSM8K.

The same weights, batches, precision, lengths and checkpointing on every side, in turn in one process for each method;
real tokens a second from one forward pass to the next, the first steps left out. The loop does nothing but forward,
backward and optimizer, with the loss of the model itself; TRL's trainer has its defaults but for what is equal. One
more ratio gives the harness its default batches, of like length, and one more short rows of science questions. The
shortcuts of `harness.train.cpu_attention` are used on every processor with bf16 units as long as they gain 15 %, so
that all runs of a comparison are computed alike; the ratios to a loop without them show what they gain on this one.
`HARNESS_BENCH=quick` takes one round of two steps of two rows, `HARNESS_BENCH_METHODS=lora,full` those methods.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import Row

METHODS = ("full", "lora", "qlora", "dora", "vera", "prefix")
EQUAL = ("harness", "loop", "trl")
GROUPED = "harness, like lengths"
PLAIN = "harness, no shortcuts"
GROUPED_METHOD = "lora"  # how rows are batched has nothing to do with the method
AGAINST = {"loop": ("a bare loop", 0.98), "trl": ("TRL's trainer", 1.0)}
SHORTCUT_BAR = 1.15
SHORT = ("method=lora", "method.r=8", "train.max_length=64", "train.global_batch_size=8", "train.micro_batch_size=8")


def rows() -> list[Row]:
    """Two ratios for each method, one of the default batches, and one of short rows."""
    quick = os.environ.get("HARNESS_BENCH") == "quick"
    steps, rounds, size = (2, 1, 2) if quick else (2, 2, 4)
    found = []
    for method in os.environ.get("HARNESS_BENCH_METHODS", ",".join(METHODS)).split(","):
        experiment = _experiment(
            f"method={method}", "data=gsm8k", f"train.global_batch_size={size}", f"train.micro_batch_size={size}"
        )
        sides = (*EQUAL, GROUPED, PLAIN) if method == GROUPED_METHOD else EQUAL
        found += _ratios(method, _settings(experiment, steps), _elsewhere(experiment, steps, rounds, sides))
    short = _experiment(*SHORT)
    seen, settings = _elsewhere(short, 2 * steps, rounds, ("harness", "loop", PLAIN)), _settings(short, 2 * steps)
    return [
        *found,
        _row("lora r=8, short rows / a bare loop", 1.3, seen, ("harness", "loop"), settings),
        _row("lora r=8, short rows / without shortcuts", SHORTCUT_BAR, seen, ("harness", PLAIN), settings),
    ]


def _experiment(*words: str) -> Any:
    from harness.config.compose import experiments
    from harness.run import inputs

    [(_, experiment)] = experiments(list(words))
    return inputs.resolve(experiment)


def _settings(experiment: Any, steps: int) -> str:
    spec = experiment.train
    checkpointed = f"checkpointing {'on' if spec.gradient_checkpointing else 'off'}"
    return (
        f"{steps} steps of {spec.global_batch_size} rows of at most {spec.max_length}, {spec.precision}, {checkpointed}"
    )


def _elsewhere(experiment: Any, *arguments: Any) -> list[dict[str, dict[str, float]]]:
    from harness.run import isolate

    log = Path(tempfile.gettempdir()) / "harness-bench-training.log"
    ended = isolate.call("tests.bench._trainers:measured", experiment, *arguments, log=log)
    if ended.kind != "returned":
        raise RuntimeError(f"{ended.reason}; see {log}")
    found: list[dict[str, dict[str, float]]] = ended.value
    return found


def _ratios(method: str, settings: str, rounds: Sequence[dict[str, dict[str, float]]]) -> list[Row]:
    found = [
        _row(f"{method} / {name}", bar, rounds, ("harness", side), settings) for side, (name, bar) in AGAINST.items()
    ]
    if all(GROUPED in one for one in rounds):
        name = f"{method} in batches of like length / TRL's trainer in random ones"
        found.append(_row(name, 1.5, rounds, (GROUPED, "trl"), settings))
    if all(PLAIN in one for one in rounds):
        found.append(_row(f"{method} / without shortcuts", SHORTCUT_BAR, rounds, ("harness", PLAIN), settings))
    return found


def _row(
    name: str, bar: float, rounds: Sequence[dict[str, dict[str, float]]], sides: tuple[str, str], settings: str
) -> Row:
    """The median of the rounds' ratios; both rates and how much of what was computed is real in the note."""
    ratio = statistics.median(one[sides[0]]["tokens_per_second"] / one[sides[1]]["tokens_per_second"] for one in rounds)
    rates, shares = (
        [statistics.median(one[side][key] for one in rounds) for side in sides]
        for key in ("tokens_per_second", "real_share")
    )
    note = (
        f"{rates[0]:.0f} / {rates[1]:.0f} tokens/s, {shares[0]:.0%} / {shares[1]:.0%} of positions real; "
        f"{len(rounds)} x {settings}"
    )
    return Row(name=name, measured=ratio, bar=bar, unit="x", note=note, at_most=False)
