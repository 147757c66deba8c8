"""Spectrum: full training of the layers whose weights hold the most signal."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.parameter_subset import Partial
from harness.methods.peft_adapter import on_meta
from harness.sources import cache, packages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_VERSION = 1  # raised when `_signal_to_noise` gives other numbers


@dataclass(frozen=True, kw_only=True)
class Spectrum(Partial):
    """Trains the `fraction` of each kind of matrix (all q_proj, all down_proj, ...) that has the most signal per noise.

    The ratio is the sum of a matrix's singular values above the Marchenko-Pastur bound over the sum of those below,
    divided by the largest singular value. The bound takes the noise's deviation from the interquartile range of the
    singular values. Computed here from the weights, once per model, and kept in the user cache: it takes a singular
    value decomposition of every matrix. Embeddings, norms and head stay frozen. Trains the elements of the chosen
    matrices. Hartford et al. 2024, arXiv 2406.06623, section 3.
    """

    target: targets.Target
    fraction: Annotated[float, Field(gt=0, le=1)]

    def __post_init__(self) -> None:
        targets.check(self.target)

    def choose(self, model: PreTrainedModel, setting: Setting) -> list[str]:
        """Return the weights with the highest ratio of each kind; any of each kind if the model has no weights."""
        modules = targets.resolve(model, self.target)
        ratios = dict.fromkeys(modules, 0.0) if on_meta(model) else _scan(modules, setting)
        chosen = []
        for names in _kinds(modules).values():
            best = sorted(names, key=lambda name: -ratios[name])[: self._number(names)]
            chosen += [f"{name}.weight" for name in best]
        return chosen

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Return the elements of the chosen number of matrices of each kind, which are all of one shape."""
        kinds = _kinds(targets.resolve(model, self.target))
        return sum(math.prod(shape) * self._number(names) for (*_, shape), names in kinds.items())

    def _number(self, names: list[str]) -> int:
        return max(1, round(self.fraction * len(names)))


def _kinds(modules: dict[str, Any]) -> dict[tuple[Any, ...], list[str]]:
    """Names by kind: the last two parts of the name, and the shape."""
    kinds = defaultdict(list)
    for name, module in modules.items():
        kinds[(*name.split(".")[-2:], targets.shape(module))].append(name)
    return dict(kinds)


def _scan(modules: dict[str, Any], setting: Setting) -> dict[str, float]:
    """Return the ratio of each module's weight, from the cache if it is there."""
    ratios: dict[str, float] = {}
    path = _cache_file(setting)
    if path is not None and (text := cache.read_text(path)) is not None:
        ratios = json.loads(text)
    missing = [name for name in modules if name not in ratios]
    for name in missing:
        ratios[name] = _signal_to_noise(modules[name].weight)
    if missing and path is not None:
        cache.write_text(json.dumps(ratios), path)
    return ratios


def _cache_file(setting: Setting) -> Path | None:
    if setting.model_content is None:
        return None
    key = hashlib.sha256(f"{_VERSION} {setting.model_content} {setting.compute_dtype}".encode()).hexdigest()[:16]
    return packages.cache_dir() / "spectrum" / f"{key}.txt"


def _signal_to_noise(weight: Any) -> float:
    import torch

    matrix = weight.detach().float()
    values = torch.linalg.svdvals(matrix)
    narrow, wide = sorted(matrix.shape)
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.75], device=values.device))
    deviation = float(quartiles[1] - quartiles[0]) / 1.349  # of a normal distribution with this interquartile range
    bound = deviation * (1 + math.sqrt(narrow / wide))
    signal, noise = values[values > bound].sum(), values[values <= bound].sum()
    return float(signal / noise / values.max()) if float(noise) > 0 else math.inf
