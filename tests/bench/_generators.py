"""Outcomes of methods that are equal in truth, or not, drawn by models that the analysis does not assume.

Right-or-wrong outcomes come from a latent scale with a threshold, or from a logistic model whose answers are drawn;
losses from gamma and log-normal ones with an answer length: none is a linear model with normal noise. On the latent
scale two runs of one method disagree on 4.8 % of the items, two methods on 9.7 %, at every setting of the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

_BETWEEN, _RERUN = np.cos(0.097 * np.pi), np.cos(0.048 * np.pi)  # correlations that give these disagreements
_TOTAL = 1 / _BETWEEN
_METHOD, _SINGLE = np.sqrt(_TOTAL * _RERUN - 1), np.sqrt(_TOTAL * (1 - _RERUN))
_SLOPE = 1 / np.sqrt(2 * np.pi * _TOTAL)  # of the accuracy, per unit of the latent scale
_LOSS = 2.0  # nats per token


@dataclass(frozen=True)
class Cell:
    """One setting of the simulation.

    Attributes:
        outcome: "binary", "logit" (sampled answers), "graded" (normal) or "loss" (heavy tails, weighted by tokens).
        items: items of the task.
        seeds: seeds of each method.
        methods: number of methods, the base not counted.
        seed_points: standard deviation over seeds of a method's true score, in points (for a loss: in percent).
        shared: correlation of the seeds' effects between methods.
        odd: factor on the seed effects of the first method.
        gap: points by which the first method is better than all others.
        tails: degrees of freedom of Student's t for the seeds' effects; 0 for normal ones.
        cluster: items in a cluster; 1 for none. Half of the method x item effect is then the cluster's.
        base: whether an untouched base model without seeds is compared too.
    """

    outcome: str = "binary"
    items: int = 1319
    seeds: int = 3
    methods: int = 4
    seed_points: float = 1.0
    shared: float = 0.0
    odd: float = 1.0
    gap: float = 0.0
    tails: int = 0
    cluster: int = 1
    base: bool = True

    def __str__(self) -> str:
        words = [f"{self.outcome}, {self.items} items", f"{self.seeds} x {self.methods} methods"]
        words.append(f"seeds {self.seed_points:g}" + (f" ({self.shared:g} shared)" if self.shared else ""))
        words += [f"one {self.odd:g} times"] if self.odd != 1 else []
        words += [f"t{self.tails} tails"] if self.tails else []
        words += [f"better by {self.gap:g}"] if self.gap else []
        words += [f"clusters of {self.cluster}"] if self.cluster > 1 else []
        return ", ".join(words)


@dataclass(frozen=True)
class Drawn:
    """One experiment: what `compare_methods` takes."""

    outcomes: dict[str, np.ndarray]
    weights: np.ndarray | None
    clusters: np.ndarray | None


def draw(cell: Cell, random: np.random.Generator) -> Drawn:
    """Return one experiment of a cell; the base, last, is as good as the methods are without the gap."""
    rows = cell.methods + cell.base
    shape = (rows, cell.seeds, cell.items)
    seeds = np.sqrt(1 - cell.shared) * _effects(cell, random, (rows, cell.seeds, 1))
    seeds += np.sqrt(cell.shared) * random.standard_normal((1, cell.seeds, 1))
    seeds *= cell.seed_points / 100
    seeds[0] *= cell.odd
    if cell.base:
        seeds[-1] = 0.0
    shift = np.zeros((rows, 1, 1))
    shift[0] = cell.gap / 100
    item, method = random.standard_normal(cell.items), random.standard_normal((rows, 1, cell.items))
    clusters = None
    if cell.cluster > 1:
        clusters = np.arange(cell.items) // cell.cluster
        common = random.standard_normal((rows, 1, clusters[-1] + 1))[..., clusters]
        method = np.sqrt(0.5) * method + np.sqrt(0.5) * common
    single = random.standard_normal(shape, dtype=np.float32)
    weights = None
    if cell.outcome == "binary":
        latent = item + _METHOD * method + (seeds + shift) / _SLOPE + _SINGLE * single
        values = (latent > 0).astype(np.float64)
    elif cell.outcome == "logit":
        chance = 1 / (1 + np.exp(-(2.5 * item + 0.8 * method + 8 * (seeds + shift))))
        values = (random.random(shape, dtype=np.float32) < chance).astype(np.float64)
    elif cell.outcome == "graded":
        values = item + 0.3 * method + 2 * (seeds + shift) + 0.2 * single
    else:
        weights = 1.0 + random.negative_binomial(1, 0.08, size=cell.items)
        level = _LOSS * random.gamma(2.0, 0.5, size=cell.items) * (1 + seeds + shift)
        spread = 0.3 * np.sqrt(random.gamma(1.0, 1.0, size=cell.items))
        heavy = np.exp(spread * method - spread**2 / 2)
        values = weights * level * heavy * np.exp(0.1 * single)
    names = [f"method{i}" for i in range(cell.methods)] + ["base"] * cell.base
    outcomes = dict(zip(names, values, strict=True))
    if cell.base:
        outcomes["base"] = outcomes["base"][:1]
    return Drawn(outcomes, weights, clusters)


def _effects(cell: Cell, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return effects with mean 0 and variance 1."""
    if not cell.tails:
        return random.standard_normal(shape)
    return random.standard_t(cell.tails, shape) * np.sqrt((cell.tails - 2) / cell.tails)


def known_half_width(cell: Cell) -> float | None:
    """Return the half-width that known variances give with the test's degrees of freedom; None but for right or wrong.

    Student's quantile of seeds and normal one of items, with the variances that the disagreements and the seeds have.
    """
    if cell.outcome != "binary" or cell.odd != 1 or cell.cluster > 1 or cell.seeds < 2:
        return None
    rerun, between = 0.048, 0.097
    seeds = 2 * (1 - cell.shared) * (cell.seed_points / 100) ** 2 + rerun / cell.items
    free = float((cell.methods - 1) * (cell.seeds - 1))
    if cell.methods > 2:
        free = min(free, 2 * (cell.seeds - 1 + min(2.0, cell.seeds - 1)))
    items = stats.t.isf(0.025, cell.items - 1) ** 2 * (between - rerun) / cell.items
    return float(np.sqrt(items + stats.t.isf(0.025, free) ** 2 * seeds / cell.seeds))
