"""Conversion of any update that can be merged into a LoRA adapter of a given rank, with what is lost by it.

The difference of each linear layer's merged and original weights is cut to its largest singular values, which is the
nearest matrix of that rank (Eckart and Young, Psychometrika 1, 1936). Changes of other weights have no place in a LoRA.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.adapter.load import (
    Trained,
    attached,
    compare,
    download,
    find,
    logits,
    merged,
    on_base,
    plain_base,
    whole_folder,
)
from harness.records.events import Emit, PhaseStarted, Progress
from harness.records.record import write_text
from harness.records.untrusted import escaped
from harness.run import model_card
from harness.sources import models

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]  # linear layer -> A of shape (r, d_in) and B of shape (d_out, r)


def convert(folder: Path, rank: int, base: Sequence[str], out: Path, emit: Emit) -> dict[str, Any]:
    """Write the update of a run as a LoRA adapter of PEFT's, and return what is lost.

    Returns:
        `layers`; `lost`, the norm of what the adapter lacks over the norm of the whole update; `lost_elsewhere`, the
        part of that which no linear layer holds, and the largest difference of logits from the run's own model.

    Raises:
        ValueError: the method cannot be merged, or no linear layer changed.
    """
    run = on_base(find(folder), base)
    download(run)
    tokenizer = models.tokenizer(run.experiment.model)
    emit(PhaseStarted("attached"))
    before = logits(attached(run), tokenizer)
    gc.collect()
    emit(PhaseStarted("decomposing"))
    original = plain_base(run)
    factors, lost = _factors(original, dict(merged(run).named_parameters()), rank, emit)
    if not factors:
        raise ValueError(f"{folder}: no linear layer was changed, and LoRA holds changes of linear layers alone")
    emit(PhaseStarted("writing"))
    model = _adapted(original, factors, rank)
    with whole_folder(out) as temporary:
        model.save_pretrained(str(temporary))
        model_card.name_base(temporary, run.record.config["model"])
        write_text(_card(run, rank, lost), temporary / model_card.CARD)
    return {"layers": len(factors), "rank": rank, **lost, **compare(before, logits(model.eval(), tokenizer))}


def _factors(
    original: Any, after: Mapping[str, torch.Tensor], rank: int, emit: Emit
) -> tuple[Factors, dict[str, float]]:
    """Return the factors of every changed linear layer, and the relative norms of what they lack."""
    before = original.state_dict()
    linear = {
        f"{name}.weight": name for name, module in original.named_modules() if isinstance(module, torch.nn.Linear)
    }
    factors: Factors = {}
    whole = lacking = elsewhere = 0.0
    for done, (name, tensor) in enumerate(after.items()):
        change = tensor.detach().double() - (before[name].double() if name in before else 0)
        square = float(change.square().sum())
        whole += square
        if square and name in linear:
            u, s, vh = torch.linalg.svd(change, full_matrices=False)
            root = s[:rank].sqrt()
            factors[linear[name]] = ((root[:, None] * vh[:rank]).float(), (u[:, :rank] * root).float())
            lacking += float(s[rank:].square().sum())
        elif square:
            elsewhere += square
        emit(Progress(done + 1, len(after)))
    if not whole:
        return {}, {"lost": 0.0, "lost_elsewhere": 0.0}
    return factors, {"lost": math.sqrt((lacking + elsewhere) / whole), "lost_elsewhere": math.sqrt(elsewhere / whole)}


def _adapted(original: Any, factors: Factors, rank: int) -> Any:
    """Return the base with an adapter that has these factors. A layer of fewer singular values keeps zeros."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(factors))
    model = get_peft_model(original, config)
    with torch.no_grad():
        for name, (a, b) in factors.items():
            layer = model.base_model.model.get_submodule(name)
            for parameter, value in ((layer.lora_A["default"].weight, a), (layer.lora_B["default"].weight, b)):
                parameter.zero_()
                parameter[tuple(slice(0, size) for size in value.shape)] = value.to(parameter.dtype)
    return model


def _card(run: Trained, rank: int, lost: Mapping[str, float]) -> str:
    model = run.record.config["model"]
    parts = [
        model_card.front_matter(model, "peft", ["lora"]),
        f"# {escaped(run.record.method)} of {escaped(model['name'])} as LoRA of rank {rank}",
        f"Cut from a run's merged update by its singular values: {100 * lost['lost']:.3g} % of its norm is lost. The "
        "scores of the run are not those of this adapter.",
        "## Base model\n\n" + model_card.base_lines(model),
    ]
    return "\n\n".join(parts) + "\n"
