"""Composition of command-line words to experiments, for commands that are not Hydra applications themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra

from harness.config import config
from harness.config.experiment import Experiment
from harness.config.overrides import Cell, expand
from harness.sources.packages import conf_dir


def experiments(words: Sequence[str]) -> list[tuple[Cell, Experiment]]:
    """Return the cells and experiments that the main command would run for these overrides, in its order.

    Untouched models are not added.

    Raises:
        ValueError: a word is no override, or a cell does not compose; names it and what is allowed.
    """
    config.register()
    with _hydra():
        try:
            cells = expand(_grids(words), words)
        except config.WRONG_INPUT as error:
            raise ValueError(config.readable(error)) from error
        return [(cell, _build(cell, len(cells) > 1)) for cell in cells]


@contextmanager
def composing(shared: Sequence[str] = ()) -> Iterator[Callable[[tuple[str, ...]], Any]]:
    """Yield the function that composes a cell's overrides after the shared ones, with readable errors.

    Raises:
        ValueError: overrides do not compose; names what is wrong and what is allowed.
    """
    config.register()

    def composed(cell: tuple[str, ...]) -> Any:
        try:
            return _compose((*shared, *cell))
        except config.WRONG_INPUT as error:
            raise ValueError(config.explain(error, cell, _compose)) from error

    with _hydra():
        yield composed


def _grids(words: Sequence[str]) -> list[dict[str, Any]]:
    asked = [word for word in words if word.startswith("sweep=")]
    question = config.sweep_of(_compose(asked)) if asked else None
    return list(question.cells) if question else []


def _build(cell: Cell, one_of_several: bool) -> Experiment:
    try:
        return config.build(_compose(cell))
    except (ValueError, *config.WRONG_INPUT) as error:
        shown = f"{' '.join(cell)}: " if one_of_several else ""
        raise ValueError(shown + config.explain(error, cell, _compose)) from error


def _compose(overrides: Sequence[str]) -> Any:
    return hydra.compose("config", overrides=list(overrides))


@contextmanager
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
