"""Many records as runs leave them, made with fixed seeds, to see how reports do at a size that takes weeks to train."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from harness.config.experiment import Evaluation, digest
from harness.records import record

STARTED = "2026-01-01T12:00:00.000+00:00"
STEPS = 100
METHODS = ("lora", "dora", "qlora", "ia3", "vera", "full", "prefix", "prompt", "bitfit", "ln_tuning")
PROVENANCE = {
    "harness": "0.1.0", "commit": "0" * 40, "uncommitted_changes": False, "python": "3.11.7", "device": "cpu",
    "versions": {"torch": "2.13.0"}, "system": "Linux x86_64", "device_name": "Some CPU", "num_processes": 1,
    "command": "python -m harness -m method=...",
}  # fmt: skip
TRAIN = {
    "max_steps": STEPS, "epochs": None, "global_batch_size": 8, "micro_batch_size": 8, "max_length": 256,
    "lr_scheduler_type": "linear", "warmup_steps": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "precision": "fp32", "loss_on": "completion", "group_by_length": True,
}  # fmt: skip
MODEL = {"name": "smollm2-135m", "content": "bcc81830"}
CONFIG = {"model": {**MODEL, "source": "package"}, "data": {"name": "science_qa"}, "eval": {"tasks": ["arc_easy"]}}
TASK = Evaluation(
    kind="lm_eval", task="arc_easy", role="target", rows="package", limit=None, num_fewshot=0, chat_template=False,
    precision="fp32", batch_size=16,
)  # fmt: skip
VALIDATION = dataclasses.replace(
    TASK, kind="heldout", task="science_qa/validation", role="validation", num_fewshot=None
)


def write(runs: Path, recipes: int, seeds: int, items: int) -> Path:
    """So many recipes of ten methods, with so many seeds, and the untouched model; each asked so many items.

    With no items there are records of runs alone.
    """
    _run(runs, {"model": MODEL, "method": {"name": "base"}, "data": None, "train": None}, 0, 0.0, items)
    for index in range(recipes):
        method, place = METHODS[index % len(METHODS)], index // len(METHODS)
        rate = float(f"{1e-4 * 1.2 ** (place % 12):.3g}")
        settings = {"name": method, "lr": rate, "r": 2 + place // 12, "lora_alpha": 16}
        data = {"name": "science_qa", "content": "5a5a5a5a"}
        recipe = {"model": MODEL, "method": settings, "data": data, "train": {"lr": rate, **TRAIN}}
        for seed in range(seeds):
            _run(runs, recipe, seed, 0.3 * (index % 37) / 37, items)
    return runs


def _run(runs: Path, recipe: dict, seed: int, skill: float, items: int) -> None:
    method = recipe["method"]["name"]
    trains = method != "base"
    random = np.random.default_rng([int(digest(recipe), 16) % 2**32, seed])
    result = record.RunRecord(
        schema=record.SCHEMA, recipe_id=digest(recipe), seed=seed, method=method, recipe=recipe, config=CONFIG,
        attempts=(_attempt(random, skill, trains),),
    )  # fmt: skip
    folder = runs / result.recipe_id / f"seed-{seed}"
    record.write(result, folder / "record.json")
    for look in (TASK, VALIDATION) if items else ():
        _evaluation(folder, look, _columns(look, skill, random, items), trains)


def _attempt(random: np.random.Generator, skill: float, trains: bool) -> record.Attempt:
    peak = int(2**30 * (1 + skill + 0.1 * random.uniform()))
    phase = record.Phase(seconds=3.0, peak_memory_bytes=peak, peak_reserved_bytes=None, resident_bytes=6 * 10**8)
    parameters = int(10**6 * (1 + 9 * skill))
    fingerprint = record.Fingerprint(
        trained={"layers.0.lora_A": ((16, 576), "float32")}, trainable_parameters=parameters,
        expected_trainable_parameters=parameters, total_parameters=134_515_008 + parameters, saved_bytes=4 * parameters,
    )  # fmt: skip
    losses = 1.4 - skill + 0.4 * np.exp(-np.arange(STEPS) / 30) + random.normal(0, 0.05, STEPS)
    training = record.Training(
        step_seconds=(1.1,) * STEPS, real_tokens=(214,) * STEPS, padded_tokens=(230,) * STEPS,
        trained_tokens=(32,) * STEPS, losses=tuple(round(float(one), 6) for one in losses),
        gradient_norms=(0.9,) * STEPS, learning_rates=(1e-4,) * STEPS,
        validation=((50, round(1.5 - skill / 2, 6)), (100, round(1.4 - skill, 6))), warmup_steps_dropped=5,
        tokens_per_second=180.0, train_seconds=110.0,
    )  # fmt: skip
    return record.Attempt(
        started_at=STARTED, status="ok", reason="", phases={"load": phase, **({"train": phase} if trains else {})},
        data=None, fingerprint=fingerprint if trains else None, training=training if trains else None,
        peak_memory_bytes=peak, weights_from=STARTED if trains else None, provenance=PROVENANCE,
    )  # fmt: skip


def _columns(look: Evaluation, skill: float, random: np.random.Generator, items: int) -> dict[str, np.ndarray]:
    """Items that are equally hard for every run."""
    hard = np.random.default_rng(items).uniform(size=items)
    names = np.array([f"{look.task}-{i}" for i in range(items)])
    columns = {"item_id": names, "prompt_hash": np.array([f"{i:08x}" for i in range(items)])}
    if look.kind == "heldout":
        tokens = 2 + (hard * 9).astype(int)
        return {**columns, "metric/nll": tokens * (1.4 - skill + random.normal(0, 0.1, items)), "num_tokens": tokens}
    right = (hard + random.normal(0, 0.1, items) < 0.5 + skill / 2).astype(float)
    return {**columns, "metric/acc": right}


def _evaluation(folder: Path, look: Evaluation, columns: dict[str, np.ndarray], trains: bool) -> None:
    heldout = look.kind == "heldout"
    name = "loss" if heldout else "acc"
    values = columns["metric/nll" if heldout else "metric/acc"]
    value = float(values.sum() / columns["num_tokens"].sum() if heldout else values.mean())
    result = record.EvaluationRecord(
        schema=record.SCHEMA, recipe_id=folder.parent.name, seed=int(folder.name.removeprefix("seed-")),
        eval_id=look.eval_id, evaluation=json.loads(json.dumps(dataclasses.asdict(look))),
        metrics={name: record.Metric(value=value, stderr=None, higher_is_better=not heldout)}, num_items=len(values),
        num_tokens=int(columns["num_tokens"].sum()) if heldout else None, num_fewshot=None if heldout else 0,
        seconds=20.0, weights_from=STARTED if trains else None, provenance=PROVENANCE,
    )  # fmt: skip
    path = record.write(result, record.evaluation_path(folder, look.eval_id))
    parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))
