"""The shape of what a run changed: merged weights minus base weights, whatever the method.

Everything is computed in float32 (on a GPU where there is one). Merging rounds each entry to float32, which is noise of
full rank; singular values below what that noise can reach are taken as zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import record
from harness.adapter.trained import Trained, download, find, merged, on_base, plain_base
from harness.record import UpdateRecord, WeightUpdate

Emit = Callable[[dict[str, Any]], None]
NUM_TOP = 10
EPSILON = 0.5
_NOTHING: dict[str, Any] = dict.fromkeys(
    ("effective_rank", "stable_rank", "alignment_left", "alignment_right", "num_aligned", "intruder_dimensions")
)


def measure(folder: Path, base: Sequence[str], emit: Emit) -> UpdateRecord:
    """Measure the update of a run and keep it as `update.json` in the run's folder.

    Raises:
        ValueError: no weights, or another base.
    """
    run = find(folder)
    weights: dict[str, WeightUpdate] = {}
    reason = ""
    if run.experiment.method.merges:
        run = on_base(run, base)
        download(run)
        emit({"phase": "merging"})
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
    emit({"phase": "update"})
    found = {}
    for done, (name, tensor) in enumerate(after.items()):
        emit({"done": done, "total": len(after)})
        for part, old, new in _matrices(name, before.get(name), tensor.detach()):
            if not torch.equal(old, new):
                found[part] = shape_of_update(old, new)
    return found


def _matrices(name: str, old: Any, new: torch.Tensor) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """A weight as one matrix or vector, or the experts' matrices one by one; what the base has not counts as zero."""
    old = torch.zeros_like(new) if old is None else old
    if new.dim() == 3:
        yield from ((f"{name}[{i}]", old[i], new[i]) for i in range(len(new)))
    else:
        yield name, old, new


def shape_of_update(old: torch.Tensor, new: torch.Tensor) -> WeightUpdate:
    """The shape of new - old, for a matrix or a vector."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    old, new = old.to(device, torch.float32), new.to(device, torch.float32)
    change = new - old
    whole = float(old.norm())
    norm = float(change.norm())
    spectrum = _spectrum(old, new, change) if change.dim() == 2 else _NOTHING
    relative = norm / whole if whole else None
    return WeightUpdate(shape=tuple(change.shape), norm=norm, relative_norm=relative, **spectrum)


def _spectrum(old: torch.Tensor, new: torch.Tensor, change: torch.Tensor) -> dict[str, Any]:
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    s = s[s > _noise(old, new, s)].double()
    if not len(s):
        return _NOTHING
    share = s / s.sum()
    old_u, _, old_vh = torch.linalg.svd(old, full_matrices=False)
    new_u = torch.linalg.svd(new, full_matrices=False)[0]
    number = min(NUM_TOP, len(s))
    return {
        "effective_rank": float(torch.exp(-(share * share.log()).sum())),
        "stable_rank": float(s.square().sum() / s[0].square()),
        "alignment_left": _overlap(old_u[:, :number], u[:, :number]),
        "alignment_right": _overlap(old_vh[:number].T, vh[:number].T),
        "num_aligned": number,
        "intruder_dimensions": intruders(old_u, new_u[:, :NUM_TOP]),
    }


def intruders(old_u: torch.Tensor, top_u: torch.Tensor) -> int:
    """How many columns of `top_u` have a cosine similarity below EPSILON with every column of `old_u`."""
    return int(((old_u.T @ top_u).abs().amax(dim=0) < EPSILON).sum())


def _overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """|A^T B|^2 / columns: 1 where the orthonormal columns of both span the same space."""
    return float((a.T @ b).square().sum() / a.shape[1])


def _noise(old: torch.Tensor, new: torch.Tensor, s: torch.Tensor) -> float:
    """How large a singular value may be for float32 rounding alone: of the entries, and of the decomposition itself."""
    rows, columns = old.shape
    entry = max(float(old.square().mean().sqrt()), float(new.square().mean().sqrt()))
    of_entries = entry * (math.sqrt(rows) + math.sqrt(columns))
    return float(torch.finfo(torch.float32).eps) * max(of_entries, float(s[0]) * max(rows, columns))
