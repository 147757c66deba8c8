"""Cells -> experiments: composed, identified by content, and what of them is still to be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from harness.config import config
from harness.config.cells import Cell, base_of
from harness.config.composer import Composer
from harness.config.experiment import Experiment, Sizes, evaluations
from harness.plan.devices import named
from harness.records import record
from harness.records.record import Stage
from harness.records.specs import GENERAL_TEXT
from harness.run import run, sources
from harness.run.progress import board
from harness.sources import assets

Compose = Callable[[tuple[str, ...]], Any]


@dataclass(frozen=True)
class Wanted:
    """A cell, and in a sweep with stages which of them it belongs to and for which contestant."""

    cell: Cell
    stage: Stage | None = None
    contestant: str | None = None


@dataclass(frozen=True)
class Planned:
    """What is wanted, and what it composes to."""

    wanted: Wanted
    experiment: Experiment
    sizes: Sizes | None = None  # known of what trains, once it has been checked

    @property
    def cell(self) -> Cell:
        """The overrides."""
        return self.wanted.cell

    @cached_property
    def identity(self) -> tuple[str, int, tuple[str, ...]]:
        """Two cells with one identity ask for the same thing."""
        looks = tuple(evaluation.eval_id for evaluation in evaluations(self.experiment))
        return self.experiment.recipe_id, self.experiment.run_seed, looks

    def written(self) -> record.Cell:
        """As a sweep's record keeps it."""
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
    """The untouched models that cells are compared with."""
    return list(dict.fromkeys(Wanted(base_of(one.cell), one.stage) for one in wanted))


def compose_all(wanted: Sequence[Wanted], compose: Composer, bases: Sequence[Wanted] = ()) -> list[Planned]:
    """Compose and check every cell, the untouched models first; one of those that does not compose is left out.

    Raises:
        ValueError: names each cell that does not compose, and why.
    """
    asked = {one.cell for one in wanted}
    planned, wrong = [], []
    for one in (*bases, *wanted):
        try:
            planned.append(Planned(one, _built(one.cell, compose)))
        except Exception as error:  # Hydra's, OmegaConf's or ours: all of them are the input's fault here
            if one.cell in asked:
                wrong.append(f"{' '.join(one.cell)}: {config.explain(error, one.cell, compose.whole)}")
    if wrong:
        raise ValueError("\n  ".join(["nothing was started, since not every cell is valid:", *dict.fromkeys(wrong)]))
    return planned


def _built(cell: Cell, compose: Composer) -> Experiment:
    experiment = config.build(compose(cell))
    if experiment.plan.device is not None:
        named(experiment.plan.device, "plan.device")
    return experiment


def resolve(plan: Iterable[Planned]) -> list[Planned]:
    """Fetch what the cells need, identify it by content, and drop the cells that ask for the same thing.

    Raises:
        ValueError: a model or data cannot be had or read; names it.
    """
    known: dict[Any, Any] = {}
    fetched: dict[Any, None] = {}
    resolved: dict[Any, Planned] = {}
    decided: dict[str, None] = {}
    board.start_bar("preparing")
    try:
        for planned in plan:
            try:
                experiment = sources.resolve(planned.experiment, board.say, known)
                needs = (experiment.model, experiment.data, experiment.eval)
                if needs not in fetched:
                    sources.fetch(experiment, board.say)
                    if experiment.eval.general_text:
                        assets.folder(assets.dataset_split(*GENERAL_TEXT).package, board.say)
                    fetched[needs] = None
            except (ValueError, OSError) as error:  # a path that is too long, a file that may not be read
                raise ValueError(f"nothing was started: {error}") from error
            decided |= dict.fromkeys(sources.decided(planned.experiment, experiment))
            kept = replace(planned, experiment=experiment)
            resolved.setdefault((kept.identity, kept.wanted.contestant), kept)
    finally:
        board.end()
    for line in decided:
        board.say(line)
    return list(resolved.values())


def undone(plan: Iterable[Planned]) -> list[Planned]:
    """Each run that is missing, or lacks an evaluation, once."""
    missing = {planned.identity: planned for planned in plan if not run.done(planned.experiment)}
    return list(missing.values())
