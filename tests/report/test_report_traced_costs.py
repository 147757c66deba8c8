"""What the page says of costs and which method to use, computed again from the files of the records."""

import itertools
import math

import numpy as np
import pytest
from traced import (
    ARC,
    HELLASWAG,
    LABELS,
    TRAINED,
    gap_of,
    number_in,
    outcomes_of,
    seed_part_of,
    shown_as,
    table_rows,
    tail_of,
)


def _draws(known, methods, look):
    """Resampled accuracies, the same items for every method."""
    rng = np.random.default_rng(look is ARC)
    items = len(outcomes_of(known, "base", look, "acc")[1])
    chosen = rng.integers(items, size=(4000, items))
    found = {}
    for method in methods:
        values, weights = outcomes_of(known, method, look, "acc")
        found[method] = values.mean(axis=0)[chosen].mean(axis=1)
        for variance, df in seed_part_of(values, weights):
            found[method] = found[method] + rng.standard_t(df, 4000) * math.sqrt(variance)
    return found


def _attempts(known, method):
    return [attempt for attempt, _ in known[method].values()]


def _beaten(good, dear, method):
    """Whether another is at least as good and at most as dear, and in one of them strictly."""
    lost = np.zeros(np.broadcast(good[method], dear[method]).shape, dtype=bool)
    for other in good:
        no_worse = (good[other] >= good[method]) & (dear[other] <= dear[method])
        lost |= no_worse & ((good[other] > good[method]) | (dear[other] < dear[method]))
    return lost


COSTS = {
    "Peak memory, MiB": lambda one: one["peak_memory_bytes"] / 2**20,
    "Training, s": lambda one: one["training"]["train_seconds"],
    "Trained parameters": lambda one: one["fingerprint"]["trainable_parameters"],
    "Saved, MB": lambda one: one["fingerprint"]["saved_bytes"] / 1e6,
}


def test_every_cost_star_and_probability_of_the_frontier(traced):
    sections, known = traced
    header = next(line for line in sections["Frontiers"].splitlines() if line.startswith("| Method"))
    rows = table_rows(sections["Frontiers"])
    draws, lost = _draws(known, TRAINED, ARC), _draws(known, (*TRAINED, "base"), HELLASWAG)
    means = {method: outcomes_of(known, method, ARC, "acc")[0].mean() for method in TRAINED}
    kept = {method: outcomes_of(known, method, HELLASWAG, "acc")[0].mean() for method in (*TRAINED, "base")}
    prices = {name: {m: np.mean([of(a) for a in _attempts(known, m)]) for m in TRAINED} for name, of in COSTS.items()}
    resampled = {**prices, "hellaswag (acc) lost": {method: lost["base"] - lost[method] for method in TRAINED}}
    prices["hellaswag (acc) lost"] = {method: kept["base"] - kept[method] for method in TRAINED}
    columns = [cell.strip() for cell in header.split("|")[1:-1]]
    assert columns[2:] == list(prices)
    for name, method in itertools.product(prices, TRAINED):
        cost, share = rows[LABELS[method]][columns.index(name)].split(": ")
        assert number_in(cost) == pytest.approx(prices[name][method], rel=0.005, abs=0.0005)
        expected = 1 - _beaten(draws, resampled[name], method).mean()
        assert number_in(share.split()[0]) == pytest.approx(expected, abs=0.06)
        assert share.endswith("\\*") == (not _beaten(means, prices[name], method))


def test_every_loss_at_a_matched_budget(traced):
    sections, known = traced
    rows = table_rows(sections["Matched budgets"])
    runs = {method: [attempt["training"] for attempt in _attempts(known, method)] for method in TRAINED}
    for column, key in ((1, "real_tokens"), (2, "step_seconds")):
        budget = min(sum(run[key]) for each in runs.values() for run in each)
        for method in TRAINED:
            reached = [
                [loss for step, loss in run["validation"] if sum(run[key][:step]) <= budget * (1 + 1e-9)][-1]
                for run in runs[method]
            ]
            assert rows[LABELS[method]][column] == f"{np.mean(reached):.4f}"


def test_every_matched_pair(traced):
    sections, known = traced
    found = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in sections["Matched pairs"].splitlines()]
    expected = []
    for (a, b), name in itertools.product(
        itertools.combinations(TRAINED, 2), ("Peak memory, MiB", "Trained parameters")
    ):
        first, second = (np.mean([COSTS[name](one) for one in _attempts(known, m)]) for m in (a, b))
        if abs(first - second) <= 0.1 * max(first, second):
            gap = gap_of(known, a, b, ARC, "acc")[0]
            both = f"{first:,.0f} and {second:,.0f}"
            verdict = table_rows(sections["Pairs on arc_easy (acc)"])[(LABELS[a], LABELS[b])][7]
            expected.append((f"{LABELS[a]}, {LABELS[b]}", name, both, shown_as(gap, 3, signed=True), verdict))
    assert [line for line in found if len(line) == 5][2:] == expected
    assert len(expected) == 1


def test_every_recommendation(traced):
    sections, known = traced
    lines = [line for line in sections["Which method should I use?"].splitlines() if line.startswith("| ")][2:]
    memory = {method: np.mean([COSTS["Peak memory, MiB"](one) for one in _attempts(known, method)]) for method in known}
    means = {method: outcomes_of(known, method, ARC, "acc")[0].mean() for method in known}
    draws = _draws(known, known, ARC)
    for line in lines:
        limit, tolerance, overhead, chosen, score, _, best = (cell.strip() for cell in line.split("|")[1:-1])
        most = float("inf") if limit == "-" else number_in(limit) + 0.5
        left = [m for m in known if memory[m] <= most and (overhead == "allowed" or m == "base")]
        top = max(left, key=means.get)
        fine = [top]
        for method in left:
            if method != top:
                value, parts = gap_of(known, *((top, method) if method == "base" else (method, top)), ARC, "acc")
                gap = -value if method == "base" else value
                fine += [method] if tail_of(gap + float(tolerance), parts) < 0.05 else []
        cheapest = min(fine, key=lambda method: (memory[method], -means[method]))
        assert chosen == LABELS[cheapest]
        assert score == f"{means[cheapest]:.3f}"
        name, share = best.split(", in ")
        assert name == LABELS[top]
        wins = np.mean(draws[top] >= np.max([draws[method] for method in left], axis=0))
        assert float(share.rstrip("%")) / 100 == pytest.approx(wins, abs=0.06)
    assert len(lines) == 6
