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
from conftest import BASE, DORA, FULL, IA3, LOOKS, LORA, add_evaluation, add_run, build
from pyarrow import parquet

from harness.records import record
from harness.report import name_of, write
from harness.report.analysis.comparable import without_base
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import grouped
from harness.report.data.load import load
from harness.report.pages.answer import answer

FIGURES = ("forgetting", "learning_curves", "memory", "overview", "pareto", "places")
TABLES = ("compute", "failed_runs", "hyperparameters", "pairs", "seeds", "shared_settings")
GOLDEN = Path(__file__).parent / "golden"
GOLDEN_FILES = (
    "report.md", "appendix.md", "appendix.tex", "tables/hyperparameters.tex", "tables/pairs.tabular.tex", "setup.md",
    "setup.tex", "checklist.tex", "references.bib", "CITATION.cff",
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
    drawn = [f"figures/{stem}.{suffix}" for stem in FIGURES for suffix in ("pdf", "png", "svg")]
    tables = [f"tables/{name}{kind}.tex" for name in TABLES for kind in ("", ".tabular")]
    others = [
        "CITATION.cff",
        "appendix.md",
        "appendix.tex",
        "checklist.md",
        "checklist.tex",
        "index.html",
        "manifest.json",
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
    section = page.read_text().split(heading, 1)[1]
    line = next(line for line in section.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_printed_accuracies_and_differences_follow_from_the_items(page, tree):
    arc = LOOKS[2]
    base, dora = (_items(tree, name, arc)["metric/acc"] for name in ("base", "dora"))
    gap = dora - base
    cells = _cells(page, "### arc_easy", "dora")
    assert cells[1] == f"{dora.mean():.3f} \N{PLUS-MINUS SIGN} {scipy.stats.sem(dora):.3f}"
    assert cells[2] == f"{gap.mean():+.3f} \N{PLUS-MINUS SIGN} {scipy.stats.sem(gap):.3f}"


def test_printed_losses_are_weighted_by_tokens(page, tree):
    test = LOOKS[1]
    base, ia3 = (_items(tree, name, test) for name in ("base", "ia3"))
    tokens = ia3["num_tokens"].astype(float)
    gap = ia3["metric/nll"] - base["metric/nll"]
    value = gap.sum() / tokens.sum()
    residuals = gap - value * tokens
    error = np.sqrt(len(gap) * residuals.var(ddof=1)) / tokens.sum()
    cells = _cells(page, "### science_qa/test", "ia3")
    assert cells[1].startswith(f"{ia3['metric/nll'].sum() / tokens.sum():.4f} ")
    assert cells[2] == f"{value:+.4f} \N{PLUS-MINUS SIGN} {error:.4f}"
    assert cells[3] == f"{np.exp(ia3['metric/nll'].sum() / tokens.sum()):.2f}"


def test_two_seeds_are_averaged_and_both_noises_counted(page, tree):
    arc = LOOKS[2]
    seeds = np.stack([_items(tree, "lora", arc, seed)["metric/acc_norm"] for seed in (0, 1)])
    shared = seeds - seeds.mean(axis=0) - seeds.mean(axis=1)[:, None] + seeds.mean()
    between = scipy.stats.sem(seeds.mean(axis=1)) ** 2 - (shared**2).sum() / (seeds.shape[1] - 1) / seeds.size
    error = np.hypot(scipy.stats.sem(seeds.mean(axis=0)), np.sqrt(max(between, 0)))
    cells = _cells(page, "### arc_easy", "lora lr=3e-4")
    assert cells[3] == f"{seeds.mean():.3f} \N{PLUS-MINUS SIGN} {error:.3f}"


def test_hostile_text_stays_text(page):
    text = page.read_text()
    assert "<script" not in text
    assert "\x1b" not in text
    assert "http://evil" not in text
    assert all(re.match(r"(\| .* \|$)", line) for line in text.splitlines() if line.startswith("|"))
    widths = {
        line.count("|") - line.count(r"\|")
        for line in text.split("## Statistical comparison")[0].splitlines()
        if line[:1] == "|"
    }
    assert len(widths) == 1
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# methods"]


def _tree(runs: Path, kinds, looks=LOOKS):
    for kind in kinds:
        folder = add_run(runs, kind)
        for look in looks:
            add_evaluation(folder, kind, look)
    return grouped(load([runs]).rows)


def test_runs_that_did_not_end_well_are_never_ranked(runs):
    folder = add_run(runs, FULL, 0, "failed", "in the evaluation of arc_easy")
    add_evaluation(folder, dataclasses.replace(FULL, skill=1.4), LOOKS[0])
    groups = _tree(runs, (BASE, LORA, IA3))
    assert "full" not in " ".join(answer(groups))
    assert {group.label for group in groups} == {"base", "lora", "ia3", "full"}


def test_methods_that_are_alike_do_not_differ_significantly(runs):
    twin = dataclasses.replace(DORA, skill=LORA.skill)
    said = " ".join(answer(_tree(runs, (BASE, LORA, twin))))
    assert "not significantly different from it in these runs" in said
    assert "about these runs and not about the methods" in said
    assert "each method vs. the base model (2 comparisons)" in said
    assert "intervals reflect item sampling only, not variance across seeds" in said
    assert "equivalent" not in said


def test_nothing_to_compare_is_said(runs):
    assert answer(_tree(runs, (BASE,))) == ["Only the untouched model was evaluated: there are no methods to compare."]


def test_without_base_or_target_the_answer_claims_less(runs):
    groups = _tree(runs, (LORA, IA3), LOOKS[:2])
    assert "No target task was evaluated." in " ".join(answer(groups))
    assert len(without_base(groups)) == 2
    assert "beat" not in " ".join(answer(groups))


def test_other_prompts_are_not_paired(runs):
    _tree(runs, (BASE, LORA))
    path = next(p for p in runs.glob("*/seed-0/record.json") if '"lora"' in p.read_text()).parent / "evaluations"
    items = path / f"{LOOKS[2].eval_id}.parquet"
    table = parquet.read_table(items)
    changed = table.set_column(1, "prompt_hash", [["other"] * table.num_rows])
    parquet.write_table(changed, items)
    groups = grouped(load([runs]).rows)
    assert "cannot be tested: no items can be paired" in " ".join(answer(groups))


def test_damaged_items_are_named_in_the_report(runs, tmp_path):
    _tree(runs, (BASE, LORA))
    items = next(runs.glob(f"*/seed-0/evaluations/{LOOKS[2].eval_id}.parquet"))
    items.write_bytes(b"PAR1")
    text = write(runs, None, tmp_path / "out").read_text()
    assert f"Could not be read:\n\n- {items.relative_to(runs).as_posix()}" in text.replace("\\", "")


def test_a_question_about_a_loss_is_answered_against_base_and_between_the_methods(tree):
    said = answer(Comparison(load([tree], "methods")).groups, "test_loss")
    assert said[0].startswith("On science_qa/test, dora has the lowest score: 1.2415")
    assert said[1].startswith("On science_qa/test, 150 items, ")
    assert "the base model" in said[1]
    assert "Families, each with a family-wise error of 5%" in said[2]
    assert "Minimum detectable difference" in said[3]
    assert "descriptive, not tested" in " ".join(said[4:])
    assert (
        answer(Comparison(load([tree], "methods")).groups, "nosuch/acc")[0]
        == "No trained method has a score in nosuch/acc."
    )
