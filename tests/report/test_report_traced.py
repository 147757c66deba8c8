"""Every table of report.md computed again from the files of the records."""

import itertools
import math
import re

import numpy as np
import pytest
import scipy.stats
import statsmodels.stats.multitest
from conftest import LOOKS
from traced import (
    ARC,
    HELLASWAG,
    LABELS,
    PM,
    TEST,
    TRAINED,
    VALIDATION,
    gap_of,
    number_in,
    outcomes_of,
    parts_of,
    shown_as,
    table_rows,
    tail_of,
)

PAIRS = [*((method, "base") for method in TRAINED), *itertools.combinations(TRAINED, 2)]


@pytest.mark.parametrize(
    ("title", "look", "metric", "digits"),
    [("arc_easy (acc)", ARC, "acc", 3), ("science_qa/validation", VALIDATION, "nll", 4)],
)
def test_every_pair(traced, title, look, metric, digits):
    sections, known = traced
    rows = table_rows(sections[f"Pairs on {title}"])
    assert len(rows) == len(PAIRS) == 6
    expected = []
    for a, b in PAIRS:
        value, parts = gap_of(known, a, b, look, metric)
        first, second = (outcomes_of(known, one, look, metric)[0] for one in (a, b))
        p = 2 * tail_of(abs(value), parts)
        if metric == "acc" and len(first) == len(second) == 1:
            wins, losses = (first > second).sum(), (first < second).sum()
            p = scipy.stats.binomtest(wins, wins + losses).pvalue
        alike = max(tail_of(0.01 - value, parts), tail_of(0.01 + value, parts))
        expected.append((value, parts, min(p, 1), alike))
    adjusted = statsmodels.stats.multitest.multipletests([one[2] for one in expected], method="holm")[1]
    equivalence = statsmodels.stats.multitest.multipletests([one[3] for one in expected], method="holm")[1]
    for (a, b), (value, parts, _, _), p, alike in zip(PAIRS, expected, adjusted, equivalence, strict=True):
        cells = rows[(LABELS[a], LABELS[b])]
        assert cells[2] == shown_as(value, digits, signed=True)
        half = math.sqrt(sum(scipy.stats.t.isf(0.025, df) ** 2 * variance for variance, df in parts))
        low, high = (float(end) for end in cells[3].split(" to "))
        assert (low, high) == pytest.approx((value - half, value + half), abs=0.12 * half + 10**-digits)
        assert cells[4] == ("< 0.001" if p < 0.001 else f"{p:.2g}")
        assert cells[5] == ("< 0.001" if alike < 0.001 else f"{alike:.2g}")
        assert cells[6] == "-"
        gain = value if metric == "acc" else -value
        verdict = "better" if gain > 0 else "worse"
        assert cells[7] == (verdict if p < 0.05 else "equivalent" if alike < 0.05 else "not separable")
    reach = sorted(
        math.sqrt(sum((scipy.stats.t.isf(0.025, df) + scipy.stats.t.isf(0.2, df)) ** 2 * v for v, df in parts))
        for (_, b), (_, parts, _, _) in zip(PAIRS, expected, strict=True) if b != "base"
    )  # fmt: skip
    assert f"Minimum detectable effect: {reach[1]:.{digits}f} " in sections[f"Pairs on {title}"]


def test_every_score_and_its_difference_to_base(traced):
    sections, known = traced
    tables = {look: next(s for h, s in sections.items() if h.startswith(f"{look.task} (")) for look in (ARC, HELLASWAG)}
    tables |= {
        look: next(s for h, s in sections.items() if h.startswith(f"{look.task} (")) for look in (VALIDATION, TEST)
    }
    checked = 0
    for look, section in tables.items():
        rows = table_rows(section)
        metrics = ["nll"] if look.kind == "heldout" else ["acc", "acc_norm"]
        for method, label in LABELS.items():
            cells = iter(rows[label][1:])
            for metric in metrics:
                digits = 4 if metric == "nll" else 3
                values, weights = outcomes_of(known, method, look, metric)
                value, parts = parts_of(values, weights, [values])
                error = math.sqrt(sum(variance for variance, _ in parts))
                assert next(cells) == f"{value:.{digits}f} {PM} {error:.{digits}f}"
                gap, gap_parts = gap_of(known, method, "base", look, metric)
                gap_error = math.sqrt(sum(variance for variance, _ in gap_parts))
                expected = f"{gap:+.{digits}f} {PM} {gap_error:.{digits}f}" if method != "base" else "-"
                assert next(cells) == expected
                checked += 1
            if look.kind == "heldout":
                assert next(cells) == f"{math.exp(value):.2f}"
    assert checked == 4 * (2 + 2 + 1 + 1)


def test_the_first_table_repeats_those_of_the_tasks_and_letters_follow_from_the_verdicts(traced):
    sections, _ = traced
    rows = table_rows(sections["methods"])
    tasks = {look: table_rows(next(s for h, s in sections.items() if h.startswith(f"{look.task} ("))) for look in LOOKS}
    verdicts = table_rows(sections["Pairs on arc_easy (acc)"])
    for label in LABELS.values():
        loss, test, arc, hella = (tasks[look][label] for look in LOOKS)
        assert rows[label][2:9] == [loss[1], test[1], test[2], arc[1], arc[2], hella[1], hella[2]]
    for a, b in itertools.combinations(TRAINED, 2):
        apart = verdicts[(LABELS[a], LABELS[b])][7] in ("better", "worse")
        assert bool(set(rows[LABELS[a]][9]) & set(rows[LABELS[b]][9])) != apart


def test_every_cost(traced):
    sections, known = traced
    rows = table_rows(sections["Cost"])
    for method in TRAINED:
        attempts = [attempt for attempt, _ in known[method].values()]
        cells = rows[LABELS[method]]
        prints, trainings = [one["fingerprint"] for one in attempts], [one["training"] for one in attempts]
        share = 100 * prints[0]["trainable_parameters"] / prints[0]["total_parameters"]
        assert cells[1:3] == [f"{prints[0]['trainable_parameters']:,}", f"{share:.3g}"]
        assert number_in(cells[3]) == round(np.mean([one["peak_memory_bytes"] for one in attempts]) / 2**20)
        assert number_in(cells[4]) == round(np.mean([one["tokens_per_second"] for one in trainings]))
        assert number_in(cells[5]) == round(np.mean([one["train_seconds"] for one in trainings]), 1)
        seconds = [items["seconds"] for _, items in known[method].values()]
        assert number_in(cells[6]) == round(np.mean(seconds), 1)
        assert number_in(cells[7]) == pytest.approx(np.mean([one["saved_bytes"] for one in prints]) / 1e6, rel=0.005)


def test_the_answer_repeats_the_tables(traced):
    sections, _ = traced
    said = sections["methods"].split("\n\n")[2]
    pairs = table_rows(sections["Pairs on arc_easy (acc)"])
    for method in TRAINED:
        cells = pairs[(LABELS[method], "base")]
        assert f"{LABELS[method]} {cells[2]} ({cells[3]})" in said
    losses = table_rows(sections["Pairs on science_qa/validation"])
    cells = losses[("dora", "lora lr=3e-4")]
    assert f"{abs(float(cells[2])):.4f} (" in said
    assert f"(p = {cells[4]}, Holm over 6)" in said
    known = {*re.findall(r"\d+\.\d+", " ".join(" ".join(row) for row in (*pairs.values(), *losses.values())))}
    known |= {*re.findall(r"\d+\.\d+", sections["methods"].split("\n\n", 3)[3])}
    known |= {*re.findall(r"\d+\.\d+", sections["Pairs on arc_easy (acc)"])}
    assert {*re.findall(r"\d+\.\d+", said)} <= known
