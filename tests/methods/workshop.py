"""A tiny model to try methods on, and which methods there are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.methods.base import Method, Setting
from harness.records.settings import ModelSpec, TrainSpec
from harness.sources import models
from harness.sources.packages import conf_dir

NAMES = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
# what a two-layer model of width 64 needs where the published setting is for a large one
SMALL: dict[str, list[str]] = {
    "vera": ["method.r=64"],
    "llama_adapter": ["method.adapter_layers=2"],
    "alora": ["method.invocation=null"],  # the workshop's rows hold the template's header
}


@dataclass(frozen=True)
class Workshop:
    """A tiny base model, and what it takes to attach and train a method on it."""

    folder: Path
    tokenizer: Any
    rows: list[dict[str, list[int]]]

    def load(self, method: Method) -> Any:
        """A fresh base, as the method wants it held."""
        return models.load(self.spec, method.load_options(torch.float32))

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(name="tiny", source="path", path=str(self.folder), content="tiny")

    def setting(self, seed: int = 0, steps: int = 4) -> Setting:
        return Setting(
            total_steps=steps, compute_dtype=torch.float32, tokenizer=self.tokenizer, seed=seed, max_length=64,
            rows=self.rows, model_content="tiny", original=lambda: models.load(self.spec, {"dtype": torch.float32}),
        )  # fmt: skip

    def attach(self, method: Method, seed: int = 0, steps: int = 4) -> Any:
        """A fresh base with the method attached, as a run does it."""
        import transformers

        transformers.set_seed(seed)
        return method.attach(self.load(method), self.setting(seed, steps))

    def training(self, steps: int, lr: float) -> TrainSpec:
        """All rows in one step, at a constant rate."""
        return TrainSpec(
            lr=lr, max_steps=steps, epochs=None, global_batch_size=len(self.rows), micro_batch_size=len(self.rows),
            max_length=64, lr_scheduler_type="constant", warmup_steps=0.0, weight_decay=0.0, max_grad_norm=1.0,
            gradient_checkpointing=False, precision="fp32", loss_on="completion", group_by_length=False,
            eval_every=None,
        )  # fmt: skip

    def train(self, model: Any, method: Method, steps: int, lr: float, seed: int = 0) -> list[float]:
        """Train on all rows at once; returns the losses."""
        from harness.train.loop import Job, train

        job = Job(
            model=model, method=method, rows=self.rows, spec=self.training(steps, lr), seed=seed,
            tokenizer=self.tokenizer, validate=lambda: 0.0, emit=lambda _: None, scratch=str(self.folder / "scratch"),
        )  # fmt: skip
        return list(train(job).losses)

    def logits(self, model: Any) -> torch.Tensor:
        """Logits of all rows, padded, on the right, with what is padding set to zero."""
        longest = max(len(row["input_ids"]) for row in self.rows)
        ids = torch.tensor([row["input_ids"] + [3] * (longest - len(row["input_ids"])) for row in self.rows])
        mask = torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in self.rows]
        )
        model.eval()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[:, -longest:].float() * mask[..., None]


def on(folder: Path) -> Workshop:
    """A workshop with the model in `folder`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for number in range(4):
        prompt = tokenizer(f"<assistant>Say {chr(97 + number)}{'!' * number}:", add_special_tokens=False)["input_ids"]
        answer = tokenizer(f" {chr(97 + number) * 3}", add_special_tokens=False)["input_ids"]
        rows.append({"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)})
    return Workshop(folder, tokenizer, rows)


def trained_names(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def replaced(method: Method, **fields: Any) -> Method:
    return dataclasses.replace(method, **fields)
