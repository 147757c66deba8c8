"""What the checks do in processes of their own, where the device may be touched. Imports the whole stack."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.config.experiment import Experiment, Todo
from harness.evaluate import likelihood
from harness.evaluate.batching import Request
from harness.measure import hardware, mfu
from harness.run import device_map, preflight, worker
from harness.sources import models
from harness.train import cpu_attention, deterministic
from tests.bench import _side, gpu
from tests.bench.gpu_check.lab import scale_of

Emit = Callable[[dict[str, Any]], None]
_TIMES = 8  # repeats of a timing
_REPEATED_ROWS = 2  # of a step that repeats to the bit: attention as matrix products takes much memory
_PREFIX_TOKENS = 700  # enough for sharing them to pay


def machine(emit: Emit) -> dict[str, Any]:
    """Return what this process sees of the device once it has computed there."""
    cuda = torch.cuda.is_available()
    total = float(torch.ones(3, device="cuda" if cuda else "cpu").sum())
    free, memory = torch.cuda.mem_get_info() if cuda else (None, None)
    return {
        "sum": total,
        "bad_fork": torch.cuda._is_in_bad_fork(),
        "devices": torch.cuda.device_count() if cuda else 1,
        "free_bytes": free,
        "memory_bytes": memory,
        "name": torch.cuda.get_device_name() if cuda else "CPU",
        "began": time.time(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "driver": hardware.driver_version(),
        "lacks": preflight.missing(),
    }


def with_little_memory(experiment: Experiment, todo: Todo, emit: Emit) -> None:
    """Make the run in a process that may take no more than the scale's few bytes."""
    cuda = torch.cuda.is_available()
    scale = scale_of("cuda" if cuda else "cpu")
    if cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, scale.little_bytes / total))
    else:
        status = Path("/proc/self/status").read_text().splitlines()
        held = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (held + scale.little_bytes, resource.RLIM_INFINITY))
    worker.execute(experiment, todo, emit)


def side(name: str, steps: int, experiment: Experiment, emit: Emit) -> dict[str, Any]:
    """Return what one side of a comparison of speed reaches on the first device."""
    os.environ.update(gpu.one_device())
    return _side.trained(name, steps, experiment, emit)


def rates(times: int, emit: Emit) -> list[tuple[str, float]]:
    """Return the data type and operations a second of the device's peak, measured so many times."""
    cuda = torch.cuda.is_available()
    measured = [mfu.measured(torch.bfloat16 if cuda else torch.float32, cuda) for _ in range(times)]
    return [(rate.dtype, rate.flops_per_second) for rate in measured if rate is not None]


def likelihoods(experiment: Experiment, emit: Emit) -> dict[str, Any]:
    """Return the largest difference, in nats, of answers scored behind shared prefixes and each in a row of its own."""
    model = _model(experiment, torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    shots = _drawn(_PREFIX_TOKENS, generator)
    requests = [
        Request(shots + question, _drawn(length, generator))
        for question in (_drawn(40, generator), _drawn(60, generator))
        for length in (3, 7, 5, 4)
    ]
    with torch.no_grad():
        scores, work = likelihood.score(model, requests, "fp32", 4096, lambda _: None)
        plain = [_log_likelihood(model, request) for request in requests]
    differences = [abs(score.log_likelihood - alone) for score, alone in zip(scores, plain, strict=True)]
    return {"nats": max(differences), "shared_context": work.shared_context, "shared_prefix": work.shared_prefix}


def steps(experiment: Experiment, emit: Emit) -> dict[str, Any]:
    """Return how a training step differs without an attention mask, and with adapter inputs that are left alone.

    Losses and gradients are relative to those of the usual step; seconds are of the fastest of eight.
    """
    deterministic.prepare(True)
    model, scale = _model(experiment, torch.bfloat16).train(), scale_of(_device())
    _draw_adapters(model)
    batch = _padded_batch(scale.rows, scale.length)
    bare = {name: value for name, value in batch.items() if name != "attention_mask"}
    usual, unmasked = _step(model, batch), _step(model, bare)
    with cpu_attention.inputs_as_they_are(model):
        seconds = {"unmasked, uncast": _seconds(lambda: _step(model, bare))}
    seconds["usual"] = _seconds(lambda: _step(model, batch))
    return {
        "uncast_equal": _is_equal_uncast(model, _padded_batch(_REPEATED_ROWS, scale.length)),
        "unmasked_loss": float((usual[0] - unmasked[0]).abs() / usual[0].abs()),
        "unmasked_gradients": max(
            float((one - other).norm() / one.norm()) for one, other in zip(usual[1], unmasked[1], strict=True)
        ),
        "seconds": seconds,
    }


def _is_equal_uncast(model: Any, batch: dict[str, torch.Tensor]) -> bool:
    """Return whether adapter inputs that are left alone change no bit of a step's loss and gradients.

    The steps are computed by algorithms that repeat to the bit: the backward passes of fused attention on a GPU add in
    any order, so that the usual step does not even equal itself.
    """
    with deterministic.algorithms(True):
        usual = _step(model, batch)
        with cpu_attention.inputs_as_they_are(model):
            uncast = _step(model, batch)
    return bool(torch.equal(usual[0], uncast[0]) and all(map(torch.equal, usual[1], uncast[1])))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _model(experiment: Experiment, dtype: torch.dtype) -> Any:
    method = experiment.method
    base = models.load(experiment.model, {**method.load_options(dtype), **device_map.options(experiment)}, method.read)
    return method.attach(base, worker.setting(experiment, models.tokenizer(experiment.model), []))


def _drawn(length: int, generator: torch.Generator) -> tuple[int, ...]:
    return tuple(torch.randint(3, 250, (length,), generator=generator).tolist())


def _log_likelihood(model: Any, request: Request) -> float:
    ids = torch.tensor([request.context + request.continuation], device=_device())
    log_probabilities = model(input_ids=ids).logits[0].float().log_softmax(-1)[len(request.context) - 1 : -1]
    answer = torch.tensor(request.continuation, device=_device())[:, None]
    return float(log_probabilities.gather(1, answer).sum())


def _draw_adapters(model: Any) -> None:
    """Give the second factor of each adapter values: at its usual zeros the first one has no gradient."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def _padded_batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    """Rows of falling lengths, padded on the right, labeled in their last three quarters."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([length - length // (2 * rows) * row for row in range(rows)])[:, None]
    positions = torch.arange(length)[None]
    ids = torch.randint(3, 250, (rows, length), generator=generator)
    labels = torch.where((positions < lengths) & (positions >= length // 4), ids, -100)
    batch = {"input_ids": ids, "attention_mask": (positions < lengths).long(), "labels": labels}
    return {name: value.to(_device()) for name, value in batch.items()}


def _step(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Return the loss and the gradients of a forward and a backward pass."""
    with torch.autocast(_device(), torch.bfloat16):
        loss = model(**batch, use_cache=False).loss
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return loss.detach(), gradients


def _seconds(work: Callable[[], Any]) -> float:
    wait = torch.cuda.synchronize if torch.cuda.is_available() else contextlib.nullcontext
    taken = []
    for _ in range(_TIMES):
        wait()
        start = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - start)
    return min(taken)
