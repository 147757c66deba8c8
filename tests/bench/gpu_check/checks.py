"""The checks, in the order in which they are made: what blocks every run comes first, what takes long comes last."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from packaging.version import Version

from harness.measure import hardware
from harness.records.record import RunRecord
from harness.run import isolate
from tests.bench import Row, gpu
from tests.bench._plain import ROOT
from tests.bench.gpu_check import Check, Skipped
from tests.bench.gpu_check.lab import METHODS, Lab

GIB = 2**30
_PREDICTION_PERCENT = 5.0
_FREE_SHARE = 0.9  # of the card's memory, for what follows to mean anything
_PEAKS = 8


def machine(lab: Lab) -> Iterator[Row]:
    """torch is new enough, the card is free, NVML knows its memory, and Triton finds what it compiles with."""
    seen = lab.call("machine")
    floor, installed = _floor_of_torch(), metadata.version("torch")
    yield _truth("torch is at least the project's floor", Version(installed) >= Version(floor), f"{installed}, {floor}")
    yield _truth("the device computes", seen["sum"] == 3.0, _described(seen))
    if lab.scale.device != "cuda":
        return
    note = f"driver {seen['driver'] or 'unknown'}, {lab.device.memory_bytes / GIB:.1f} GiB"
    yield _truth("NVML tells its memory", bool(seen["driver"]) and lab.device.memory_bytes > GIB, note)
    share = seen["free_bytes"] / seen["memory_bytes"]
    note = f"{seen['free_bytes'] / GIB:.1f} of {seen['memory_bytes'] / GIB:.1f} GiB"
    yield Row(name="memory that is free", measured=share, bar=_FREE_SHARE, unit="", note=note, at_most=False)
    yield _truth("Triton finds what it compiles with", not seen["lacks"], seen["lacks"])


def fork(lab: Lab) -> Iterator[Row]:
    """Processes forked from the server of libraries compute, and begin at once."""
    first = lab.call("machine")
    asked = time.time()
    second = lab.call("machine")
    yield _truth("both computed", first["sum"] == second["sum"] == 3.0)
    yield _truth("neither is a fork of a process with CUDA", not (first["bad_fork"] or second["bad_fork"]))
    yield _truth("the server could be forked", isolate._forks_can_use_cuda)
    bar = 5.0 if lab.scale.device == "cuda" else None  # a busy processor says nothing
    yield Row(name="until the second one computed", measured=second["began"] - asked, bar=bar, unit="s")


def isolation(lab: Lab) -> Iterator[Row]:
    """A run sees one device, and leaves nothing behind on it."""
    before = lab.call_as_a_run("machine")
    record = lab.run("method=lora")
    after = lab.call_as_a_run("machine")
    yield from _ended_well(record)
    yield Row(name="devices that a run sees", measured=after["devices"], bar=1.0, unit="")
    if before["free_bytes"] is not None:
        left = (before["free_bytes"] - after["free_bytes"]) / GIB
        yield Row(name="left behind by a run", measured=left, bar=0.5, unit="GiB")


def base(lab: Lab) -> Iterator[Row]:
    """The untouched model is loaded and scored."""
    record = lab.run("method=base")
    yield from _ended_well(record)
    yield _truth("its phases have peaks", all(p.peak_memory_bytes for p in record.measured.phases.values()))


def method(lab: Lab, *, name: str) -> Iterator[Row]:
    """A method trains, takes the memory that was predicted, and is not faster than the device."""
    plan = lab.plans[name]
    predicted = plan["peak_bytes"]
    if predicted and predicted > lab.device.usable_bytes:
        usable = f"{lab.device.usable_bytes / GIB:.1f} GiB"
        raise Skipped(f"{name} is predicted to take {predicted / GIB:.1f} GiB of {usable} that this card offers")
    record = lab.run(*METHODS[name])
    yield from _ended_well(record)
    training = record.training
    if training is None or training.profile is None:
        yield _truth("a step was followed", False, "the record has no profile")
        return
    measured, live = _peak_bytes(lab, record), training.profile.live_peak_bytes
    note = plan["unpredicted"] or f"{predicted / GIB:.3f} GiB predicted, {measured / GIB:.3f} measured"
    yield Row(
        name="error of the predicted peak", measured=_percent_off(predicted, measured), bar=_PREDICTION_PERCENT,
        unit="%", note=note,
    )  # fmt: skip
    if lab.scale.device == "cuda":
        note = f"{(live or 0) / GIB:.2f} GiB of tensors alive, {_reserved(record) / GIB:.2f} GiB reserved"
        yield Row(
            name="followed bytes off what the allocator gave", measured=_percent_off(live, measured), bar=3.0,
            unit="%", note=note,
        )  # fmt: skip
    first, last = training.losses[0], training.losses[-1]
    yield _truth("the loss fell", first is not None and last is not None and last < first, f"{first} to {last}")
    yield Row(name="tokens a second", measured=training.tokens_per_second, bar=None, unit="")
    doubt = training.device_peak.doubt if training.device_peak else "the device's peak was not measured"
    bar = None if doubt else 1.0  # on a busy machine there is no rate to take a share of
    yield Row(name="model FLOPs utilization", measured=training.mfu, bar=bar, unit="", note=doubt)


def shapes(lab: Lab) -> Iterator[Row]:
    """Rows without padding train, and many lengths cost no more than half of the speed of one."""
    whole = lab.run("method=lora")
    alone = lab.run("method=lora", "train.micro_batch_size=1")
    mixed = lab.run("method=lora", f"data.file={lab.mixed_data}")
    yield from _ended_well(alone, "a row at a time")
    yield from _ended_well(mixed, "many lengths")
    rates = [record.training.tokens_per_second for record in (mixed, whole) if record.training]
    ratio = rates[0] / rates[1] if len(rates) == 2 and all(rates) else None
    bar = 0.5 if lab.scale.device == "cuda" else None  # a CPU's steps of milliseconds are mostly fixed costs
    yield Row(name="many lengths / one length", measured=ratio, bar=bar, unit="x", at_most=False)


def peak(lab: Lab) -> Iterator[Row]:
    """The device's peak rate is found in the data type that is computed in, each time."""
    measured = lab.call("rates", _PEAKS)
    kinds = sorted({dtype for dtype, _ in measured})
    expected = "bfloat16" if lab.scale.device == "cuda" else "float32"
    rates = ", ".join(f"{rate / 1e12:.3g}" for _, rate in measured)
    yield _truth(f"measured in {expected} alone", kinds == [expected], f"{', '.join(kinds)}; {rates} TFLOP/s")


def step(lab: Lab) -> Iterator[Row]:
    """A padded step without its mask, and with adapter inputs left alone, is the usual step and no slower."""
    seen = lab.call("steps", lab.experiment("method=lora"))
    yield _truth("uncast adapter inputs: equal to the bit", seen["uncast_equal"])
    yield Row(name="no mask: loss, relative", measured=seen["unmasked_loss"], bar=5e-3, unit="")
    yield Row(name="no mask: gradients, relative", measured=seen["unmasked_gradients"], bar=0.05, unit="")
    seconds = seen["seconds"]
    bar = 1.0 if lab.scale.device == "cuda" else None
    note = ", ".join(f"{name} {1000 * taken:.1f} ms" for name, taken in seconds.items())
    ratio = seconds["usual"] / seconds["unmasked, uncast"]
    yield Row(name="both / the usual step", measured=ratio, bar=bar, unit="x", note=note, at_most=False)


def scores(lab: Lab) -> Iterator[Row]:
    """Answers behind shared prefixes get the likelihoods that they get alone."""
    seen = lab.call("likelihoods", lab.experiment("method=lora"))
    yield Row(name="largest difference in float32", measured=seen["nats"], bar=2e-2, unit="nats")
    yield _truth("contexts and prefixes were shared", seen["shared_context"] and seen["shared_prefix"])


def out_of_memory(lab: Lab) -> Iterator[Row]:
    """A run that runs out of memory is tried with smaller micro batches until one fits."""
    rows = lab.scale.many_rows
    record = lab.run_in_little_memory(
        "method=lora", f"train.global_batch_size={rows}", f"train.micro_batch_size={rows}", "train.max_steps=2",
        "seed=1",
    )  # fmt: skip
    tried = [(attempt.status, attempt.micro_batch_size) for attempt in record.attempts]
    note = ", ".join(f"{rows} rows {status}" for status, rows in tried)
    yield _truth("the first attempt ran out", tried[0] == ("oom", rows), note)
    yield _truth("the last one trained", record.status == "ok", record.current.reason)
    sizes = [size for _, size in tried if size is not None]
    yield _truth("each took fewer rows", len(sizes) == len(tried) > 1 and sizes == sorted(set(sizes), reverse=True))


def preemption(lab: Lab) -> Iterator[Row]:
    """A run that got SIGTERM goes on where it was, and learns what it would have learned."""
    total = lab.scale.interrupted_steps
    words = ("method=lora", f"train.max_steps={total}", "seed=2")
    whole, record = lab.run(*words), lab.run_interrupted(total // 2, *words)
    yield from _ended_well(whole, "without a signal")
    yield from _ended_well(record, "after the signal")
    resumed_at = record.current.resumed_at_step
    yield _truth("it went on from a checkpoint", bool(resumed_at), f"of step {resumed_at} of {total}")
    bar = 0.05 if lab.scale.device == "cuda" else 0.0  # on a CPU to the bit
    yield Row(name="largest difference of losses", measured=_losses_apart(whole, record), bar=bar, unit="nats")


def several(lab: Lab, *, sharding: str) -> Iterator[Row]:
    """Two processes train together what one trains alone."""
    if lab.scale.device == "cuda" and len(hardware.device_names()) < 2:
        raise Skipped(f"needs two GPUs, and one is visible: {lab.call('machine')['name']}")
    words = ("method=lora", f"train.micro_batch_size={lab.scale.rows // 2}")
    alone = lab.run(*words)
    folder = f"runs_dir={lab.folder}/{sharding}"  # where a run is trained on is no part of its identity
    together = lab.run(*words, "launch.num_processes=2", f"launch.sharding={sharding}", folder)
    yield from _ended_well(together)
    number = together.current.provenance.get("num_processes")
    yield _truth("two processes took part", number == 2, f"num_processes is {number}")
    yield Row(name="losses off those of one process", measured=_losses_apart(alone, together), bar=0.05, unit="nats")


def speed(lab: Lab, *, side: str) -> Iterator[Row]:
    """LoRA trains at least as fast as TRL's trainer with its defaults; the goal is 1.5 times."""
    if side == gpu.UNSLOTH and (lab.scale.device != "cuda" or find_spec("unsloth") is None):
        raise Skipped("needs a GPU and the package unsloth: pip install 'harness[unsloth]'")
    experiment, steps = lab.experiment("method=lora", "train.kernels.liger=auto"), lab.scale.timed_steps
    seen = {gpu.USUAL: lab.call("side", "harness", steps, experiment)}
    if side == gpu.UNSLOTH:
        words = [*lab.words("method=unsloth"), "method.quantization=none"]
        seen[side] = gpu.measured("unsloth", steps, words)
    else:
        seen[side] = lab.call("side", "trl", steps, experiment)
    reached = gpu.mfus(seen)
    note = "; ".join(f"{name}: {gpu.described(one, reached.get(name))}" for name, one in seen.items())
    rates = [one.get("tokens_per_second") for one in seen.values()]
    bar = 1.0 if lab.scale.device == "cuda" else 0.05  # tiny steps on a CPU compare fixed costs
    ratio = rates[0] / rates[1] if all(rates) else None
    yield Row(name=f"harness / {side}", measured=ratio, bar=bar, unit="x", note=note, at_most=False)


def _ended_well(record: RunRecord, what: str = "the run") -> Iterator[Row]:
    note = record.current.reason if record.status != "ok" else f"{record.current.seconds or 0:.0f} s"
    yield _truth(f"{what} ended ok", record.status == "ok", note)


def _truth(name: str, holds: bool, note: str = "") -> Row:
    """A row of something that is so (1) or not (0)."""
    return Row(name=name, measured=float(holds), bar=1.0, unit="", note=note, at_most=False)


def _floor_of_torch() -> str:
    """Return the oldest torch that the project admits."""
    matched = re.search(r'"torch>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert matched is not None, "pyproject.toml names a floor"
    return matched[1]


def _described(seen: dict[str, Any]) -> str:
    versions = "" if seen["cuda"] is None else f", CUDA {seen['cuda']}, cuDNN {seen['cudnn']}"
    return f"{seen['name']}{versions}"


def _peak_bytes(lab: Lab, record: RunRecord) -> int:
    """Return what the step took: on a card what was allocated in training, on a CPU the tensors that were alive."""
    training = record.training
    if lab.scale.device == "cuda":
        return record.measured.phases["train"].peak_memory_bytes or 0
    return (training and training.profile and training.profile.live_peak_bytes) or 0


def _reserved(record: RunRecord) -> int:
    return record.measured.phases["train"].peak_reserved_bytes or 0


def _percent_off(number: int | None, of: int) -> float | None:
    return 100 * abs(number / of - 1) if number and of else None


def _losses_apart(one: RunRecord, other: RunRecord) -> float | None:
    """Return the largest difference of two runs' losses; None where they have not as many."""
    first, second = ((record.training.losses if record.training else ()) for record in (one, other))
    pairs = [(a, b) for a, b in zip(first, second, strict=False) if a is not None and b is not None]
    if not pairs or len(first) != len(second) or len(pairs) != len(first):
        return None
    return max(abs(a - b) for a, b in pairs)


def _check(name: str, rows: Callable[..., Iterator[Row]], /, **options: str) -> Check:
    """Return a check that expects what its function's first line says."""
    expected = (rows.__doc__ or "").splitlines()[0]
    return Check(name=name, expected=expected, rows=partial(rows, **options))


CHECKS: tuple[Check, ...] = (
    _check("machine", machine),
    _check("fork", fork),
    _check("isolation", isolation),
    _check("peak", peak),
    _check("base", base),
    *(_check(name, method, name=name) for name in METHODS),
    _check("shapes", shapes),
    _check("step", step),
    _check("scores", scores),
    _check("out-of-memory", out_of_memory),
    _check("preemption", preemption),
    _check("speed-trl", speed, side=gpu.TRL),
    _check("speed-unsloth", speed, side=gpu.UNSLOTH),
    _check("two-ddp", several, sharding="none"),
    _check("two-fsdp", several, sharding="fsdp"),
)
