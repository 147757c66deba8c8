"""Write the full state of a training loop, and resume from it.

On a CPU a resumed run is equal to the bit. On a GPU it is equal up to rounding, as two runs of one recipe are, unless
`train.deterministic` is set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.records.events import Measured, Message
from harness.train import checkpoint, distributed, fsdp, tensors
from harness.train.checkpoint import Belongs
from harness.train.signals import PreemptedError

_TRAINER_STATE = (
    "global_step", "epoch", "max_steps", "train_batch_size", "logging_steps", "eval_steps", "save_steps",
)  # fmt: skip
_WRITING_SHARE = 20  # the least interval, as a multiple of the time that the last checkpoint took to write
_LOOKED_AT = 4096  # elements of each tensor that enter the digest of a start


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Settings of a run's checkpoints: folder, identity, interval, and whether the run was requested to end."""

    folder: Path
    of: Belongs
    every_seconds: float | None  # None: only when the run is told to end
    requested: Callable[[], bool] = lambda: False
    last: bool = False  # whether one is written after the last step as well


@dataclass(frozen=True)
class State:
    """Content of a checkpoint."""

    file: Path
    start: str
    values: dict[str, Any]


def find(checkpoints: Checkpoints, job: Any) -> State | None:
    """Return the state that training resumes from; set aside a checkpoint that is damaged or of something else.

    All ranks look together, each at what it reads, and go on together or not at all. The model is as
    `attach` returned it: where it is not what the checkpoint's run began with, weights that never train were drawn or
    computed otherwise, and nothing could go on from it.
    """
    file = distributed.broadcast(checkpoint.newest(checkpoints.folder))
    if file is None:
        return None
    values: dict[str, Any] = {}
    try:
        values, facts = tensors.read(file)
        fault = _differs(checkpoints.of, values, facts, job.model)
        if not fault and job.sharding != "none":
            fsdp.check(file, facts)
        if not fault:
            _check_lowest(checkpoints.folder, values["watched"]["kept_step"], job.sharding)
    except FileNotFoundError as error:
        fault = f"{error.filename} is missing"
    except (ValueError, KeyError) as error:
        fault = str(error)
    reason = next(filter(None, distributed.all_gather(fault)), "")
    if not reason:
        return State(file, values["start"], values)
    if distributed.rank() == 0:
        aside = checkpoint.set_aside(checkpoints.folder)
        step = checkpoint.step_of(file)
        job.emit(Message(f"checkpoint of step {step} not used, training from the beginning: {reason}; see {aside}"))
    return None


def _check_lowest(folder: Path, step: int | None, sharding: str) -> None:
    """Read the weights of the lowest validation loss, which the end of training puts back.

    Raises:
        FileNotFoundError: they are missing.
        ValueError: they are damaged.
    """
    if step is None or (sharding == "none" and distributed.rank() > 0):
        return
    file = checkpoint.lowest(folder, step)
    _, facts = tensors.read(file)
    if sharding != "none":
        fsdp.check(file, facts)


def _differs(of: Belongs, values: dict[str, Any], facts: dict[str, Any], model: Any) -> str:
    reason = of.differs_from(facts["of"])
    return reason or ("" if values["start"] == start_digest(model) else "other weights at the start")


def start_digest(model: Any) -> str:
    """Return a digest of some elements of every tensor, which tells one start of training from another."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _LOOKED_AT)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Resuming:
    """Mixin that lets transformers' Trainer write its state and resume from it.

    The Trainer's own checkpoints are not used: it pickles, writes under the final name, and leaves out the state of a
    method.
    """

    job: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    state: Any
    watcher: Any

    def begin(self, checkpoints: Checkpoints | None) -> str | None:
        """Look for a checkpoint; return the argument of `train(resume_from_checkpoint=...)`."""
        self.checkpoints, self.resumed = checkpoints, None
        self._written, self._writing_seconds = time.monotonic(), 0.0
        if checkpoints is None:
            return None
        checkpoint_found = find(checkpoints, self.job)
        if checkpoint_found is None:
            self._start = start_digest(self.job.model)
            return None
        self._start, self.resumed, self._file = checkpoint_found.start, checkpoint_found.values, checkpoint_found.file
        step = checkpoint.step_of(checkpoint_found.file)
        self.watcher.restore(step, checkpoint_found.values["watched"])
        self.job.emit(Measured(resumed_at_step=step, checkpoint_step=step))
        folder = tempfile.mkdtemp(prefix="state-", dir=self._scratch())
        (Path(folder) / "trainer_state.json").write_text(json.dumps(checkpoint_found.values["trainer"]))
        return folder

    def between_steps(self, ends: bool) -> None:
        """Write a checkpoint if one is due.

        Args:
            ends: whether this was the last step, after which the weights are written themselves.

        Raises:
            PreemptedError: the run was requested to end.
            OSError: the checkpoint after the last step cannot be written.
        """
        if self.checkpoints is None:
            return
        every, begun = self.checkpoints.every_seconds, time.monotonic()
        is_time = every is not None and begun - self._written >= self._interval(every) and not ends
        is_requested, is_time = distributed.broadcast((self.checkpoints.requested() and not ends, is_time))
        if not (is_requested or is_time or (ends and self.checkpoints.last)):
            return
        try:
            self._write(self.checkpoints)
        except OSError as error:  # a full disk costs the checkpoint, not the run
            if ends:
                raise
            self.job.emit(Message(f"no checkpoint at step {self.state.global_step}: {error}"))
        distributed.barrier()  # within the next step the other ranks would wait under a limit of minutes
        self._written = time.monotonic()
        self._writing_seconds = self._written - begun
        if is_requested:
            raise PreemptedError(f"step {self.state.global_step}")

    def _interval(self, every: float) -> float:
        """Return the seconds between two checkpoints: writing them takes a twentieth of the time, unless 0 is asked."""
        return every and max(every, _WRITING_SHARE * self._writing_seconds)

    def _write(self, checkpoints: Checkpoints) -> None:
        values, step = self._values(), self.state.global_step
        file = checkpoint.path(checkpoints.folder, step)
        keep(file, values, {"of": dataclasses.asdict(checkpoints.of)}, self.job.sharding)
        if distributed.rank() == 0:
            checkpoint.only(file)
            self.watcher.only_lowest()
        self.job.emit(Measured(checkpoint_step=step))

    def _values(self) -> dict[str, Any]:
        return {
            "start": self._start,
            "trainer": {name: getattr(self.state, name) for name in _TRAINER_STATE},
            "weights": trained(self.job.model),
            "method": self.job.method.state(self.job.model),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
            "random": distributed.all_gather(random_state()),  # each process draws for its own rows
            "watched": self.watcher.values(),
        }

    def _scratch(self) -> str:
        Path(self.job.scratch).mkdir(parents=True, exist_ok=True)
        return str(self.job.scratch)

    # What follows is called by the trainer, with the folder that `begin` returned.

    def _load_from_checkpoint(self, *_: Any) -> None:
        assert self.resumed is not None, "only a run that goes on loads"
        fill(self.job.model, fsdp.read(self._file, self.resumed.pop("weights"), self.job.model))
        self.job.method.load_state(self.job.model, self.resumed.pop("method"))

    def _load_optimizer_and_scheduler(self, *_: Any) -> None:
        assert self.resumed is not None, "only a run that goes on loads"
        self.optimizer.load_state_dict(fsdp.read(self._file, self.resumed.pop("optimizer"), self.job.model))
        self.lr_scheduler.load_state_dict(self.resumed.pop("schedule"))

    def _load_scaler(self, *_: Any) -> None:
        """Load nothing: float16, which alone needs a scaler, is not trained in."""

    def _load_rng_state(self, *_: Any) -> None:
        assert self.resumed is not None, "only a run that goes on loads"
        set_random_state(self.resumed["random"][distributed.rank()])


def keep(file: Path, values: Any, facts: dict[str, Any], sharding: str) -> None:
    """Write values from rank 0, or from all ranks where each holds a shard of the model.

    Raises:
        OSError: they could not be written.
    """
    if sharding != "none":
        fsdp.write(file, values, facts)
    elif distributed.rank() == 0:
        tensors.write(file, values, facts)


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that train, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def fill(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put values into the tensors that train."""
    for name, parameter in trained(model).items():
        parameter.copy_(weights[name])


def random_state() -> dict[str, Any]:
    """Return the state of every generator that a step may draw from."""
    name, keys, *others = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy_state = (name, [int(key) for key in keys], *others)
    return {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
