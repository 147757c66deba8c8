"""The claims of report.md's sentences, from the files of the records; constants of the statistics are spelled out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import scipy.stats
from ledger import ANYWHERE, Claim, claim_words
from traced_files import Line
from traced_numbers import MetricComparison
from traced_report import NO_RECORD, STATISTICS, Traced
from traced_shown import (
    amount,
    cell,
    ends,
    fixed,
    listed,
    method_name,
    one_line,
    percent,
    quality_name,
    setting,
    task_name,
)
from traced_tradeoff import cheapest, ladder

from harness import stats
from harness.report.analysis import multiverse, noise
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load

OTHER_CORES, THROTTLED = 0.1, 0.05  # shares of the machine and of a phase beyond which a timing is doubted


def names(traced: Traced) -> Iterator[Claim]:
    """What the records call things, which may stand anywhere."""
    yield from (Claim(ANYWHERE, (text,)) for line in traced.files.lines for text in (line.label, line.name))
    yield from (Claim(ANYWHERE, (quality_name(one),)) for one in traced.contests.values())


def answer(traced: Traced) -> Iterator[Claim]:
    """The best method, those by their verdict against it, and the best from each memory on."""
    section, main = "Answer", traced.main
    best = main.ranked[0]
    pair = main.family("baseline")[0]
    gain = f"{fixed(100 * pair.result.difference, 1, signed=True)} points, simultaneous 95 % CI {ends(pair, main)}"
    assert pair.a is best
    level = [line.name for line in main.ranked if main.value(line) == main.value(best)]
    who = level[0] if len(level) == 1 else f"{', '.join(level[:-1])} and {level[-1]}"
    is_open = not all(other.result.verdict in ("better", "worse") for other in main.family("best"))
    predicate = "scored highest on" if is_open else f"{'is' if len(level) == 1 else 'are'} best on"
    start = f"{who} {predicate} {task_name(main.look.task)}: {percent(main.value(best))}"
    yield claim_words(section, f"{start} (base model {percent(main.value(main.base))}, {gain}")
    for line in main.ranked[1:]:
        yield claim_words(section, f"{line.name} ({percent(main.value(line))})")
    for line in main.left_out:
        yield claim_words(section, f"{line.name} ({_at_chance(main, line)})")
    yield claim_words(
        section,
        f"{main.num_items:,} items and {_seeds(main)} per method detect a difference of {_points(main.detectable)} "
        "(80 % power)",
    )
    chosen, _, shown = cheapest(traced)
    if chosen is not best:
        inner = f"{percent(main.value(chosen))}, {_gib(traced, chosen)}"
        yield claim_words(section, f"not worse by more than 1 point: {chosen.name} ({inner})")
    elif shown:
        yield claim_words(section, "within 1 point of it")
    steps = ladder(traced)
    for used, line in steps if len(steps) > 1 else ():
        yield claim_words(section, f"from {used / 1024:.2f} GiB {line.name} ({percent(main.value(line))})")


def _gib(traced: Traced, line: Line) -> str:
    return f"{np.mean([run.attempt['peak_memory_bytes'] for run in line.runs]) / 2**30:.2f} GiB"


def _points(value: float) -> str:
    return f"{fixed(100 * value, 1)} points"


def explained(traced: Traced) -> Iterator[Claim]:
    one, section = traced.main, STATISTICS
    reach = f"a method and the best: {_points(one.detectable)} (80 % power, adjusted for the family)"
    yield claim_words(section, f"{reach}, with {_seeds(one)} per method and {one.num_items:,} items")
    if one.compared.seed_deviation is not None:
        members = (*one.family("best"), *one.family("baseline"), *one.family("all"))
        source = next(pair.result.pooled for pair in members if pair.result.pooled)
        yield claim_words(section, _named(traced, source))
        yield claim_words(section, f"deviate by {100 * one.compared.seed_deviation:.2g} points")
    for label, ratio in one.compared.unlike.items():
        yield claim_words(section, f"{_named(traced, label)}: its seeds scatter {ratio:.1f} times as much")
        yield claim_words(section, "(one-sided F test, 5 % over all methods)")
    alike = [pair.result for pair in one.family("best") if pair.result.verdict != "no verdict"]
    if alike and not any(pair.verdict == "equivalent" for pair in alike):
        middle = sorted(alike, key=lambda pair: pair.standard_error)[len(alike) // 2]
        items, seeds = stats.needed_for_equivalence(middle, 0.01, one.num_items)
        within = (items is not None and items <= one.num_items) or (seeds is not None and seeds <= middle.seeds)
        needs = [f"{count:,} {noun}" for count, noun in ((items, "items"), (seeds, "seeds")) if count]
        if not within:
            yield claim_words(section, "Equivalence within 1.0 points is out of reach here")
            yield claim_words(section, f"about {' or '.join(needs)} would" if needs else "more items and more seeds")
            yield claim_words(section, "(80 % power, no true difference)")
    every = (*one.family("baseline"), *one.family("all"))
    for why in dict.fromkeys(pair.result.why for pair in every if pair.result.why):
        yield claim_words(section, f"No verdict: {_named(traced, why)}")
    for line in one.left_out:
        yield claim_words(section, f"Not ranked: {line.name}: {_at_chance(one, line)}")


def _named(traced: Traced, text: str) -> str:
    """A sentence of the tests, which are made by labels here, with the names of the methods."""
    for line in sorted(traced.files.lines, key=lambda line: -len(line.label)):
        text = re.sub(rf"(?<![\w=]){re.escape(line.label)}(?![\w=])", line.name, text)
    return text


def tuning_words(traced: Traced) -> Iterator[Claim]:
    """The remarks on the trials."""
    known = traced.files.sweep["tuning"]
    [name] = known["settings"]
    for contestant, runs in traced.files.trials.items():
        title = method_name(runs[0].method)
        tried = {run.recipe_id: _asked(traced, run.recipe_id, contestant, name) for run in runs}
        losses = {run.recipe_id: _loss(run) for run in runs if run.status == "ok"}
        best = min(losses, key=losses.get) if losses else None
        values = [float(one) for one in tried.values()]
        if best and float(tried[best]) in (min(values), max(values)):
            side = "highest" if float(tried[best]) == max(values) else "lowest"
            yield claim_words("Tuning", f"{title} may be undertuned: {name}={tried[best]} is the {side} value tried")
        fates: dict[str, list[str]] = {}
        for run in runs:
            if run.status != "ok":
                fate = f"{run.status}: {one_line(run.attempt['reason'])}"
                fates.setdefault(fate, []).append(f"{name}={tried[run.recipe_id]}")
        for fate, who in fates.items():
            yield claim_words("Tuning", f"{title} {', '.join(who)}: {fate}")
        if not losses:
            yield claim_words("Tuning", f"none of {len(tried)} trials completed, {len(tried)} diverged")
    both = sorted({*known["seeds"]} & {run.seed for line in traced.files.trained for run in line.runs})
    if both:
        yield claim_words("Tuning", f"Results with seed {_numbers(both)} are optimistic")


def equality(traced: Traced) -> Iterator[Claim]:
    """What the machine found to differ beside what was declared to."""
    scales, seeds = {}, {}
    for line in traced.files.trained:
        method = line.recipe["method"]
        scale = method["lora_alpha"] / method["r"] if {"lora_alpha", "r"} <= {*method} else None
        scales[line.name] = "absent" if scale is None else setting(float(scale))
        seeds[line.name] = _numbers(line.seeds)
    for key, values in (("Update scale (alpha / r)", scales), ("seeds", seeds)):
        if len({*values.values()}) > 1:
            groups = {text: [label for label, one in values.items() if one == text] for text in values.values()}
            shown = ", ".join(f"{text} ({listed(who, 6)})" for text, who in groups.items())
            yield claim_words("What was compared", f"{key}: {shown}")


def remarks(traced: Traced) -> Iterator[Claim]:
    """Seeds without a result, and runs whose test was read for weights that were replaced."""
    for line in traced.files.trained:
        lost = line.lost
        assert all(run.status != "diverged" for run in lost), "the rate of divergence has a test of its own"
        if lost:
            fates = ", ".join(f"seed {run.seed} {run.status}" for run in lost)
            yield claim_words(
                "What was compared", f"{line.name}: seeds without a result that did not diverge, left out: {fates}"
            )
        for run in line.runs:
            folders = [traced.runs / run.recipe_id / f"seed-{run.seed}" / "evaluations"]
            folders += folders[0].parent.glob("earlier/*")
            reads = [
                {json.loads(path.read_text())["evaluation"]["role"] for path in one.glob("*.json")} for one in folders
            ]
            tested = sum(bool(roles & {"test", "target"}) for roles in reads)
            if tested > 1:
                words = f"evaluated on the test sets {tested} times, once for each set of weights that the run has had"
                yield claim_words("What was compared", f"{words}: {line.name} seed {run.seed}")


def doubts(traced: Traced, section: str) -> Iterator[Claim]:
    """Timings that were taken beside other work."""
    for line in traced.files.lines:
        for run in line.runs if line.ok else ():
            for name, phase in run.attempt["phases"].items():
                seen = phase.get("conditions") or {}
                who = line.name if len(line.runs) == 1 else f"{line.name} seed {run.seed}"
                if (seen.get("other_cpu_cores") or 0) > OTHER_CORES * (seen.get("cpu_cores") or 1):
                    cores = f"{amount(seen['other_cpu_cores'])} of {seen['cpu_cores']} cores"
                    yield claim_words(section, f"{who} ({cores} in {name})")
                if (seen.get("throttled_seconds") or 0) > THROTTLED * phase["seconds"]:
                    yield claim_words(section, f"{who} ({amount(seen['throttled_seconds'])} s in {name})")


def use(traced: Traced) -> Iterator[Claim]:
    """What a result costs to use: speed and memory of each model, and what merging and further adapters take."""
    section = "Inference cost"
    for line in traced.files.lines:
        found = [run.inference for run in line.runs if run.inference]
        for name in found[0]["served"] if found and line.ok else ():
            served = [one["served"][name] for one in found]
            for place, speed in enumerate(served[0]["speeds"]):
                row = (line.name, name, str(speed["batch_size"]))
                speeds = [one["speeds"][place] for one in served]
                told = {
                    "Rows": row[2],
                    "First token (ms)": amount(1000 * np.mean([one["time_to_first_token_seconds"] for one in speeds])),
                    "Tokens/s": amount(np.mean([one["tokens_per_second"] for one in speeds])),
                    "Weights (GiB)": f"{np.mean([one['weight_bytes'] for one in served]) / 2**30:.2f}",
                    "Peak memory (GiB)": f"{np.mean([one['peak_memory_bytes'] for one in served]) / 2**30:.2f}",
                }
                yield from (cell(section, row, column, text) for column, text in told.items())
        if not found or not line.ok or line.is_base:
            continue
        attached = [one["served"]["attached"] for one in found]
        every = sum(one["num_outputs"] for one in attached)
        told = {
            "Same answers": f"{sum(one['equal_outputs'] for one in found)} of {every}",
            "Empty": f"{sum(one['empty_outputs'] for one in attached)} of {every}",
            "Repetitive": f"{sum(one['looping_outputs'] for one in attached)} of {every}",
            "Per additional adapter (MiB)": amount(
                np.mean([one["further"]["bytes_per_adapter"] for one in found]) / 2**20
            ),
            "Adapter switch (ms)": amount(1000 * np.mean([one["further"]["switch_seconds"] for one in found])),
        }
        beside = "Merging and additional adapters"
        yield from (cell(beside, line.name, column, text) for column, text in told.items())


def captions(traced: Traced) -> Iterator[Claim]:
    """Constants below figures and tables that are there for every report."""
    yield claim_words("Figures", "(below 0: forgetting)")
    if traced.files.sweep["tuning"]:
        yield claim_words("Figures", "(Dodge et al. 2019)")
    targets = traced.role("target")
    if len(targets) > 1:
        lines = [line for line in traced.files.trained if all(line in contest.ranked for contest in targets)]
        scores = [[contest.value(line) for contest in targets] for line in lines]
        yield claim_words("Figures", f"Average rank over {len(targets)} target tasks")
        yield claim_words("Figures", "(Nemenyi's test, family-wise 5 %")
        yield claim_words("Figures", f"Friedman's test: p = {scipy.stats.friedmanchisquare(*scores).pvalue:.2g})")
    if len(traced.role("target")) > 1:
        yield claim_words("All target tasks", "95 % CI over items and seeds")
        yield claim_words("All target tasks", "average rank (1 is best)")


def failures(traced: Traced) -> Iterator[Claim]:
    for line in traced.files.lines:
        for run in line.lost:
            reason = run.attempt.get("reason", NO_RECORD)
            yield cell("Failed runs", (line.name, str(run.seed)), "Seed", str(run.seed))
            yield cell("Failed runs", (line.name, str(run.seed)), "Reason", one_line(reason))


def figure(traced: Traced) -> Iterator[Claim]:
    """A constant below the figure of the body."""
    yield claim_words("Results", "simultaneous 95 % confidence intervals")


def limits(traced: Traced) -> Iterator[Claim]:
    fewest = min(len(line.runs) for line in traced.files.trained)
    if fewest > 1:
        yield claim_words("Limitations", f"estimated from as few as {fewest} seeds")


def _seeds(contest: MetricComparison) -> str:
    counts = sorted({len(line.runs) for line in contest.ranked})
    shown = " to ".join(str(one) for one in dict.fromkeys((counts[0], counts[-1])))
    return f"{shown} seed{'' if counts == [1] else 's'}"


def _at_chance(contest: MetricComparison, line: Line) -> str:
    guessed = contest.at_chance(line)
    return f"at chance: {contest.value(line):.3f}, not distinguishable from guessing, {guessed:.3f}"


def _asked(traced: Traced, recipe_id: str, contestant: str, name: str) -> str:
    """The value of a tuned setting as it was typed for a trial."""
    cells = traced.files.sweep["cells"]
    mine = next(one for one in cells if (one["recipe_id"], one["contestant"]) == (recipe_id, contestant))
    return next(word.partition("=")[2] for word in mine["overrides"] if word.startswith(f"{name}="))


def _loss(run) -> float:
    [look] = [one for one in run.looks.values() if one.role == "validation"]
    return float(look.outcomes("loss").sum() / look.weights.sum())


def _numbers(values: list[int]) -> str:
    return ", ".join(map(str, values))


def robust(traced: Traced) -> Iterator[Claim]:
    """The shares of analyses and the A/A test: as the functions count them that tests of their own check."""
    named = {line.label: line.name for line in traced.files.lines}
    comparison = Comparison(load([traced.runs], traced.files.sweep["name"]))
    for line in multiverse.lines(multiverse.multiverse(comparison), named):
        yield claim_words("Robustness of the answer", line)
    if line := noise.aa_line(noise.aa_test(comparison)):
        yield claim_words("Metrics and statistics", line)
