"""Conversion of any update that can be merged into a LoRA adapter on disk, with what is lost by it."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from harness.records.events import Emit, PhaseStarted
from harness.records.record import Conversion, write_text
from harness.records.untrusted import escaped
from harness.run import converted, model_card
from harness.sources import models


def convert(folder: Path, rank: int, base: Sequence[str], out: Path, emit: Emit) -> dict[str, Any]:
    """Write the update of a run as a LoRA adapter of PEFT's, and return what is lost.

    Returns:
        `run`; `out`; `layers`, the number of layers that the adapter has; `rank`; the fields of a `Conversion`; and
        the largest difference of logits from the run's own model.

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
    factors, made = converted.cut(original, dict(merged(run).named_parameters()), rank, emit)
    if not factors:
        raise ValueError(f"{folder}: no linear layer was changed, and LoRA holds changes of linear layers alone")
    emit(PhaseStarted("writing"))
    model = converted.adapted(original, factors, rank)
    with whole_folder(out) as temporary:
        model.save_pretrained(str(temporary))
        model_card.name_base(temporary, run.record.config["model"])
        write_text(_card(run, rank, made), temporary / model_card.CARD)
    facts = {"run": str(folder), "out": str(out), "layers": len(factors), "rank": rank, **dataclasses.asdict(made)}
    return {**facts, **compare(before, logits(model.eval(), tokenizer))}


def _card(run: Trained, rank: int, made: Conversion) -> str:
    model = run.record.config["model"]
    weights = f"converted-r{rank}"
    scores = [s for s in model_card.scores(run.folder, run.record) if model_card.weights_of(s) == weights]
    parts = [
        model_card.front_matter(model, "peft", ["lora"]),
        f"# {escaped(run.record.method)} of {escaped(model['name'])} as LoRA of rank {rank}",
        f"Cut from a run's merged update by its singular values: {100 * made.lost:.3g} % of its norm is lost. The "
        "scores of the run are not those of this adapter.",
        "## Base model\n\n" + model_card.base_lines(model),
        "## Scores\n\n" + model_card.score_table(scores),
    ]
    return "\n\n".join(parts) + "\n"
