"""Composition of cells into experiments, their identity by content, and the selection of unfinished ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from harness.config import config
from harness.config.compose import Composer
from harness.config.experiment import Experiment, Sizes, evaluations
from harness.config.overrides import Cell, base_of
from harness.plan.devices import named
from harness.records import record
from harness.records.record import Stage
from harness.records.settings import GENERAL_TEXT
from harness.run import inputs, state
from harness.run.progress import board
from harness.sources import packages

Compose = Callable[[tuple[str, ...]], Any]
_LISTED = 3  # cells of one reason that are listed; of more the first and their number


@dataclass(frozen=True)
class Wanted:
    """Requested cell. In a sweep with stages it has a stage and a contestant."""

    cell: Cell
    stage: Stage | None = None
    contestant: str | None = None


@dataclass(frozen=True)
class PlannedRun:
    """Requested cell and the experiment that it composes to."""

    wanted: Wanted
    experiment: Experiment
    sizes: Sizes | None = None  # None until the check, and for experiments that do not train

    @property
    def cell(self) -> Cell:
        """Return the overrides of the cell."""
        return self.wanted.cell

    @cached_property
    def identity(self) -> tuple[str, int, tuple[str, ...]]:
        """Return recipe, seed and evaluations. Cells with equal identity request the same results."""
        looks = tuple(evaluation.eval_id for evaluation in evaluations(self.experiment))
        return self.experiment.recipe_id, self.experiment.run_seed, looks

    def written(self) -> record.Cell:
        """Return the cell in the form of the sweep's record."""
        recipe_id, seed, eval_ids = self.identity
        return record.Cell(
            overrides=self.cell,
            method=self.experiment.method.name,
            recipe_id=recipe_id,
            seed=seed,
            eval_ids=eval_ids,
            stage=self.wanted.stage,
            contestant=self.wanted.contestant,
        )


def bases_of(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Return the untrained base models that the cells are compared with."""
    return list(dict.fromkeys(Wanted(base_of(cell.cell), cell.stage) for cell in wanted))


def compose_all(wanted: Sequence[Wanted], compose: Composer, bases: Sequence[Wanted] = ()) -> list[PlannedRun]:
    """Compose and check every cell, base models first. A base model that does not compose is left out.

    Raises:
        ValueError: gives each reason why cells do not compose, with its cells.
    """
    cells = {request.cell for request in wanted}
    planned, wrong = [], []
    for request in (*bases, *wanted):
        try:
            planned.append(PlannedRun(request, _built(request.cell, compose)))
        except Exception as error:  # from Hydra, OmegaConf or this package: the input is wrong in every case
            if request.cell in cells:
                wrong.append((request.cell, config.explain(error, request.cell, compose.whole)))
    if wrong:
        raise not_valid(wrong)
    return planned


def not_valid(wrong: Iterable[tuple[Cell, str]]) -> ValueError:
    """Return the error of cells that are refused, each with its reason; one line for many cells of one reason."""
    cells: dict[str, dict[Cell, None]] = {}
    for cell, reason in wrong:
        cells.setdefault(reason, {})[cell] = None
    lines = ["nothing was started, since not every cell is valid:"]
    for reason, those in cells.items():
        names = [" ".join(cell) for cell in those]
        if len(names) > _LISTED:
            names = [f"{names[0]} and {len(names) - 1} more cells"]
        lines += [f"{name}: {reason}" for name in names]
    return ValueError("\n  ".join(lines))


def _built(cell: Cell, compose: Composer) -> Experiment:
    experiment = config.build(compose(cell))
    if experiment.plan.device is not None:
        named(experiment.plan.device, "plan.device")
    return experiment


def resolve(plan: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Download the models and data of the cells, identify them by content, and drop duplicate cells.

    Raises:
        ValueError: a model or data cannot be obtained or read; names it.
    """
    identified: dict[Any, Any] = {}
    fetched: dict[Any, None] = {}
    resolved: dict[Any, PlannedRun] = {}
    decided: dict[str, None] = {}
    board.start_bar("preparing")
    try:
        for planned in plan:
            try:
                experiment = inputs.resolve(planned.experiment, board.say, identified)
                needs = (experiment.model, experiment.data, experiment.eval)
                if needs not in fetched:
                    inputs.fetch(experiment, board.say)
                    if experiment.eval.general_text_passages:
                        packages.folder(packages.dataset_split(*GENERAL_TEXT).package, board.say)
                    fetched[needs] = None
            except (ValueError, OSError) as error:  # such as a path that is too long or an unreadable file
                raise ValueError(f"nothing was started: {error}") from error
            decided |= dict.fromkeys(inputs.decided(planned.experiment, experiment))
            settled = replace(planned, experiment=experiment)
            resolved.setdefault((settled.identity, settled.wanted.contestant), settled)
    finally:
        board.end()
    for line in decided:
        board.say(line)
    return list(resolved.values())


def undone(plan: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Return the runs that are missing or lack an evaluation, without duplicates.

    A run whose files cannot be read is among them: it says so when it is started, and ends nothing but itself.
    """
    missing = {planned.identity: planned for planned in plan if not is_done(planned.experiment)}
    return list(missing.values())


def is_done(experiment: Experiment) -> bool:
    """Return True if a run is done, False also where its files cannot be read."""
    try:
        return state.done(experiment)
    except ValueError:
        return False
