"""The pages: the golden report, the same bytes twice, and printed numbers computed again from the items.

After a wanted change: `GOLDEN=write python -m pytest tests/report/test_report_page.py`, then read the difference.
"""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from pyarrow import parquet

from harness.records import record
from harness.report import name_of, write
from harness.report.analysis.comparable import without_base
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.verdicts import families
from harness.report.data.load import load
from tests.report import sized_tree
from tests.report.conftest import BASE, DORA, FULL, IA3, LOOKS, LORA, add_evaluation, add_run, build, plain_text, shown

FIGURES = (
    "gain", "tradeoff_peak_memory_bytes", "tradeoff_train_seconds", "tradeoff_trainable_parameters", "forgetting",
    "tasks", "learning_curves", "memory",
)  # fmt: skip
TABLES = (
    "against_base", "against_best", "compute", "cost", "equal_budget", "failed_runs", "hyperparameters", "losses",
    "main", "matched_pairs", "pairs", "seeds", "shared_settings", "task_arc_easy", "task_hellaswag",
    "task_science_qa_test", "task_science_qa_validation", "trade_off",
)  # fmt: skip
GOLDEN = Path(__file__).parent / "golden"
GOLDEN_FILES = (
    "report.md", "appendix.md", "appendix.tex", "tables/main.tex", "tables/hyperparameters.tex",
    "tables/pairs.tabular.tex", "setup.md", "setup.tex", "checklist.tex", "references.bib", "CITATION.cff",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(tree, tmp_path_factory) -> Path:
    return write(tree, "methods", tmp_path_factory.mktemp("page") / "methods")


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_the_report_is_the_golden_one(page, name):
    golden, made = GOLDEN / name, page.parent / name
    if os.environ.get("GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(made, golden)
    assert made.read_text() == golden.read_text()


def test_equal_records_give_equal_bytes_wherever_they_lie(page, tmp_path):
    again = write(build(tmp_path / "elsewhere"), "methods", tmp_path / "again")
    names = sorted(path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file())
    drawn = [f"figures/{stem}{end}" for stem in FIGURES for end in (".pdf", ".png", ".svg", "_column.pdf")]
    tables = [f"tables/{name}{end}" for name in TABLES for end in (".tex", ".tabular.tex", ".csv")]
    others = [
        "CITATION.cff",
        "appendix.md",
        "appendix.tex",
        "checklist.md",
        "checklist.tex",
        "index.html",
        "manifest.json",
        "numbers.tex",
        "records.csv",
        "records.parquet",
        "references.bib",
        "report.md",
        "setup.md",
        "setup.tex",
    ]
    assert names == sorted([*drawn, *tables, *others])
    for name in names:
        assert (again.parent / name).read_bytes() == (page.parent / name).read_bytes(), name


def test_without_a_sweep_the_name_is_the_content(tree, runs):
    name = name_of(load([tree]))
    assert re.fullmatch(r"runs-[0-9a-f]{8}", name)
    assert name_of(load([build(runs)])) == name
    add_run(runs, LORA, 7)
    assert name_of(load([runs])) != name


def _items(tree: Path, method: str, look, seed: int = 0) -> dict[str, np.ndarray]:
    """The items straight from the file, by item id."""
    for path in tree.glob(f"*/seed-{seed}/record.json"):
        run = record.read(record.RunRecord, path)
        if run.method == method and run.status == "ok":
            table = parquet.read_table(path.parent / "evaluations" / f"{look.eval_id}.parquet").sort_by("item_id")
            return {name: table[name].to_numpy() for name in table.column_names if name.split("/")[0] != "item_id"}
    raise AssertionError(method)


def _cells(page: Path, heading: str, label: str) -> list[str]:
    section = plain_text(page.read_text()).split(heading, 1)[1]
    line = next(line for line in section.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def _with_error(value: float, error: float, signed: bool = False) -> str:
    """Two significant digits of the error."""
    digits = max(0, 1 - int(f"{error:.1e}".partition("e")[2]))
    return f"{value:{'+' if signed else ''}.{digits}f} \N{PLUS-MINUS SIGN} {error:.{digits}f}"


def test_printed_accuracies_and_differences_follow_from_the_items(page, tree):
    arc = LOOKS[2]
    base, dora = (_items(tree, name, arc)["metric/acc"] for name in ("base", "dora"))
    gap = dora - base
    cells = _cells(page, "#### ARC-Easy", "DoRA")
    assert cells[1] == f"{100 * dora.mean():.1f} \N{PLUS-MINUS SIGN} {100 * scipy.stats.sem(dora):.1f}"
    assert cells[2] == f"{100 * gap.mean():+.1f} \N{PLUS-MINUS SIGN} {100 * scipy.stats.sem(gap):.1f}"


def test_printed_losses_are_weighted_by_tokens(page, tree):
    test = LOOKS[1]
    base, ia3 = (_items(tree, name, test) for name in ("base", "ia3"))
    tokens = ia3["num_tokens"].astype(float)
    gap = ia3["metric/nll"] - base["metric/nll"]
    value = gap.sum() / tokens.sum()
    residuals = gap - value * tokens
    error = np.sqrt(len(gap) * residuals.var(ddof=1)) / tokens.sum()
    cells = _cells(page, "#### ARC and OpenBookQA (test)", "(IA)\u00b3")
    assert float(cells[1].split()[0]) == pytest.approx(ia3["metric/nll"].sum() / tokens.sum(), abs=6e-4)
    assert cells[2] == _with_error(value, error, signed=True)
    perplexity = np.exp(ia3["metric/nll"].sum() / tokens.sum())
    assert 1 <= perplexity < 10
    assert cells[3] == f"{perplexity:.2f}", "three significant digits"


def test_two_seeds_are_averaged_and_both_noises_counted(page, tree):
    arc = LOOKS[2]
    seeds = np.stack([_items(tree, "lora", arc, seed)["metric/acc_norm"] for seed in (0, 1)])
    shared = seeds - seeds.mean(axis=0) - seeds.mean(axis=1)[:, None] + seeds.mean()
    between = scipy.stats.sem(seeds.mean(axis=1)) ** 2 - (shared**2).sum() / (seeds.shape[1] - 1) / seeds.size
    error = np.hypot(scipy.stats.sem(seeds.mean(axis=0)), np.sqrt(max(between, 0)))
    cells = _cells(page, "#### ARC-Easy", "LoRA (lr=3e-4)")
    assert cells[3] == f"{100 * seeds.mean():.1f} \N{PLUS-MINUS SIGN} {100 * error:.1f}"


def test_hostile_text_stays_text(page):
    text = page.read_text()
    assert "<script" not in text
    assert "\x1b" not in text
    assert "http://evil" not in text
    assert all(re.match(r"(\| .* \|$)", line) for line in text.splitlines() if line.startswith("|"))
    widths = {
        line.count("|") - line.count(r"\|")
        for line in text.split("## What was compared")[0].splitlines()
        if line[:1] == "|"
    }
    assert len(widths) == 1
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# methods"]


def _tree(runs: Path, kinds, looks=LOOKS):
    for kind in kinds:
        folder = add_run(runs, kind)
        for look in looks:
            add_evaluation(folder, kind, look)
    return Comparison(load([runs]))


def _answer(comparison: Comparison) -> str:
    return plain_text(" ".join(comparison.answer.lines))


def test_runs_that_did_not_end_well_are_never_ranked(runs):
    folder = add_run(runs, FULL, 0, "failed", "in the evaluation of arc_easy")
    add_evaluation(folder, dataclasses.replace(FULL, skill=1.4), LOOKS[0])
    comparison = _tree(runs, (BASE, LORA, IA3))
    assert "Full" not in _answer(comparison)
    assert {group.label for group in comparison.groups} == {"base", "lora", "ia3", "full"}
    assert shown(comparison.main_table)[-1]["Method"] == "Full fine-tuning\u1d43"


def test_methods_that_are_alike_do_not_differ_significantly(runs):
    twin = dataclasses.replace(DORA, skill=LORA.skill)
    said = _answer(_tree(runs, (BASE, LORA, twin)))
    assert "Not significantly different from DoRA: LoRA" in said
    assert "One seed per method: intervals reflect item sampling only, not variance across seeds." in said
    assert "equivalent" not in said


def test_nothing_to_compare_is_said(runs):
    answer = _tree(runs, (BASE,)).answer
    assert answer.lines == ("Only the base model was evaluated: there are no methods to compare.",)
    assert answer.record() == {"lines": list(answer.lines), "task": None, "best": None, "others": [], "memory": []}


def test_without_base_or_target_the_answer_is_about_the_loss(runs):
    comparison = _tree(runs, (LORA, IA3), LOOKS[:2])
    assert _answer(comparison).startswith("LoRA had the lowest ARC and OpenBookQA (test) loss in these runs: ")
    assert "base model" not in _answer(comparison)
    assert len(without_base(comparison.groups)) == 2


def test_other_prompts_are_not_paired(runs):
    _tree(runs, (BASE, LORA))
    path = next(p for p in runs.glob("*/seed-0/record.json") if '"lora"' in p.read_text()).parent / "evaluations"
    items = path / f"{LOOKS[2].eval_id}.parquet"
    table = parquet.read_table(items)
    changed = table.set_column(1, "prompt_hash", [["other"] * table.num_rows])
    parquet.write_table(changed, items)
    assert "cannot be tested: no items can be paired" in _answer(Comparison(load([runs])))


def test_damaged_items_are_named_in_the_report(runs, tmp_path):
    _tree(runs, (BASE, LORA))
    items = next(runs.glob(f"*/seed-0/evaluations/{LOOKS[2].eval_id}.parquet"))
    items.write_bytes(b"PAR1")
    text = write(runs, None, tmp_path / "out").read_text()
    assert f"Could not be read:\n\n- {items.relative_to(runs).as_posix()}" in text.replace("\\", "")


def _about(tree: Path, primary: str) -> Comparison:
    loaded = load([tree], "methods")
    return Comparison(dataclasses.replace(loaded, sweep=dataclasses.replace(loaded.sweep, primary=primary)))


def test_a_question_about_a_loss_is_answered_against_base_and_between_the_methods(tree):
    comparison = _about(tree, "test_loss")
    said = _answer(comparison)
    assert said.startswith("DoRA had the lowest ARC and OpenBookQA (test) loss: 1.2415 (base model 1.77")
    assert "150 items and 1 to 2 seeds per method detect a difference of " in said
    assert comparison.main_table.keys[1] == "science_qa/test/loss"
    assert _about(tree, "nosuch/acc").answer.lines == ("No trained method has a score in nosuch/acc.",)


def test_a_handful_of_items_decides_nothing(runs):
    few = dataclasses.replace(LOOKS[2], limit=8)
    comparison = _tree(runs, (BASE, LORA, DORA), (*LOOKS[:2], few))
    lines = comparison.answer.lines
    assert lines[0].startswith("This comparison decides nothing: ARC-Easy was evaluated on 8 items")
    assert comparison.claims[0].comparison is None
    assert not any(getattr(cell, "emphasis", "") for row in comparison.main_table.rows for cell in row)
    assert not any(note.mark == "\N{DAGGER}" for note in comparison.main_table.notes)


def test_equal_answers_have_an_interval_with_a_width(runs):
    """No differing answer among 300 is no certainty: the score interval is t^2 / (n + t^2) on both sides (Tango 1998).

    It is no narrower than the exact bound on the share of items on which the two differ (Clopper and Pearson).
    """
    for kind in (BASE, LORA, dataclasses.replace(LORA, name="dora")):
        add_evaluation(add_run(runs, kind), LORA if kind is not BASE else BASE, LOOKS[2])
    comparison = Comparison(load([runs]))
    [pair] = comparison.claims[0].against_best
    assert pair.result.difference == 0
    squared = scipy.stats.t.ppf(0.975, 299) ** 2
    end = squared / (300 + squared)
    assert pair.interval == pytest.approx((-end, end))
    assert end >= scipy.stats.beta.ppf(0.975, 1, 300)
    [gap] = [line["Difference (simultaneous 95 % CI) (points)"] for line in shown(families(comparison.claims[0])[1])]
    assert gap == f"+0.0 (-{100 * end:.1f} to +{100 * end:.1f})" == "+0.0 (-1.3 to +1.3)"


def test_a_pair_has_one_p_value_wherever_it_stands(tmp_path):
    """Against the base, against the best and in the matrix of all pairs: the same test, adjusted in the same family."""
    runs = sized_tree.build(tmp_path / "runs", sized_tree.kinds(5))
    [result] = Comparison(load([runs], "sized")).claims
    every = {frozenset((pair.a.label, pair.b.label)): pair.result for pair in result.pairs}
    assert len(every) == 5 + 10 == len(result.pairs)
    for pair in (*result.against_base, *result.against_best):
        same = every[frozenset((pair.a.label, pair.b.label))]
        assert same.adjusted_p == pytest.approx(pair.result.adjusted_p)
        sign = 1 if same.a == pair.result.a else -1
        ends = sorted(sign * end for end in same.adjusted_interval)
        assert ends == pytest.approx(sorted(pair.result.adjusted_interval))


def test_the_comparison_is_public(tree):
    import harness

    comparison = harness.load(tree, "methods")
    assert [group.label for group in comparison.groups][:2] == ["base", "lora lr=3e-4"]
    assert comparison.claims is comparison.claims
    assert comparison.main_table.records()[0]["method"] == "base"
    frame = comparison.frame()
    assert len(frame) == len(comparison.loaded.rows) == len(harness.frame(tree, "methods"))
    assert {"label", "arc_easy/acc"} <= {*frame.columns}
    assert len(comparison.frame(items=True)) > len(frame)
