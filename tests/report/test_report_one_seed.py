"""Reports in which every method was run once say nothing about methods; clusters of items reach the comparison."""

import dataclasses
import re

import pyarrow
import pytest
from pyarrow import parquet

from harness.records.untrusted import NO_BREAK
from harness.report.__main__ import main
from harness.report.analysis.claims import claims, main_contests
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.verdicts import detectable_line, equivalence_line
from harness.report.data.groups import grouped
from harness.report.data.load import load
from harness.report.pages.report import page
from tests.report.conftest import BASE, DORA, IA3, LOOKS, LORA, add_evaluation, add_run, evaluation

ARC = evaluation("arc_easy")
APART = tuple(dataclasses.replace(kind, skill=skill) for kind, skill in ((LORA, 1.5), (DORA, 0.8), (IA3, 0.1)))
ABOUT_RUNS = re.compile(r"runs?\b|\bseeds?\b")  # a sentence with a comparison has to name what it is about


def built(runs, kinds=(BASE, *APART), seeds=None):
    for kind in kinds:
        seed = (seeds or {}).get(kind.name, 0)
        folder = add_run(runs, kind, seed)
        for look in LOOKS:
            add_evaluation(folder, kind, look, seed)
    return load([runs])


def pairs(loaded):
    found = [claims(contest, loaded.margin) for contest in main_contests(grouped(loaded.rows), loaded.primary)]
    return [pair for one in found for pair in (*one.against_base, *one.against_best, *one.pairs)]


def test_no_pair_has_a_verdict_however_large_the_difference(runs):
    every = pairs(built(runs))
    assert len(every) >= 10
    assert {pair.result.verdict for pair in every} == {"no verdict"}
    assert {pair.result.scope for pair in every} == {"runs"}
    assert any(pair.result.runs_differ for pair in every)
    assert all("about these runs and not about the methods" in pair.result.why for pair in every)
    assert all(pair.result.equivalence_p in (None, 1.0) for pair in every)


def test_the_report_words_every_comparison_as_one_of_runs(runs, tmp_path):
    built(runs)
    assert main([str(runs), "--out", str(tmp_path / "out")]) == 0
    text = "".join((tmp_path / "out" / name).read_text() for name in ("report.md", "appendix.md"))
    compared = [s for s in re.split(r"(?<=[.:|])\s", text) if re.search(r"\b(better|worse) than\b|\bequivalent\b", s)]
    silent = [sentence for sentence in compared if not ABOUT_RUNS.search(sentence)]
    assert silent == []
    assert not re.search(r"share a letter|compact letter", text)
    assert "p-values and intervals hold for these runs." in " ".join(text.split())


def test_equivalence_is_out_of_reach_only_where_more_items_or_seeds_are_needed(runs):
    for kind in (BASE, *APART):
        for seed in (0,) if kind is BASE else (0, 1, 2):
            folder = add_run(runs, kind, seed)
            for look in LOOKS:
                add_evaluation(folder, kind, look, seed)
    loaded = load([runs])
    seen = set()
    for contest in main_contests(grouped(loaded.rows), "test_loss"):
        for margin in (1e-4, 0.003, 0.03, 1.0):
            line = equivalence_line(claims(contest, margin))
            needed = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:items|seeds)", line)]
            least = [contest.num_items, 3][-len(needed) :] if needed else []
            assert all(number > now for number, now in zip(needed, least, strict=True)), line
            seen.add(bool(line))
    assert seen == {True, False}


def test_two_different_single_seeds_are_not_compared(runs):
    every = pairs(built(runs, (LORA, DORA), {"lora": 0, "dora": 1}))
    assert {pair.result.verdict for pair in every} <= {"no verdict"}
    assert not any(pair.result.runs_differ for pair in every)


@pytest.mark.parametrize("size", [1, 5])
def test_items_that_share_a_passage_are_one_observation(runs, size):
    """Items in clusters leave fewer degrees of freedom, and a passage's difference is not averaged away."""
    loaded = built(runs)
    plain = pairs(loaded)
    for path in runs.rglob("evaluations/*.parquet"):
        table = parquet.read_table(path)
        names = pyarrow.array([f"passage {i // size}" for i in range(table.num_rows)])
        parquet.write_table(table.append_column("cluster", names), path)
    again = load([runs])
    errors = [(a.result.standard_error, b.result.standard_error) for a, b in zip(plain, pairs(again), strict=True)]
    assert len(errors) >= 10
    same = [one == pytest.approx(other) for one, other in errors]
    assert all(same) if size == 1 else not any(same)


def test_two_seeds_that_scatter_detect_no_difference_and_the_answer_says_so(runs):
    """A difference of more than 100 points is none: such a design has no minimum detectable difference."""
    skills = ((LORA, (1.5, 0.0)), (DORA, (0.0, 1.5)), (IA3, (0.5, 0.9)))
    add_evaluation(add_run(runs, BASE), BASE, ARC)
    for kind, of_seeds in skills:
        for seed, skill in enumerate(of_seeds):
            add_evaluation(add_run(runs, kind, seed), dataclasses.replace(kind, skill=skill), ARC, seed)
    comparison = Comparison(load([runs]))
    [contest] = comparison.contests
    result = comparison.claims_of(contest)
    assert len(result.against_best) == 2
    assert [pair.result.detectable for pair in result.against_best] == [None, None]
    assert any(
        f"2 seeds per method detect no difference (80{NO_BREAK}% power)" in line for line in comparison.answer.lines
    )
    assert comparison.answer.record()["detectable"] is None
    assert detectable_line(result).startswith("No difference between a method and the best is detected with 80 % power")
    assert "is detected with a power of 80 %" not in page(comparison)
