"""The claims of appendix.md, from the files of the records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ledger import Claim, claim_words
from traced_files import Line, Run
from traced_origin import command, data_cards, definitions, looks, origin, tuning_seconds
from traced_report import STATISTICS, Traced, tables, tested
from traced_shown import amount, cell, fixed, flat, p_cell, setting, task_name
from traced_tradeoff import HOUR, frontiers, hours_of, matched, matched_pairs, seconds_of, tuning_hours
from traced_words import captions, doubts, explained, names, robust, tuning_words, use

CONF = Path(__file__).parents[2] / "conf"
NAMES = yaml.safe_load((CONF / "names.yaml").read_text())
TIMES = {"Loading": ("load",), "Training": ("train",), "Evaluation": ("validate", "evaluate", "generate")}
NOT_SETTINGS = (
    "method.name", "method.lr", "model.content", "data.content", "data.train", "data.test", "data.mix",
)  # fmt: skip
DASH, MINUS, GIB = "\N{EN DASH}", "\N{MINUS SIGN}", 2**30
NB = "\N{NO-BREAK SPACE}"


def appendix(traced: Traced) -> Iterator[Claim]:
    """The details, which report.md folds and appendix.md shows."""
    yield from names(traced)
    yield from (Claim("", (name_of(line),)) for line in traced.files.lines)
    yield from tables(traced)
    yield from pairs(traced)
    yield from explained(traced)
    for part in (frontiers, matched, matched_pairs, use, captions, hyperparameters, prompts, tuning, robust):
        yield from part(traced)
    yield from compute(traced)
    yield from speed(traced)
    yield from doubts(traced, "Cost")
    yield from seeds(traced)
    yield from data_cards(traced)
    yield from definitions(traced, "Metrics and statistics")
    yield from looks(traced, "Metrics and statistics")
    yield from command(traced, "Reproduction")
    yield from origin(traced, "Reproduction")


def name_of(line: Line) -> str:
    """The label of a line in words for people: LoRA (r=8), of `lora r=8`."""
    method = line.runs[0].method
    display = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())["display"]
    label = line.label.replace(" (undertuned)", "")
    settings = re.findall(r"(\S+=\S+)", label)
    ending = label[label.index(" (seed") :] if " (seed" in label else ""
    return display + (f" ({', '.join(settings)})" if settings else "") + ending


def hyperparameters(traced: Traced) -> Iterator[Claim]:
    """A cell for each setting: of all methods, or of each one."""
    section = "Hyper-parameters"
    lines: dict[str, Line] = {}
    for line in traced.files.lines:
        if line.recipe and not line.is_base:
            lines.setdefault(line.runs[0].recipe_id, line)
    recipes = {name_of(line): flat(line.recipe) for line in lines.values()}
    for key in dict.fromkeys(key for one in recipes.values() for key in one):
        values = [one.get(key) for one in recipes.values()]
        if key in NOT_SETTINGS or all(value is None for value in values):
            continue
        name = NAMES["settings"].get(key, {"display": key.partition(".")[2]})["display"]
        if all(key in one for one in recipes.values()) and len({json.dumps(value) for value in values}) == 1:
            yield cell(section, name, "Value", _value(key, values[0]))
            continue
        for method, one in recipes.items():
            yield cell(section, name, method, _value(key, one[key]) if key in one else DASH)
    for name in recipes:  # a name of a column may have a number
        yield Claim(section, (name,), ("header",), name)


def _value(key: str, value: Any) -> str:
    if key in ("model.name", "data.name"):
        return yaml.safe_load((CONF / key.partition(".")[0] / f"{value}.yaml").read_text())["display"]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    known = NAMES["values"].get(value) if isinstance(value, str) else None
    return known["display"] if known else setting(value)


def prompts(traced: Traced) -> Iterator[Claim]:
    """The templates of the training rows, each text as it stands."""
    for line in traced.files.trained:
        for rows in line.recipe["data"].get("train") or ():
            place = "/".join(str(rows[key]) for key in ("dataset", "subset", "split") if rows.get(key))
            yield claim_words("Prompt templates", place)
            yield from (claim_words("Prompt templates", json.dumps(rows[key])) for key in ("prompt", "completion"))


def tuning(traced: Traced) -> Iterator[Claim]:
    """What was searched and selected, what it cost, and the remarks on it."""
    if not traced.files.sweep["tuning"]:
        return
    for contestant, runs in traced.files.trials.items():
        method = runs[0].method
        name = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())["display"]
        rates = [run.rate for run in runs]
        losses = {run.rate: _loss(run) for run in runs if run.status == "ok"}
        best = min(losses, key=losses.get) if losses else None
        at_end = best is not None and best in (min(rates), max(rates))
        seconds = tuning_seconds(runs)
        row = name + ("\N{DOUBLE DAGGER}" if at_end else "")
        told = {
            "Searched": ", ".join(map(setting, rates)),
            "Selected": DASH if best is None else setting(best),
            "Trials": str(len(runs)),
            "Failed": str(sum(run.status != "ok" for run in runs)),
            f"Validation loss{NB}\N{DOWNWARDS ARROW}": DASH if best is None else fixed(losses[best], 4),
            "Device hours": _hours(seconds / HOUR),
        }
        yield from (cell("Tuning", row, column, text) for column, text in told.items())
        assert contestant == f"method={method}"
    yield from tuning_words(traced)


def _loss(run: Run) -> float:
    [look] = run.looks.values()
    return look.record["metrics"]["loss"]["value"]


def pairs(traced: Traced) -> Iterator[Claim]:
    """The matrix: differences in points above the diagonal, adjusted p-values below it."""
    section, contest = STATISTICS, traced.main
    members = list(contest.ranked)
    members += [contest.base] if contest.base else []
    if not contest.family("all"):
        return
    every = (*contest.family("baseline"), *contest.family("all"))
    found = {frozenset((pair.a.label, pair.b.label)): pair for pair in every}
    compared = [line for line in members if any(line.label in key for key in found)]
    for i, row in enumerate(compared, 1):
        first = f"({i}) {name_of(row)}"
        yield Claim(section, (f"({i})",), ("header",), f"({i})")
        yield cell(section, first, "Method", first)
        for j, column in enumerate(compared, 1):
            pair = found.get(frozenset((row.label, column.label)))
            if i == j or pair is None:
                continue
            one = pair.result
            if i > j:
                p = p_cell(one.adjusted_p)
                text = f"({p})" if one.verdict == "no verdict" else p
            else:
                gap = 100 * (one.difference if pair.a is row else -one.difference)
                text = fixed(gap, 1, signed=True).replace("-", MINUS)
            yield cell(section, first, f"({j})", text)
    assert len(found) == len(compared) * (len(compared) - 1) // 2
    yield claim_words(section, f"below it: p-value of the same pair. {tested(contest, 'all')}")
    if contest.base:
        count = len(contest.ranked)
        tests = f"{count} comparison{'' if count == 1 else 's'}"
        yield claim_words(section, f"Against the base model: a family of its own of {tests}")


def compute(traced: Traced) -> Iterator[Claim]:
    """Times by what they were spent on, hours, memory and cost of each method with all its seeds."""
    section = "Cost"
    for line, every in _rows(traced):
        runs = [run for run in every if run.record]
        tries = [attempt for run in runs for attempt in run.record["attempts"]]
        yield cell(section, name_of(line), "Attempts", str(len(tries)))
        yield cell(section, name_of(line), "Failed", str(sum(one["status"] != "ok" for one in tries)))
        for column, phases in TIMES.items():
            seconds = [one["phases"][name]["seconds"] for one in tries for name in phases if name in one["phases"]]
            if seconds:
                yield cell(section, name_of(line), f"{column}{NB}(s)", amount(sum(seconds)))
        peaks = [one["peak_memory_bytes"] for one in tries if one["peak_memory_bytes"] is not None]
        memory = f"{max(peaks) / GIB:.2f}" if peaks else DASH
        spent, tuned = sum(hours_of(run) for run in runs), tuning_hours(traced, line)
        price = runs[0].record["config"].get("price_per_device_hour") if runs else None
        yield cell(section, name_of(line), f"Peak memory{NB}(GiB)", memory)
        yield cell(section, name_of(line), "Device hours", _hours(spent) if runs else DASH)
        if tuned is not None:
            yield cell(section, name_of(line), "Tuning hours", _hours(tuned))
        if price is not None:
            yield cell(section, name_of(line), "Cost", f"{price * (spent + (tuned or 0)):.2f}")
    every = [attempt for run in _runs(traced).values() for attempt in run.record["attempts"]]
    total = sum(map(seconds_of, every)) / HOUR
    yield claim_words(section, f"In total {amount(total)} device hours in {len(every)} attempts")


def _hours(hours: float) -> str:
    return amount(hours) if hours else "0"


def speed(traced: Traced) -> Iterator[Claim]:
    for line in traced.files.trained:
        trainings = [run.attempt["training"] for run in line.runs]
        if not any(one.get("flops_per_second") for one in trainings):
            continue
        energy = [run.attempt["phases"]["train"]["energy_joules"] for run in line.runs]
        told = {
            f"FLOP rate{NB}(GFLOP/s)": amount(np.mean([one["flops_per_second"] for one in trainings]) / 1e9),
            f"Device peak{NB}(GFLOP/s)": amount(
                np.mean([one["device_peak"]["flops_per_second"] for one in trainings]) / 1e9
            ),
            f"MFU{NB}(%)": f"{100 * np.mean([one['mfu'] for one in trainings]):.1f}",
            f"Energy{NB}(J)": amount(np.mean(energy)),
        }
        yield from (cell("Cost", name_of(line), column, text) for column, text in told.items())


def seeds(traced: Traced) -> Iterator[Claim]:
    section, main = "Seeds", traced.main
    for line, runs in _rows(traced):
        done = [str(run.seed) for run in runs if run.status == "ok"]
        lost = [run for run in runs if run.status != "ok"]
        yield cell(section, name_of(line), "Seeds", ", ".join(done) or DASH)
        if line.ok:
            scores = [run.looks[main.eval_id].outcomes(main.metric).mean() for run in line.runs]
            column = f"{task_name(main.look.task)} by seed (%)"
            yield cell(section, name_of(line), column, ", ".join(fixed(100 * score, 1) for score in scores))
        yield cell(section, name_of(line), "Without a result", ", ".join(str(run.seed) for run in lost) or DASH)


def _rows(traced: Traced) -> Iterator[tuple[Line, list[Run]]]:
    """Every line with all seeds of its recipe."""
    for line in traced.files.lines:
        yield line, [*line.every]


def _runs(traced: Traced) -> dict[tuple[str, int], Run]:
    """Every run of the sweep, those of tuning included, once."""
    every = [run for line in traced.files.lines for run in line.every]
    every += [run for runs in traced.files.trials.values() for run in runs]
    return {(run.recipe_id, run.seed): run for run in every if run.record}
