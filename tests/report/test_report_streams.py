"""The table of variance components: there where streams were crossed, with the numbers of the analysis of variance."""

from itertools import product

import numpy as np
import pytest

from harness.records.seeds import NAMES, Streams, number
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.noise import variance_tables
from harness.report.data.load import load
from harness.stats.components import components
from tests.report.conftest import BASE, LORA, add_evaluation, add_run, evaluation, shown


def tree(runs, seeds):
    for kind, own in ((BASE, (0,)), (LORA, seeds)):
        for seed in own:
            add_evaluation(add_run(runs, kind, seed), kind, evaluation("arc_easy"), seed)
    return load([runs])


def test_crossed_streams_are_attributed(tmp_path):
    crossed = [Streams(init, order, 0) for init, order in product(range(3), range(4))]
    loaded = tree(tmp_path / "runs", [number(one) for one in crossed])
    [table] = variance_tables(Comparison(loaded))
    assert table.title == "Sources of variance on ARC-Easy"
    assert [line["Source"] for line in shown(table)] == ["init", "order", "the rest"]
    assert [line["Seeds"] for line in shown(table)] == ["3", "4", "12"]
    scores = {}
    for row in loaded.rows:
        if row.method == "lora":
            code = row.seed - 10**10 if row.seed >= 10**10 else row.seed * 1_001_001
            key = (code // 10**6, code // 1000 % 1000, code % 1000)
            scores[key] = row.scored[0].record.metrics["acc"].value
    assert len(scores) == 12
    parts = components(scores, NAMES)
    assert [float(line["Standard deviation (points)"].split()[0]) for line in shown(table)] == pytest.approx(
        100 * np.sqrt([p.variance for p in parts]), abs=6e-3
    )


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0, 10_000_001_000, 10_001_000_000)])
def test_plain_or_incomplete_seeds_have_no_components(tmp_path, seeds):
    assert variance_tables(Comparison(tree(tmp_path / "runs", seeds))) == []
