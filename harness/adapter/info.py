"""Description of a run's weights as text: counts, bytes, base model and the update. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from harness.adapter.load import Trained
from harness.methods.targets import grouped
from harness.records.record import UpdateRecord, WeightUpdate, read
from harness.run import model_card

HEADER = (
    "weight",
    "count",
    "shape",
    "norm",
    "relative",
    "eff. rank",
    "stable rank",
    "align. L",
    "align. R",
    "intruders",
)


def known_update(run: Trained) -> UpdateRecord | None:
    """Return the update that was measured of these very weights; None if there is no such file."""
    try:
        record = read(UpdateRecord, run.folder / "update.json")
    except (FileNotFoundError, ValueError):
        return None
    return record if record.weights_from == run.record.current.weights_from else None


def facts(run: Trained) -> dict[str, Any]:
    """Return the method, counts, bytes, base model and data of a run."""
    counts, model = run.record.measured.fingerprint, run.record.config["model"]
    return {
        "method": run.record.method,
        "recipe_id": run.record.recipe_id,
        "seed": run.record.seed,
        "lr": run.record.recipe["train"]["lr"],
        "settings": run.record.recipe["method"],
        "trainable_parameters": counts.trainable_parameters if counts else None,
        "expected_trainable_parameters": counts.expected_trainable_parameters if counts else None,
        "total_parameters": counts.total_parameters if counts else None,
        "trained_tensors": len(counts.trained) if counts else None,
        "trained": {name: [list(shape), dtype] for name, (shape, dtype) in counts.trained.items()} if counts else None,
        "saved_bytes": counts.saved_bytes if counts else None,
        "base": {
            "name": model["name"],
            "hub_id": model_card.hub_id(model),
            "revision": model_card.revision(model),
            "content": model["content"],
            "license": model["license"],
        },
        "data": {key: run.record.config["data"][key] for key in ("name", "content", "license")},
    }


def lines(run: Trained, update: UpdateRecord, every_weight: bool) -> list[str]:
    """Return the lines of the description.

    Weights that differ only in their layer share one line of medians, unless `every_weight` is set.
    """
    values = facts(run)
    base, data = values["base"], values["data"]
    settings = ", ".join(f"{key}={value}" for key, value in values["settings"].items() if key not in ("name", "lr"))
    texts = [
        f"{values['method']} {values['recipe_id']}/seed-{values['seed']}, rate {values['lr']}: {settings}",
        f"base    {base['name']}, {base['content']}, license {base['license'] or 'not stated'}",
        f"data    {data['name']}, content {data['content']}, license {data['license'] or 'not stated'}",
    ]
    if values["trainable_parameters"] is not None:
        texts += [
            f"trained {values['trainable_parameters']:,} parameters in {values['trained_tensors']} tensors, of "
            f"{values['total_parameters']:,} (by formula {values['expected_trainable_parameters']:,})"
        ]
        texts += [f"saved   {values['saved_bytes']:,} bytes"] if values["saved_bytes"] is not None else []
    return [*texts, *_update_lines(update, every_weight)]


def _update_lines(update: UpdateRecord, every_weight: bool) -> list[str]:
    if update.reason:
        return [f"update  {update.reason}"]
    if not update.weights:
        return ["update  none: every weight is the base's"]
    groups = {name: [name] for name in update.weights} if every_weight else grouped(update.weights)
    medians = "" if every_weight else "medians per line; "
    rows = [HEADER, *(_row(name, [update.weights[n] for n in members]) for name, members in groups.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return [
        f"update  of {len(update.weights)} weights, W_tuned - W ({medians}alignment with the base's and intruders "
        f"among the top {update.num_top} singular vectors, an intruder's cosine similarity is below {update.epsilon})",
        *(line.rstrip() for line in table),
    ]


def _row(name: str, updates: Sequence[WeightUpdate]) -> tuple[str, ...]:
    shapes = list(dict.fromkeys("x".join(map(str, update.shape)) for update in updates))
    columns = ("norm", "relative_norm", "effective_rank", "stable_rank", "alignment_left", "alignment_right")
    numbers = (_middle([getattr(update, column) for update in updates]) for column in columns)
    intruders = _middle([update.intruder_dimensions for update in updates])
    return (name, str(len(updates)), " ".join(shapes), *numbers, intruders)


def _middle(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{median(numbers):.3g}" if numbers else "-"
