"""Notes of a report on its own numbers: units, origin and limits."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.record import Attempt
from harness.records.untrusted import printable
from harness.report import names
from harness.report.analysis import remarks
from harness.report.analysis.axes import trainings
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded, flatten
from harness.report.display import several, short


def definitions(groups: Sequence[Group]) -> list[str]:
    """Return the definition of each number and how it was made."""
    trained = [group for group in groups if group.trained]
    dropped = _listed(training.warmup_steps_dropped for group in trained for training in trainings(group))
    steps = _listed(len(training.losses) for group in trained for training in trainings(group))
    return [
        "Losses are in nats per answer token, summed over all answer tokens of the set; perplexity = exp(loss).",
        "Items with the same prompt are one cluster of the tests. The base model has no seed variance.",
        "Peak memory over model loading and training, including weights, excluding imported libraries"
        f"{_memory(trained)}.",
        f"Tokens/s counts real tokens, not padding, after the first {dropped or 'n'} optimizer steps; training seconds "
        "are those of the optimizer steps alone, without loading, validation and saving.",
        f"Optimizer steps taken: {steps or 'none'}.",
        *remarks.precision_remarks(groups),
    ]


def limits(groups: Sequence[Group]) -> list[str]:
    """Return the limits of the numbers: what they do not show."""
    trained = [group for group in groups if group.trained]
    fewest = min((len(group.rows) for group in trained), default=0)
    lines = []
    if fewest == 1:
        lines.append("With one seed, variance across seeds is unknown; do not interpret small gaps.")
    elif fewest:
        lines.append(f"Variance across seeds is estimated from as few as {fewest} seeds.")
    every = [scored[0] for group in groups if group.ok for scored in group.evaluations.values()]
    limited = [s for s in every if s.record.evaluation["limit"] and s.record.evaluation["kind"] in ("lm_eval", "text")]
    if limited:
        tasks = several(list(dict.fromkeys(names.task(scored.task).display for scored in limited)), 12)
        lines.append(f"The items of {tasks} are the first ones of the task, which are not a random sample.")
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
    lines: dict[str, None] = {}
    for group in groups:
        for record in (row.record for row in group.rows if row.record and row.status == "ok"):
            wanted, now = record.recipe.get("train") or {}, record.measured
            sizes = (wanted.get("micro_batch_size"), wanted.get("gradient_checkpointing"))
            if now.micro_batch_size is None or (now.micro_batch_size, now.gradient_checkpointing) == sizes:
                continue
            changes = [f"micro batches of {now.micro_batch_size}"]
            changes += ["gradient checkpointing"] if now.gradient_checkpointing else []
            changes += [f"no row of more than {now.max_length:,} tokens"] if now.max_length else []
            lines[
                f"Memory ran out for {group.name} as it was asked for (micro batches of {sizes[0]}): it was trained "
                f"with {', '.join(changes)}, and its time and memory are of that."
            ] = None
    return list(lines)


def command_of(loaded: Loaded) -> str:
    """Return the command that made these runs, as far as the records have it."""
    attempts = [row.current for row in loaded.rows if row.current]
    commands = dict.fromkeys(str(attempt.provenance.get("command") or "") for attempt in attempts)
    return loaded.sweep.command if loaded.sweep else "\n".join(command for command in commands if command)


def origin(loaded: Loaded) -> list[str]:
    """Return dates, commit, device, versions, model and data of the runs, a line each; then later changes."""
    attempts = [row.current for row in loaded.rows if row.current]
    return [
        *_dates(attempts),
        *_provenance(attempts),
        *sources(loaded, "model"),
        *sources(loaded, "data"),
        *remarks.older(loaded.rows, loaded.sweep.asked_with if loaded.sweep else None),
        *remarks.retrained(loaded.rows),
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
    """Return the precision and the batches of the evaluations, with the tasks where they differ."""
    every = {s[0].record.eval_id: s[0] for group in groups if group.ok for s in group.evaluations.values()}
    ways: dict[str, dict[str, None]] = {}
    for scored in every.values():
        settings = scored.record.evaluation
        chat = ", chat template" if settings["chat_template"] else ""
        ways.setdefault(f"precision {settings['precision']}{_batch(settings)}{chat}", {})[
            names.task(scored.task).display
        ] = None
    return [f"Evaluations{f' of {several([*of], 9)}' if len(ways) > 1 else ''}: {way}." for way, of in ways.items()]


def _batch(evaluation: Mapping[str, Any]) -> str:
    """Batches of tokens, of rows, or of either, as the task asks."""
    sizes = ((evaluation.get("batch_tokens"), "tokens"), (evaluation.get("batch_size"), "rows"))
    batches = [f"{size} {unit}" for size, unit in sizes if size is not None]
    return f", batch {' or '.join(batches)}" if batches else ""


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
        facts = [f"{key} {printable(str(config[key]))}" for key in keys if config.get(key) is not None]
        facts += [f"rows {text}" for text in _row_sets(config)]
        facts.append(f"license {config.get('license') or 'not recorded'}")
        lines[f"{part} {config.get('name')}: {', '.join(facts)}"] = None
    return list(lines)


def _row_sets(config: Mapping[str, Any]) -> list[str]:
    """The named sets that the training rows come from."""
    sets = [rows for rows in config.get("train") or () if isinstance(rows, Mapping)]
    parts = ("dataset", "subset", "split", "file")
    return ["/".join(str(rows[key]) for key in parts if rows.get(key)) for rows in sets]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(entry)}" for key, entry in sorted(flatten(value).items()))
    return short(value)


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))
