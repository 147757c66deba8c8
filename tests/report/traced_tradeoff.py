"""The claims of what quality costs and which method to use, from the files of the records."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ledger import Claim, Near, claim_words
from traced_files import Line, Run
from traced_numbers import LEVEL, MARGIN, Contest, Pair
from traced_report import Traced, frontier_share, near_share
from traced_shown import MB, MIB, amount, cell, fixed, header, with_ends

from harness import stats

HOUR = 3600


def seconds_of(attempt: dict) -> float:
    """From its beginning to its end on all processes; an old one has its phases."""
    known = attempt.get("seconds")
    known = sum(phase["seconds"] for phase in attempt["phases"].values()) if known is None else known
    return known * (attempt["provenance"].get("num_processes") or 1)


def hours_of(run: Run) -> float:
    return sum(seconds_of(attempt) for attempt in run.record["attempts"]) / HOUR


def tuning_hours(traced: Traced, line: Line) -> float | None:
    """Of the trials of the line's contestant, those that are results as well left out; None where nothing was tuned."""
    results = {(run.recipe_id, run.seed) for one in traced.files.lines for run in one.runs}
    mine = {cell["contestant"] for cell in traced.files.sweep["cells"] if cell["recipe_id"] == line.runs[0].recipe_id}
    tried = {(run.recipe_id, run.seed): run for name in mine for run in traced.files.trials.get(name, ()) if run.record}
    left = [run for key, run in tried.items() if key not in results]
    return sum(map(hours_of, left)) if left else None


def _training(name: str) -> Callable[[Traced, Line], float | None]:
    return lambda traced, line: _mean([run.attempt["training"][name] for run in line.runs])


def _print(name: str, unit: float = 1) -> Callable[[Traced, Line], float | None]:
    return lambda traced, line: _mean([run.attempt["fingerprint"][name] for run in line.runs]) / unit


def _memory(traced: Traced, line: Line) -> float | None:
    return _mean([run.attempt["peak_memory_bytes"] for run in line.runs]) / MIB


def _energy(traced: Traced, line: Line) -> float | None:
    return _mean([run.attempt["phases"]["train"].get("energy_joules") for run in line.runs])


def _flops(traced: Traced, line: Line) -> float | None:
    found = []
    for run in line.runs:
        training = run.attempt["training"]
        profile = training.get("profile")
        if profile:
            found.append(profile["flops"] * sum(training["padded_tokens"]) / _positions(profile) / 1e12)
    return _mean(found or [None])


def _device_hours(traced: Traced, line: Line) -> float | None:
    return _mean([hours_of(run) for run in line.runs]) + (tuning_hours(traced, line) or 0)


def _cost(traced: Traced, line: Line) -> float | None:
    price = line.runs[0].record["config"].get("price_per_device_hour")
    return None if price is None else price * _device_hours(traced, line)


PRICES = {
    "Peak memory, MiB": _memory,
    "Training, s": _training("train_seconds"),
    "Trained parameters": _print("trainable_parameters"),
    "Saved, MB": _print("saved_bytes", MB),
    "Energy, J": _energy,
    "Operations, TFLOP": _flops,
    "Device hours, tuning included": _device_hours,
    "Cost, tuning included": _cost,
}


def frontiers(traced: Traced) -> Iterator[Claim]:
    main = traced.main
    means = np.array([main.value(line) for line in main.ranked])[:, None]
    drawn = main.drawn(main.ranked)
    yield from header("Frontiers", main.title)
    for line, value in zip(main.ranked, means, strict=True):
        yield cell("Frontiers", line.label, main.title, fixed(value[0], main.digits))
    for name, of in PRICES.items():
        prices = [of(traced, line) for line in main.ranked]
        if None in prices or len({*prices}) == 1:
            continue
        dear = np.array(prices)[:, None]
        shares, here = frontier_share(drawn, dear), frontier_share(means, dear)
        for line, price, share, on in zip(main.ranked, prices, shares, here, strict=True):
            yield cell("Frontiers", line.label, name, f"{amount(price)}: ", near_share(share), " *" if on else "")
    for kept in traced.role("retention"):
        lines = [*main.ranked, kept.base]
        lost = np.array([kept.value(line) for line in lines])[:, None] * (1 if kept.higher else -1)
        resampled = kept.drawn(lines)
        shares = frontier_share(drawn, resampled[-1] - resampled[:-1])
        here = frontier_share(means, lost[-1] - lost[:-1])
        for line, one, share, on in zip(main.ranked, (lost[-1] - lost[:-1])[:, 0], shares, here, strict=True):
            shown = fixed(one, kept.digits, signed=True)
            star = " *" if on else ""
            yield cell("Frontiers", line.label, f"{kept.title} lost", f"{shown}: ", near_share(share), star)


def matched(traced: Traced) -> Iterator[Claim]:
    ranked = traced.main.ranked
    runs = {line.label: [run.attempt["training"] for run in line.runs] for line in ranked}
    for title, spent in (("tokens", _tokens), ("s", _seconds), ("TFLOP", _operations)):
        curves = {label: [spent(one) for one in each] for label, each in runs.items()}
        if any(curve is None for each in curves.values() for curve in each):
            continue
        budget = min(curve[-1] for each in curves.values() for curve in each)
        column = f"at {amount(budget)} {title}"
        yield from header("Matched budgets", column)
        for label, each in runs.items():
            reached = [
                [loss for step, loss in one["validation"] if curve[step - 1] <= budget * (1 + 1e-9)][-1]
                for one, curve in zip(each, curves[label], strict=True)
            ]
            yield cell("Matched budgets", label, column, f"{np.mean(reached):.4f}")


def matched_pairs(traced: Traced) -> Iterator[Claim]:
    for pair, name in itertools.product(traced.main.between, ("Peak memory, MiB", "Trained parameters")):
        first, second = (PRICES[name](traced, one) for one in (pair.a, pair.b))
        if abs(first - second) > 0.1 * max(first, second):
            continue
        row = (f"{pair.a.label}, {pair.b.label}", name)
        yield cell("Matched pairs", row, "Values", f"{amount(first)} and {amount(second)}")
        yield cell("Matched pairs", row, "Difference", fixed(pair.result.difference, traced.main.digits, signed=True))
        yield cell("Matched pairs", row, "Verdict", pair.words)


def advice(traced: Traced) -> Iterator[Claim]:
    section, main = "Which method should I use?", traced.main
    lines = [*main.ranked, *([main.base] if main.base else [])]
    memory = {line.label: _memory(traced, line) for line in lines}
    peaks = sorted({*memory.values()}, reverse=True)[1:]
    limits = peaks[:: -(-len(peaks) // 6)]
    needs = [(None, 0.0, True), (None, MARGIN, True), (None, MARGIN, False), *((one, MARGIN, True) for one in limits)]
    last = None
    for limit, tolerance, overhead in needs:
        left = [line for line in lines if limit is None or memory[line.label] <= limit]
        left = left if overhead else [line for line in left if line.is_base or _merges(line)]
        best = max(left, key=main.value)
        pairs = _against(best, left, tolerance, main)
        fine = [best, *(line for line in left if line is not best and _not_worse(pairs[line.label]))]
        chosen = min(fine, key=lambda line: (memory[line.label], -main.value(line)))
        if limit is not None and chosen is last:
            continue
        last = chosen
        row = ("-" if limit is None else f"{amount(limit)} MiB", f"{tolerance:g}", "allowed" if overhead else "none")
        drawn = main.drawn(left)
        share = 100 * np.mean(drawn[left.index(best)] >= drawn.max(axis=0))
        yield from (cell(section, row, name, text) for name, text in zip(_NEED, row, strict=True))
        yield cell(section, row, "Method", chosen.label)
        yield cell(section, row, main.title, fixed(main.value(chosen), main.digits))
        yield cell(section, row, "Best", f"{best.label} (", Near(share / 100, 0.065), ")")
        gap = "-" if chosen is best else with_ends(pairs[chosen.label], main.digits)
        yield cell(section, row, "Difference to the best", gap)
    yield claim_words(section, "(margin = tolerance, one-sided 5 %, adjusted for all of them)")
    yield claim_words(section, "Differences with simultaneous 95 % intervals")


_NEED = ("Peak memory up to", "Tolerance", "Overhead")


def _against(best: Line, left: Sequence[Line], tolerance: float, main: Contest) -> dict[str, Pair]:
    """The other lines' comparisons with the best, by the public function."""
    if len(left) < 2:
        return {}
    seeds = sorted({seed for line in left for seed in line.seeds if not line.is_base})
    tables = {}
    for line in left:
        values = line.outcomes(main.eval_id, main.metric)
        tables[line.label] = values if line.is_base else np.full((len(seeds), values.shape[1]), np.nan)
        for seed, row in zip(line.seeds, values, strict=True) if not line.is_base else ():
            tables[line.label][seeds.index(seed)] = row
    compared = stats.compare_methods(
        tables, families=("best",), margin=tolerance or None, deterministic=[x.label for x in left if x.is_base]
    )
    by_label = {line.label: line for line in left}
    return {one.a: Pair(by_label[one.a], best, one) for one in compared.families["best"].pairs}


def _not_worse(pair: Pair) -> bool:
    return pair.result.noninferiority_p is not None and pair.result.noninferiority_p < LEVEL


def _merges(line: Line) -> bool:
    return all(run.attempt["fingerprint"].get("mergeable") for run in line.runs)


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def _positions(profile: dict) -> int:
    return sum(rows * tokens for rows, tokens in profile["micro_batches"])


def _tokens(training: dict) -> np.ndarray:
    return np.cumsum(training["real_tokens"])


def _seconds(training: dict) -> np.ndarray:
    return np.cumsum(training["step_seconds"])


def _operations(training: dict) -> np.ndarray | None:
    profile = training.get("profile")
    return np.cumsum(training["padded_tokens"]) * profile["flops"] / _positions(profile) / 1e12 if profile else None
