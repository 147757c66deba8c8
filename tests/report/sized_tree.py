"""Records of as many methods as a test wants, and of a sweep over the rank."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from harness.records import record
from tests.report.conftest import BASE, DORA, LORA, Kind, add_evaluation, add_run, evaluation

NAMES = (
    "lora", "full", "dora", "qlora", "adapter", "prefix", "vera", "ia3", "prompt", "adalora", "bitfit", "p_tuning",
    "lora_plus", "galore", "loftq", "lora_fa", "ln_tuning", "oft", "boft", "hra", "fourierft", "vblora", "xlora",
    "randlora",
)  # fmt: skip
TASKS = {"arc_easy": 300, "arc_challenge": 120, "openbookqa": 120, "piqa": 120}  # and the items of each
SEEDS = (0, 1)
RANKS = (2, 4, 8, 16, 32, 64)


def kinds(count: int) -> list[Kind]:
    """Methods that differ in everything that a figure shows; two are close in memory and in score."""
    rng = np.random.default_rng(5)
    skills = [0.5, 0.55, 0.51, *rng.uniform(0.05, 0.5, count)]
    return [
        Kind(
            name=name, settings={"target": "all_linear"}, lr=3e-4, skill=round(float(skills[place]), 3),
            parameters=int(10 ** rng.uniform(4.5, 8)), peak=int(rng.uniform(1150, 2900)) * 2**20,
            speed=round(float(rng.uniform(90, 180)), 1),
        )
        for place, name in enumerate(NAMES[:count])
    ]  # fmt: skip


def rank_kinds() -> list[Kind]:
    """LoRA and DoRA at six ranks with alpha twice the rank, and LoRA with alpha 16: they meet at rank 8."""
    made = []
    for kind, alphas in ((LORA, (2, None)), (DORA, (2,))):
        for place, rank in enumerate(RANKS):
            for alpha in dict.fromkeys(times * rank if times else 16 for times in alphas):
                settings = {"r": rank, "lora_alpha": alpha, "target": "all_linear"}
                skill = 0.55 - 0.35 * 0.5**place + alpha / 1e4
                made.append(dataclasses.replace(kind, settings=settings, skill=skill, parameters=305_280 * rank))
    return made


def build(runs: Path, methods: list[Kind], name: str = "sized") -> Path:
    """Write the records of the untouched model and of these methods, and of the sweep that asked for them."""
    looks = [
        evaluation("validation"),
        *(dataclasses.replace(evaluation(task, limit=limit), role="target") for task, limit in TASKS.items()),
        evaluation("hellaswag"),
    ]
    cells = []
    for kind in (BASE, *methods):
        for seed in SEEDS[:1] if kind is BASE else SEEDS:
            folder = add_run(runs, kind, seed)
            for look in looks:
                add_evaluation(folder, kind, look, seed)
            ids = tuple(look.eval_id for look in looks)
            words = (f"method={kind.name}", *(f"method.{key}={value}" for key, value in kind.settings.items()))
            cells.append(record.Cell(overrides=words, method=kind.name, recipe_id=folder.parent.name, seed=seed,
                                     eval_ids=ids))  # fmt: skip
    sweep = record.SweepRecord(
        schema=record.SCHEMA, name=name, question="Which method?", command=f"python -m harness -m sweep={name}",
        cells=tuple(cells), primary="arc_easy/acc", varies=("method", "train.lr"),
    )  # fmt: skip
    record.write(sweep, runs / "sweeps" / name / "sweep.json")
    return runs
