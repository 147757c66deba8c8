"""The model, data and runs of the checks, made once and shared among them."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.config.compose import experiments
from harness.config.experiment import Experiment
from harness.measure import hardware
from harness.plan.devices import Device
from harness.records.events import StepLogged
from harness.records.record import RunRecord
from harness.run import inputs, isolate, run

# runs whose memory is predicted: a row at a time of full fine-tuning, to fit into 24 GB
METHODS = {
    "lora": ("method=lora",), "qlora": ("method=qlora",), "dora": ("method=dora",), "vera": ("method=vera",),
    "prefix": ("method=prefix",), "full": ("method=full", "train.micro_batch_size=1"),
    "lora-fp32": ("method=lora", "train.precision=fp32"),
}  # fmt: skip
_TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
_WORKER = "tests.bench.gpu_check.worker"
_BYTES_OF_CPU = 12 * 2**30  # a size for the plan on a CPU, where nothing is left out for it


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of the model and its batches. Every training row has `length` tokens (bytes), all of them with a label."""

    device: str
    model: tuple[str, ...]
    precision: str
    rows: int  # of a step, computed at once
    length: int
    steps: int  # of a run; the first two are not timed
    timed_steps: int  # of a comparison of speed
    interrupted_steps: int
    many_rows: int  # more than fit into `little_bytes`
    little_bytes: int  # that a process may take: of a card in all, on a CPU beyond what it holds


CARD = Scale(
    device="cuda", model=("model=llama-3.2-1b", "model.weights=random"), precision="bf16", rows=8, length=512,
    steps=12, timed_steps=20, interrupted_steps=40, many_rows=8, little_bytes=15 * 2**29,
)  # fmt: skip
TINY = Scale(
    device="cpu",
    model=(
        "model=llama-3.2-1b", "model.weights=random", "model.name=tiny",
        *(f"model.architecture.{key}={value}" for key, value in _TINY.items()),
    ),
    precision="fp32", rows=4, length=64, steps=4, timed_steps=2, interrupted_steps=40, many_rows=128,
    little_bytes=160 * 2**20,
)  # fmt: skip


def scale_of(device: str) -> Scale:
    """Return the sizes for "cuda" or "cpu"."""
    return CARD if device == "cuda" else TINY


@dataclass(frozen=True)
class Lab:
    """Makes runs in a folder that is removed afterwards."""

    folder: Path
    scale: Scale

    def words(self, *words: str) -> list[str]:
        """Return the checks' usual settings, followed by these. Liger's kernels, which no plan counts, are off."""
        scale = self.scale
        return [
            *scale.model, "train=smoke", "eval=smoke", "eval.tasks=[]", "tracking=none", "max_retries=0", "data=file",
            "train.loss_on=all", "train.kernels.liger=false", f"data.file={self.data}", f"runs_dir={self.folder}/runs",
            f"train.precision={scale.precision}", f"train.global_batch_size={scale.rows}",
            f"train.micro_batch_size={scale.rows}", f"train.max_length={scale.length}",
            f"train.max_steps={scale.steps}", *words,
        ]  # fmt: skip

    def experiment(self, *words: str) -> Experiment:
        """Return the experiment of the checks' usual settings and these words."""
        [(_, experiment)] = experiments(self.words(*words))
        return inputs.resolve(experiment)

    def run(self, *words: str) -> RunRecord:
        """Return the record of a run, made the first time that it is asked for."""
        return run.run(self.experiment(*words), lambda _: None)

    def run_in_little_memory(self, *words: str) -> RunRecord:
        """Return the record of a run whose process may take no more than `scale.little_bytes`."""
        usual, run.WORK = run.WORK, f"{_WORKER}:with_little_memory"
        try:
            return self.run(*words)
        finally:
            run.WORK = usual

    def run_interrupted(self, at_step: int, *words: str) -> RunRecord:
        """Return the record of a run that got SIGTERM after a step, and was asked for again."""
        experiment = self.experiment(*words, f"runs_dir={self.folder}/interrupted")
        try:
            run.run(experiment, _Interrupting(at_step))
        except SystemExit:
            return run.run(experiment, lambda _: None)
        raise RuntimeError(f"the run ended before SIGTERM at step {at_step} could end it")

    def call(self, function: str, *arguments: Any) -> Any:
        """Return what a function of `worker` returns in a process of its own.

        Raises:
            RuntimeError: it did not return; says why.
        """
        return self.elsewhere(f"{_WORKER}:{function}", *arguments)

    def call_as_a_run(self, function: str, *arguments: Any) -> Any:
        """Return what a function of `worker` returns in a process that sees the devices that a run's sees."""
        terms = run.terms_of(self.experiment("method=lora"))
        return self.elsewhere(f"{_WORKER}:{function}", *arguments, terms=terms)

    def elsewhere(self, function: str, *arguments: Any, terms: isolate.Terms = isolate.USUAL) -> Any:
        """Return what "module:name" returns in a process of its own, as `call` does."""
        log = self.folder / "log.txt"
        ended = isolate.call(function, *arguments, log=log, terms=terms)
        if ended.kind != "returned":
            raise RuntimeError(f"{function}: {ended.reason}")
        return ended.value

    @cached_property
    def plans(self) -> dict[str, dict[str, Any]]:
        """The predicted step of each of `METHODS`, as `harness.plan` makes it for this device.

        The process sees no GPU: fake tensors claim to be on the CPU, and the trainer would move their batch to a card.
        """
        described = [self.experiment(*words) for words in METHODS.values()]
        plans = self.elsewhere("harness.plan.predict:cells", described, self.device, None, terms=isolate.WITHOUT_GPU)
        return dict(zip(METHODS, plans, strict=True))

    @cached_property
    def device(self) -> Device:
        """The device of the plan."""
        memory = hardware.memory_bytes()
        on_gpu = self.scale.device == "cuda"
        return Device("this GPU" if on_gpu else "cpu", memory or _BYTES_OF_CPU, None, on_gpu=on_gpu)

    @cached_property
    def data(self) -> Path:
        """Rows of one length."""
        length = self.scale.length
        return self._written("whole", [length] * max(60 * self.scale.rows, 3 * self.scale.many_rows))

    @cached_property
    def mixed_data(self) -> Path:
        """Rows of many lengths, from a quarter to three quarters of the longest."""
        length = self.scale.length
        return self._written("mixed", [length // 4 + 7 * i % (length // 2) for i in range(40 * self.scale.rows)])

    def _written(self, name: str, lengths: Sequence[int]) -> Path:
        """Write rows of so many bytes, which are tokens; the answer's end is one more."""
        file = self.folder / f"{name}.jsonl"
        with file.open("w") as lines:
            for number, length in enumerate(lengths):
                prompt = f"{number:06d}".ljust(length // 2, "q")
                row = {"prompt": prompt, "completion": "a" * (length - 1 - len(prompt))}
                lines.write(json.dumps(row) + "\n")
        return file


class _Interrupting:
    """Listens to a run, and has the scheduler's signal sent to this process once a step is done."""

    def __init__(self, at_step: int) -> None:
        self._at_step, self._sent = at_step, threading.Event()

    def __call__(self, event: dict[str, Any]) -> None:
        if isinstance(event, StepLogged) and event.done >= self._at_step and not self._sent.is_set():
            self._sent.set()
            os.kill(os.getpid(), signal.SIGTERM)
