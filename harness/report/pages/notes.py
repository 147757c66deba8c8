"""Notes of a report on its own numbers: units, origin and limits."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.record import Attempt, RunRecord
from harness.records.untrusted import printable
from harness.report import names
from harness.report.analysis import remarks
from harness.report.analysis.axes import trainings
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded, flatten
from harness.report.display import collected, several, short, size


def definitions(groups: Sequence[Group]) -> list[str]:
    """Return the definition of each number and how it was made."""
    trained = [group for group in groups if group.trained]
    runs = [run for group in trained for run in trainings(group)]
    dropped = ", ".join(map(str, sorted({run.warmup_steps_dropped for run in runs})))
    steps = ", ".join(map(str, sorted({len(run.losses) for run in runs})))
    return [
        "Losses are in nats per answer token, summed over all answer tokens of the set; perplexity = exp(loss).",
        "Items with the same prompt are one cluster in the tests. The base model has no seed variance.",
        "Peak memory over model loading and training, including weights, excluding imported libraries"
        f"{_memory(trained)}.",
        f"Tokens/s counts real tokens, not padding, after the first {dropped or 'n'} optimizer steps; training seconds "
        "are those of the optimizer steps alone, without loading, validation and saving.",
        f"Optimizer steps taken: {steps or 'none'}.",
        *remarks.precision_remarks(groups),
    ]


def limits(groups: Sequence[Group], tuned: bool = False) -> list[str]:
    """Return the limits of the numbers: what they do not show. `tuned`: whether the sweep chose the learning rates."""
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
        lines.append(f"The items of {tasks} are the first of the task, not a random sample.")
    lines += fallbacks(trained)
    rate = "a rate between or beyond those that were tried" if tuned else "another learning rate"
    lines.append(f"Each method was run with the settings shown; {rate} may change the order.")
    of_rows = (
        "the initial weights, the order of the rows, and the rows themselves, which each seed draws with replacement."
        if resampled(trained)
        else "the initial weights and the order of the rows, not the rows."
    )
    lines.append(f"Results are for one training set, one split of it and the chosen settings: seeds change {of_rows}")
    lines.append("Memory and speed are those of this device and these software versions.")
    lines.append("Per-task differences to the base model are not corrected for multiple comparisons.")
    return lines


def resampled(groups: Sequence[Group]) -> bool:
    """Return whether every seed of these methods drew its own training rows (`data.resample=bootstrap`)."""
    return bool(groups) and all(group.first.part("data").get("resample") for group in groups)


def fallbacks(groups: Sequence[Group]) -> list[str]:
    """Return a line for each fallback to other training settings after memory had run out."""
    lines: dict[str, None] = {}
    for group in groups:
        for record in (row.record for row in group.rows if row.record and row.status == "ok"):
            wanted, now = record.recipe.get("train") or {}, record.measured
            sizes = (wanted.get("micro_batch_size"), wanted.get("gradient_checkpointing"))
            if now.micro_batch_size is None or (now.micro_batch_size, now.gradient_checkpointing) == sizes:
                continue
            changes = [f"micro-batches of {now.micro_batch_size}"]
            changes += ["gradient checkpointing"] if now.gradient_checkpointing else []
            changes += [f"no row of more than {now.max_length:,} tokens"] if now.max_length else []
            lines[
                f"{group.name} ran out of memory with micro-batches of {sizes[0]} and was trained with "
                f"{several(changes)}; its time and memory are those of these settings."
            ] = None
    return list(lines)


def command_of(loaded: Loaded) -> str:
    """Return the command that made these runs, as far as the records have it."""
    commands = dict.fromkeys(str(row.provenance.get("command") or "") for row in loaded.rows)
    return loaded.sweep.command if loaded.sweep else "\n".join(filter(None, commands))


def origin(loaded: Loaded) -> list[str]:
    """Return dates, commit, device, versions, model and data of the runs, a line each; then later changes."""
    attempts = [row.current for row in loaded.rows if row.current]
    started = sorted({attempt.started_at for attempt in attempts})
    dates = " to ".join(dict.fromkeys((*started[:1], *started[-1:])))
    return [
        *([f"started: {dates} (UTC)"] if dates else []),
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
    ways = collected((_way(scored.record.evaluation), names.task(scored.task).display) for scored in every.values())
    tasks = {way: f" of {several([*dict.fromkeys(of)], 9)}" if len(ways) > 1 else "" for way, of in ways.items()}
    return [f"Evaluations{of}: {way}." for way, of in tasks.items()]


def _way(evaluation: Mapping[str, Any]) -> str:
    """Return the precision, the batches of tokens, of rows, or of either, as the task asks, and the template."""
    sizes = ((evaluation.get("batch_tokens"), "tokens"), (evaluation.get("batch_size"), "rows"))
    batches = " or ".join(f"{size:,} {unit}" for size, unit in sizes if size is not None)
    chat = ", chat template" if evaluation["chat_template"] else ""
    return f"precision {names.value(evaluation['precision'])}{f', batches of {batches}' if batches else ''}{chat}"


def _provenance(attempts: Sequence[Attempt]) -> list[str]:
    """Every fact of the runs' provenance, with all values where they differ."""
    facts = ((key, value) for attempt in attempts for key, value in attempt.provenance.items() if key != "command")
    values = collected((key, _fact(key, value)) for key, value in facts)
    first = [key for key in ("commit", "uncommitted_changes", "device", "device_name", "versions") if key in values]
    ordered = dict.fromkeys((*first, *sorted(values)))
    return [f"{names.provenance(key).display}: {'; '.join(dict.fromkeys(values[key]))}" for key in ordered]


def _fact(key: str, value: Any) -> str:
    """Return a fact as people write it: a size in GiB, yes or no, and several facts with their names."""
    if isinstance(value, Mapping):
        parts = (f"{name} {_fact(name, own)}" for name, own in sorted(flatten(value).items()))
        return ", ".join(parts) or "none"
    if value is None:
        return names.UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)) and not value:
        return "none"
    return size(key, value) or short(value)


def sources(loaded: Loaded, part: str) -> list[str]:
    """Return the source of the model or of the data, and the identity of its content."""
    lines: dict[str, None] = {}
    for row in loaded.rows:
        config = row.record.config.get(part) if row.record else None
        if not row.record or not isinstance(config, Mapping) or (part == "data" and row.is_base):
            continue
        origin = names.origin(config).items()
        facts = [f"{names.provenance(key).display} {printable(str(value))}" for key, value in origin]
        for rows in config.get("train") or ():  # the named sets that the training rows come from
            if isinstance(rows, Mapping):
                of_rows = (str(rows[key]) for key in ("dataset", "subset", "split", "file") if rows.get(key))
                facts.append(f"rows {'/'.join(of_rows)}")
        facts.append(f"license {config.get('license') or 'not recorded'}")
        lines[f"{_named(part, row.record)}: {', '.join(facts)}"] = None
    return list(lines)


def _named(part: str, record: RunRecord) -> str:
    """Return the name of a run's model or of its data: base model SmolLM2-135M-Instruct."""
    name = names.model(record) if part == "model" else names.data(record)
    return f"{'base model' if part == 'model' else 'training data'} {name.display}"
