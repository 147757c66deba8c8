"""What looks at the loop while it runs: times steps, keeps the history, validates on the way, and says when to stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from harness.measure.profile import Profiler
from harness.measure.steps import StepMeter
from harness.record import Training
from harness.stopping import Divergence, Patience, overfitted

if TYPE_CHECKING:
    from harness.train import Job

NO_GRADIENT = "no trained parameter receives a gradient: the adapter is not in the forward pass"
_WINDOW = 10  # optimizer steps after which a GPU is waited for


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Reads what the steps have left on the device once a window, so that nothing waits in between."""

    def __init__(self, job: Job, meter: StepMeter, profiler: Profiler) -> None:
        self._job, self._meter, self._profiler = job, meter, profiler
        self._window = _WINDOW if torch.cuda.is_available() else 1
        self._unread: list[tuple[int, Any, Any, float]] = []
        self._divergence = Divergence(job.spec.diverged_above, job.spec.diverged_steps)
        self._patience = Patience(job.spec.patience)
        self._kept_step: int | None = None
        self._stopped_early_at: int | None = None
        self.last_step = 0
        self.history: list[dict[str, float]] = []
        self.validation: list[tuple[int, float]] = []

    def result(self) -> Training:
        """What was measured and watched."""
        kept = self._keep_best()
        counted = self.validation if kept is None else [pair for pair in self.validation if pair[0] <= kept]
        training = self._meter.result(self.history, self.validation)
        profile = self._profiler.result
        rate = None if profile is None else self._meter.scaled_rate(profile.flops, profile.step)
        return dataclasses.replace(
            training,
            profile=profile,
            flops_per_second=rate,
            overfitted=overfitted([entry["loss"] for entry in self.history], counted),
            stopped_early_at=self._stopped_early_at,
            kept_step=kept,
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first step is about to begin."""
        self._meter.start()

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """The batches of a step are there."""
        self._profiler.begin(state.global_step + 1, self._job.model, optimizer)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The gradients of a step are there."""
        self._profiler.gradients(self._job.model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The weights have changed."""
        self._job.method.after_step(self._job.model, state.global_step + 1)  # the trainer counts it a little later

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Nothing of the step is left to do."""
        self._profiler.end(optimizer)
        self._meter.end_step()

    def after_step(self, state: Any, control: Any, found: tuple[Any, Any, float]) -> None:
        """Between two steps, outside the clock; `found` is the loss and the gradient norm, unread, and the rate."""
        self.last_step = state.global_step
        self._unread.append((state.global_step, *found))
        every = self._job.spec.eval_every
        validates = bool(every) and state.global_step % every == 0
        if validates or state.global_step in (1, state.max_steps) or len(self._unread) >= self._window:
            self._read(state.max_steps)
        if validates and self._validate(state.global_step):
            control.should_training_stop = True
        self._meter.start()

    def _read(self, total: int) -> None:
        """Wait for the steps of this window, and look at what they have found.

        Raises:
            DivergedError: as `train` says.
            RuntimeError: the first gradient is zero.
        """
        self._meter.settle()
        for step, loss, norm, rate in self._unread:
            entry = {"loss": float(loss), "grad_norm": float(norm), "learning_rate": rate}
            self._divergence.check(step, entry["loss"], entry["grad_norm"])
            if step == 1 and entry["grad_norm"] == 0:
                raise RuntimeError(NO_GRADIENT)
            self.history.append(entry)
            self._job.emit(
                {
                    "done": step,
                    "total": total,
                    "loss": entry["loss"],
                    "gradient_norm": entry["grad_norm"],
                    "learning_rate": rate,
                    "tokens_per_second": self._meter.tokens_per_second(),
                }
            )
        self._unread = []

    def _validate(self, step: int) -> bool:
        """Whether early stopping says that this was the last step."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # nothing drawn here moves training
            loss = self._job.validate()
        self.validation.append((step, loss))
        if self._job.spec.patience is None:
            return False
        if self._patience.improved(loss):
            self._kept_step = step
            self._best.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self._trained(), self._best)
        if self._patience.over:
            self._stopped_early_at = step
        return self._patience.over

    def _keep_best(self) -> int | None:
        """Put the weights of the lowest validation loss back; returns their step, None for the last one's."""
        if self._kept_step in (None, self.last_step):
            return None
        best = torch.load(self._best, map_location="cpu")
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(best[name])
        return self._kept_step

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: p.detach() for name, p in self._job.model.named_parameters() if p.requires_grad}

    @property
    def _best(self) -> Path:
        return Path(self._job.scratch) / "lowest_validation_loss.pt"
