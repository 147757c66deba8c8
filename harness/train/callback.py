"""Callback of the training loop: times steps, keeps the history, validates, and stops early or on divergence."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from harness.measure.profile import Profiler
from harness.measure.steps import StepMeter
from harness.records.events import StepLogged, Validated
from harness.records.record import StepProfile, Training
from harness.train import checkpoint, distributed, fsdp, tensors
from harness.train.job import Job
from harness.train.resume import fill, keep, trained

NO_GRADIENT = "no trained parameter receives a gradient: the adapter is not in the forward pass"
_WINDOW = 10  # optimizer steps between two waits for a GPU


class TrainingMonitor(TrainerCallback):  # type: ignore[misc]
    """Reads losses and gradient norms from the device once a window, so that no step waits for them."""

    def __init__(
        self, job: Job, meter: StepMeter, profiler: Profiler, prepare: Callable[[], None] = lambda: None
    ) -> None:
        self._job, self._meter, self._profiler, self._prepare = job, meter, profiler, prepare
        self._window = _WINDOW if torch.cuda.is_available() else 1
        self._unread: list[tuple[int, Any, Any, float]] = []
        self._divergence = Divergence(job.spec.divergence_factor, job.spec.divergence_steps)
        self._patience = Patience(job.spec.patience)
        self._kept_step: int | None = None
        self._stopped_early_at: int | None = None
        self._folder = Path(job.checkpoints.folder if job.checkpoints else job.scratch)
        self._profile: StepProfile | None = None  # from an earlier attempt
        self._total = 0
        self._aside = contextlib.ExitStack()
        self.last_step = 0
        self.history: list[dict[str, float]] = []
        self.validation: list[tuple[int, float]] = []

    def result(self) -> Training:
        """Return what was measured in the training, with its curves."""
        kept_step = self._keep_best()
        counted = self.validation if kept_step is None else [pair for pair in self.validation if pair[0] <= kept_step]
        training = self._meter.result(self.history, self.validation)
        profile = self._profiler.result or self._profile
        rate = None if profile is None else self._meter.scaled_rate(profile.flops, profile.step)
        profile, rate = _of_all(profile), _total(distributed.all_gather(rate))
        return dataclasses.replace(
            training,
            profile=profile,
            flops_per_second=rate,
            overfitted=overfitted([entry["loss"] for entry in self.history], counted),
            stopped_early_at=self._stopped_early_at,
            kept_step=kept_step,
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Prepare, and start the clock of the first step."""
        self._total = state.max_steps
        validated = dict(self.validation)
        for step in range(1, self.last_step + 1):  # steps of an earlier attempt: a tracker shows the whole curve
            self._tell(step)
            if step in validated:
                self._job.emit(Validated(step, validated[step]))
        self._prepare()
        self._meter.start()

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Begin to profile a step, whose batches are ready."""
        self._profiler.begin(state.global_step + 1, self._job.model, optimizer)
        if self._profiler.follows:
            self._aside.enter_context(self._job.aside())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Profile the gradients of a step."""
        self._profiler.gradients(self._job.model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let the method act on the changed weights."""
        self._job.method.after_step(self._job.model, state.global_step + 1)  # the trainer counts the step later

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """End the profile and the clock of a step."""
        self._profiler.end(optimizer)
        self._aside.close()
        self._meter.end_step()

    def after_step(self, state: Any, control: Any, measured: tuple[Any, Any, float]) -> None:
        """Record a step, and validate if it is time; `measured` is its loss, gradient norm (both unread) and rate.

        It runs outside the clock, which goes on with `start`.
        """
        self.last_step = state.global_step
        self._unread.append((state.global_step, *measured))
        every = self._job.spec.eval_every
        validates = bool(every) and state.global_step % every == 0
        if validates or state.global_step in (1, state.max_steps) or len(self._unread) >= self._window:
            self._read()
        if validates and self._validate(state.global_step):
            control.should_training_stop = True

    def start(self) -> None:
        """Start the clock of another step."""
        self._meter.start()

    def values(self) -> dict[str, Any]:
        """Return the state so far, for a checkpoint."""
        self._read()
        profile = self._profiler.result or self._profile
        return {
            "history": self.history,
            "validation": self.validation,
            "steps": distributed.all_gather(self._meter.values()),
            "divergence": self._divergence.values(),
            "patience": self._patience.values(),
            "kept_step": self._kept_step,
            "stopped_early_at": self._stopped_early_at,
            "profile": distributed.all_gather(None if profile is None else dataclasses.asdict(profile)),
        }

    def restore(self, step: int, values: dict[str, Any]) -> None:
        """Continue from the state at `step`."""
        self.last_step, self.history, self._kept_step = step, values["history"], values["kept_step"]
        self._stopped_early_at = values["stopped_early_at"]
        self.validation = [(at, loss) for at, loss in values["validation"]]
        self._meter.restore(values["steps"][distributed.rank()])
        self._divergence.restore(values["divergence"])
        self._patience.restore(values["patience"])
        profile = values["profile"][distributed.rank()]
        self._profile = None if profile is None else StepProfile(**profile)

    def is_over(self, max_steps: int) -> bool:
        """Return whether the last step has been made: all of them, or the one at which early stopping ended."""
        return self.last_step >= max_steps or self._stopped_early_at is not None

    def only_lowest(self) -> None:
        """Remove the weights of validation losses that have been beaten, once a checkpoint says by which."""
        for path in self._folder.glob("lowest-*"):
            if not path.name.startswith(f"lowest-{self._kept_step}."):
                checkpoint.remove(path)

    def _read(self) -> None:
        """Wait for the steps of this window, and check their losses and gradient norms.

        Raises:
            DivergedError: as `train` says.
            RuntimeError: the first gradient is zero.
        """
        self._job.sample()  # before waiting: an idle device's clock says nothing
        self._meter.settle()
        for step, loss, norm, rate in self._unread:
            entry = {"loss": float(loss), "grad_norm": float(norm), "learning_rate": rate}
            self._divergence.check(step, entry["loss"], entry["grad_norm"])
            if step == 1 and entry["grad_norm"] == 0:
                raise RuntimeError(NO_GRADIENT)
            self.history.append(entry)
            self._tell(step)
        self._unread = []

    def _tell(self, step: int) -> None:
        entry = self.history[step - 1]
        self._job.emit(
            StepLogged(
                step,
                self._total,
                loss=entry["loss"],
                gradient_norm=entry["grad_norm"],
                learning_rate=entry["learning_rate"],
                tokens_per_second=self._meter.tokens_per_second() if distributed.world_size() == 1 else None,
            )
        )

    def _validate(self, step: int) -> bool:
        """Validate; return whether early stopping ends training at this step."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # draws here do not affect training
            loss = distributed.broadcast(self._job.validate() if self._holds_its_own() else None)
        self.validation.append((step, loss))
        self._job.emit(Validated(step, loss))
        if self._job.spec.patience is None:
            return False
        if self._patience.improved(loss):
            self._kept_step = step
            keep(self._lowest(step), trained(self._job.model), {}, self._job.sharding)
            if self._job.checkpoints is None:
                self.only_lowest()
        if self._patience.over:
            self._stopped_early_at = step
        return self._patience.over

    def _keep_best(self) -> int | None:
        """Restore the weights of the lowest validation loss; return their step, None if the last weights stay."""
        if self._kept_step in (None, self.last_step):
            return None
        if self._holds_its_own():
            model = self._job.model
            file = self._lowest(self._kept_step)
            fill(model, fsdp.read(file, tensors.read(file)[0], model))
        return self._kept_step

    def _lowest(self, step: int | None) -> Path:
        return checkpoint.lowest(self._folder, step)

    def _holds_its_own(self) -> bool:
        """Return whether this rank validates and stores weights: rank 0 alone, or every rank of a sharded model."""
        return distributed.rank() == 0 or self._job.sharding != "none"


def _of_all(profile: StepProfile | None) -> StepProfile | None:
    """Return the operations and micro batches of all ranks, None if a rank has none; live bytes are this rank's."""
    profiles = distributed.all_gather(profile)
    if profile is None or None in profiles:
        return None
    micro_batches = tuple(batch for part in profiles for batch in part.micro_batches)
    return dataclasses.replace(profile, micro_batches=micro_batches, flops=sum(part.flops for part in profiles))


def _total(numbers: list[float | None]) -> float | None:
    numbers_of = [number for number in numbers if number is not None]
    return sum(numbers_of) if len(numbers_of) == len(numbers) else None


_RISE = 0.01  # share of the lowest validation loss above which the last one has risen


class DivergedError(RuntimeError):
    """The loss or its gradient norm is NaN or infinite, or the loss has left for good."""


class Divergence:
    """Detects a loss that diverges.

    Args:
        factor: a loss above this multiple of the first one counts; None looks for NaN and infinity only.
        steps: this many such losses in a row are a divergence.
    """

    def __init__(self, factor: float | None, steps: int) -> None:
        self._factor, self._steps = factor, steps
        self._first: float | None = None
        self._above = 0

    def values(self) -> dict[str, Any]:
        """Return the state for `restore`."""
        return {"first": self._first, "above": self._above}

    def restore(self, values: dict[str, Any]) -> None:
        """Continue from what `values` returned."""
        self._first, self._above = values["first"], values["above"]

    def check(self, step: int, loss: float, gradient_norm: float) -> None:
        """Look at one step.

        Raises:
            DivergedError: names the step, and what was found there.
        """
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise DivergedError(f"step {step}: loss {loss}, gradient norm {gradient_norm}")
        if self._first is None:
            self._first = loss
        if self._factor is None:
            return
        self._above = self._above + 1 if loss > self._factor * self._first else 0
        if self._above >= self._steps:
            raise DivergedError(
                f"step {step}: loss {loss:.4g}, for {self._steps} steps above {self._factor:g} times the first loss "
                f"{self._first:.4g}"
            )


class Patience:
    """Early stopping: too many validations in a row without a new lowest loss. None waits for ever."""

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._waited = 0
        self.lowest: float | None = None

    def values(self) -> dict[str, Any]:
        """Return the state for `restore`."""
        return {"waited": self._waited, "lowest": self.lowest}

    def restore(self, values: dict[str, Any]) -> None:
        """Continue from what `values` returned."""
        self._waited, self.lowest = values["waited"], values["lowest"]

    def improved(self, loss: float) -> bool:
        """Record a validation loss; return whether it is the lowest so far."""
        if self.lowest is not None and not loss < self.lowest:
            self._waited += 1
            return False
        self.lowest, self._waited = loss, 0
        return True

    @property
    def over(self) -> bool:
        """Return whether it is time to stop."""
        return self._patience is not None and self._waited >= self._patience


def overfitted(losses: Sequence[float], validation: Sequence[tuple[int, float]]) -> bool | None:
    """Return whether the validation loss rose while the training loss fell; None if there are not two validations.

    It did if the last validation loss is more than 1 % above the lowest one, and the training loss of the steps between
    the two is lower on average than that of as many steps before.
    """
    if len(validation) < 2:
        return None
    lowest_step, lowest = min(validation, key=lambda pair: pair[1])
    last_step, last = validation[-1]
    after = losses[lowest_step:last_step]
    before = losses[max(0, lowest_step - len(after)) : lowest_step]
    if not (before and after) or last <= lowest * (1 + _RISE):
        return False
    return sum(after) / len(after) < sum(before) / len(before)
