"""Notes of a report on its own numbers: units, origin, reproduction and limits."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.record import Attempt
from harness.records.untrusted import code, escaped, printable
from harness.report import names
from harness.report.analysis import drift, rounding
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded, flatten
from harness.report.display import PLUS_MINUS, short
from harness.report.pages.summary import task_title, trainings

SHARED = (
    "max_steps",
    "epochs",
    "global_batch_size",
    "micro_batch_size",
    "max_length",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "gradient_checkpointing",
    "precision",
    "loss_on",
    "group_by_length",
)


LOSS_ON = {
    "completion": "completion tokens",
    "assistant": "assistant tokens",
    "all": "all tokens, prompts included",
}


def trained_on(groups: Sequence[Group]) -> str:
    """Return the sentence under a table that names the tokens trained on; "" where nothing was trained."""
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.trained and group.first.record:
            train = group.first.record.recipe.get("train") or {}
            found.setdefault(str(train.get("loss_on")), []).append(group.label)
    if len(found) == 1:
        [value] = found
        same = " only, for all methods" if len(found[value]) > 1 else " only"
        return f"Loss computed on {LOSS_ON.get(value, value)}{same if value != 'all' else ''}."
    said = (f"{LOSS_ON.get(value, value)} ({', '.join(who)})" for value, who in found.items())
    return f"Loss computed on different tokens: {'; '.join(said)}." if found else ""


def made(groups: Sequence[Group]) -> list[str]:
    """Return units and definitions with the values of the records, then the evaluation of each task."""
    return [*definitions(groups), *looks(groups)]


def definitions(groups: Sequence[Group]) -> list[str]:
    """Return the definition of each number and how it was made."""
    trained = [group for group in groups if group.trained]
    dropped = _listed(one.warmup_steps_dropped for group in trained for one in trainings(group))
    steps = _listed(len(one.losses) for group in trained for one in trainings(group))
    return [
        "Losses are in nats per answer token, summed over all answer tokens of the set; perplexity = exp(loss).",
        f"{PLUS_MINUS} one standard error, combining item sampling and seed variance (ratio estimator for losses). "
        "Differences are paired on the same items with the same prompts.",
        "Differences are tested by a t test in which items and seeds keep their own degrees of freedom; seeds are "
        "paired, and the method x seed variance is pooled over the methods and checked against that of each pair. The "
        "base model has no seed variance. Items with the same prompt are one cluster.",
        "Peak memory over model loading and training, including weights, excluding imported libraries"
        f"{_memory(trained)}.",
        f"Tokens/s counts real tokens, not padding, after the first {dropped or 'n'} optimizer steps; training seconds "
        "are those of the optimizer steps alone, without loading, validation and saving.",
        f"Optimizer steps taken: {steps or 'none'}.",
        *rounding.remarks(groups),
    ]


def shared(groups: Sequence[Group]) -> list[str]:
    """Model, data and training settings that are the same for all trained groups."""
    records = [group.first.record for group in groups if group.trained and group.first.record]
    if not records:
        return []
    flat = [flatten({key: one.recipe.get(key) or {} for key in ("model", "data", "train")}) for one in records]
    common = {key: value for key, value in flat[0].items() if all(one.get(key) == value for one in flat)}
    train = [f"{key}={short(common[f'train.{key}'])}" for key in SHARED if common.get(f"train.{key}") is not None]
    shown = {"model": names.model(records[0]).display, "data": names.data(records[0]).display}
    named = [f"{part.capitalize()}: {name}" for part, name in shown.items() if f"{part}.name" in common]
    return [*named, *([f"Training: {', '.join(train)}"] if train else [])]


def limits(groups: Sequence[Group]) -> list[str]:
    """Return the limits of the numbers: what they do not show."""
    trained = [group for group in groups if group.trained]
    fewest = min((len(group.rows) for group in trained), default=0)
    lines = []
    if fewest == 1:
        lines.append("With one seed, variance across seeds is unknown; do not interpret small gaps.")
    elif fewest:
        lines.append(f"Variance across seeds is estimated from as few as {fewest} seeds.")
    if any(s.record.evaluation["limit"] for g in groups if g.ok for scored in g.evaluations.values() for s in scored):
        lines.append("Limited tasks use their first items only, which are not a random sample.")
    lines += _rungs(trained)
    lines.append("Each method's settings are the ones shown; another learning rate may change the order.")
    lines.append(
        "Everything holds for one training set, one split of it and the settings that were chosen: seeds move the "
        "initial weights and the order of the rows, and not which rows there are."
    )
    lines.append("Memory and speed hold for this device and these versions.")
    lines.append("Per-task differences to the base model are not corrected for multiple comparisons.")
    return lines


def _rungs(groups: Sequence[Group]) -> list[str]:
    """Return a line for each fallback to other training settings after memory had run out."""
    found: dict[str, None] = {}
    for group in groups:
        for one in (row.record for row in group.rows if row.record and row.status == "ok"):
            asked, now = one.recipe.get("train") or {}, one.measured
            sizes = (asked.get("micro_batch_size"), asked.get("gradient_checkpointing"))
            if now.micro_batch_size is None or (now.micro_batch_size, now.gradient_checkpointing) == sizes:
                continue
            said = [f"micro batches of {now.micro_batch_size}"]
            said += ["gradient checkpointing"] if now.gradient_checkpointing else []
            said += [f"no row of more than {now.max_length:,} tokens"] if now.max_length else []
            found[
                f"Memory ran out for {group.label} as it was asked for (micro batches of {sizes[0]}): it was trained "
                f"with {', '.join(said)}, and its time and memory are of that."
            ] = None
    return list(found)


def reproduce(loaded: Loaded) -> str:
    """The command, then commit, device, versions, dates, model and data, as Markdown."""
    command = command_of(loaded)
    shown = "\n".join(f"- {escaped(line)}" for line in origin(loaded))
    return "\n\n".join(part for part in (code(command) if command else "", shown) if part)


def command_of(loaded: Loaded) -> str:
    """Return the command that made these runs, as far as the records have it."""
    attempts = [row.current for row in loaded.rows if row.current]
    commands = dict.fromkeys(str(attempt.provenance.get("command") or "") for attempt in attempts)
    return loaded.sweep.command if loaded.sweep else "\n".join(one for one in commands if one)


def origin(loaded: Loaded) -> list[str]:
    """Return dates, commit, device, versions, model and data of the runs, a line each; then later changes."""
    attempts = [row.current for row in loaded.rows if row.current]
    return [
        *_dates(attempts),
        *_provenance(attempts),
        *sources(loaded, "model"),
        *sources(loaded, "data"),
        *drift.older(loaded.rows, loaded.sweep.asked_with if loaded.sweep else None),
        *drift.lines(loaded.rows),
    ]


def _memory(groups: Sequence[Group]) -> str:
    """Return the meaning of memory on the device of the runs."""
    phases = [phase for group in groups for row in group.rows if row.current for phase in row.current.phases.values()]
    if any(phase.peak_reserved_bytes is not None for phase in phases):
        return (
            "; on this GPU it is what torch allocated at most. GPU memory needed is what its allocator held at most, "
            "and CUDA's context where the driver tells it"
        )
    if any(phase.resident_bytes is not None for phase in phases):
        return "; on this CPU it is resident memory above what the process had before the phase"
    return ""


def looks(groups: Sequence[Group]) -> list[str]:
    """Each task with its items, precision and batch size."""
    every = {s[0].record.eval_id: s[0] for group in groups if group.ok for s in group.evaluations.values()}
    return [
        f"{task_title(one)}: precision {one.record.evaluation['precision']}, "
        f"{_batch(one.record.evaluation)}" + (", chat template" if one.record.evaluation["chat_template"] else "")
        for one in every.values()
    ]


def _batch(evaluation: Mapping[str, Any]) -> str:
    """Batches of tokens, of rows, or of either, as the task asks."""
    sizes = ((evaluation.get("batch_tokens"), "tokens"), (evaluation.get("batch_size"), "rows"))
    return "batch " + " or ".join(f"{size} {unit}" for size, unit in sizes if size is not None)


def _dates(attempts: Sequence[Attempt]) -> list[str]:
    started = sorted(attempt.started_at for attempt in attempts)
    if not started:
        return []
    return [f"started: {started[0]}" + (f" to {started[-1]}" if started[-1] != started[0] else "") + " (UTC)"]


def _provenance(attempts: Sequence[Attempt]) -> list[str]:
    """Every fact of the runs' provenance, with all values where they differ."""
    values: dict[str, dict[str, None]] = {}
    for attempt in attempts:
        for key, value in attempt.provenance.items():
            if key != "command":
                values.setdefault(key, {})[_shown(value)] = None
    first = [key for key in ("commit", "uncommitted_changes", "device", "device_name", "versions") if key in values]
    ordered = dict.fromkeys((*first, *sorted(values)))
    return [f"{key.replace('_', ' ')}: {'; '.join(values[key])}" for key in ordered]


def sources(loaded: Loaded, part: str) -> list[str]:
    """Return the source of the model or of the data, and the identity of its content."""
    lines: dict[str, None] = {}
    for row in loaded.rows:
        config = row.record.config.get(part) if row.record else None
        if not isinstance(config, Mapping) or (part == "data" and row.is_base):
            continue
        keys = ("source", "package", "hub_id", "revision", "content")
        known = [f"{key} {printable(str(config[key]))}" for key in keys if config.get(key) is not None]
        known += [f"rows {text}" for text in _row_sets(config)]
        known.append(f"license {config.get('license') or 'not recorded'}")
        lines[f"{part} {config.get('name')}: {', '.join(known)}"] = None
    return list(lines)


def _row_sets(config: Mapping[str, Any]) -> list[str]:
    """The named sets that the training rows come from."""
    sets = [rows for rows in config.get("train") or () if isinstance(rows, Mapping)]
    parts = ("dataset", "subset", "split", "file")
    return ["/".join(str(rows[key]) for key in parts if rows.get(key)) for rows in sets]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(one)}" for key, one in sorted(flatten(value).items()))
    return short(value)


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))
