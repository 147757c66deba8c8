"""Every table of report.md computed again from the files of the records, with other code: json, pyarrow, scipy."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import scipy.stats
import statsmodels.stats.multitest
from conftest import LOOKS, build
from pyarrow import parquet

from harness.report import write

PM = "\N{PLUS-MINUS SIGN}"
LABELS = {"base": "base", "lora": "lora lr=3e-4", "dora": "dora", "ia3": "ia3"}
VALIDATION, TEST, ARC, HELLASWAG = LOOKS
TRAINED = ("dora", "lora", "ia3")  # best first on ARC


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The page's sections by heading, and the files as they lie: method -> seed -> (record, items by evaluation)."""
    runs = build(tmp_path_factory.mktemp("traced") / "runs")
    text = write(runs, "methods", runs.parent / "out").read_text()
    parts = re.split(r"^#{1,3} (.*)$", text, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    known: dict[str, dict[int, tuple[dict, dict]]] = {}
    for path in sorted(runs.glob("*/seed-*/record.json")):
        record = json.loads(path.read_text())
        if record["attempts"][-1]["status"] != "ok":
            continue
        items = {
            look.eval_id: parquet.read_table(path.parent / "evaluations" / f"{look.eval_id}.parquet")
            .sort_by("item_id").to_pydict()
            for look in LOOKS
        }  # fmt: skip
        known.setdefault(record["method"], {})[record["seed"]] = (record["attempts"][-1], items)
    return sections, known


def _rows(section):
    """The first table of a section: the first cell -> the others."""
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {tuple(row[:2]) if row[1] in LABELS.values() else row[0]: row for row in cells}


def _outcomes(known, method, look, metric):
    """Items of shape (seeds, items), and the weights of a loss."""
    seeds = [known[method][seed][1][look.eval_id] for seed in sorted(known[method])]
    weights = np.array(seeds[0].get("num_tokens", np.ones(len(seeds[0]["item_id"]))), dtype=float)
    return np.array([one[f"metric/{metric}"] for one in seeds], dtype=float), weights


def _seed_part(values, weights):
    """The seeds' variance beyond the items', from the mean squares of a two-way table."""
    seeds, items = values.shape
    if seeds < 2:
        return []
    z = (values - values.mean(axis=0).sum() / weights.sum() * weights) * items / weights.sum()
    table = z - z.mean(axis=0) - z.mean(axis=1)[:, None] + z.mean()
    error = (table**2).sum() / ((seeds - 1) * (items - 1))
    return [(max(items * z.mean(axis=1).var(ddof=1) - error, 0) / (seeds * items), seeds - 1)]


def _parts(differences, weights, sides):
    """Value, and (variance, degrees of freedom) of the items and of the seeds."""
    middle = differences.mean(axis=0)
    value = middle.sum() / weights.sum()
    items = len(middle)
    variance = items * (middle - value * weights).var(ddof=1) / weights.sum() ** 2
    return value, [(variance, items - 1), *(part for side in sides for part in _seed_part(side, weights))]


def _gap(known, a, b, look, metric):
    (first, weights), (second, _) = (_outcomes(known, one, look, metric) for one in (a, b))
    if b == "base":
        return _parts(first - second, weights, [first - second])
    if len(first) == len(second):
        return _parts(first - second, weights, [first - second])
    middle = first.mean(axis=0, keepdims=True) - second.mean(axis=0, keepdims=True)
    return _parts(middle, weights, [first, second])


def _tail(distance, parts):
    """The one-sided p by bisection on the quantiles."""
    low, high = 0.0, 0.5
    if distance < 0:
        return 1 - _tail(-distance, parts)
    for _ in range(200):
        middle = (low + high) / 2
        reach = sum(scipy.stats.t.isf(middle, df) ** 2 * variance for variance, df in parts)
        low, high = (middle, high) if reach > distance**2 else (low, middle)
    return high


def _shown(value, digits, signed=False):
    return f"{value:{'+' if signed else ''}.{digits}f}"


def _number(text):
    return float(re.sub(r"[^\d.+-]", "", text.split(" ")[0]))


PAIRS = [*((method, "base") for method in TRAINED), *itertools.combinations(TRAINED, 2)]


@pytest.mark.parametrize(
    ("title", "look", "metric", "digits"),
    [("arc_easy (acc)", ARC, "acc", 3), ("science_qa/validation", VALIDATION, "nll", 4)],
)
def test_every_pair(traced, title, look, metric, digits):
    sections, known = traced
    rows = _rows(sections[f"Pairs on {title}"])
    assert len(rows) == len(PAIRS) == 6
    expected = []
    for a, b in PAIRS:
        value, parts = _gap(known, a, b, look, metric)
        first, second = (_outcomes(known, one, look, metric)[0] for one in (a, b))
        p = 2 * _tail(abs(value), parts)
        if metric == "acc" and len(first) == len(second) == 1:
            wins, losses = (first > second).sum(), (first < second).sum()
            p = scipy.stats.binomtest(wins, wins + losses).pvalue
        alike = max(_tail(0.01 - value, parts), _tail(0.01 + value, parts))
        expected.append((value, parts, min(p, 1), alike))
    adjusted = statsmodels.stats.multitest.multipletests([one[2] for one in expected], method="holm")[1]
    equivalence = statsmodels.stats.multitest.multipletests([one[3] for one in expected], method="holm")[1]
    for (a, b), (value, parts, _, _), p, alike in zip(PAIRS, expected, adjusted, equivalence, strict=True):
        cells = rows[(LABELS[a], LABELS[b])]
        assert cells[2] == _shown(value, digits, signed=True)
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
        rows = _rows(section)
        metrics = ["nll"] if look.kind == "heldout" else ["acc", "acc_norm"]
        for method, label in LABELS.items():
            cells = iter(rows[label][1:])
            for metric in metrics:
                digits = 4 if metric == "nll" else 3
                values, weights = _outcomes(known, method, look, metric)
                value, parts = _parts(values, weights, [values])
                error = math.sqrt(sum(variance for variance, _ in parts))
                assert next(cells) == f"{value:.{digits}f} {PM} {error:.{digits}f}"
                gap, gap_parts = _gap(known, method, "base", look, metric)
                gap_error = math.sqrt(sum(variance for variance, _ in gap_parts))
                expected = f"{gap:+.{digits}f} {PM} {gap_error:.{digits}f}" if method != "base" else "-"
                assert next(cells) == expected
                checked += 1
            if look.kind == "heldout":
                assert next(cells) == f"{math.exp(value):.2f}"
    assert checked == 4 * (2 + 2 + 1 + 1)


def test_the_first_table_repeats_those_of_the_tasks_and_letters_follow_from_the_verdicts(traced):
    sections, _ = traced
    rows = _rows(sections["methods"])
    tasks = {look: _rows(next(s for h, s in sections.items() if h.startswith(f"{look.task} ("))) for look in LOOKS}
    verdicts = _rows(sections["Pairs on arc_easy (acc)"])
    for label in LABELS.values():
        loss, test, arc, hella = (tasks[look][label] for look in LOOKS)
        assert rows[label][2:9] == [loss[1], test[1], test[2], arc[1], arc[2], hella[1], hella[2]]
    for a, b in itertools.combinations(TRAINED, 2):
        apart = verdicts[(LABELS[a], LABELS[b])][7] in ("better", "worse")
        assert bool(set(rows[LABELS[a]][9]) & set(rows[LABELS[b]][9])) != apart


def test_every_cost(traced):
    sections, known = traced
    rows = _rows(sections["Cost"])
    for method in TRAINED:
        attempts = [attempt for attempt, _ in known[method].values()]
        cells = rows[LABELS[method]]
        prints, trainings = [one["fingerprint"] for one in attempts], [one["training"] for one in attempts]
        share = 100 * prints[0]["trainable_parameters"] / prints[0]["total_parameters"]
        assert cells[1:3] == [f"{prints[0]['trainable_parameters']:,}", f"{share:.3g}"]
        assert _number(cells[3]) == round(np.mean([one["peak_memory_bytes"] for one in attempts]) / 2**20)
        assert _number(cells[4]) == round(np.mean([one["tokens_per_second"] for one in trainings]))
        assert _number(cells[5]) == round(np.mean([one["train_seconds"] for one in trainings]), 1)
        assert _number(cells[7]) == pytest.approx(np.mean([one["saved_bytes"] for one in prints]) / 1e6, rel=0.005)


def test_every_probability_of_the_frontier(traced):
    sections, known = traced
    header = next(line for line in sections["Frontiers"].splitlines() if line.startswith("| Method"))
    rows = _rows(sections["Frontiers"])
    rng = np.random.default_rng(0)
    chosen = rng.integers(300, size=(4000, 300))
    draws = {}
    for method in TRAINED:
        values, weights = _outcomes(known, method, ARC, "acc")
        draws[method] = values.mean(axis=0)[chosen].mean(axis=1)
        for variance, df in _seed_part(values, weights):
            draws[method] = draws[method] + rng.standard_t(df, 4000) * math.sqrt(variance)
    memory = {method: next(iter(known[method].values()))[0]["peak_memory_bytes"] for method in TRAINED}
    column = [cell.strip() for cell in header.split("|")[1:-1]].index("Peak memory, MiB")
    for method in TRAINED:
        beaten = np.zeros(4000, dtype=bool)
        for other in TRAINED:
            if other != method and memory[other] <= memory[method]:
                beaten |= (draws[other] >= draws[method]) & (
                    (draws[other] > draws[method]) | (memory[other] < memory[method])
                )
        cost, share = rows[LABELS[method]][column].split(": ")
        assert cost == f"{memory[method] / 2**20:,.0f}"
        assert _number(share) == pytest.approx(1 - beaten.mean(), abs=0.04)


def test_the_answer_repeats_the_tables(traced):
    sections, _ = traced
    said = sections["methods"].split("\n\n")[2]
    pairs = _rows(sections["Pairs on arc_easy (acc)"])
    for method in TRAINED:
        cells = pairs[(LABELS[method], "base")]
        assert f"{LABELS[method]} {cells[2]} ({cells[3]})" in said
    losses = _rows(sections["Pairs on science_qa/validation"])
    cells = losses[("dora", "lora lr=3e-4")]
    assert f"{abs(float(cells[2])):.4f} (" in said
    assert f"(p = {cells[4]}, Holm over 6)" in said
    known = {*re.findall(r"\d+\.\d+", " ".join(" ".join(row) for row in (*pairs.values(), *losses.values())))}
    known |= {*re.findall(r"\d+\.\d+", sections["methods"].split("\n\n", 3)[3])}
    known |= {*re.findall(r"\d+\.\d+", sections["Pairs on arc_easy (acc)"])}
    assert {*re.findall(r"\d+\.\d+", said)} <= known
