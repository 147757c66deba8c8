"""The section on the experimental setup, ready to paste: models, data, training, tuning, evaluation, compute, tests.

Every statement is taken from the records; what they do not say is called not recorded.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records.attempts import DataCounts
from harness.records.data_check import DataCheck, Near
from harness.records.record import RunRecord
from harness.report import names
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.data.rows import settings_of
from harness.report.display import collected, several, short
from harness.report.pages import hyperparameters, notes, protocol
from harness.report.pages.protocol import UNKNOWN, Section, common, joined
from harness.report.writers.prose import Cite, Paragraph, Part, Reference

LOSS_ON = {
    "completion": "the tokens of the completion",
    "assistant": "the tokens of every turn of the assistant",
    "all": "all tokens, prompts included",
}
_SCHEDULES = {
    "constant": "a constant learning rate",
    "constant_with_warmup": "a constant learning rate{}",
    "linear": "a learning rate that decays linearly to zero{}",
    "cosine": "a learning rate that decays to zero along a cosine{}",
}
_SHARED = Reference("tab:shared_settings", "the table of shared settings (appendix)")
_OWN = Reference("tab:hyperparameters", "the table of hyper-parameters (appendix)")
_REMOVED = {
    "in_test": "whose prompt occurs in a test set",
    "duplicate": "exact duplicates",
    "near_duplicate": "near duplicates",
    "contradiction": "with conflicting answers",
    "too_long": "longer than the maximum sequence length",
}


def paragraphs(comparison: Comparison) -> list[Paragraph]:
    """Return the section's paragraphs; one about something that was not done is left out."""
    made = (_methods, _elsewhere, _model, _data, _decontamination, _prompts, _training, *protocol.PARTS)
    return [Paragraph(title, tuple(parts)) for title, parts in (part(comparison) for part in made) if parts]


def _methods(comparison: Comparison) -> Section:
    named = {
        name.display: name
        for group in comparison.trained
        if (name := names.method(group.first.method, group.first.record))
    }
    if not named:
        return "Methods", []
    listed = joined([[names.inside(name.display), Cite(name.cite)] for name in named.values()])
    has_base = any(group.first.is_base for group in comparison.groups)
    end = [" with the base model as it is." if has_base else ".", *_variants(comparison)]
    tables = [_SHARED] if hyperparameters.shared(comparison) else []
    tables += [_OWN] if hyperparameters.by_method(comparison) else []
    is_known = bool(tables) and any(not group.first.trained_elsewhere for group in comparison.trained)
    where: list[Part] = [" Their hyper-parameters are in", *tables[:1], *(" and" for _ in tables[1:]), *tables[1:], "."]
    return "Methods", ["We compare ", *listed, *end, *(where if is_known else [])]


def _variants(comparison: Comparison) -> list[Part]:
    """Return a sentence for each method that was run in variants with names of their own, as PiSSA of LoRA."""
    found = {
        (names.method(row.method, row.record).display, name.display): name
        for row in (group.first for group in comparison.trained)
        for key, value in settings_of(row).items()
        if (name := names.variant(key, value)) and name.display
    }
    parts: list[Part] = []
    for method in dict.fromkeys(method for method, _ in found):
        own: list[list[Part]] = [[name.display, Cite(name.cite)] for (of, _), name in found.items() if of == method]
        parts += [f" Variants of {names.inside(method)}: ", *joined(own), "."]
    return parts


def _elsewhere(comparison: Comparison) -> Section:
    listed = several([names.inside(group.name) for group in comparison.trained if group.first.trained_elsewhere], 9)
    if not listed:
        return "Weights from elsewhere", []
    return "Weights from elsewhere", [
        f"The weights of {listed} were trained elsewhere. Their data, settings and number of training runs are not "
        "recorded, so that a difference between them is one between these weights, whatever its cause."
    ]


def _model(comparison: Comparison) -> Section:
    parts: list[Part] = []
    seen = set()
    for record in comparison.records:
        if names.model(record).display == names.UNKNOWN:
            continue
        name, config = names.model(record), record.config.get("model") or {}
        if name.display in seen:
            continue
        seen.add(name.display)
        parts += [
            f" {'The base model is' if len(seen) == 1 else 'Another base model is'} {name.display}",
            Cite(name.cite),
        ]
        parts.append(f" ({_origin(comparison, record)}).")
        parts += [_quantized(form) for form in [names.quantized(record)] if form]
        if config.get("weights") == "random":
            parts.append(
                " Its weights are random: memory and speed are those of the architecture, scores mean nothing."
            )
    return "Model", parts


def _origin(comparison: Comparison, record: RunRecord) -> str:
    """Return the place that the files of a run's model are from, its size and its license."""
    config, name = record.config.get("model") or {}, names.model(record).display
    source = config.get("source")
    hub_id = config.get("hub_id")
    if source == "hub":
        place = f"{hub_id} on the Hugging Face Hub, revision {config.get('revision') or UNKNOWN}"
    elif source == "package":
        file = f", file {config['file']}" if config.get("file") else ""
        place = f"{hub_id or config.get('name')}, from the package {config.get('package') or UNKNOWN}{file}"
    else:
        place = f"local files, content {config.get('content') or UNKNOWN}" if source else f"source {UNKNOWN}"
    bases = (group.first for group in comparison.groups if group.first.is_base)
    own = (row.current for row in bases if row.record and names.model(row.record).display == name)
    prints = next((attempt.fingerprint for attempt in own if attempt), None)
    size = f"{prints.total_parameters / 1e6:,.1f}M parameters" if prints else "number of parameters not recorded"
    return f"{place}; {size}; license: {config.get('license') or UNKNOWN}"


def _quantized(form: str) -> str:
    return (
        f" Its weights come from a quantized file ({form}) and were dequantized on loading: every method, full "
        "fine-tuning included, starts from weights that have been rounded once, and a method that quantizes the base "
        "rounds them a second time. Differences between methods with and without a quantized base are those on such "
        "weights, not on the published ones."
    )


def _data(comparison: Comparison) -> Section:
    ours = [group for group in comparison.trained if not group.first.trained_elsewhere]
    by_name = collected((names.data(record).display, group) for group in ours if (record := group.first.record))
    parts: list[Part] = []
    for name, groups in by_name.items():
        records = [record for group in groups if (record := group.first.record)]
        configs = [record.config.get("data") or {} for record in records]
        parts += [f" The training data are {name}", Cite(names.data(records[0]).cite), _rows(configs), "."]
        parts.append(_counts(groups))
        parts.append(f" License of the data: {configs[0].get('license') or UNKNOWN}.")
    return "Data", parts


def _rows(configs: Sequence[Mapping[str, Any]]) -> str:
    """Return the data sets and splits that the rows are from, with revisions; those of some runs alone say so."""
    every = [_sets(config) for config in configs]
    listed = dict.fromkeys(text for sets in every for text in sets)
    texts = [text if all(text in sets for sets in every) else f"{text}, in some runs" for text in listed]
    return f" ({'; '.join(texts)})" if texts else ""


def _sets(config: Mapping[str, Any]) -> list[str]:
    """Return the data sets and splits of a run's rows, with revisions where there are any."""
    sets = []
    for rows in (*(config.get("train") or ()), *(config.get("mix") or ())):
        named = [str(rows[key]) for key in ("dataset", "subset", "split") if rows.get(key)]
        named = named or [Path(rows["file"]).name if rows.get("file") else f"rows {UNKNOWN}"]
        share = f", {100 * rows['share']:g} % of the rows" if rows.get("share") else ""
        revision = f", revision {rows['revision']}" if rows.get("revision") else ""
        sets.append("/".join(named) + share + revision)
    return sets


def _counts(groups: Sequence[Group]) -> str:
    """Return the sizes of the splits and the rows that were left out, as ranges where runs differ."""
    every = [row.current.data for group in groups for row in group.rows if row.current and row.current.data]
    if not every:
        return " The numbers of rows are not recorded."
    parts = [
        ("train_rows", " rows and hold out"),
        ("validation_rows", " for validation"),
        ("test_rows", " for testing"),
    ]
    sizes = [f"{_span(getattr(counts, key) for counts in every)}{what}" for key, what in parts]
    rows = {(counts.train_rows + counts.validation_rows, counts.validation_rows) for counts in every}
    shares = {isinstance(group.first.part("data").get("validation_fraction"), float) for group in groups}
    if len(rows) == 1 and shares == {True}:
        [(total, held)] = rows
        sizes[1] += f" ({100 * held / total:.1f} % of the {total:,} rows)"
    return f" We train on {sizes[0]} {sizes[1]} and {sizes[2]}.{_left_out(every)}"


def _left_out(every: Sequence[DataCounts]) -> str:
    """Return the training rows that were left out, by their reasons."""
    removed = [
        counts.removed or {
            "in_test": counts.removed_in_test, "duplicate": counts.removed_duplicates,
            "too_long": counts.removed_too_long,
        }
        for counts in every
    ]  # fmt: skip
    if common(removed) is None:
        return " How many training rows were left out differs between the runs."
    out = [f"{number:,} {_REMOVED.get(kind, kind.replace('_', ' '))}" for kind, number in removed[0].items() if number]
    return f" Left out of the training rows: {several(out, 9)}." if out else " No training row was left out."


def _span(values: Iterable[Any]) -> str:
    """Return a number that all share, or the lowest and the highest of several: 54, 64 to 1,024; "" without any."""
    numbers = sorted({value for value in values if value is not None})
    ends = dict.fromkeys((*numbers[:1], *numbers[-1:]))
    return " to ".join(f"{end:,}" if isinstance(end, int) else short(end) for end in ends)


def _decontamination(comparison: Comparison) -> Section:
    if not comparison.loaded.checks:
        missing = " No search for overlaps between training rows and evaluation items is recorded."
        return "Decontamination", [missing] if comparison.trained else []
    return "Decontamination", [text for check in comparison.loaded.checks for text in _overlaps(comparison, check)]


def _overlaps(comparison: Comparison, check: DataCheck) -> list[Part]:
    shared = [
        f"{overlap.items_found:,} of the {overlap.items:,} items of {names.task(overlap.name).display} with "
        f"{overlap.train_rows_found:,} training {'row' if overlap.train_rows_found == 1 else 'rows'}"
        for overlap in check.contaminated
    ]
    searched = [names.task(overlap.name).display for overlap in check.overlaps if not overlap.reason]
    unsearched = [
        f"{names.task(overlap.name).display} ({overlap.reason})" for overlap in check.overlaps if overlap.reason
    ]
    config = next((record.config.get("data") or {} for record in comparison.records if record.method != names.BASE), {})
    policy = {"keep": "These rows were kept and counted.", "error": "A run with such rows would have been refused."}
    occurs = "prompt and answer occur" if config.get("split_by") == "row" else "prompt occurs"
    parts: list[Part] = [f" Training rows whose {occurs} in a held-out set are removed."]
    if searched:
        parts.append(
            f" We searched the training rows for runs of {check.ngram} words that they share with the items of "
            f"{several(searched, 12)} (shorter items as a whole, from {check.shortest_ngram} words on): "
            + (f"such runs are shared by {several(shared, 12)}." if shared else "there are none.")
        )
        if shared:
            parts.append(
                f" {policy.get(str(config.get('on_contamination')), 'What was done with them is not recorded.')}"
            )
    else:
        parts.append(" No search for runs of words shared with evaluation items is recorded.")
    if unsearched:
        parts.append(f" Not searched: {several(unsearched, 12)}.")
    if check.near.found:
        parts.append(_near_duplicates(check.near))
    return parts


def _near_duplicates(near: Near) -> str:
    sampled = near.rows_looked_at < near.rows
    rows = f"{'a sample of ' if sampled else ''}{near.rows_looked_at:,} training and validation rows"
    return (
        f" Of {rows}, {near.found:,} {'is a near duplicate' if near.found == 1 else 'are near duplicates'} of another "
        f"(Jaccard similarity of word triples from {near.threshold:g} on)."
    )


def _prompts(comparison: Comparison) -> Section:
    recipes = [record.recipe for record in comparison.records if record.recipe.get("train")]
    if not recipes:
        return "Prompt format", []
    template = common((recipe.get("data") or {}).get("template") for recipe in recipes)
    loss_on = common((recipe.get("train") or {}).get("loss_on") for recipe in recipes)
    prompts = any(rows.get("prompt") for recipe in recipes for rows in (recipe.get("data") or {}).get("train") or ())
    parts: list[Part] = []
    if template == "model":
        parts.append(" Every example is formatted with the chat template of the model.")
    elif template:
        parts.append(" Every example is formatted with a chat template from a file.")
    if prompts:
        parts.append(" The prompt templates of training are listed in the appendix.")
    if loss_on:
        parts.append(f" The loss is computed on {LOSS_ON.get(str(loss_on), str(loss_on))}, for all methods.")
    chats = {bool(scored.record.evaluation.get("chat_template")) for scored in comparison.tasks}
    if chats:
        how = "partly with" if len(chats) > 1 else "with" if True in chats else "without"
        parts.append(f" Evaluation prompts are those of the tasks, {how} the chat template.")
    return "Prompt format", parts


def _training(comparison: Comparison) -> Section:
    settings = [record.recipe["train"] for record in comparison.records if record.recipe.get("train")]
    if not settings:
        return "Training", []

    def value(key: str) -> Any:
        return common(setting.get(key) for setting in settings)

    def given(key: str, text: str) -> list[str]:
        return [text.format(short(value(key)))] if value(key) is not None else []

    amounts = {"optimizer steps": "max_steps", "epochs": "epochs"}
    spans = {noun: _span(setting.get(key) for setting in settings) for noun, key in amounts.items()}
    length = " or ".join(f"{span} {noun}" for noun, span in spans.items() if span)
    batch = given("global_batch_size", "batches of {} sequences") + given("micro_batch_size", "micro-batches of {}")
    batch += given("max_length", "sequences of at most {} tokens")
    schedule = str(value("lr_scheduler_type") or "")
    warmup = _warmup(value("warmup_steps"))
    rates = [_SCHEDULES[schedule].format(warmup)] if schedule in _SCHEDULES else []
    rates += given("weight_decay", "weight decay {}") + given("max_grad_norm", "gradients clipped at norm {}")
    precision = f" in {names.value(value('precision'))}" if value("precision") not in (None, "auto") else ""
    parts: list[Part] = [f" All methods are trained for {length or f'a length that is {UNKNOWN}'}{precision}"]
    parts.append(f" with {several([*batch, *rates], 12)}.")
    parts += _optimizer(comparison)
    flags = {"gradient_checkpointing": "Gradient checkpointing is on.", "packing": "Examples are packed."}
    parts += [f" {text}" for key, text in flags.items() if value(key) is True]
    parts += _seen(comparison) if value("max_steps") is not None and value("packing") is not True else []
    parts += [f" {line}" for line in notes.fallbacks(comparison.trained)]
    if hyperparameters.by_method(comparison):
        rates_too = "" if value("lr") is not None else ", learning rates included,"
        parts += [f" Settings that differ between the methods{rates_too} are in", _OWN, "."]
    return "Training", parts


def _seen(comparison: Comparison) -> list[Part]:
    """Return how many sequences each run was trained on, and how many epochs that is; [] where runs differ."""
    runs = {
        (sum(row.training.sequences), row.current.data.train_rows)
        for group in comparison.trained
        for row in group.rows
        if row.training and row.training.sequences and row.current and row.current.data
    }
    if len(runs) != 1:
        return []
    [(seen, rows)] = runs
    return [f" Each run sees {seen:,} sequences ({seen / rows:.2g} epochs)."]


def _warmup(steps: Any) -> str:
    if not isinstance(steps, (int, float)) or not steps:
        return ""
    return f" after warmup over {100 * steps:g} % of the steps" if steps < 1 else f" after warmup over {steps:g} steps"


def _optimizer(comparison: Comparison) -> list[Part]:
    """Return the optimizers of the attempts that trained, with the methods where they differ."""
    by_optimizer: dict[str, list[str]] = {}
    for group in comparison.trained:
        made = [facts for row in group.rows if row.record and (facts := row.record.trained_by)]
        if made:
            by_optimizer.setdefault(_optimizer_text(made[0].provenance.get("optimizer")), []).append(
                names.inside(group.name)
            )
    if not by_optimizer:
        return []
    if len(by_optimizer) == 1:
        [text] = by_optimizer
        adamw: list[Part] = [Cite(("loshchilov2019adamw",))] if text.startswith("AdamW") else []
        return [f" The optimizer is {text}" if text != UNKNOWN else " The optimizer is not recorded", *adamw, "."]
    listed = "; ".join(f"{text} ({several(who, 9)})" for text, who in by_optimizer.items())
    return [f" Optimizers: {listed}."]


def _optimizer_text(facts: Any) -> str:
    if not isinstance(facts, Mapping):
        return UNKNOWN
    constants = [f"{key} = {short(value)}" for key, value in facts.items() if key != "name"]
    return f"{facts.get('name')}" + (f" ({', '.join(constants)})" if constants else "")
