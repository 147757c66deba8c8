"""Norms, ranks and spectra of a run's update: merged weights minus base weights, for every method.

Models are merged in float32 and decomposed in float64 (on a GPU if there is one). Merging rounds each entry, which adds
noise of full rank. Singular values below the bound of that noise are taken as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.adapter.load import Trained, download, find, merged, on_base, plain_base
from harness.records import record
from harness.records.events import Emit, PhaseStarted, Progress
from harness.records.record import UpdateRecord, WeightUpdate

NUM_TOP = 10
EPSILON = 0.5
_NOTHING: dict[str, Any] = dict.fromkeys(
    ("effective_rank", "stable_rank", "alignment_left", "alignment_right", "num_aligned", "intruder_dimensions")
)


def measure(folder: Path, base: Sequence[str], emit: Emit) -> UpdateRecord:
    """Measure the update of a run and write it to `update.json` in the run's folder.

    Raises:
        ValueError: there are no weights, or the base differs.
    """
    run = find(folder)
    weights: dict[str, WeightUpdate] = {}
    reason = ""
    if run.experiment.method.merges:
        run = on_base(run, base)
        download(run)
        emit(PhaseStarted("merging"))
        weights = _updates(run, emit)
    else:
        reason = f"what method={run.record.method} trains is not a change of weights"
    result = UpdateRecord(
        schema=record.SCHEMA,
        recipe_id=run.record.recipe_id,
        seed=run.record.seed,
        weights_from=run.record.current.weights_from,
        reason=reason,
        num_top=NUM_TOP,
        epsilon=EPSILON,
        weights=weights,
    )
    record.write(result, folder / "update.json")
    return result


def _updates(run: Trained, emit: Emit) -> dict[str, WeightUpdate]:
    before = plain_base(run).state_dict()
    after = dict(merged(run).named_parameters())
    emit(PhaseStarted("update"))
    pairs = [pair for name, tensor in after.items() for pair in _matrices(name, before.get(name), tensor.detach())]
    changed = [(name, old, new) for name, old, new in pairs if not torch.equal(old, new)]
    updates = {}
    # a decomposition gains little from threads and loses much if it shares them, so each gets one thread
    workers = 1 if torch.cuda.is_available() else torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
        shapes = pool.map(lambda pair: shape_of_update(*pair[1:]), changed)
        for done, ((name, _, _), shape) in enumerate(zip(changed, shapes, strict=True)):
            updates[name] = shape
            emit(Progress(done, len(changed)))
    return updates


def _matrices(name: str, old: Any, new: torch.Tensor) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield a weight as one matrix or vector, or one matrix per expert. A weight that the base lacks counts as zero."""
    old = torch.zeros_like(new) if old is None else old
    if new.dim() == 3:
        yield from ((f"{name}[{i}]", old[i], new[i]) for i in range(len(new)))
    else:
        yield name, old, new


def shape_of_update(old: torch.Tensor, new: torch.Tensor) -> WeightUpdate:
    """Return the norm and spectrum of new - old, for a matrix or a vector."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    old, new = old.to(device, torch.float32), new.to(device, torch.float32)
    change = new - old
    whole = float(old.norm())
    norm = float(change.norm())
    spectrum = _spectrum(old, new, change) if change.dim() == 2 else _NOTHING
    relative = norm / whole if whole else None
    return WeightUpdate(shape=tuple(change.shape), norm=norm, relative_norm=relative, **spectrum)


def _spectrum(old: torch.Tensor, new: torch.Tensor, change: torch.Tensor) -> dict[str, Any]:
    u, s, v = _decomposed(change)
    s = s[s > _noise(old, new)]
    if not len(s):
        return _NOTHING
    share = s / s.sum()
    old_u, _, old_v = _decomposed(old)
    new_u, _, _ = _decomposed(new)
    number = min(NUM_TOP, len(s))
    return {
        "effective_rank": float(torch.exp(-(share * share.log()).sum())),
        "stable_rank": float(s.square().sum() / s[0].square()),
        "alignment_left": _overlap(old_u[:, :number], u[:, :number]),
        "alignment_right": _overlap(old_v[:, :number], v[:, :number]),
        "num_aligned": number,
        "intruder_dimensions": intruders(old_u, new_u[:, :NUM_TOP]),
    }


def _decomposed(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U, s (descending) and V in float64, from the eigenvectors of the smaller of A^T A and A A^T.

    This takes half the time of a decomposition of A itself. It is accurate down to 1e-7 of the largest singular value;
    smaller values and their vectors are set to zero.
    """
    a = matrix.double()
    if a.shape[0] < a.shape[1]:
        v, s, u = _decomposed(a.T)
        return u, s, v
    squares, v = torch.linalg.eigh(a.T @ a)
    s, v = squares.flip(0).clamp(min=0).sqrt(), v.flip(1)
    significant = s > 1e-7 * s[0]
    u = a @ v * torch.where(significant, 1 / s.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return u, s * significant, v * significant


def intruders(old_u: torch.Tensor, top_u: torch.Tensor) -> int:
    """Return the number of columns of `top_u` whose cosine similarity with every column of `old_u` is below EPSILON."""
    return int(((old_u.T @ top_u).abs().amax(dim=0) < EPSILON).sum())


def _overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return |A^T B|^2 / columns, which is 1 if the orthonormal columns of both span the same space."""
    return float((a.T @ b).square().sum() / a.shape[1])


def _noise(old: torch.Tensor, new: torch.Tensor) -> float:
    """Return the largest singular value that float32 rounding of the entries alone can cause."""
    rows, columns = old.shape
    entry = max(float(old.square().mean().sqrt()), float(new.square().mean().sqrt()))
    return float(torch.finfo(torch.float32).eps) * entry * (math.sqrt(rows) + math.sqrt(columns))
