"""The claims of appendix.md, from the files of the records."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ledger import Claim, claim_words
from traced_files import Run
from traced_origin import command, definitions, looks, origin, setting_tables, source_texts, sources
from traced_report import Traced, every_pair
from traced_shown import MIB, amount, cell, setting
from traced_tradeoff import HOUR, hours_of, seconds_of, tuning_hours
from traced_words import doubts, names, tuning

PHASES = ("load", "train", "validate", "evaluate", "generate")


def appendix(traced: Traced) -> Iterator[Claim]:
    yield from names(traced)
    yield from setting_tables(traced)
    yield from tuning(traced) if traced.files.sweep["tuning"] else rates(traced)
    if len(traced.main.ranked) > 2:
        yield from every_pair(traced.main)
    yield from compute(traced)
    yield from device_hours(traced)
    yield from speed(traced)
    yield from doubts(traced, "Compute")
    for line in traced.files.lines:
        yield cell("Seeds", line.label, "Seeds", ", ".join(map(str, line.seeds)))
        yield cell("Seeds", line.label, "Status", line.runs[0].status)
    yield from looks(traced, "Evaluations")
    yield from definitions(traced, "Definitions")
    yield from sources(traced, "Models, data and licenses")
    yield from command(traced, "Versions and machines")
    yield from origin(traced, "Versions and machines")
    yield from checklist(traced)


def rates(traced: Traced) -> Iterator[Claim]:
    """The learning rates that each method was trained with, where no stage chose one."""
    runs = [
        run for line in traced.files.lines for run in line.runs if run.record and run.rate and run.status != "skipped"
    ]
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        tried = sorted({run.rate for run in mine})
        seconds = [run.attempt["training"]["train_seconds"] for run in mine if run.attempt["training"]]
        told = {
            "Rates tried": str(len(tried)),
            "Learning rates": ", ".join(map(setting, tried)),
            "Runs": str(len(mine)),
            "Training, s": amount(sum(seconds) if seconds else None),
        }
        yield from (cell("Tuning", method, column, text) for column, text in told.items())


def compute(traced: Traced) -> Iterator[Claim]:
    for line in traced.files.lines:
        tries = [attempt for run in line.runs if run.record for attempt in run.record["attempts"]]
        yield cell("Compute", line.label, "Attempts", str(len(tries)))
        for name in PHASES:
            seconds = [one["phases"][name]["seconds"] for one in tries if name in one["phases"]]
            if seconds:
                yield cell("Compute", line.label, f"{name.capitalize()}, s", amount(sum(seconds)))
        tasks = sum(look.record["seconds"] for run in line.runs for look in run.looks.values())
        peaks = [one["peak_memory_bytes"] for one in tries if one["peak_memory_bytes"] is not None]
        yield cell("Compute", line.label, "Tasks, s", amount(tasks) if tasks else "-")
        yield cell("Compute", line.label, "Peak memory, MiB", amount(max(peaks) / MIB) if peaks else "-")
    every = [attempt for run in _runs(traced).values() for attempt in run.record["attempts"]]
    total = sum(map(seconds_of, every)) / HOUR
    yield claim_words("Compute", f"In all {total:.2f} device hours in {len(every)} attempts")


def device_hours(traced: Traced) -> Iterator[Claim]:
    for line in traced.files.lines:
        known = [hours_of(run) for run in line.runs if run.record]
        tuned = tuning_hours(traced, line)
        price = line.runs[0].record["config"].get("price_per_device_hour") if known else None
        yield cell("Compute", line.label, "Device hours", amount(sum(known) if known else None))
        yield cell("Compute", line.label, "Tuning, device hours", amount(tuned))
        cost = None if price is None else price * (sum(known) + (tuned or 0))
        yield cell("Compute", line.label, "Cost", amount(cost))


def speed(traced: Traced) -> Iterator[Claim]:
    for line in traced.files.trained:
        trainings = [run.attempt["training"] for run in line.runs]
        if not any(one.get("flops_per_second") for one in trainings):
            continue
        energy = [run.attempt["phases"]["train"]["energy_joules"] for run in line.runs]
        told = {
            "GFLOP/s": amount(np.mean([one["flops_per_second"] for one in trainings]) / 1e9),
            "Peak, GFLOP/s": amount(np.mean([one["device_peak"]["flops_per_second"] for one in trainings]) / 1e9),
            "MFU, %": f"{100 * np.mean([one['mfu'] for one in trainings]):.1f}",
            "Energy, J": amount(np.mean(energy)),
        }
        yield from (cell("Compute", line.label, column, text) for column, text in told.items())


def checklist(traced: Traced) -> Iterator[Claim]:
    counts = [run.attempt["data"] for line in traced.files.trained for run in line.runs]
    [data] = [one for i, one in enumerate(counts) if one not in counts[:i]]
    rows = "{train_rows:,} to train, {validation_rows:,} for validation, {test_rows:,} to test"
    lost = (
        "{removed_in_test:,} training rows whose prompt occurs in a test set, {removed_duplicates:,} duplicates, "
        "{removed_too_long:,} too long"
    )
    seeds = " or ".join(str(one) for one in sorted({len(line.runs) for line in traced.files.trained}))
    bad = [f"{line.label} ({line.runs[0].status})" for line in traced.files.lines if not line.ok]
    code = {(one["provenance"]["harness"], one["provenance"]["commit"]) for one in _attempts(traced)}
    [(harness, commit)] = code
    tuned = traced.files.sweep["tuning"]
    rates_tried = sorted({run.rate for run in _runs(traced).values() if run.rate and run.status != "skipped"})
    answers = {
        "Which models, at which revision?": "; ".join(source_texts(traced, "model")),
        "Which data, at which revision, under which license?": "; ".join(source_texts(traced, "data")),
        "How many rows were trained on, held out, tested on?": rows.format(**data),
        "Which rows were left out, and why?": lost.format(**data),
        "How were hyperparameters chosen, and over which range?": (
            f"{tuned['trials']} trials each over {tuned['settings'][0]}: the lowest validation loss; equal ones: the "
            "lower learning rate"
            if tuned
            else f"learning rates from {setting(rates_tried[0])} to {setting(rates_tried[-1])}; see Tuning"
        ),
        "How many runs is each number made of?": f"{seeds} seeds; see Seeds",
        "Which runs failed or are missing?": ", ".join(bad),
        "Which code made this?": f"harness {harness} at commit {commit}",
        "Which command runs it again?": traced.files.sweep["command"],
    }
    for question, text in answers.items():
        yield cell("Reproducibility checklist", question, "Answer", text)


def _runs(traced: Traced) -> dict[tuple[str, int], Run]:
    """Every run of the sweep, those of tuning included, once."""
    every = [run for line in traced.files.lines for run in line.runs]
    every += [run for runs in traced.files.trials.values() for run in runs]
    return {(run.recipe_id, run.seed): run for run in every if run.record}


def _attempts(traced: Traced) -> list[dict]:
    return [run.attempt for line in traced.files.lines for run in line.runs if run.record]
