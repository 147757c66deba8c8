"""Export of a run as a plain model: a Hugging Face folder or a GGUF file, compared with the evaluated model."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from harness.adapter import gguf
from harness.adapter.load import (
    Trained,
    attached,
    compare,
    download,
    dtype,
    find,
    logits,
    merged,
    on_base,
    quantization,
    whole_folder,
)
from harness.records.events import Emit, PhaseStarted
from harness.records.record import write_text
from harness.run import model_card
from harness.sources import models


def merge(folder: Path, base: Sequence[str], out: Path, form: str, emit: Emit) -> dict[str, Any]:
    """Write the merged model and return how far its logits are from those of the attached model.

    Raises:
        ValueError: the base differs, the method cannot be merged, or the format cannot hold the model.
    """
    run = on_base(find(folder), base)
    download(run)
    tokenizer = models.tokenizer(run.experiment.model)
    emit(PhaseStarted("attached"))
    trained = attached(run)
    before = logits(trained, tokenizer)
    del trained
    gc.collect()
    emit(PhaseStarted("merging"))
    plain = merged(run).to(dtype(run))
    plain.config.use_cache = True
    with whole_folder(out) as temporary:
        if form == "gguf":
            gguf.write(plain, tokenizer, temporary / gguf.FILE, run.experiment.model)
        else:
            plain.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        kept_config = plain.config
        del plain
        gc.collect()
        emit(PhaseStarted("reading"))
        result = _read_back(temporary, form, run, kept_config, tokenizer)
        difference = {**compare(before, result["logits"]), **result["facts"]}
        write_text(_card(run, form), temporary / model_card.CARD)
    return {"quantized_base": bool(quantization(run)), "dtype": str(dtype(run)).removeprefix("torch."), **difference}


def _read_back(folder: Path, form: str, run: Trained, config: Any, tokenizer: Any) -> dict[str, Any]:
    """Return the logits of the written model, and for GGUF the agreement of its tokenizer on the prompts."""
    if form == "gguf":
        return gguf.read_back(folder / gguf.FILE, dtype(run), config, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype(run)).eval()
    return {"logits": logits(model, tokenizer), "facts": {}}


def _card(run: Trained, form: str) -> str:
    how = "`AutoModelForCausalLM.from_pretrained(folder)`"
    if form == "gguf":
        how = f"llama.cpp, or `AutoModelForCausalLM.from_pretrained(folder, gguf_file={gguf.FILE!r})`"
    use = f"The update is merged into the base's weights: a plain model, for {how}."
    of_this_model = ("merged",) if quantization(run) else ("merged", "attached")
    scores = [
        score for score in model_card.scores(run.folder, run.record) if model_card.weights_of(score) in of_this_model
    ]
    if quantization(run):
        use += (
            " It was trained beside a quantized base, which was dequantized before merging: this is another model than "
            "the attached one. The scores below are of merged weights (eval.weights=merged), or there are none."
        )
    library = "gguf" if form == "gguf" else "transformers"
    return model_card.text(run.record, scores, library, use)
