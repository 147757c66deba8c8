"""The claims of report.md's tables, from the files of the records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from ledger import Claim, Near, claim_words
from traced_files import Files, Line
from traced_numbers import SHARE, Contest, Pair, gap_of
from traced_shown import (
    MB,
    MIB,
    amount,
    cell,
    cut,
    ends,
    fixed,
    header,
    listed,
    p_cell,
    setting,
    task_heading,
    with_error,
)

NO_RECORD = "no record: the run did not start or is not finished"


@dataclass(frozen=True)
class Traced:
    """A report, and the files that it was made from. `task` is the one that answers the question."""

    runs: Path
    folder: Path
    files: Files
    task: str

    @cached_property
    def contests(self) -> dict[tuple[str, str], Contest]:
        """Every metric of every evaluation, by its task and its name."""
        looks = self.files.looks()
        return {
            (look.task, metric): Contest(self.files, key, metric)
            for key, look in looks.items()
            for metric in look.record["metrics"]
            if metric != "perplexity"
        }

    def role(self, role: str) -> list[Contest]:
        """The headline of every task of a role."""
        found = [one for one in self.contests.values() if one.look.role == role]
        return [one for one in found if one.metric in ("acc", "loss")]

    @property
    def main(self) -> Contest:
        return self.contests[self.task, "acc"]

    @property
    def results(self) -> str:
        """The heading above the first table."""
        return "Results" if self.files.sweep["tuning"] else self.files.sweep["name"]


def tables(traced: Traced) -> Iterator[Claim]:
    yield from quality(traced)
    yield from pairs(traced.main)
    yield from costs(traced)
    for one in {contest.eval_id: contest for contest in traced.contests.values()}.values():
        yield from task(traced, one)
    yield from across(traced)
    yield from external(traced)
    yield from others_differ(traced)
    yield from settings(traced)


def quality(traced: Traced) -> Iterator[Claim]:
    columns = {"Validation loss": traced.role("validation")[0], "Test loss": traced.role("test")[0]}
    kept = traced.role("retention")
    columns |= {f"{one.look.task} acc": one for one in (traced.main, *kept) if one.higher}
    text = [one for one in kept if not one.higher]
    columns |= {"General text loss": text[0]} if text else {}
    for line in traced.files.lines:
        if not line.ok:
            reason = line.runs[0].attempt.get("reason", NO_RECORD)
            yield cell(traced.results, line.label, "Status", cut(f"{line.runs[0].status}: {reason}"))
            continue
        lost = sum(other.recipe_id == line.runs[0].recipe_id for one in traced.files.lines for other in one.lost)
        asked = f" of {len(line.runs) + lost}" if lost else ""
        yield cell(traced.results, line.label, "Seeds", f"{len(line.runs)}{asked}")
        for name, one in columns.items():
            yield cell(traced.results, line.label, name, _score(one, line))
            against = f"{name} vs base"
            if not line.is_base and traced.files.base and name != "Validation loss":
                yield cell(traced.results, line.label, against, _gain(one, line, traced.files.base))


def pairs(contest: Contest) -> Iterator[Claim]:
    yield from _family(contest, f"Against the base model on {contest.title}", contest.family("baseline"))
    yield from _family(contest, f"Against the best method on {contest.title}", contest.family("best"))


def _family(contest: Contest, section: str, members: Sequence[Pair]) -> Iterator[Claim]:
    for pair in members:
        row, one = (pair.a.label, pair.b.label), pair.result
        alike = "-" if one.verdict == "no verdict" else p_cell(one.equivalence_p)
        yield cell(section, row, "Difference", fixed(one.difference, contest.digits, signed=True))
        yield cell(section, row, "95 % CI, simultaneous", ends(pair, contest.digits))
        yield cell(section, row, "p", p_cell(one.p))
        yield cell(section, row, "p, adjusted", p_cell(one.adjusted_p))
        yield cell(section, row, "p, equivalence", alike)
        if (flipped := contest.flipped(pair)) is not None:
            yield cell(section, row, "p, sign flip", p_cell(flipped))
        yield cell(section, row, "Verdict", pair.words)
    yield from header(section, "95 % CI, simultaneous") if members else ()


def costs(traced: Traced) -> Iterator[Claim]:
    for line in traced.files.lines:
        if not line.ok:
            continue
        seconds = [sum(look.record["seconds"] for look in run.looks.values()) for run in line.runs]
        yield cell("Cost", line.label, "Evaluation, s", amount(np.mean(seconds)))
        if line.is_base:
            continue
        prints = [run.attempt["fingerprint"] for run in line.runs]
        trainings = [run.attempt["training"] for run in line.runs]
        trained, whole = (prints[0][f"{name}_parameters"] for name in ("trainable", "total"))
        told = {
            "Trained parameters": f"{trained:,}",
            "Share, %": f"{100 * trained / whole:.3g}",
            "Peak memory, MiB": amount(np.mean([run.attempt["peak_memory_bytes"] for run in line.runs]) / MIB),
            "Tokens/s": amount(np.mean([one["tokens_per_second"] for one in trainings])),
            "Training, s": amount(np.mean([one["train_seconds"] for one in trainings])),
            "Saved, MB": amount(np.mean([one["saved_bytes"] for one in prints]) / MB),
        }
        for name, text in told.items():
            yield cell("Cost", line.label, name, text)


def task(traced: Traced, contest: Contest) -> Iterator[Claim]:
    heading = task_heading(contest)
    yield Claim(heading, (heading,))
    metrics = [one for one in traced.contests.values() if one.eval_id == contest.eval_id]
    for line in traced.files.lines:
        for one in metrics if contest.eval_id in line.looks else ():
            yield cell(heading, line.label, one.metric, _score(one, line))
            if not line.is_base and one.base:
                yield cell(heading, line.label, f"{one.metric} vs base", _gain(one, line, one.base))
            if one.look.record["evaluation"]["kind"] == "heldout":
                yield cell(heading, line.label, "Perplexity", fixed(math.exp(one.value(line)), 2))


def across(traced: Traced) -> Iterator[Claim]:
    """The target tasks together, over lines that were asked all of them."""
    tasks = [one for one in traced.role("target") if len(one.left_out) <= len(one.ranked)]
    members = [line for line in traced.files.trained if all(line in one.ranked for one in tasks)]
    if len(tasks) < 2:
        return
    drawn = np.stack([one.drawn(members, seeds=False) for one in tasks], axis=1)  # (lines, tasks, draws)
    drawn = drawn + _seed_effects(members, tasks, drawn.shape[-1])
    values = np.array([[one.value(line) for one in tasks] for line in members])
    kinds = {f"Mean of {len(tasks)} tasks": (values.mean(axis=1), drawn.mean(axis=1), 3, 3)}
    if len(tasks) >= 4:
        kinds["IQM of the task means"] = (_middle_half(values), _middle_half(np.moveaxis(drawn, 1, -1)), 3, 3)
    kinds["Average rank"] = (_ranks(values[..., None])[:, 0], _ranks(drawn), 2, 2)
    yield from header("All target tasks", f"Mean of {len(tasks)} tasks")
    for place, line in enumerate(members):
        for name, (value, spread, digits, shown) in kinds.items():
            low, high = np.quantile(spread[place], [0.025, 0.975])
            step = 0.5 / len(tasks) if name == "Average rank" else 0.0  # draws of ranks are few different numbers
            off = 0.07 * (high - low) + 0.6 * 10**-shown + step
            interval = (Near(low, off), " to ", Near(high, off))
            yield cell("All target tasks", line.label, name, f"{fixed(value[place], digits)} (", *interval, ")")


def _seed_effects(members: Sequence[Line], tasks: Sequence[Contest], draws: int) -> np.ndarray:
    """Errors that seeds bring, the same for all tasks of a run: random sums of the seeds' deviations, with t tails."""
    effects = []
    for line in members:
        scores = np.array([line.outcomes(one.eval_id, one.metric).mean(axis=1) for one in tasks])
        count = scores.shape[1]
        random = np.random.default_rng([len(members), *line.seeds])
        sums = random.standard_normal((draws, count)) @ (scores - scores.mean(axis=1, keepdims=True)).T
        scale = np.sqrt(count * random.chisquare(max(count - 1, 1), (draws, 1)))
        effects.append((sums / scale).T)
    return np.stack(effects)


def external(traced: Traced) -> Iterator[Claim]:
    for one in traced.files.external:
        yield cell("External rows", one["name"], "External row", one["name"])
        for name, score in one["scores"].items():
            text = f"{score['value']:.3f}"
            error = "" if score["stderr"] is None else f" \N{PLUS-MINUS SIGN} {score['stderr']:.3f}"
            yield cell("External rows", one["name"], name, text + error)
        told = {
            "Trained parameters": f"{one['trainable_parameters']:,}",
            "Peak memory, MiB": amount(one["peak_memory_bytes"] / MIB),
            "Training, s": amount(one["train_seconds"]),
            "Saved, MB": amount(one["saved_bytes"] / MB),
        }
        for name, text in told.items():
            yield cell("External rows", one["name"], name, text)


def others_differ(traced: Traced) -> Iterator[Claim]:
    """What the published rows differ in, value by value with their names."""
    rows = traced.files.external
    for key in sorted({key for one in rows for key in one["facts"]}):
        values: dict[str, list[str]] = {}
        for one in rows:
            values.setdefault(setting(one["facts"][key]) if key in one["facts"] else "absent", []).append(one["name"])
        if len(values) > 1:
            shown = ", ".join(f"{text} ({listed(who, 6)})" for text, who in values.items())
            yield claim_words("External rows", f"{key}: {shown}")


def settings(traced: Traced) -> Iterator[Claim]:
    section = "What varied, what was equal"
    for line in traced.files.lines:
        if line.is_base or not line.recipe:
            continue
        own = {key: value for key, value in line.recipe["method"].items() if key not in ("name", "lr")}
        own["lr"] = line.recipe["train"]["lr"]
        shown = ", ".join(f"{key}={setting(value)}" for key, value in own.items())
        yield cell(section, line.label, "Settings that belong to the method, and the learning rate", shown)


def frontier_share(good: np.ndarray, dear: np.ndarray) -> np.ndarray:
    """The share of the draws, (lines, draws), in which no other is at least as good and as cheap, in one strictly."""
    kept = np.ones(np.broadcast(good, dear).shape)
    for one in range(len(good)):
        for other in range(len(good)):
            no_worse = (good[other] >= good[one]) & (dear[other] <= dear[one])
            kept[one] *= ~(no_worse & ((good[other] > good[one]) | (dear[other] < dear[one])))
    return kept.mean(axis=1)


def near_share(share: float) -> Near:
    return Near(float(share), SHARE)


def _score(contest: Contest, line: Line) -> str:
    return with_error(contest.value(line), contest.parts(line), contest.digits)


def _gain(contest: Contest, line: Line, base: Line) -> str:
    gap = gap_of(line, base, contest.eval_id, contest.metric)
    return with_error(gap.value, gap.parts, contest.digits, signed=True)


def _middle_half(values: np.ndarray) -> np.ndarray:
    """Of four tasks the two in the middle; counts on the border count in part."""
    count = values.shape[-1]
    fine = np.repeat(np.sort(values, axis=-1), 4, axis=-1)  # every score four times: the border falls between two
    return fine[..., count : 3 * count].mean(axis=-1)


def _ranks(values: np.ndarray) -> np.ndarray:
    """(lines, tasks, draws) -> the mean over the tasks of one plus how many are better, ties in the middle."""
    better = (values[None] > values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1) - 1
    return (1 + better + equal / 2).mean(axis=1)
