"""The composition of hundreds of cells that differ in plain values: Hydra composes each choice of groups once.

Composing takes Hydra a tenth of a second, setting a value takes OmegaConf less than a millisecond.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.sources.assets import conf_dir

_NOT_OF_A_RUN = ("hydra", "sweep")


class Composer:
    """What `compose` gives for a cell, without the parts that are no run's (`hydra`, `sweep`).

    What is not plain (groups, additions, deletions), and whatever is refused, is Hydra's to compose and to explain.
    """

    def __init__(self, compose: Callable[[tuple[str, ...]], DictConfig]) -> None:
        self.whole = compose  # Hydra's own, with every part
        self._known: dict[tuple[str, ...], bytes] = {}

    def __call__(self, cell: tuple[str, ...]) -> DictConfig:
        """Compose a cell.

        Raises:
            HydraException: what Hydra raises for it.
        """
        plain = [word for word in cell if _is_plain(word)]
        rest = tuple(word for word in cell if not _is_plain(word))
        if rest not in self._known:
            self._known[rest] = pickle.dumps(self._of_a_run(rest))
        config: DictConfig = pickle.loads(self._known[rest])  # a fifth of what a deep copy takes
        try:
            for word in plain:  # as Hydra does, after the groups and in their order
                override = _parsed(word)
                OmegaConf.update(config, override.get_key_element(), override.value(), merge=True)
        except OmegaConfBaseException:
            return self.whole(cell)
        return config

    def _of_a_run(self, words: tuple[str, ...]) -> DictConfig:
        whole = self.whole(words)
        part: DictConfig = OmegaConf.masked_copy(whole, [key for key in whole if key not in _NOT_OF_A_RUN])
        OmegaConf.set_struct(part, True)  # which a copy forgets: a setting that there is not is an error
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
