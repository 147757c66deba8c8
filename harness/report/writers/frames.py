"""Records as tidy pandas frames, for notebooks: one row per run, or one row per run and item."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report.data.items import PREFIX
from harness.report.data.rows import Loaded

if TYPE_CHECKING:
    import pandas


def frame(loaded: Loaded, items: bool = False) -> pandas.DataFrame:
    """Return records as a tidy frame.

    Args:
        loaded: the records.
        items: one row per run and item instead of one per run.

    Returns:
        One row per run with the columns of `records.parquet`; or one row per run, evaluation and item with `label`,
        `method`, `recipe_id`, `seed`, `task`, `role`, `eval_id`, `item_id`, `prompt_hash`, `num_tokens` (NaN where the
        items have none) and one `metric/<name>` column per metric, NaN where a task does not have it. Files that could
        not be read are listed in `.attrs["unreadable"]`.
    """
    from harness.report.writers.parquet import table

    made = _items(loaded) if items else table(loaded.rows).to_pandas()
    made.attrs["unreadable"] = [*loaded.unreadable, *_problems(loaded)] if items else [*loaded.unreadable]
    return made


def _items(loaded: Loaded) -> pandas.DataFrame:
    import pandas

    parts = []
    for row in loaded.rows:
        for scored in row.scored:
            if scored.items is None:
                continue
            outcomes = {f"{PREFIX}{name}": values for name, values in scored.items.outcomes.items()}
            beside = {"item_id": scored.items.ids, "prompt_hash": scored.items.prompt_hashes}
            part = pandas.DataFrame({**beside, "num_tokens": scored.items.num_tokens, **outcomes})
            config = {
                "label": row.label, "method": row.method, "recipe_id": row.recipe_id, "seed": row.seed,
                "task": scored.task, "role": scored.role, "eval_id": scored.record.eval_id,
            }  # fmt: skip
            for place, (name, value) in enumerate(config.items()):
                part.insert(place, name, value)
            parts.append(part.astype({"num_tokens": float}))
    return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()


def _problems(loaded: Loaded) -> list[str]:
    return [scored.problem for row in loaded.rows for scored in row.scored if scored.problem]
