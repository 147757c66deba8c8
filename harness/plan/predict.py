"""Prediction of the memory and operations of a training step, which is taken with fake tensors.

The model, adapter, loop, loss and optimizer are those of the run; data and weights are not needed. Imports the whole
stack.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from harness.config.experiment import Experiment
from harness.measure import hardware
from harness.measure.operations import tensors_in
from harness.methods.contexts import Planned
from harness.plan import count, fake_model
from harness.plan.devices import Device
from harness.plan.fake_step import Follower, give_gradients
from harness.records import base
from harness.records.events import Emit, Progress
from harness.records.settings import KernelSpec
from harness.run import worker
from harness.train.loop import Job, _Loop, compute_dtype


@dataclass(frozen=True, kw_only=True)
class Step:
    """Cost of one optimizer step in which every row has `train.max_length` tokens, all of them labeled.

    All gradients exist only at the end of the backward pass, when most activations are freed. The parts may therefore
    add up to more than the peak.
    """

    micro_batch_size: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int  # the other live bytes at the peak: activations, their gradients, temporaries
    peak_bytes: int
    flops: int  # of the whole optimizer step, all its micro batches, of all processes


_MOST_ROWS = 4096  # upper limit of the search for the largest micro batch
_LOOKS = 8  # steps that the search for the largest micro batch may take


def cells(experiments: list[Experiment], device: Device | None, mfu: float | None, emit: Emit) -> list[dict[str, Any]]:
    """Return a table for each experiment: the fields of `Step`, and with a device its fit and its time.

    Without an MFU, neither the time nor the largest micro batch is predicted; the search for the latter takes most of
    the planning. Without a device, the step is that of a GPU. If a step cannot be taken with fake tensors,
    `unpredicted` gives the reason and the numbers are None.
    """
    warnings.simplefilter("ignore")
    worker.quiet()
    predictions = []
    for position, experiment in enumerate(experiments):
        emit(Progress(position, len(experiments)))
        predictions.append(_cell(experiment, device, mfu))
    return predictions


def settled(experiment: Experiment, on_gpu: bool) -> Experiment:
    """Return the experiment with definite precisions in place of "auto": bfloat16 on a GPU, this machine's on a CPU."""
    precision = experiment.train.precision
    if precision == "auto":
        precision = "bf16" if on_gpu else hardware.precision()
    return dataclasses.replace(
        experiment,
        method=experiment.method.settled("cuda" if on_gpu else "cpu", precision),
        train=dataclasses.replace(experiment.train, precision=precision),
    )


def _plain(kernels: KernelSpec) -> KernelSpec:
    """Return the kernels without flash attention and Liger, which use more than torch operations."""
    fused = kernels.attention.startswith("flash")
    return KernelSpec(attention="auto" if fused else kernels.attention, liger=False)


def _cell(experiment: Experiment, device: Device | None, mfu: float | None) -> dict[str, Any]:
    on_gpu = device is None or device.on_gpu
    experiment = settled(experiment, on_gpu)
    spec = experiment.train
    facts = {
        "precision": spec.precision, "max_length": spec.max_length, "not_modeled": _missing(experiment),
        "device": device.name if device else None, "mfu": mfu,
    }  # fmt: skip
    try:
        predictor = Predictor(experiment, on_gpu)
        step = predictor.step(spec.micro_batch_size)
        fit = _fit(predictor, step, device, mfu) if device else {}
    except Exception as error:  # the method needs values: report it and predict the others
        reason = f"{type(error).__name__}: {base.first_line(error)}"
        empty = {field.name: None for field in dataclasses.fields(Step)}
        return {**facts, **empty, "micro_batch_size": spec.micro_batch_size, "unpredicted": reason}
    return {**facts, **dataclasses.asdict(step), "unpredicted": None, **fit}


def _missing(experiment: Experiment) -> str:
    """Return the parts of the experiment that the prediction does not model, as text; "" if there are none."""
    launch, missing = experiment.launch, [experiment.method.unsupported(Planned())]
    if launch.sharding != "none":
        missing.append(f"launch.sharding={launch.sharding}, the sizes are those of one process with all of the model")
    elif launch.num_processes > 1:
        missing.append(
            f"launch.num_processes={launch.num_processes}, whose buckets take as much as the gradients again"
        )
    kernels = experiment.train.kernels
    if kernels.liger == "auto" and find_spec("liger_kernel") is None:
        kernels = dataclasses.replace(kernels, liger=False)
    if kernels != _plain(kernels):
        missing.append("train.kernels, the numbers are those of a step without them")
    return "; ".join(filter(None, missing))


def _fit(predictor: Predictor, step: Step, device: Device, mfu: float | None) -> dict[str, Any]:
    usable, rate = device.usable_bytes, device.flops_per_second
    facts = {"usable_bytes": usable, "fits": step.peak_bytes <= usable}
    if mfu is None:
        return facts
    most = largest(lambda rows: predictor.step(rows).peak_bytes, step, usable)
    seconds = step.flops / (rate * mfu * predictor.num_processes) if rate else None
    return {**facts, "largest_micro_batch": most, "step_seconds": seconds}


def largest(peak_of: Callable[[int], int], first: Step, limit: int) -> int:
    """Return the largest micro batch whose peak is at most `limit`; 0 if there is none.

    The peak grows slowly at first, where parts that do not depend on the rows are largest, then linearly. Each guess
    lies on the line through the two nearest points.
    """
    peaks = {first.micro_batch_size: first.peak_bytes}
    for rows in (1, 2):
        peaks.setdefault(rows, peak_of(rows))
    for _ in range(_LOOKS):
        fits = [rows for rows in peaks if peaks[rows] <= limit]
        if not fits:
            return 0
        low, above = max(fits), [rows for rows in peaks if peaks[rows] > limit]
        high = min(above, default=_MOST_ROWS + 1)
        if high - low <= 1:
            return low
        a, b = (low, high) if above else sorted(peaks)[-2:]
        slope = (peaks[b] - peaks[a]) / (b - a)
        guess = b + math.floor((limit - peaks[b]) / slope) if slope > 0 else _MOST_ROWS
        rows = min(max(guess, low + 1), high - 1)
        peaks[rows] = peak_of(rows)
    return max(rows for rows in peaks if peaks[rows] <= limit)


class Predictor:
    """Predictor of the steps of one experiment, for any micro batch size.

    Args:
        experiment: with a definite precision, as `settled` returns it.
        on_gpu: predict the steps of a GPU, where some rows are padded; else those of a CPU, where no row is padded.
    """

    def __init__(self, experiment: Experiment, on_gpu: bool) -> None:
        self._experiment, self._on_gpu = experiment, on_gpu
        self.num_processes = experiment.launch.num_processes  # each process has its own rows of every step
        method = experiment.method.planned()
        spec = dataclasses.replace(experiment.train, kernels=_plain(experiment.train.kernels))
        dtype = compute_dtype(spec.precision)
        self._tokenizer = count.tokenizer(experiment.model)
        meta = fake_model.quantized(count.skeleton(experiment.model), method.load_options(dtype))
        attached = method.attach(meta, count.setting(experiment))
        plain = type(method.optimizer(method.param_groups(attached, 1.0, spec.weight_decay))) is torch.optim.AdamW
        # another optimizer may treat parameters by more than their groups
        self._fake = fake_model.fake(attached, shorten=plain)
        with tempfile.TemporaryDirectory() as scratch:
            job = Job(
                model=self._fake.model, method=method, rows=[{"input_ids": [1, 1], "completion_mask": [1, 1]}],
                spec=spec, seed=experiment.streams.order, tokenizer=self._tokenizer, validate=lambda: 0.0,
                emit=lambda _: None, scratch=scratch, cuda=on_gpu,
            )  # fmt: skip
            with self._fake.mode:
                self._loop = _FakeLoop(job)
        own = experiment.method
        self._movable = sum(own.optimizer_bytes(p) - own.resident_optimizer_bytes(p) for p in self._fake.trained())
        self._weights = [*tensors_in(self._fake.model), *self._fake.unseen_trained]
        self._make_optimizer_state()

    def _make_optimizer_state(self) -> None:
        for group in self._loop.optimizer.param_groups:
            group["params"] += [other for p in group["params"] for other in self._fake.unseen.get(p, [])]
        with self._fake.mode, Follower(0):
            give_gradients(self._fake.trained())
            self._loop.optimizer.step()
            self._forget_gradients()

    def _forget_gradients(self) -> None:
        for parameter in self._fake.trained():
            parameter.grad = None

    def step(self, micro_batch_size: int) -> Step:
        """Return the cost of a step. The peak is that of its last micro batch, when earlier gradients are held."""
        spec = self._experiment.train
        length, share = spec.max_length, spec.global_batch_size / self.num_processes
        accumulate = math.ceil(share / micro_batch_size)
        live = Follower(micro_batch_size * (length - 1), padded=self._on_gpu and self._loop.masked)
        live.hold(self._weights, "weights")
        live.hold_bytes(self._fake.unseen_bytes)
        weights = live.live_bytes
        live.hold(tensors_in(self._loop.optimizer.state), "optimizer")
        optimizer = live.live_bytes - weights
        self._loop.current_gradient_accumulation_steps = accumulate
        with (
            fake_model.as_if_not_traced(),
            fake_model.as_on_gpu() if self._on_gpu else nullcontext(),
            self._fake.mode,
            live,
        ):
            if accumulate > 1:
                give_gradients(self._fake.trained())
                live.hold((p.grad for p in self._fake.trained()), "gradients")
            batches = [self._batch(micro_batch_size, length) for _ in range(accumulate)]
            with live.standing_for_others(self._fake):
                self._loop.training_step(self._fake.model, batches[-1], torch.ones((), dtype=torch.long))
            give_gradients(self._fake.unseen_trained)  # if nothing below the layers trains
            live.hold((p.grad for p in self._fake.trained() if p.grad is not None), "gradients")
            flops = live.flops
            self._loop.accelerator.clip_grad_norm_(self._fake.trained(), spec.max_grad_norm)
            self._loop.optimizer.step()
            self._experiment.method.after_step(self._fake.model, 1)
            self._forget_gradients()
        if live.failure is not None:
            raise live.failure
        split = live.split()
        return Step(
            micro_batch_size=micro_batch_size,
            weights_bytes=weights,
            gradients_bytes=sum(p.numel() * p.element_size() for p in self._fake.trained()),
            optimizer_bytes=optimizer,
            activations_bytes=split["activations"] + split["rest"],
            peak_bytes=live.peak_bytes - self._movable,
            flops=flops * accumulate * self.num_processes,
        )

    def _batch(self, rows: int, length: int) -> dict[str, torch.Tensor]:
        return {name: torch.ones(rows, length, dtype=torch.long) for name in ("input_ids", "attention_mask", "labels")}


class _FakeLoop(_Loop):
    """Training loop over a model of fake tensors, ready for `training_step`. Create it within their mode."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if job.spec.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        self.accelerator.device_placement = False
        self._prepare_for_training(1, None, None)

    def _move_model_to_device(self, model: Any, device: Any) -> Any:
        """Return the model unmoved, since fake tensors cannot be moved."""
        return model
