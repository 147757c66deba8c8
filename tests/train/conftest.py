"""Training jobs on the tiny model, and the same training written by hand in plain PyTorch."""

from __future__ import annotations

import random

import pytest

END = 2  # the tiny tokenizer's end-of-sequence token


def random_rows(number, seed=0, shortest=6, longest=24):
    """Rows of unlike length, a third of each learnt, the last token the end-of-sequence token."""
    source = random.Random(seed)
    rows = []
    for _ in range(number):
        length = source.randint(shortest, longest)
        ids = [source.randrange(4, 260) for _ in range(length - 1)] + [END]
        prompt = length - length // 3
        rows.append({"input_ids": ids, "completion_mask": [0] * prompt + [1] * (length - prompt)})
    return rows


SMALL = {
    "max_steps": 4, "epochs": "null", "global_batch_size": 8, "micro_batch_size": 8, "max_length": 64, "lr": 1e-2,
    "lr_scheduler_type": "linear", "warmup_steps": 0.25, "weight_decay": 0.1, "precision": "fp32",
    "gradient_checkpointing": "false",
}  # fmt: skip
ADAPTER = ("method.r=4", "method.lora_alpha=8", "method.lora_dropout=0")


@pytest.fixture(scope="session")
def experiment(compose, tiny_model):
    """An experiment on the tiny model: overrides of the method, and settings of the train group."""
    from harness.config import config

    def made(*overrides, method="lora", **train):
        settings = [f"train.{key}={value}" for key, value in (SMALL | train).items()]
        small = ADAPTER if method in ("lora", "qlora", "dora") else ()
        model = ("model.source=path", f"model.path={tiny_model}", "model.name=tiny")
        return config.build(compose(*model, f"method={method}", *small, *settings, *overrides))

    return made


@pytest.fixture
def job(experiment, tmp_path):
    """Make a job: as `experiment`, with seed, rows, validate and emit, and a method to put in place of the composed."""
    import transformers

    from harness.run import worker
    from harness.sources import models
    from harness.train.loop import Job, compute_dtype

    def made(*overrides, seed=0, rows=None, validate=lambda: 0.0, emit=lambda event: None, instead=None, **settings):
        described, rows = experiment(*overrides, f"seed={seed}", **settings), rows or random_rows(20)
        method = instead(**vars(described.method)) if instead else described.method
        tokenizer = models.tokenizer(described.model)
        transformers.set_seed(seed)
        base = models.load(described.model, method.load_options(compute_dtype(described.train.precision)))
        model = method.attach(base, worker.setting(described, tokenizer, rows))
        return Job(
            model=model, method=method, rows=rows, spec=described.train, seed=seed, tokenizer=tokenizer,
            validate=validate, emit=emit, scratch=str(tmp_path / "trainer"), sharding=described.launch.sharding,
        )  # fmt: skip

    return made


@pytest.fixture(scope="session")
def batch():
    """Pad rows on the right: input ids, attention mask and labels."""
    import torch

    def made(rows):
        longest = max(len(row["input_ids"]) for row in rows)
        ids, mask, labels = [], [], []
        for row in rows:
            rest = longest - len(row["input_ids"])
            learnt = zip(row["input_ids"], row["completion_mask"], strict=True)
            ids.append(row["input_ids"] + [END] * rest)
            mask.append([1] * len(row["input_ids"]) + [0] * rest)
            labels.append([token if keep else -100 for token, keep in learnt] + [-100] * rest)
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "labels": torch.tensor(labels),
        }

    return made


@pytest.fixture(scope="session")
def rows():
    return random_rows
