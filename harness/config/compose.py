"""Composition of command-line words to experiments, for commands that are not Hydra applications, and for sweeps."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

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
    sweeps = [word for word in words if word.startswith("sweep=")]
    question = config.sweep_of(_compose(sweeps)) if sweeps else None
    return list(question.cells) if question else []


def _build(cell: Cell, one_of_several: bool) -> Experiment:
    try:
        return config.build(_compose(cell))
    except (ValueError, *config.WRONG_INPUT) as error:
        label = f"{' '.join(cell)}: " if one_of_several else ""
        raise ValueError(label + config.explain(error, cell, _compose)) from error


def _compose(overrides: Sequence[str]) -> Any:
    return hydra.compose("config", overrides=list(overrides))


@contextmanager
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


_NOT_OF_A_RUN = ("hydra", "sweep")


class Composer:
    """Composer with the results of `compose`, without the parts that belong to no run (`hydra`, `sweep`).

    Hydra composes overrides that are not plain (groups, additions, deletions), and explains whatever is refused.
    """

    def __init__(self, compose: Callable[[tuple[str, ...]], DictConfig]) -> None:
        self.whole = compose  # Hydra's own, with every part
        self._known: dict[tuple[str, ...], bytes] = {}

    def __call__(self, cell: tuple[str, ...]) -> DictConfig:
        """Compose a cell.

        Raises:
            HydraException: Hydra refuses the cell.
        """
        plain = [word for word in cell if _is_plain(word)]
        others = tuple(word for word in cell if not _is_plain(word))
        if others not in self._known:
            self._known[others] = pickle.dumps(self._of_a_run(others))
        config: DictConfig = pickle.loads(self._known[others])  # five times as fast as a deep copy
        try:
            for word in plain:  # after the groups and in their order, as Hydra does
                override = _parsed(word)
                OmegaConf.update(config, override.get_key_element(), override.value(), merge=True)
        except OmegaConfBaseException:
            return self.whole(cell)
        return config

    def _of_a_run(self, words: tuple[str, ...]) -> DictConfig:
        whole = self.whole(words)
        part: DictConfig = OmegaConf.masked_copy(whole, [key for key in whole if key not in _NOT_OF_A_RUN])
        OmegaConf.set_struct(part, True)  # the copy drops the flag by which an unknown setting is an error
        return part


@cache
def _parsed(word: str) -> Override:
    [override] = OverridesParser.create().parse_overrides([word])
    return override


@cache
def _is_plain(word: str) -> bool:
    override = _parsed(word)
    key = override.key_or_group
    return (
        override.type == OverrideType.CHANGE
        and override.package is None
        and not override.is_sweep_override()
        and not (conf_dir() / key).is_dir()
        and key.partition(".")[0] not in _NOT_OF_A_RUN
    )
