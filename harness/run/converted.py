"""The update of a run as the LoRA adapter of a given rank that is nearest to it, with what is lost by that.

The difference of each linear layer's merged and original weights is cut to its largest singular values, which gives the
nearest matrix of that rank (Eckart and Young, Psychometrika 1, 1936). LoRA holds changes of linear layers alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from harness.config.experiment import Experiment
from harness.records import record
from harness.records.events import Emit, Progress
from harness.records.record import Conversion, ConvertedRecord, WeightLoss
from harness.run import device_map
from harness.sources import models

NAME = "converted.json"
_LINEAR = (torch.nn.Linear, Conv1D)  # Conv1D is GPT-2's, which holds its weight transposed
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]  # linear layer -> A of shape (r, d_in) and B of shape (d_out, r)


def cut(original: Any, after: Mapping[str, torch.Tensor], rank: int, emit: Emit) -> tuple[Factors, Conversion]:
    """Return LoRA factors of every linear layer that changed, and what they lack of the whole update.

    Args:
        original: the model before the update, not quantized.
        after: the weights with the update merged into them, by their names in the model.
        rank: of the factors. A layer of fewer singular values has fewer.
        emit: takes the progress.
    """
    before = original.state_dict()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    linear = {f"{name}.weight": name for name, module in original.named_modules() if isinstance(module, _LINEAR)}
    factors: Factors = {}
    squares: dict[str, tuple[float, float]] = {}  # weight -> squared norms of its change and of what is lost of it
    for done, (name, tensor) in enumerate(after.items()):
        change = tensor.detach().to(device, torch.float64)
        if name in before:
            change = change - before[name].to(device, torch.float64)
        square = lost = float(change.square().sum())
        if square and name in linear:
            if isinstance(original.get_submodule(linear[name]), Conv1D):
                change = change.T
            u, s, vh = torch.linalg.svd(change, full_matrices=False)
            root = s[:rank].sqrt()
            factors[linear[name]] = ((root[:, None] * vh[:rank]).float().cpu(), (u[:, :rank] * root).float().cpu())
            lost = float(s[rank:].square().sum())
        if square:
            squares[name] = (square, min(lost, square))
        emit(Progress(done + 1, len(after)))
    return factors, _conversion(squares, linear)


def _conversion(squares: Mapping[str, tuple[float, float]], linear: Mapping[str, str]) -> Conversion:
    whole = sum(square for square, _ in squares.values())

    def share(part: float) -> float:
        return math.sqrt(part / whole) if whole else 0.0

    return Conversion(
        lost=share(sum(lost for _, lost in squares.values())),
        lost_elsewhere=share(sum(lost for name, (_, lost) in squares.items() if name not in linear)),
        weights={
            name: WeightLoss(norm=math.sqrt(square), lost=math.sqrt(lost / square))
            for name, (square, lost) in squares.items()
        },
    )


def adapted(base: Any, factors: Factors, rank: int) -> Any:
    """Return the base with a LoRA adapter of these factors; the base itself where no linear layer changed."""
    from peft import LoraConfig, get_peft_model

    if not factors:
        return base
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=list(factors),
        fan_in_fan_out=any(isinstance(base.get_submodule(name), Conv1D) for name in factors),
    )
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, (a, b) in factors.items():
            layer = model.base_model.model.get_submodule(name)
            for parameter, value in ((layer.lora_A["default"].weight, a), (layer.lora_B["default"].weight, b)):
                parameter.zero_()
                parameter[tuple(slice(0, size) for size in value.shape)] = value.to(parameter.device, parameter.dtype)
    return model


def attach(experiment: Experiment, base: Any, load: Callable[[], Any], weights_from: str | None, emit: Emit) -> Any:
    """Return a base with the update of a run as LoRA of the rank that is asked for, and write what is lost.

    Args:
        experiment: the run, with its weights on disk.
        base: loaded as for the run; the adapter is put on it.
        load: loads the base once more.
        weights_from: the start of the attempt that made the weights.
        emit: takes the progress.
    """
    method, rank = experiment.method, experiment.eval.converted_r
    after = method.merge(method.restore(models.plain(load()), experiment.weights_folder))
    original = models.dequantized(load()) if getattr(base, "is_quantized", False) else base
    factors, conversion = cut(original, dict(after.named_parameters()), rank, emit)
    del after, original
    device_map.clear()
    keep(experiment, weights_from, rank, conversion)
    return adapted(base, factors, rank)


def keep(experiment: Experiment, weights_from: str | None, rank: int, conversion: Conversion) -> None:
    """Write what a conversion of these weights lost beside the run, with the conversions to other ranks."""
    path = experiment.folder / NAME
    others = _others(path, weights_from)
    result = ConvertedRecord(
        schema=record.SCHEMA,
        recipe_id=experiment.recipe_id,
        seed=experiment.run_seed,
        weights_from=weights_from,
        by_rank={**others, str(rank): conversion},
    )
    record.write(result, path)


def _others(path: Path, weights_from: str | None) -> dict[str, Conversion]:
    with contextlib.suppress(FileNotFoundError, record.DamagedError):
        written = record.read(ConvertedRecord, path)
        if written.weights_from == weights_from:
            return written.by_rank
    return {}
