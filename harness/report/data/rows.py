"""A row: one run with its evaluations in one setting; the settings in which rows differ, and the level of tests."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records.data_check import DataCheck
from harness.records.measurements import Fingerprint, Training
from harness.records.record import (
    Attempt,
    Cell,
    ConvertedRecord,
    EvaluationRecord,
    ExternalRecord,
    InferenceRecord,
    RunRecord,
    SweepRecord,
    UpdateRecord,
)
from harness.records.registration import Registration
from harness.report.data.items import ScoredEvaluation

# Evaluation settings that make two rows of one run. A task's limit is not among them: it gets a column of its own.
TASK_SETTING = (
    "num_fewshot", "chat_template", "precision", "train_precision", "backend", "batch_size", "batch_tokens", "rows",
)  # fmt: skip
HELDOUT_SETTING = ("rows", "limit", "precision", "train_precision", "batch_tokens")
MARGIN = 0.01  # a point of accuracy, a hundredth of a nat
Settings = dict[str, Any]
OWN_COLUMNS = ("method.name", "method.lr", "model.name", "data.name", "train.lr")  # shown under shorter names


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run and its evaluations in one setting."""

    method: str
    recipe_id: str
    seed: int
    record: RunRecord | None  # None: the sweep requests the run and no record can be read
    scored: tuple[ScoredEvaluation, ...] = ()
    problem: str = ""  # why there is no record
    cell: Cell | None = None  # the request of a sweep
    overrides: tuple[str, ...] = ()  # as the sweep requests it
    label: str = ""  # the method and what tells it from the other rows, by their identifiers
    name: str = ""  # the same in words for people
    already_done: bool = False
    price: float | None = None  # of a device hour
    trials: tuple[RunRecord, ...] = ()  # of its contestant, beside the runs of the results
    inference: InferenceRecord | None = None  # what using its result costs, where that was measured
    converted: ConvertedRecord | None = None  # what its conversions into LoRA lost, where they were evaluated
    update: UpdateRecord | None = None  # the shape of its update, where `harness.adapter info` has measured it
    replaced: tuple[EvaluationRecord, ...] = ()  # the evaluations of the weights that a `force=true` replaced
    test_reads: int = 0  # how many of the run's weights, the present and the replaced ones, have been tested

    @property
    def current(self) -> Attempt | None:
        """Return the current attempt with the measurements of the run; None without a record."""
        return self.record.measured if self.record else None

    @property
    def training(self) -> Training | None:
        """Return the measurements of the training; None without one."""
        return self.current.training if self.current else None

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Return the counts of the weights; None without a record."""
        return self.current.fingerprint if self.current else None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Return the provenance of the current attempt; {} without a record."""
        return self.current.provenance if self.current else {}

    @property
    def made_with(self) -> Mapping[str, Any]:
        """Return the provenance of the attempt that made the weights; a later one may have evaluated alone."""
        return (self.record.trained_by or self.record.current).provenance if self.record else {}

    @property
    def train_energy(self) -> float | None:
        """Return the joules of the training phase; None where they were not measured."""
        phase = self.current.phases.get("train") if self.current else None
        return phase.energy_joules if phase else None

    def part(self, name: str) -> Mapping[str, Any]:
        """Return a part of the recipe, such as `train`; {} without it."""
        return (self.record.recipe.get(name) or {}) if self.record else {}

    @property
    def status(self) -> str | None:
        """Return the run's status, `interrupted` where it can go on; None without a record."""
        if self.record is None:
            return None
        return "interrupted" if self.record.current.interrupted else self.record.status

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Return the identities of the evaluations that the sweep requests and an interrupted run lacks."""
        there = {scored.record.eval_id for scored in self.scored}
        wanted = self.cell.eval_ids if self.cell and self.status == "interrupted" else ()
        return tuple(eval_id for eval_id in wanted if eval_id not in there)

    @property
    def reason(self) -> str:
        """Return the reason why the run is not ok."""
        return self.record.current.reason if self.record else self.problem

    @property
    def title(self) -> str:
        """Return the run in words for people: LoRA (r=8) seed 0."""
        return f"{self.name or self.label} seed {self.seed}"

    @property
    def trained_elsewhere(self) -> bool:
        """Return whether the weights were trained elsewhere, so that data and settings are unknown."""
        return self.record is not None and self.record.origin is not None and not self.is_base

    @property
    def is_base(self) -> bool:
        """Return whether this is the untouched model."""
        return self.method == "base"

    @property
    def is_trial(self) -> bool:
        """Return whether this is a trial; among the results it stands for a contestant without a chosen recipe."""
        return self.cell is not None and self.cell.stage == "tune"

    @property
    def setting(self) -> dict[str, Any]:
        """Return the settings of the evaluations. Seeds of one recipe may be averaged where these are equal."""
        return {f"{'heldout' if s.heldout else 'eval'}.{k}": v for s in self.scored for k, v in setting(s).items()}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Input of a report: its rows, their sweep, and the records and settings beside them."""

    rows: tuple[Row, ...]
    sweep: SweepRecord | None
    unreadable: tuple[str, ...]  # "<file below the runs folder>: why"
    margin: float = MARGIN  # the largest difference that counts as none, in the unit of the metric
    trials: tuple[Row, ...] = ()  # trials of a sweep with stages, on validation rows; not among the results
    external: tuple[ExternalRecord, ...] = ()  # rows that others published
    checks: tuple[DataCheck, ...] = ()  # of the data that the rows were trained on
    unasked: tuple[Row, ...] = ()  # runs of the sweep's recipes with seeds that it does not ask for
    allowed: tuple[str, ...] = ()  # keys whose undeclared differences are printed and do not refuse the table

    @property
    def is_tuned(self) -> bool:
        """Return whether the rows were chosen by their validation loss. If so, it is too low and is never tested."""
        return self.sweep is not None and self.sweep.tuning is not None

    registration: Registration | None = None  # the question as registered before the runs

    @property
    def claim_level(self) -> float:
        """Return the family-wise error of all claims."""
        return self.registration.level if self.registration else 0.05

    @property
    def primary(self) -> str | None:
        """Return the column that answers the question; None stands for the first target task."""
        return self.sweep.primary if self.sweep else None


def setting(scored: ScoredEvaluation) -> dict[str, Any]:
    """Return the parts of an evaluation's identity that make another row; a held-out loss adds its data set."""
    evaluation, weights = scored.record.evaluation, {"weights": scored.weights}
    if scored.heldout:
        data = {"data": scored.task.rpartition("/")[0]}
        return {**weights, **data, **{key: evaluation.get(key) for key in HELDOUT_SETTING}}
    return {**weights, **{key: evaluation.get(key) for key in TASK_SETTING}}


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; a list is a value."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def settings_of(row: Row, parts: Sequence[str] = ("method", "model", "data", "train")) -> Settings:
    """Return the settings of parts of the row's recipe with dotted keys; {} without a record."""
    return flatten({part: row.part(part) for part in parts})


def differing(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the keys whose values differ between the rows with training: the rank, others of the method, the rest.

    A setting that only some rows have differs. The base model has none, and does not count.
    """
    trained = [settings_of(row) for row in rows if row.record and not row.is_base]
    every = dict.fromkeys(("method.r", *(key for settings in trained for key in settings)))
    keys = [key for key in every if key not in OWN_COLUMNS]
    return tuple(key for key in keys if len({value_key(settings.get(key)) for settings in trained}) > 1)


def learning_rate(row: Row) -> float | None:
    """Return the rate that the row was trained with."""
    rate = settings_of(row).get("train.lr")
    return None if rate is None else float(rate)


def value_key(value: Any) -> Any:
    """Return a hashable key of a value; 1, 1.0 and true have different keys."""
    plain = value is None or isinstance(value, (str, int, float))
    return (type(value), value) if plain else json.dumps(value, sort_keys=True)


def family_level(sweep: SweepRecord | None, level: float) -> float:
    """Return the level of a family at the last look, so that all looks together keep to `level`."""
    methods = sweep.tuning.looks.methods if sweep and sweep.tuning and sweep.tuning.looks else 0
    return _at_look(sweep, level, methods)


def claim_level(sweep: SweepRecord | None, level: float, claims: int) -> float:
    """Return the level of each of so many claims, with which all of them hold together over all looks."""
    return _at_look(sweep, level / max(claims, 1), 2)


def _at_look(sweep: SweepRecord | None, level: float, methods: int) -> float:
    tuning = sweep.tuning if sweep else None
    if tuning is None or tuning.looks is None or tuning.choices is None:
        return level
    from harness.stats.sequential import look_levels

    first, most = tuning.looks.first, tuning.looks.most
    look = min(max(len(tuning.final_seeds), first), most) - first
    return look_levels(first, most, methods, level)[look]
