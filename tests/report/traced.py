"""The numbers of a page computed again from the files of its records, with other code: json, pyarrow, scipy."""

import json
import re

import numpy as np
import scipy.stats
from conftest import LOOKS, build
from pyarrow import parquet

from harness.report import write

PM = "\N{PLUS-MINUS SIGN}"
LABELS = {"base": "base", "lora": "lora lr=3e-4", "dora": "dora", "ia3": "ia3"}
VALIDATION, TEST, ARC, HELLASWAG = LOOKS
TRAINED = ("dora", "lora", "ia3")  # best first on ARC


def trace(folder):
    """The page's sections by heading, and the files as they lie: method -> seed -> (record, items by evaluation)."""
    runs = build(folder / "runs")
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
        looks = [path.parent / "evaluations" / f"{look.eval_id}.json" for look in LOOKS]
        items["seconds"] = sum(json.loads(look.read_text())["seconds"] for look in looks)
        known.setdefault(record["method"], {})[record["seed"]] = (record["attempts"][-1], items)
    return sections, known


def table_rows(section):
    """The first table of a section: the first cell -> the others."""
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {tuple(row[:2]) if row[1] in LABELS.values() else row[0]: row for row in cells}


def outcomes_of(known, method, look, metric):
    """Items of shape (seeds, items), and the weights of a loss."""
    seeds = [known[method][seed][1][look.eval_id] for seed in sorted(known[method])]
    weights = np.array(seeds[0].get("num_tokens", np.ones(len(seeds[0]["item_id"]))), dtype=float)
    return np.array([one[f"metric/{metric}"] for one in seeds], dtype=float), weights


def seed_part_of(values, weights):
    """The seeds' variance beyond the items', from the mean squares of a two-way table."""
    seeds, items = values.shape
    if seeds < 2:
        return []
    z = (values - values.mean(axis=0).sum() / weights.sum() * weights) * items / weights.sum()
    table = z - z.mean(axis=0) - z.mean(axis=1)[:, None] + z.mean()
    error = (table**2).sum() / ((seeds - 1) * (items - 1))
    return [(max(items * z.mean(axis=1).var(ddof=1) - error, 0) / (seeds * items), seeds - 1)]


def parts_of(differences, weights, sides):
    """Value, and (variance, degrees of freedom) of the items and of the seeds."""
    middle = differences.mean(axis=0)
    value = middle.sum() / weights.sum()
    items = len(middle)
    variance = items * (middle - value * weights).var(ddof=1) / weights.sum() ** 2
    return value, [(variance, items - 1), *(part for side in sides for part in seed_part_of(side, weights))]


def gap_of(known, a, b, look, metric):
    (first, weights), (second, _) = (outcomes_of(known, one, look, metric) for one in (a, b))
    if b == "base":
        return parts_of(first - second, weights, [first - second])
    if len(first) == len(second):
        return parts_of(first - second, weights, [first - second])
    middle = first.mean(axis=0, keepdims=True) - second.mean(axis=0, keepdims=True)
    return parts_of(middle, weights, [first, second])


def tail_of(distance, parts):
    """The one-sided p by bisection on the quantiles."""
    low, high = 0.0, 0.5
    if distance < 0:
        return 1 - tail_of(-distance, parts)
    for _ in range(200):
        middle = (low + high) / 2
        reach = sum(scipy.stats.t.isf(middle, df) ** 2 * variance for variance, df in parts)
        low, high = (middle, high) if reach > distance**2 else (low, middle)
    return high


def shown_as(value, digits, signed=False):
    return f"{value:{'+' if signed else ''}.{digits}f}"


def number_in(text):
    return float(re.sub(r"[^\d.+-]", "", text.split(" ")[0]))
