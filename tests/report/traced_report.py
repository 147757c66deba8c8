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
from traced_numbers import SHARE, MetricComparison, Pair, gap_of
from traced_shown import (
    DOWN,
    GIB,
    MIB,
    UP,
    amount,
    cell,
    fixed,
    header,
    listed,
    metric_short,
    p_cell,
    setting,
    task_heading,
    task_name,
    task_short,
    with_ends,
    with_error,
)

DAGGER, DOUBLE = "\N{DAGGER}", "\N{DOUBLE DAGGER}"
STATISTICS = "Statistical comparison"
DIFFERENCE = "Difference (simultaneous 95 % CI) (points)"
NO_RECORD = "no record: the run did not start or is not finished"


@dataclass(frozen=True)
class Traced:
    """A report, and the files that it was made from. `task` is the one that answers the question."""

    runs: Path
    folder: Path
    files: Files
    task: str

    @cached_property
    def contests(self) -> dict[tuple[str, str], MetricComparison]:
        """Every metric of every evaluation, by its task and its name."""
        looks = self.files.looks()
        return {
            (look.task, metric): MetricComparison(self.files, key, metric)
            for key, look in looks.items()
            for metric in look.record["metrics"]
            if metric != "perplexity"
        }

    def role(self, role: str) -> list[MetricComparison]:
        """The headline of every task of a role."""
        found = [one for one in self.contests.values() if one.look.role == role]
        return [one for one in found if one.metric in ("acc", "loss")]

    @property
    def main(self) -> MetricComparison:
        return self.contests[self.task, "acc"]


def tables(traced: Traced) -> Iterator[Claim]:
    yield from losses(traced)
    yield from pairs(traced.main)
    yield from costs(traced)
    for one in {contest.eval_id: contest for contest in traced.contests.values()}.values():
        yield from task(traced, one)
    yield from across(traced)
    yield from external(traced)
    yield from others_differ(traced)


def edges(traced: Traced) -> set[str]:
    """Labels of methods that were chosen at an end of the grid."""
    return {line.label for line in traced.files.lines if line.label.endswith("(undertuned)")}


def marked(traced: Traced) -> dict[str, str]:
    """The first cell of each line: its name with the marks of its footnotes."""
    letters: dict[str, str] = {}
    found = {}
    for line in ordered(traced):
        note = footnote(line)
        letter = letters.setdefault(note, "\u1d43\u1d47\u1d9c\u1d48\u1d49"[len(letters)]) if note else ""
        found[line.label] = f"{line.name}{DOUBLE if line.label in edges(traced) else ''}{letter}"
    return found


def footnote(line: Line) -> str:
    """How many seeds completed, and what became of the others."""
    if not line.lost:
        return ""
    fates = {"oom": "out of memory", "missing": "no record"}
    shown = [fates.get(run.status, run.status) for run in line.lost]
    counts = [shown.count(one) for one in dict.fromkeys(shown)]
    text = ", ".join(
        f"{n} {one}" if len(shown) > 1 else one for n, one in zip(counts, dict.fromkeys(shown), strict=True)
    )
    total = len(line.lost) + (len(line.runs) if line.ok else 0)
    return f"{total - len(line.lost)} of {total} seeds ({text})." if total > 1 else f"No result: {text}."


def ordered(traced: Traced) -> list[Line]:
    """Base, the methods by their score, then those without a result."""
    main = traced.main
    placed = [*([main.base] if main.base else []), *main.ranked, *main.left_out]
    return [*placed, *(line for line in traced.files.lines if line not in placed)]


def main_table(traced: Traced) -> Iterator[Claim]:
    names, section = marked(traced), "Results"
    targets = [one for one in traced.role("target") if one.higher]
    kept = [one for one in traced.role("retention") if one.higher]
    tied = [pair.a for pair in traced.main.family("best") if _alike(pair)]
    tied += [traced.main.family("best")[0].b] if tied else []
    seconds = [np.mean([run.attempt["training"]["train_seconds"] for run in x.runs]) for x in traced.files.trained]
    unit, size = ("min", 60) if max(seconds) >= 120 else ("s", 1)
    for line in ordered(traced):
        row = names[line.label]
        yield Claim(section, (row,), (row,), "Method")
        if note := footnote(line):
            yield claim_words(section, note)
        if not line.ok:
            continue
        for one in targets:
            dagger = DAGGER if one is traced.main and line in tied else ""
            yield cell(section, row, f"{task_short(one.look.task)} (%) {UP}", f"{_score(one, line)}{dagger}")
        averaged = [one for one in targets if one.ranked]
        if len(averaged) > 1:
            mean = np.mean([one.value(line) for one in averaged])
            yield cell(section, row, f"Avg. (%) {UP}", fixed(100 * mean, 1))
        if line.is_base:
            continue
        for one in kept:
            column = f"{task_short(one.look.task)} change (points) {UP}"
            yield cell(section, row, column, _gain(one, line, one.base))
        prints = [run.attempt["fingerprint"] for run in line.runs]
        peak = np.mean([run.attempt["peak_memory_bytes"] for run in line.runs]) / GIB
        spent = np.mean([run.attempt["training"]["train_seconds"] for run in line.runs]) / size
        yield cell(section, row, "Params (M)", amount(np.mean([one["trainable_parameters"] for one in prints]) / 1e6))
        yield cell(section, row, "Memory (GiB)", f"{peak:.2f}")
        yield cell(section, row, f"Time ({unit})", amount(spent))
    first = [one for one in targets if one is traced.main]
    for one in (*first, *(one for one in targets if one not in first)):
        yield claim_words(section, f"{one.num_items:,} ({task_short(one.look.task)})")
    for one in kept:
        yield claim_words(section, f"{one.num_items:,} ({task_short(one.look.task)})")
    counts = sorted({len(line.runs) for line in traced.files.trained})
    yield claim_words(section, f"mean over {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds")


def _alike(pair: Pair) -> bool:
    one = pair.result
    return not one.runs_differ if one.scope == "runs" else one.verdict in ("not significant", "equivalent")


def losses(traced: Traced) -> Iterator[Claim]:
    columns = {f"Validation loss {DOWN}": traced.role("validation")[0], f"Test loss {DOWN}": traced.role("test")[0]}
    text = [one for one in traced.role("retention") if not one.higher]
    columns |= {f"General text loss {DOWN}": text[0]} if text else {}
    single = "Delta to base" if not text else ""
    for line in traced.files.lines:
        done = len(line.runs) if line.ok else 0
        total = len(line.lost) + done
        yield cell("Losses", line.name, "Seeds", f"{done} of {total}" if line.lost else f"{done}")
        for name, one in columns.items() if line.ok else ():
            yield cell("Losses", line.name, name, _score(one, line))
            if not line.is_base and traced.files.base and not name.startswith("Validation"):
                yield cell("Losses", line.name, single or f"{name} Delta to base", _gain(one, line, traced.files.base))


def pairs(contest: MetricComparison) -> Iterator[Claim]:
    yield from _family(contest, "baseline")
    yield from _family(contest, "best")


def tested(contest: MetricComparison, family: str) -> str:
    """On what the comparisons of a family rest."""
    counts = sorted({len(line.runs) for line in contest.ranked})
    shown = " to ".join(str(one) for one in dict.fromkeys((counts[0], counts[-1])))
    methods = len(contest.ranked)
    size = methods if family == "baseline" else methods * (methods - 1) // 2
    return (
        f"{contest.num_items:,} items, {shown} seed{'' if counts == [1] else 's'} per method; paired t test, adjusted "
        f"for {size:,} comparison{'' if size == 1 else 's'} at a family-wise error of 5 %"
    )


def _family(contest: MetricComparison, family: str) -> Iterator[Claim]:
    section, members = STATISTICS, contest.family(family)
    if members:
        words = {"baseline": "base model", "best": "best method"}[family]
        yield claim_words(section, f"Against the {words} on {task_name(contest.look.task)}: {tested(contest, family)}")
    for pair in members:
        row, one = (pair.a.name, pair.b.name), pair.result
        yield cell(section, row, DIFFERENCE, with_ends(pair, contest))
        yield cell(section, row, "p", p_cell(one.p))
        yield cell(section, row, "p, adjusted", p_cell(one.adjusted_p))
        if one.verdict != "no verdict" and one.equivalence_p < 0.9995:
            yield cell(section, row, "p, equivalence", p_cell(one.equivalence_p))
        if (flipped := contest.flipped(pair)) is not None:
            yield cell(section, row, "p, sign flip", p_cell(flipped))
        yield cell(section, row, "Verdict", pair.words)
    yield from header(section, DIFFERENCE) if members else ()


def costs(traced: Traced) -> Iterator[Claim]:
    for line in traced.files.lines:
        if not line.ok:
            continue
        seconds = [sum(look.record["seconds"] for look in run.looks.values()) for run in line.runs]
        yield cell("Cost", line.name, "Evaluation (s)", amount(np.mean(seconds)))
        if line.is_base:
            continue
        prints = [run.attempt["fingerprint"] for run in line.runs]
        trainings = [run.attempt["training"] for run in line.runs]
        trained, whole = (prints[0][f"{name}_parameters"] for name in ("trainable", "total"))
        told = {
            "Trained parameters": f"{trained:,}",
            "Share (%)": amount(100 * trained / whole),
            "Peak memory (GiB)": f"{np.mean([run.attempt['peak_memory_bytes'] for run in line.runs]) / GIB:.2f}",
            "Tokens/s": amount(np.mean([one["tokens_per_second"] for one in trainings])),
            "Training time (s)": amount(np.mean([one["train_seconds"] for one in trainings])),
            "Saved size (MiB)": amount(np.mean([one["saved_bytes"] for one in prints]) / MIB),
        }
        for name, text in told.items():
            yield cell("Cost", line.name, name, text)


def task(traced: Traced, contest: MetricComparison) -> Iterator[Claim]:
    heading = task_heading(contest)
    yield Claim(heading, (heading,))
    metrics = [one for one in traced.contests.values() if one.eval_id == contest.eval_id]
    for line in traced.files.lines:
        for one in metrics if contest.eval_id in line.looks else ():
            column = f"{metric_short(one.metric)}{' (%)' if one.higher else ''} {UP if one.higher else DOWN}"
            yield cell(heading, line.name, column, _score(one, line))
            if not line.is_base and one.base:
                delta = f"Delta to base{' (points)' if one.higher else ''}"
                told_apart = f"{column} {delta}" if len(metrics) > 1 else delta
                yield cell(heading, line.name, told_apart, _gain(one, line, one.base))
            if one.look.record["evaluation"]["kind"] == "heldout":
                yield cell(heading, line.name, "Perplexity", amount(math.exp(one.value(line))))


def across(traced: Traced) -> Iterator[Claim]:
    """The target tasks together, over lines that were asked all of them."""
    tasks = [one for one in traced.role("target") if len(one.left_out) <= len(one.ranked)]
    members = [line for line in traced.files.trained if all(line in one.ranked for one in tasks)]
    if len(tasks) < 2:
        return
    drawn = np.stack([one.drawn(members, seeds=False) for one in tasks], axis=1)  # (lines, tasks, draws)
    drawn = drawn + _seed_effects(members, tasks, drawn.shape[-1])
    values = np.array([[one.value(line) for one in tasks] for line in members])
    mean, middle, rank = (
        f"Mean of {len(tasks)} tasks (%) {UP}",
        f"IQM of the task means (%) {UP}",
        f"Average rank {DOWN}",
    )
    kinds = {mean: (100 * values.mean(axis=1), 100 * drawn.mean(axis=1), 1, 1)}
    if len(tasks) >= 4:
        kinds[middle] = (100 * _middle_half(values), 100 * _middle_half(np.moveaxis(drawn, 1, -1)), 1, 1)
    kinds[rank] = (_ranks(values[..., None])[:, 0], _ranks(drawn), 2, 2)
    yield from header("All target tasks", mean)
    for place, line in enumerate(members):
        for name, (value, spread, digits, shown) in kinds.items():
            low, high = np.quantile(spread[place], [0.025, 0.975])
            step = 0.5 / len(tasks) if name == rank else 0.0  # draws of ranks are few different numbers
            off = 0.07 * (high - low) + 0.6 * 10**-shown + step
            interval = (Near(low, off), " to ", Near(high, off))
            yield cell("All target tasks", line.name, name, f"{fixed(value[place], digits)} (", *interval, ")")


def _seed_effects(members: Sequence[Line], tasks: Sequence[MetricComparison], draws: int) -> np.ndarray:
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
        yield cell("Published results", one["name"], "External row", one["name"])
        for name, score in one["scores"].items():
            text = f"{100 * score['value']:.1f}"
            error = "" if score["stderr"] is None else f" \N{PLUS-MINUS SIGN} {100 * score['stderr']:.1f}"
            assert name.endswith("/accuracy")
            heading = f"{task_name(name.removesuffix('/accuracy'))} accuracy (%)"
            yield cell("Published results", one["name"], heading, text + error)
        told = {
            "Trained parameters": f"{one['trainable_parameters']:,}",
            "Peak memory (GiB)": f"{one['peak_memory_bytes'] / GIB:.2f}",
            "Training time (s)": amount(one["train_seconds"]),
            "Saved size (MiB)": amount(one["saved_bytes"] / MIB),
        }
        for name, text in told.items():
            yield cell("Published results", one["name"], name, text)


def others_differ(traced: Traced) -> Iterator[Claim]:
    """What the published rows differ in, value by value with their names."""
    rows = traced.files.external
    for key in sorted({key for one in rows for key in one["facts"]}):
        values: dict[str, list[str]] = {}
        for one in rows:
            values.setdefault(setting(one["facts"][key]) if key in one["facts"] else "absent", []).append(one["name"])
        if len(values) > 1:
            shown = ", ".join(f"{text} ({listed(who, 6)})" for text, who in values.items())
            yield claim_words("Published results", f"{key}: {shown}")


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


def _score(contest: MetricComparison, line: Line) -> str:
    return with_error(contest, contest.value(line), contest.parts(line))


def _gain(contest: MetricComparison, line: Line, base: Line) -> str:
    gap = gap_of(line, base, contest.eval_id, contest.metric)
    return with_error(contest, gap.value, gap.parts, signed=True)


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
