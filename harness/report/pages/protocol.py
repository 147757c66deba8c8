"""The second half of the experimental setup: how settings were chosen, scores taken, and differences tested."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from harness.records.record import Attempt
from harness.records.selection import RULE_TEXTS
from harness.report import names
from harness.report.analysis import axes
from harness.report.analysis.claims import Claims
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import count_of_seeds, headline
from harness.report.display import GIBIBYTE, counted, lowered, quantity, several
from harness.report.pages import hyperparameters
from harness.report.writers.prose import Cite, Part, Reference

UNKNOWN = "not recorded"
COMMIT_DIGITS = 12  # of a commit's hash in prose
_TOOLS = {
    "torch": ("PyTorch", ("paszke2019pytorch",)),
    "transformers": ("Transformers", ("wolf2020transformers",)),
    "trl": ("TRL", ("vonwerra2020trl",)),
    "peft": ("PEFT", ("mangrulkar2022peft",)),
    "bitsandbytes": ("bitsandbytes", ("dettmers2022llmint8",)),
}
Section = tuple[str, list[Part]]
_NOT_OURS = " What the weights were trained on, and for how long, is not recorded."
_FAMILIES = {
    "baseline": "each method against the base model",
    "best": "all pairs from which the best method was chosen",
    "all": "all pairs of methods",
}


def common(values: Iterable[Any]) -> Any:
    """Return the value that all share; None where they differ, or where there is none."""
    present = list(values)
    return present[0] if present and all(value == present[0] for value in present) else None


def _tuning(comparison: Comparison) -> Section:
    sweep = comparison.loaded.sweep
    if sweep is None or sweep.tuning is None:
        rates = " No hyper-parameter was tuned within this comparison: each recipe has one learning rate."
        tried: dict[str, set[Any]] = {}
        for record in comparison.records:
            tried.setdefault(record.method, set()).add((record.recipe.get("train") or {}).get("lr"))
        if all(group.first.trained_elsewhere for group in comparison.trained):
            return "Tuning", []
        several_rates = any(len(values) > 1 for values in tried.values())
        varied = " Learning rates were varied as part of the comparison; none was selected on test scores here."
        return "Tuning", [varied if several_rates else rates] if comparison.trained else []
    tuning = sweep.tuning
    trials = sorted({len(contestant.trials) for contestant in comparison.tuning}) or [tuning.trials]
    searched = [lowered(names.setting(key).display) for key in tuning.settings]
    failed = sum(
        trial.status not in ("ok", "missing") for contestant in comparison.tuning for trial in contestant.trials
    )
    spent = sum(contestant.device_seconds for contestant in comparison.tuning) / axes.HOUR
    count = str(trials[0]) if len(trials) == 1 else f"{trials[0]} to {trials[-1]}"
    seeds = ", ".join(map(str, tuning.final_seeds))
    reads = f"The test sets were used only for the final runs (seeds {seeds}) of what was selected."
    if hyperparameters.test_readers(comparison.loaded):
        reads = f"Final runs have the seeds {seeds}; other runs were evaluated on the test sets too."
    number = sum(len(contestant.trials) for contestant in comparison.tuning)
    tried_with = f"seed{'s' if len(tuning.seeds) > 1 else ''} {', '.join(map(str, tuning.seeds))}"
    text = (
        f" Each method was tuned with {count} trial{'' if count == '1' else 's'} over the {several(searched)} "
        f"({tried_with}), selected by {RULE_TEXTS.get(tuning.rule, tuning.rule)}. {reads} "
        f"{failed:,} of {counted(number, 'trial')} failed or diverged, and counted as trials. Tuning took "
        f"{quantity(spent)} device hours. Search spaces and selected values are in"
    )
    edges = [contestant.name for contestant in comparison.tuning if contestant.edges]
    parts: list[Part] = [text, Reference("tab:tuning", "the table of the tuning (appendix)"), "."]
    if edges:
        parts.append(
            f" The selected value of {len(edges)} of {len(comparison.tuning)} methods is at the edge of its grid."
        )
    return "Tuning", parts


def _evaluation(comparison: Comparison) -> Section:
    parts: list[Part] = []
    scored = comparison.tasks
    versions = dict.fromkeys(str(evaluation.record.provenance.get("lm_eval") or "") for evaluation in scored)
    if scored:
        stated = ", ".join(version or f"(version {UNKNOWN})" for version in versions)
        parts += [f" We evaluate with lm-evaluation-harness {stated}", Cite(("gao2024lmeval",)), " on "]
    listed: dict[str, list[Part]] = {}  # settings that a reader cannot tell apart are named once
    for evaluation in scored:
        name, metric = names.task(evaluation.task), names.metric(headline(evaluation) or "")
        shots = evaluation.record.num_fewshot
        facts = [metric.display, f"{shots}-shot" if shots is not None else "shots not recorded"]
        first_of = "the first " if evaluation.record.evaluation.get("limit") else ""
        facts += [
            f"{first_of}{evaluation.record.num_items:,} items",
            *(["retention"] if evaluation.role == "retention" else []),
        ]
        text = f" ({', '.join(facts)})"
        listed.setdefault(f"{name.display}{text}", [name.display, Cite(name.cite), text])
    parts += [*joined([*listed.values()]), "."] if scored else []
    first = [scored[0] for group in comparison.groups if group.ok for scored in group.evaluations.values()]
    held = {evaluation.task: evaluation for evaluation in first if evaluation.heldout}
    losses = [f"{evaluation.record.num_items:,} {evaluation.role} rows" for evaluation in held.values()]
    if losses:
        parts.append(f" The loss is the mean negative log-likelihood per answer token, on {several(losses)}.")
    precisions = {str(evaluation.record.evaluation.get("precision")) for evaluation in (*scored, *held.values())}
    if precisions - {"unknown"}:
        parts.append(f" Evaluations are computed in {several(sorted(map(names.value, precisions)))}.")
    return "Evaluation", parts


def _quantizes(comparison: Comparison) -> bool:
    """Return whether any run has a quantized base or an optimizer with paged states, which are bitsandbytes'."""
    rows = (*comparison.loaded.rows, *comparison.loaded.trials)
    own = [{**row.part("method"), **(row.record.config.get("method") or {})} for row in rows if row.record]
    return any(
        method.get("quantization") not in (None, "none") or "paged" in str(method.get("optimizer_name"))
        for method in own
    )


def _compute(comparison: Comparison) -> Section:
    every = comparison.attempts
    if not every:
        return "Hardware and compute", [_NOT_OURS] if comparison.trained else []
    versions = [attempt.provenance.get("versions") or {} for attempt in every]
    used = {key: list(dict.fromkeys(str(own[key]) for own in versions if own.get(key))) for key in _TOOLS}
    listed = [key for key in _TOOLS if used[key] and (key != "bitsandbytes" or _quantizes(comparison))]
    tools = joined([[f"{_TOOLS[key][0]} {several(used[key])}", Cite(_TOOLS[key][1])] for key in listed])
    failed = [attempt for attempt in every if attempt.status != "ok"]
    total, lost = (sum(map(axes.device_seconds, part)) / axes.HOUR for part in (every, failed))
    lost_text = f", of which {quantity(lost)} in the {len(failed):,} that failed" if failed else "; none failed"
    parts: list[Part] = [
        f" Experiments ran on {several(devices(every), 6)}{_processes(every)}.",
        f" In total, {counted(len(every), 'attempt')}, tuning and repeated ones included, took "
        f"{quantity(total)} device hours{lost_text}.",
    ]
    joules = [phase.energy_joules for attempt in every if (phase := attempt.phases.get("train"))]
    measured = [value for value in joules if value is not None]
    if measured:
        part = "" if len(measured) == len(joules) else f" of {len(measured):,} of {len(joules):,} trainings"
        parts.append(
            f" Training used {quantity(sum(measured) / 3.6e6)} kWh{part}, as the devices measured it; CO2 emissions "
            "are not estimated."
        )
    else:
        parts.append(" Energy and CO2 emissions were not measured.")
    if tools:
        parts += [" Software: ", *tools, "."]
    parts.append(f" The code is {'; '.join(dict.fromkeys(map(_code, every)))}.")
    return "Hardware and compute", parts


def _code(attempt: Attempt) -> str:
    """Return the program that made an attempt: harness 0.1.0, commit 0123456789ab, with uncommitted changes."""
    facts = attempt.provenance
    commit = str(facts.get("commit") or UNKNOWN)[:COMMIT_DIGITS]
    changes = ", with uncommitted changes" if facts.get("uncommitted_changes") else ""
    return f"harness {facts.get('harness') or UNKNOWN}, commit {commit}{changes}"


def devices(every: Sequence[Attempt]) -> list[str]:
    """Return the devices of the attempts with their memory, each once."""
    named = []
    for attempt in every:
        facts = attempt.provenance
        memory = facts.get("device_memory_bytes") if facts.get("device") == "cuda" else facts.get("memory_bytes")
        cores = f", {facts['cpu_cores']} cores" if facts.get("device") == "cpu" and facts.get("cpu_cores") else ""
        size = f" ({memory / GIBIBYTE:.0f} GiB{cores})" if isinstance(memory, int) else ""
        named.append(f"{facts.get('device_name') or 'a device that is not recorded'}{size}")
    return list(dict.fromkeys(named))


def _processes(every: Sequence[Attempt]) -> str:
    most = max(int(attempt.provenance.get("num_processes") or 1) for attempt in every)
    return f", with up to {most} devices for one run" if most > 1 else ""


def _statistics(comparison: Comparison) -> Section:
    tested = next((result for result in comparison.claims if result.comparison is not None), None)
    seeds = count_of_seeds(group for group in comparison.groups if group.trained)
    if not seeds:
        return "Statistics", []
    parts: list[Part] = [
        " Each method has one seed; errors are one standard error over items."
        if seeds == "1"
        else f" Scores are means over {seeds} seeds; errors are one standard error, which combines the sampling of "
        "items and the variance over seeds."
    ]
    if tested is None or tested.comparison is None:
        return "Statistics", [*parts, " No two methods could be compared on the same items."]
    compared = tested.comparison
    if seeds == "1":
        parts += [" Differences are tested with a t test that is paired by item", Cite(("miller2024errorbars",))]
    else:
        parts += [
            " Differences are paired by item and by seed and tested with a t test with separate degrees of freedom for "
            "items and seeds",
            Cite(("howe1974", "miller2024errorbars")),
        ]
    if compared.seed_deviation is not None:
        parts += [
            "; the variance over seeds is pooled over the methods and moderated by that of each pair",
            Cite(("smyth2004",)),
        ]
    sizes = [f"{_FAMILIES[name]} ({family.comparisons:,})" for name, family in compared.families.items()]
    parts += [
        ". p-values and simultaneous confidence intervals are adjusted within each family of comparisons "
        f"({several(sizes)}) by the distribution of the largest |t|",
        Cite(("hothorn2008",)),
        f", at a family-wise error of {100 * compared.level:g} %.",
    ]
    if tested.about_runs:
        parts.append(" With one seed per method these tests are about the runs, not about the methods.")
    if compared.margin is not None and not tested.about_runs:
        parts += [
            " Methods are called equivalent by two one-sided tests, each at half the level, so that the simultaneous "
            f"interval lies within a margin of {_unit(tested, compared.margin)}",
            Cite(("schuirmann1987",)),
            ".",
        ]
    if tested.detectable is not None and math.isfinite(tested.detectable):
        parts.append(
            f" A difference of {_unit(tested, tested.detectable)} from the best is detected with a power of 80 %."
        )
    return "Statistics", parts


def _unit(result: Claims, difference: float) -> str:
    """Return a difference in the unit of the contest's metric."""
    if names.metric(result.contest.measure.metric).percent:
        return f"{100 * difference:.1f} percentage points"
    return f"{difference:.2g}"


def joined(listed: Sequence[Sequence[Part]]) -> list[Part]:
    """Return the parts of several things as a sentence lists them: a, b and c."""
    parts: list[Part] = []
    for place, part in enumerate(listed):
        parts += [" and " if place == len(listed) - 1 else ", "] if place else []
        parts += part
    return parts


PARTS = (_tuning, _evaluation, _compute, _statistics)
