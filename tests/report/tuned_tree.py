"""A tuned sweep whose report has something in every place: seeds, tasks, failures, prices, energy, use, other rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from harness.records import data_check, record
from tests.report.conftest import BASE, DORA, IA3, LORA, STARTED, Kind, add_evaluation, add_run, evaluation, provenance

SCALES = ("0.3", "1", "3")
SEEDS = (0, 1, 2, 3, 4, 5)
# method -> how good each of its trials is; None: it diverged. The best of dora and of ia3 lie at an end.
SKILLS = {
    "lora": (0.2, 0.5, 0.3),
    "dora": (0.2, 0.3, 0.52),
    "ia3": (0.05, None, 0.02),
    "full": (0.3, 0.46, 0.2),
    "prompt": (-0.9, -0.78, -0.8),
    "vera": (None, None, None),
}
KINDS = {
    "lora": LORA,
    "dora": dataclasses.replace(DORA, parameters=5_040_000),
    "ia3": IA3,
    "full": Kind(name="full", lr=2e-5, parameters=134_515_008, peak=2_900 * 2**20, speed=96.0),
    "prompt": Kind(name="prompt", settings={"num_virtual_tokens": 20}, lr=1e-2, parameters=11_520, peak=1_190 * 2**20),
    "vera": Kind(name="vera", settings={"r": 256, "target": "attention_qv"}, lr=3e-3, parameters=180_224),
}
# Counts of which no mean over six seeds ends in a five behind the digits that are shown: rounding is never a tie.
LIMITS = {"arc_easy": 118, "arc_challenge": 90, "openbookqa": 82, "piqa": 100, "hellaswag": 100}
TASKS = tuple(dataclasses.replace(evaluation(name, limit=limit), role="target") for name, limit in LIMITS.items())
TASKS = (*TASKS[:-1], dataclasses.replace(TASKS[-1], role="retention"))
TEXT = dataclasses.replace(TASKS[0], kind="text", task="general_text", role="retention", limit=40)
VALIDATION, TEST = evaluation("validation"), evaluation("test")
CHECK = "c0ffee00"


def named(method: str, rate: float | None, status: str, seed: int) -> str:
    """What the report calls a line."""
    if method in ("dora", "ia3"):
        return f"{method} (undertuned)"
    return method


def build(runs: Path) -> Path:
    cells, choices = [], []
    for seed in SEEDS:  # asked for with every seed, and of one kind only
        cells.append(_cell("base", (f"seed={seed}",), _finished(runs, BASE, 0), 0, "final", (*_looks(), TEXT)))
    for name, skills in SKILLS.items():
        tried = [_trial(runs, name, scale, skill) for scale, skill in zip(SCALES, skills, strict=True)]
        cells += [
            _cell(name, (f"lr_scale={scale}", "seed=0"), folder, 0, "tune", (VALIDATION,))
            for scale, folder in zip(SCALES, tried, strict=True)
        ]
        known = [(skill, place) for place, skill in enumerate(skills) if skill is not None]
        chosen = tried[max(known)[1]].parent.name if known else None
        choices.append(record.Choice(contestant=f"method={name}", recipe_id=chosen, reason="so"))
        for seed in SEEDS if known else ():
            skill, place = max(known)
            kind, lost = _kind(name, SCALES[place], skill), name == "full" and seed == 5
            folder = _too_large(runs, kind, seed) if lost else _finished(runs, kind, seed)
            words = (f"lr_scale={SCALES[place]}", f"seed={seed}")
            cells.append(_cell(name, words, folder, seed, "final", (*_looks(), TEXT)))
    record.write(_sweep(tuple(cells), tuple(choices)), runs / "sweeps" / "tuned" / "sweep.json")
    _beside(runs)
    return runs


def _kind(name: str, scale: str, skill: float | None) -> Kind:
    kind = KINDS[name]
    return dataclasses.replace(kind, lr=round((kind.lr or 0.0) * float(scale), 10), skill=skill or 0.0)


def _looks() -> tuple:
    return (VALIDATION, TEST, *TASKS)


def _trial(runs: Path, name: str, scale: str, skill: float | None) -> Path:
    kind = _kind(name, scale, skill)
    folder = add_run(
        runs, kind, status="diverged" if skill is None else "ok", reason="loss 9.5" if skill is None else ""
    )
    _rewritten(folder / "record.json", lambda found: _timed(found, kind, 0))
    if skill is not None:
        add_evaluation(folder, kind, VALIDATION)
    return folder


def _too_large(runs: Path, kind: Kind, seed: int) -> Path:
    folder = add_run(runs, kind, seed, "oom", "out of memory at step 31")
    _rewritten(folder / "record.json", lambda found: found["attempts"][-1].update(peak_memory_bytes=2_500 * 2**20))
    return folder


def _finished(runs: Path, kind: Kind, seed: int) -> Path:
    """A run with everything that is measured, and all its evaluations."""
    folder = add_run(runs, kind, seed)
    _rewritten(folder / "record.json", lambda found: _measured(found, kind, seed))
    for look in _looks():
        path = add_evaluation(folder, kind, look, seed)
        _rewritten(path, lambda found: found.update(seconds=found["seconds"] + seed))
        if look.task == "arc_easy":
            _rewritten(path, lambda found: found["metrics"]["acc"].update(chance=0.25))
    _add_text(folder, kind, seed)
    return folder


def _measured(found: dict, kind: Kind, seed: int) -> None:
    """Times, energy, operations, a price, and what went on beside."""
    _timed(found, kind, seed)
    found["config"]["price_per_device_hour"] = 2.5
    attempt = found["attempts"][-1]
    attempt["peak_memory_bytes"] += seed * 2**20
    if kind.name == "base":
        return
    attempt["data"]["check"] = CHECK
    attempt["fingerprint"]["mergeable"] = kind.name != "prompt"
    flops = int(2e9 * kind.speed)
    attempt["training"].update(
        step_seconds=[round(1 + 0.01 * ((step * 7 + seed + len(kind.name)) % 13), 4) for step in range(60)],
        train_seconds=attempt["training"]["train_seconds"] + seed,
        profile={
            "step": 5, "micro_batches": [[8, 29]], "flops": flops, "live_peak_bytes": 9, "live_bytes": {"weights": 9},
        },
        flops_per_second=1e9 * (kind.speed + seed),
        device_peak={"flops_per_second": 8.1e11, "dtype": "float32", "source": "a matrix product", "doubt": ""},
        mfu=(kind.speed + seed) / 810,
    )  # fmt: skip
    train = attempt["phases"]["train"]
    train["energy_joules"] = 1000 * train["seconds"] + 10 * seed + len(kind.name)
    if (kind.name, seed) == ("lora", 2):
        train["conditions"] = {"cpu_cores": 2, "other_cpu_cores": 0.73}
    if (kind.name, seed) == ("ia3", 1):
        train["conditions"] = {"cpu_cores": 2, "throttled_seconds": 1.25}
    if (kind.name, seed) == ("lora", 1):
        lost = {**attempt, "status": "oom", "reason": "no memory", "training": None, "phases": {}, "seconds": 321.0}
        found["attempts"].insert(0, {**lost, "weights_from": None, "peak_memory_bytes": None, "fingerprint": None})


def _timed(found: dict, kind: Kind, seed: int) -> None:
    attempt = found["attempts"][-1]
    attempt["seconds"] = 200.5 + 31 * seed + 7 * len(kind.name)
    if attempt["status"] == "ok":
        phases = attempt["phases"]
        phases["load"]["seconds"] = 3.25 + seed
        phases["evaluate"] = {**phases["load"], "seconds": 90.0 + seed, "conditions": None}
    if attempt["status"] == "ok" and kind.name != "base":
        phases["train"]["seconds"] = round(70.5 + 2 * seed + len(kind.name) + 1e4 * (kind.lr or 0), 3)
        phases["validate"] = {**phases["load"], "seconds": 4.5 + seed}


def _add_text(folder: Path, kind: Kind, seed: int) -> None:
    losses = 3.0 + np.random.default_rng([len(kind.name), seed]).normal(0, 0.05, 40) + kind.skill / 10
    result = record.EvaluationRecord(
        schema=record.SCHEMA, recipe_id=folder.parent.name, seed=seed, eval_id=TEXT.eval_id,
        evaluation=dataclasses.asdict(TEXT), num_items=40, num_tokens=None, num_fewshot=None, seconds=2.0,
        metrics={"loss": record.Metric(value=float(losses.mean()), stderr=0.01, higher_is_better=False)},
        weights_from=None if kind is BASE else STARTED.format(len(kind.name) + 10 * seed), provenance=provenance(),
    )  # fmt: skip
    path = record.write(result, record.evaluation_path(folder, TEXT.eval_id))
    names = [f"t{i:02}" for i in range(40)]
    columns = {"item_id": names, "prompt_hash": names, "metric/loss": losses}
    parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))


def _cell(name: str, words: tuple[str, ...], folder: Path, seed: int, stage: str, looks: tuple) -> record.Cell:
    return record.Cell(
        overrides=(f"method={name}", *words), method=name, recipe_id=folder.parent.name, seed=seed, stage=stage,
        contestant=f"method={name}" if name != "base" else None, eval_ids=tuple(look.eval_id for look in looks),
    )  # fmt: skip


def _sweep(cells: tuple, choices: tuple) -> record.SweepRecord:
    return record.SweepRecord(
        schema=record.SCHEMA, name="tuned", question="Which method?", command="python -m harness -m sweep=tuned r=16",
        cells=cells, arguments=("sweep=tuned",), primary="arc_easy/acc", varies=("method", "train.lr"),
        tuning=record.Tuning(
            rule="lowest_validation_loss", settings=("lr_scale",), seeds=(0,), final_seeds=SEEDS, trials=len(SCALES),
            choices=choices,
        ),
    )  # fmt: skip


def _beside(runs: Path) -> None:
    """What lies beside the runs: a check of the data, rows of others, what using a result costs, a run made again."""
    near = data_check.Near(threshold=0.7, rows_looked_at=1_232, rows=1_232, found=17, across_validation=0, examples=())
    found = {"in_test": 3, "too_long": 1}
    check = data_check.DataCheck(
        schema=record.SCHEMA, check_id=CHECK, data="science_qa", content="5a5a5a5a", model="smollm2-135m",
        data_license="CC-BY-SA-4.0", model_license="Apache-2.0", sources=(), given_rows=1_506, train_rows=1_232,
        validation_rows=120, test_rows=150, removed=found, problems=(), contradictions=(2, 5), near=near, ngram=13,
        shortest_ngram=5, overlaps=(), lengths=(), balance=data_check.Balance(answers=9, most_common=(), topics=()),
        loss_on="completion", template=None, tokenizer={}, notices=(), refusals=(),
    )  # fmt: skip
    record.write(check, data_check.path(runs, CHECK))
    for place, decay in enumerate((0.1, 0.0)):
        record.write(_external(f"lora-r{32 << place}", place, decay), runs / "external" / f"theirs-{place}.json")
    for path in sorted(runs.glob("*/seed-[01]/record.json")):
        run = json.loads(path.read_text())
        if run["method"] in ("lora", "dora") and (path.parent / "evaluations" / f"{TEXT.eval_id}.json").is_file():
            record.write(_inference(run), path.parent / "inference.json")
        if run["method"] == "full" and run["seed"] == 0 and len([*path.parent.glob("evaluations/*.json")]) > 1:
            _replaced(path.parent)


def _external(name: str, place: int, decay: float) -> record.ExternalRecord:
    score = record.Metric(value=0.471 + place / 50, stderr=0.0137, higher_is_better=True)
    return record.ExternalRecord(
        schema=record.SCHEMA, origin="Somebody's benchmark", name=name, method="LORA", status="success", seeds=1,
        facts={"train_config.optimizer_kwargs.weight_decay": decay}, scores={"arc_easy/accuracy": score},
        trainable_parameters=9_175_040 << place, total_parameters=10**8, peak_memory_bytes=1_536 * 2**20,
        train_seconds=585.0 + place, saved_bytes=36_712_640, published_at="2026-01-01",
    )  # fmt: skip


def _inference(run: dict) -> record.InferenceRecord:
    seed, slow = run["seed"], 1 + len(run["method"]) / 10
    speeds = tuple(
        record.Speed(
            batch_size=rows, prompt_tokens=64, new_tokens=32,
            time_to_first_token_seconds=0.041 * slow * rows + seed / 50,
            tokens_per_second=23.5 * rows / slow + seed,
        )
        for rows in (1, 8)
    )  # fmt: skip
    served = {
        name: record.Served(
            weight_bytes=538_000_000 + place * 19_000_000, peak_memory_bytes=700_000_000 + seed * 2**20, speeds=speeds,
            num_outputs=64, empty_outputs=seed, looping_outputs=5 + seed,
        )
        for place, name in enumerate(("plain", "attached", "merged"))
    }  # fmt: skip
    return record.InferenceRecord(
        schema=record.SCHEMA, recipe_id=run["recipe_id"], seed=seed, settings={}, precision="fp32", served=served,
        weights_from=run["attempts"][-1]["weights_from"], unmerged_reason="", equal_outputs=61 + seed, alone_reason="",
        further=record.FurtherAdapters(num_adapters=2, bytes_per_adapter=19_537_920, switch_seconds=0.0042),
        provenance=provenance(),
    )  # fmt: skip


def _replaced(folder: Path) -> None:
    """The evaluations of the weights before, a little worse and made with another commit."""
    for path in sorted((folder / "evaluations").glob("*.json")):
        found = json.loads(path.read_text())
        for metric in found["metrics"].values():
            metric["value"] -= 0.0125
        found["provenance"]["commit"] = "9" * 40
        record.write_text(json.dumps(found), folder / "earlier" / "1" / path.name)


def _rewritten(path: Path, change: Callable[[dict], None]) -> None:
    found = json.loads(path.read_text())
    change(found)
    record.write_text(json.dumps(found), path)
