"""The records of a sweep as they lie on the disk: json and pyarrow, and nothing of the program that wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pyarrow import parquet

CONF = Path(__file__).parents[2] / "conf"

Named = Callable[[str, float | None, str, int], str]  # method, learning rate, status, seed -> how a page calls it


@dataclass(frozen=True)
class Look:
    """An evaluation and its items by their ids."""

    record: dict[str, Any]
    items: dict[str, np.ndarray]

    @property
    def task(self) -> str:
        return self.record["evaluation"]["task"]

    @property
    def role(self) -> str:
        return self.record["evaluation"]["role"]

    @property
    def is_loss(self) -> bool:
        return self.record["evaluation"]["kind"] in ("heldout", "text")

    @property
    def weights(self) -> np.ndarray:
        return self.items.get("num_tokens", np.ones(len(self.items["item_id"]))).astype(float)

    def outcomes(self, metric: str) -> np.ndarray:
        name = "nll" if metric == "loss" and self.record["evaluation"]["kind"] == "heldout" else metric
        return self.items[f"metric/{name}"].astype(float)


@dataclass(frozen=True)
class Run:
    """A run; `record` is None where a sweep asked for it and it never began."""

    method: str
    recipe_id: str
    seed: int
    record: dict[str, Any] | None
    looks: dict[str, Look] = field(default_factory=dict)
    inference: dict[str, Any] | None = None

    @property
    def attempt(self) -> dict[str, Any]:
        return self.record["attempts"][-1] if self.record else {}

    @property
    def status(self) -> str:
        return self.attempt.get("status", "missing")

    @property
    def rate(self) -> float | None:
        return ((self.record or {}).get("recipe", {}).get("train") or {}).get("lr")


@dataclass(frozen=True)
class Line:
    """The runs of one line of a page: all seeds of a recipe that completed, or all of one where none did."""

    label: str
    runs: tuple[Run, ...]
    failed: tuple[Run, ...] = ()  # other seeds of the recipe

    @property
    def ok(self) -> bool:
        return self.runs[0].status == "ok"

    @property
    def every(self) -> tuple[Run, ...]:
        return (*self.runs, *self.failed)

    @property
    def lost(self) -> tuple[Run, ...]:
        """The runs without a result."""
        return self.failed if self.ok else self.runs

    @property
    def name(self) -> str:
        """What people call it, by the file of the method: LoRA (lr=3e-4)."""
        method, _, rest = self.label.removesuffix(" (undertuned)").partition(" ")
        shown = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())["display"]
        return f"{shown} ({rest})" if rest else shown

    @property
    def is_base(self) -> bool:
        return self.runs[0].method == "base"

    @property
    def recipe(self) -> dict[str, Any]:
        return self.runs[0].record["recipe"] if self.runs[0].record else {}

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def looks(self) -> dict[str, Look]:
        """Those of the first seed, for what all share."""
        return self.runs[0].looks if self.ok else {}

    def outcomes(self, eval_id: str, metric: str) -> np.ndarray:
        """Shape (seeds, items)."""
        return np.array([run.looks[eval_id].outcomes(metric) for run in self.runs])


@dataclass(frozen=True)
class Files:
    """A sweep, its results line by line with base first, and the trials of each contestant."""

    sweep: dict[str, Any]
    lines: tuple[Line, ...]
    trials: dict[str, list[Run]]
    external: tuple[dict[str, Any], ...]

    @property
    def base(self) -> Line | None:
        return next((line for line in self.lines if line.is_base and line.ok), None)

    @property
    def trained(self) -> list[Line]:
        return [line for line in self.lines if line.ok and not line.is_base]

    def looks(self) -> dict[str, Look]:
        """Every evaluation of a line, in the order of the lines."""
        return {key: look for line in reversed(self.lines) for key, look in line.looks.items()}


def read(runs: Path, name: str, named: Named) -> Files:
    sweep = json.loads((runs / "sweeps" / name / "sweep.json").read_text())
    trials: dict[str, list[Run]] = {}
    results: dict[tuple[str, int], Run] = {}
    for cell in sweep["cells"]:
        key, run = (cell["recipe_id"], cell["seed"]), _run(runs, cell)
        if cell["stage"] == "tune":
            trials.setdefault(cell["contestant"], []).append(run)
        else:
            results[key] = run
    for choice in (sweep["tuning"] or {}).get("choices") or []:
        if choice["recipe_id"] is None:
            lost = trials[choice["contestant"]][0]
            results[lost.recipe_id, lost.seed] = lost
    lines: dict[str, list[Run]] = {}
    for _, run in sorted(results.items(), key=lambda one: one[1].method != "base"):
        lines.setdefault(run.recipe_id, []).append(run)
    external = [json.loads(path.read_text()) for path in sorted(runs.glob("external/*.json"))]
    return Files(
        sweep,
        tuple(_line(named(r[0].method, r[0].rate, r[0].status, r[0].seed), r) for r in lines.values()),
        trials,
        tuple(external),
    )


def _line(label: str, runs: list[Run]) -> Line:
    good = tuple(run for run in runs if run.status == "ok")
    return Line(label, good, tuple(run for run in runs if run.status != "ok")) if good else Line(label, tuple(runs))


def _run(runs: Path, cell: dict[str, Any]) -> Run:
    folder = runs / cell["recipe_id"] / f"seed-{cell['seed']}"
    path = folder / "record.json"
    if not path.is_file():
        return Run(cell["method"], cell["recipe_id"], cell["seed"], None)
    wanted = [folder / "evaluations" / f"{one}.json" for one in cell["eval_ids"]]
    looks = {one.stem: _look(one) for one in wanted if one.is_file()}
    served = folder / "inference.json"
    inference = json.loads(served.read_text()) if served.is_file() else None
    return Run(cell["method"], cell["recipe_id"], cell["seed"], json.loads(path.read_text()), looks, inference)


def _look(path: Path) -> Look:
    items = parquet.read_table(path.with_suffix(".parquet")).sort_by("item_id").to_pydict()
    return Look(json.loads(path.read_text()), {name: np.array(values) for name, values in items.items()})
