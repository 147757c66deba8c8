"""The claims of what quality costs and which method to use, from the files of the records."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ledger import Claim, Near, claim_words
from traced_files import Line, Run
from traced_numbers import LEVEL, MARGIN, MetricComparison, Pair
from traced_report import Traced, frontier_share, near_share
from traced_shown import MIB, UP, amount, cell, contest_name, ends, fixed, header, percent, task_short

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
    results = {(run.recipe_id, run.seed) for one in traced.files.lines for run in one.every}
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
    "Peak memory": _memory,
    "Training time": _training("train_seconds"),
    "Trained parameters": _print("trainable_parameters"),
    "Saved size": _print("saved_bytes", MIB),
    "Training energy": _energy,
    "Training compute": _flops,
    "Device hours with tuning": _device_hours,
    "Cost with tuning": _cost,
}


def frontiers(traced: Traced) -> Iterator[Claim]:
    """The probability that no other method is both better and cheaper, for each cost and each retention task."""
    main, section = traced.main, "Quality-cost trade-off"
    means = np.array([main.value(line) for line in main.ranked])[:, None]
    drawn = main.drawn(main.ranked)
    quality = f"{task_short(main.look.task)} (%) {UP}"
    for line, value in zip(main.ranked, means, strict=True):
        yield cell(section, line.name, quality, fixed(100 * value[0], 1))
    for name, price in PRICES.items():
        prices = [price(traced, line) for line in main.ranked]
        if None not in prices and len({*prices}) > 1:
            dear = np.array(prices)[:, None]
            yield from _shares(main, name, (drawn, dear), (means, dear))
    for kept in traced.role("retention"):
        lines = [*main.ranked, kept.base]
        lost = np.array([kept.value(line) for line in lines])[:, None] * (1 if kept.higher else -1)
        resampled = kept.drawn(lines)
        after = (drawn, resampled[-1] - resampled[:-1])
        yield from _shares(main, contest_name(kept), after, (means, lost[-1] - lost[:-1]))


def _shares(main: MetricComparison, column: str, drawn: tuple, means: tuple) -> Iterator[Claim]:
    shares, here = frontier_share(*drawn), frontier_share(*means)
    for line, share, on in zip(main.ranked, shares, here, strict=True):
        yield cell("Quality-cost trade-off", line.name, column, near_share(share), "*" if on else "")


def matched(traced: Traced) -> Iterator[Claim]:
    ranked, section = traced.main.ranked, "Validation loss at equal budget"
    runs = {line.name: [run.attempt["training"] for run in line.runs] for line in ranked}
    for title, spent in (("tokens", _tokens), ("s", _seconds), ("TFLOP", _operations)):
        curves = {label: [spent(one) for one in each] for label, each in runs.items()}
        if any(curve is None for each in curves.values() for curve in each):
            continue
        budget = min(curve[-1] for each in curves.values() for curve in each)
        column = f"at {amount(budget)} {title}"
        yield from header(section, column)
        for label, each in runs.items():
            reached = [
                [loss for step, loss in one["validation"] if curve[step - 1] <= budget * (1 + 1e-9)][-1]
                for one, curve in zip(each, curves[label], strict=True)
            ]
            yield cell(section, label, column, f"{np.mean(reached):.4f}")


def matched_pairs(traced: Traced) -> Iterator[Claim]:
    section = "Pairs matched on cost"
    shown = {"Peak memory": lambda size: f"{size / 1024:.2f}", "Trained parameters": lambda count: f"{count:,.0f}"}
    for pair, name in itertools.product(traced.main.between, shown):
        first, second = (PRICES[name](traced, one) for one in (pair.a, pair.b))
        if abs(first - second) > 0.1 * max(first, second):
            continue
        row = (f"{pair.a.name} vs. {pair.b.name}", f"{name} (GiB)" if name == "Peak memory" else name)
        yield cell(section, row, "Values", f"{shown[name](first)} and {shown[name](second)}")
        yield cell(section, row, "Difference (points)", fixed(100 * pair.result.difference, 1, signed=True))
        yield cell(section, row, "Verdict", pair.words)


def advice(traced: Traced) -> Iterator[Claim]:
    section, main = "Recommendation", traced.main
    lines = [*main.ranked, *([main.base] if main.base else [])]
    memory = {line.label: _memory(traced, line) for line in lines}
    peaks = sorted({*memory.values()}, reverse=True)[1:]
    limits = peaks[:: -(-len(peaks) // 6)]
    overhead = any(not line.is_base and not _merges(line) for line in lines)
    needs = [(None, True), *([(None, False)] if overhead else []), *((limit, True) for limit in limits)]
    told = set()
    for limit, allowed in needs:
        left = [line for line in lines if limit is None or memory[line.label] <= limit]
        left = left if allowed else [line for line in left if line.is_base or _merges(line)]
        best = max(left, key=main.value)
        pairs = _against(best, left, MARGIN, main)
        fine = [best, *(line for line in left if line is not best and _not_worse(pairs[line.label]))]
        chosen = min(fine, key=lambda line: (memory[line.label], -main.value(line)))
        if chosen.label in told or chosen.is_base:
            continue
        told.add(chosen.label)
        start = f"Within {limit / 1024:.2f} GiB" if limit else "No limit" if allowed else "No inference overhead"
        score = f"{start}: {chosen.name} ({percent(main.value(chosen))}), "
        if chosen is best:
            drawn = main.drawn(left)
            share = np.mean(drawn[left.index(best)] >= drawn.max(axis=0))
            within = " within this limit" if limit else ""
            yield claim_words(
                section, f"{score}the best score{within} (bootstrap probability of being best ", Near(share, 0.065)
            )
            continue
        pair = pairs[chosen.label]
        gap = f"{fixed(100 * pair.result.difference, 1, signed=True)} points"
        inner = f"{percent(main.value(best))}; difference {gap}, simultaneous 95 % CI {ends(pair, main)}"
        yield claim_words(section, f"{score}non-inferior to {best.name} ({inner})")
    yield claim_words(section, f"(margin {100 * MARGIN:.1f} points, one-sided 5 %, adjusted for all of them)")


def ladder(traced: Traced) -> list[tuple[float, Line]]:
    """The best method from each memory on, in MiB."""
    main, found = traced.main, []
    for line in sorted(main.ranked, key=lambda one: (_memory(traced, one), -main.value(one))):
        if not found or main.value(line) > main.value(found[-1][1]):
            found.append((_memory(traced, line), line))
    return found


def cheapest(traced: Traced) -> tuple[Line, Line, bool]:
    """(the cheapest method that is shown to be good enough, the best, whether it could be shown of any)."""
    main = traced.main
    best = main.ranked[0]
    pairs = _against(best, main.ranked, MARGIN, main)
    fine = [best, *(line for line in main.ranked[1:] if _not_worse(pairs[line.label]))]
    chosen = min(fine, key=lambda line: (_memory(traced, line), -main.value(line)))
    return chosen, best, not any(pair.result.why for pair in pairs.values())


def _against(best: Line, left: Sequence[Line], tolerance: float, main: MetricComparison) -> dict[str, Pair]:
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
