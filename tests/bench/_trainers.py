"""Three ways to train the same model on the same batches, each watched by the same clock. Imports the whole stack."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any
from unittest import mock

import torch
import transformers

from harness.data import tokenized
from harness.measure.memory import Phases
from harness.records.record import Training
from harness.run import device_map, worker
from harness.sources import models
from harness.train import cpu_attention
from harness.train.batches import Collator, labeled, row_lengths
from harness.train.loop import Job, LengthGroupedSampler, compute_dtype, train

WARM_STEPS = 2


@dataclass(frozen=True)
class Workload:
    """An experiment whose first steps are timed: those after the warm ones, `steps` of them."""

    experiment: Any
    steps: int

    @cached_property
    def tokenizer(self) -> Any:
        return models.tokenizer(self.experiment.model)

    @cached_property
    def rows(self) -> Any:
        experiment = self.experiment
        return tokenized(experiment.data, self.tokenizer, worker.wanted_tokens(experiment)).train

    @property
    def max_steps(self) -> int:
        """One more than is counted: where it begins, the last counted one has ended."""
        return WARM_STEPS + self.steps + 1

    def batches(self, seed: int) -> list[list[dict[str, list[int]]]]:
        """The random batches that the project's loop would take with this seed, where it does not look at lengths."""
        size = self.experiment.train.global_batch_size
        order = list(LengthGroupedSampler(row_lengths(self.rows), size, seed, grouped=False))[: size * self.max_steps]
        return [[self.rows[i] for i in order[start : start + size]] for start in range(0, len(order), size)]

    def model(self) -> Any:
        """A fresh model, adapted as the method says."""
        experiment, method = self.experiment, self.experiment.method
        transformers.set_seed(0)
        options = method.load_options(compute_dtype(experiment.train.precision)) | device_map.options(experiment)
        base = models.load(experiment.model, options, method.read)
        return method.attach(base, worker.setting(experiment, self.tokenizer, self.rows))


class Clock:
    """When each forward pass of a model begins, and on how many real and padded tokens.

    From one beginning to the next is a whole step, with all that a trainer does between two. A GPU notes them in its
    own queue, and is not waited for.
    """

    def __init__(self, model: Any) -> None:
        self._seen: list[tuple[Any, Any, int]] = []
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        mask = inputs.get("attention_mask")
        self._seen.append((_now(), None if mask is None else mask.sum(), inputs["input_ids"].numel()))

    def result(self, workload: Workload, training: Training | None = None, probes: int = 0) -> dict[str, float]:
        """Real tokens a second, and the part of all positions that was real.

        `training` has the real tokens of each step where batches have no mask; `probes` forward passes come before it.
        """
        if len(self._seen) != probes + workload.max_steps:
            raise RuntimeError(f"{len(self._seen)} forward passes instead of {probes + workload.max_steps}")
        counted = self._seen[probes + WARM_STEPS :]
        tokens = training.real_tokens[WARM_STEPS:] if training else [int(one[1]) for one in counted]
        real, padded = sum(tokens[:-1]), sum(one[2] for one in counted[:-1])
        return {"tokens_per_second": real / _between(counted[0][0], counted[-1][0]), "real_share": real / padded}


def _now() -> Any:
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(first: Any, last: Any) -> float:
    """Seconds."""
    if not torch.cuda.is_available():
        return float(last - first)
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def harness(workload: Workload, seed: int, grouped: bool, profile: bool = False) -> dict[str, float]:
    """The project's loop, on random batches or on its default ones, of like length.

    With `profile` also what a position takes, by the step that is followed, which is not counted. On a GPU also the
    peak allocated, without that step where other kernels compute the others.
    """
    spec = replace(workload.experiment.train, max_steps=workload.max_steps, epochs=None, group_by_length=grouped)
    model = workload.model()
    clock, phases = Clock(model), Phases(torch.cuda.is_available(), lambda _: None)
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            model=model, method=workload.experiment.method, rows=workload.rows, spec=spec, seed=seed,
            tokenizer=workload.tokenizer, validate=lambda: 0.0, emit=lambda _: None, scratch=scratch, profile=profile,
            aside=phases.aside,
        )  # fmt: skip
        with phases("train") if torch.cuda.is_available() else contextlib.nullcontext():
            done = train(job)
    found = clock.result(workload, done, probes=1 if job.cuda else 0)  # on a GPU the largest batch is tried first
    if profile:
        positions = sum(rows * tokens for rows, tokens in done.profile.micro_batches)
        found["flops_per_position"] = done.profile.flops / positions
    if torch.cuda.is_available():
        found["peak_bytes"] = phases.done["train"].peak_memory_bytes
    return found


def without_shortcuts(workload: Workload, seed: int) -> dict[str, float]:
    """The project's loop as on a GPU or in float32, without `harness.train.cpu_attention`."""
    with mock.patch.object(cpu_attention, "bfloat16_on_cpu", return_value=contextlib.nullcontext()):
        return harness(workload, seed, grouped=False)


def loop(workload: Workload, seed: int) -> dict[str, float]:
    """Forward, backward, optimizer, and nothing else."""
    spec, method, model = workload.experiment.train, workload.experiment.method, workload.model()
    optimizer = method.optimizer(method.param_groups(model, spec.lr, spec.weight_decay))
    clock = Clock(model)
    model.train()
    half = spec.precision == "bf16"
    device = next(model.parameters()).device
    for rows in workload.batches(seed):
        batch = Collator(padding=workload.tokenizer.pad_token_id)([labeled(row) for row in rows])
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = model(**{name: value.to(device) for name, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return clock.result(workload)


def trl(workload: Workload, seed: int) -> dict[str, float]:
    """TRL's trainer with its defaults, but for what is equal on all sides; nothing is saved."""
    from trl import SFTConfig, SFTTrainer

    spec, model = workload.experiment.train, workload.model()
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    rows = [row for batch in workload.batches(seed) for row in batch]
    clock, cpu = Clock(model), not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch, max_steps=workload.max_steps, per_device_train_batch_size=spec.micro_batch_size,
            gradient_accumulation_steps=1, learning_rate=spec.lr, max_length=spec.max_length, use_cpu=cpu,
            bf16=spec.precision == "bf16", gradient_checkpointing=spec.gradient_checkpointing,
            train_sampling_strategy="sequential", dataloader_pin_memory=not cpu, save_strategy="no", report_to="none",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = SFTTrainer(model, arguments, train_dataset=_dataset(rows), processing_class=workload.tokenizer)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == names, "the same parameters train"
        trainer.train()
    return clock.result(workload)


def _dataset(rows: list[dict[str, list[int]]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{key: row[key] for key in ("input_ids", "completion_mask")} for row in rows])


SIDES: dict[str, Callable[..., dict[str, float]]] = {
    "harness": partial(harness, grouped=False),
    "loop": loop,
    "trl": trl,
    "harness, like lengths": partial(harness, grouped=True),
    "harness, no shortcuts": without_shortcuts,
}


def measured(
    experiment: Any, steps: int, rounds: int, sides: tuple[str, ...], emit: Callable[[dict[str, Any]], None]
) -> list[dict[str, dict[str, float]]]:
    """Every side in every round, each round with other batches and beginning with another side."""
    worker.quiet()
    return list(_rounds(Workload(experiment, steps), rounds, sides))


def _rounds(workload: Workload, rounds: int, sides: tuple[str, ...]) -> Iterator[dict[str, dict[str, float]]]:
    for number in range(rounds):
        first = number % len(sides)
        yield {side: SIDES[side](workload, number) for side in (*sides[first:], *sides[:first])}
