"""Training on a GPU: the harness with and without further kernels, TRL's trainer and unsloth, at 1B and 8B parameters.

Random weights of Llama-3.2-1B and Llama-3.1-8B on GSM8K, each side in a process of its own: real tokens a second from
one forward pass to the next, the first steps left out, model FLOPs utilization and the peak allocated. TRL's trainer
has its defaults but for what is equal on all sides: weights, batches, precision, lengths, checkpointing. Unsloth's
model is trained by that trainer. What cannot be had here says why. Operations are those that the harness counts in a
plain step, on every side. `HARNESS_BENCH=quick` takes a tiny model, also on a CPU, to see that all of it works;
`HARNESS_BENCH_MODELS=llama-3.2-1b` and `HARNESS_BENCH_METHODS=lora,full` take those.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from harness.config import kernels
from harness.measure import hardware
from harness.records.settings import KernelSpec
from tests.bench import Row
from tests.bench._plain import ROOT
from tests.bench._side import NO_MEMORY

METHODS = ("full", "lora", "qlora", "dora")
USUAL, TRL, UNSLOTH = "harness", "TRL's trainer", "unsloth"
KERNELS = {
    "flash attention 2": KernelSpec(attention="flash_attention_2"),
    "without liger": KernelSpec(liger=False),
    "liger": KernelSpec(liger=True),
    "compiled": KernelSpec(compile=True),
    "liger, compiled": KernelSpec(liger=True, compile=True),
}
STORAGE = {"lora": "none", "qlora": "nf4"}  # of unsloth, which has no other methods
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """A model, and how much of it is trained at once."""

    model: str
    batch: int
    checkpointing: bool
    max_length: int = 1024
    steps: int = 20
    words: tuple[str, ...] = ()

    def command(self, method: str) -> list[str]:
        """What the harness is told."""
        size = (f"train.global_batch_size={self.batch}", f"train.micro_batch_size={self.batch}")
        return [
            f"model={self.model}", "model.weights=random", "data=gsm8k", f"method={method}", *size,
            f"train.max_length={self.max_length}", f"train.gradient_checkpointing={self.checkpointing}".lower(),
            *self.words,
        ]  # fmt: skip


SIZES = (
    Size("llama-3.2-1b", 8, False, words=("train.precision=bf16",)),
    Size("llama-3.1-8b", 4, True, words=("train.precision=bf16",)),
)
_TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
QUICK = Size(
    "llama-3.2-1b", 2, False, 256, 2, ("model.name=tiny", *(f"model.architecture.{k}={v}" for k, v in _TINY.items()))
)


def rows() -> list[Row]:
    """Each side of each method at each size against TRL's trainer."""
    quick = os.environ.get("HARNESS_BENCH") == "quick"
    if hardware.device() != "cuda" and not quick:
        return [Row(name="training on a GPU", measured=None, bar=None, unit="x", note="there is no CUDA device here")]
    methods = os.environ.get("HARNESS_BENCH_METHODS", ",".join(METHODS)).split(",")
    models = os.environ.get("HARNESS_BENCH_MODELS", ",".join(size.model for size in SIZES)).split(",")
    found = []
    for size in (QUICK,) if quick else [size for size in SIZES if size.model in models]:
        for method in methods:
            found += ratios(f"{'tiny' if quick else size.model} {method}", size, sides(size, method))
    return found


def sides(size: Size, method: str) -> dict[str, dict[str, Any]]:
    """What each side has found, or `reason`, why it could not be measured."""
    words = size.command(method)
    found = {USUAL: measured("harness", size.steps, words)}
    for name, spec in KERNELS.items():
        asked = [f"train.kernels.{key}={value}".lower() for key, value in vars(spec).items()]
        reason = kernels.unsupported(spec, hardware.device())
        found[name] = {"reason": reason} if reason else measured("harness", size.steps, [*words, *asked])
    found[TRL] = measured("trl", size.steps, words)
    found[UNSLOTH] = _unsloth(size, method)
    return found


def _unsloth(size: Size, method: str) -> dict[str, Any]:
    if method not in STORAGE:
        return {"reason": f"unsloth has no {method} here"}
    if hardware.device() != "cuda" or find_spec("unsloth") is None:
        return {"reason": "needs a CUDA device and the package unsloth: pip install 'harness[unsloth]'"}
    words = [*size.command("unsloth"), f"method.quantization={STORAGE[method]}"]
    return measured("unsloth", size.steps, words)


def measured(side: str, steps: int, words: list[str]) -> dict[str, Any]:
    """What a process of its own has found; what it lacks the memory for is a finding as well."""
    command = [sys.executable, "-m", "tests.bench._side", side, str(steps), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=one_device())
    if done.returncode == NO_MEMORY:
        return {"reason": "out of memory"}
    if done.returncode:
        return {"reason": f"it broke: {(done.stderr.strip().splitlines() or ['without a word'])[-1][:200]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one_device() -> dict[str, str]:
    """Return an environment in which one GPU is visible: TRL's trainer refuses to share a model among several."""
    names = hardware.device_names()
    return {**hardware.BUS_ORDER, **os.environ, **({"CUDA_VISIBLE_DEVICES": names[0]} if names else {})}


def ratios(name: str, size: Size, found: dict[str, dict[str, Any]]) -> list[Row]:
    """Every side's tokens a second over those of TRL's trainer, with what else there is to say of both."""
    settings = (
        f"{size.steps} steps of {size.batch} rows of at most {size.max_length} tokens, checkpointing "
        f"{'on' if size.checkpointing else 'off'}"
    )
    theirs, mfu = found[TRL], mfus(found)
    result = []
    for side, one in found.items():
        if side == TRL and "reason" not in one:
            continue
        missing = one.get("reason") or theirs.get("reason", "")
        ratio = None if missing else one["tokens_per_second"] / theirs["tokens_per_second"]
        what = [f"{each}: {described(found[each], mfu.get(each))}" for each in dict.fromkeys((side, TRL))]
        bar = 1.0 if side == USUAL else None
        note = f"{'; '.join(what)}; {settings}"
        result.append(Row(name=f"{name}: {side} / TRL's", measured=ratio, bar=bar, unit="x", note=note, at_most=False))
    return result


def mfus(found: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """The share of the device's rate that each side reached; None where the rate is in doubt or unknown."""
    usual = found[USUAL]
    if "reason" in usual or usual["doubt"]:
        return {}
    share = usual["flops_per_position"] / usual["device_flops_per_second"]
    reached = {side: one for side, one in found.items() if "reason" not in one}
    return {side: share * one["tokens_per_second"] / one["real_share"] for side, one in reached.items()}


def described(one: dict[str, Any], mfu: float | None) -> str:
    """Return a side's rate, utilization and peak in one line, or the reason why it has none."""
    if "reason" in one:
        return str(one["reason"])
    mfu = "MFU unknown" if mfu is None else f"MFU {mfu:.1%}"
    return f"{one['tokens_per_second']:,.0f} tokens/s, {mfu}, peak {one['peak_bytes'] / GIB:.2f} GiB"
