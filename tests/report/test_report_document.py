"""Typed tables and their writers: one set of cells, and what each writer makes of it."""

import csv
import dataclasses
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from rich.console import Console

from harness.records import record
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.display import quantity
from harness.report.document import (
    Bullets,
    Column,
    Command,
    Missing,
    Note,
    Number,
    Section,
    Table,
    Text,
    decimals_of_error,
    fixed,
    plain,
    ranked,
)
from harness.report.html import section_html, table_html
from harness.report.pages import report
from harness.report.writers import latex, numbers
from harness.report.writers.folder import named_tables, table_csv, with_own_labels
from harness.report.writers.markdown import section_text, table_text, to_markdown
from harness.report.writers.tabular import tabular
from harness.report.writers.terminal import grid
from tests.report.conftest import BASE, HOSTILE, LOOKS, LORA, add_evaluation, add_run, evaluation

NB, PM, MINUS = "\N{NO-BREAK SPACE}", "\N{PLUS-MINUS SIGN}", "\N{MINUS SIGN}"
SCORE = Column("arc_easy/acc", "ARC-Easy", "%", 100.0, 1, "higher", spanner="Target tasks")
LOSS = Column("loss", "Validation loss", priority=2)
MEMORY = Column("peak_bytes", "Memory", "GiB", 2**-30, 2, "lower", priority=1)
MAIN = Table(
    (
        Column("method", "Method", text=True),
        SCORE,
        LOSS,
        Column("gain", "Gain", "points", 100.0, 1, priority=3),
        MEMORY,
    ),
    (
        (Text("Base", "base"), Number(0.4958, 0.0102), Number(4.5059, 0.3084), Missing("the base itself"), Missing()),
        (
            Text("Full FT", "full", "a"),
            Number(0.6304, 0.0093, marks="\N{DAGGER}"),
            Number(1.2514, 0.0149),
            Number(0.1346, signed=True, interval=(0.1204, 0.1479)),
            Number(3.04e9),
        ),
        (
            Text(HOSTILE, "evil"),
            Number(0.6081, 0.0091),
            Number(1.3, 0.02),
            Number(-0.012, signed=True, interval=(-0.03, 0.006)),
            Missing("out of memory", "OOM"),
        ),
    ),
    notes=(Note("Not significantly worse than the best.", "\N{DAGGER}"), Note("2 of 3 seeds.", "a")),
    caption="Accuracy in percent.",
    label="main",
    rules=(1,),
)


@pytest.mark.parametrize(
    ("error", "decimals"),
    [(0.3084, 2), (0.0149, 3), (0.0996, 2), (0.0094, 4), (12.0, 0), (1.04, 1), (9.96, 0), (1e-9, 6), (150.0, 0)],
)
def test_two_significant_digits_of_the_error_decide(error, decimals):
    assert decimals_of_error(error) == decimals
    rounded = float(f"{error:.{decimals}f}")
    assert rounded == 0 or abs(rounded - error) <= 0.05 * error


@pytest.mark.parametrize(
    ("cell", "column", "text"),
    [
        (Number(0.4958, 0.0102), SCORE, f"49.6{NB}{PM}{NB}1.0"),
        (Number(4.5059, 0.3084), LOSS, f"4.51{NB}{PM}{NB}0.31"),
        (Number(-0.0191, signed=True), SCORE, f"{MINUS}1.9"),
        (Number(-0.0004, signed=True), SCORE, "+0.0"),
        (Number(0.12, signed=True, interval=(-0.01, 0.25)), SCORE, f"+12.0 ({MINUS}1.0{NB}to{NB}+25.0)"),
        (Number(134_515_008.0), Column("n", "Parameters", "M", 1e-6), "135"),
        (Number(180_224.0), Column("n", "Parameters", "M", 1e-6), "0.180"),
        (Number(2_376.0), Column("n", "Items", digits=0), "2,376"),
        (Number(0.0003), Column("p", "p", p_values=True), f"<{NB}0.001"),
        (Number(1.0), Column("p", "p", p_values=True), "1.000"),
        (Number(0.02, marks="a"), Column("p", "p", p_values=True), "0.020\u1d43"),
        (Missing("why"), SCORE, "\N{EN DASH}"),
        (Missing("why", "OOM"), SCORE, "OOM"),
        (Text("LoRA", "lora"), SCORE, "LoRA"),
        (Number(math.inf), LOSS, "\N{INFINITY}"),
    ],
)
def test_a_cell_as_people_read_it(cell, column, text):
    assert plain(cell, column) == text


def test_one_mean_is_shown_as_one_number_however_it_was_computed():
    """Of 400 items and 5 seeds every second accuracy ends in half of the last digit that is shown."""
    for right in range(2001):
        seeds = [right // 5 + (place < right % 5) for place in range(5)]
        ways = (
            100 * right / 2000, 100 * (right / 2000), right * 0.05, 100 * sum(n / 400 for n in seeds) / 5,
            100 * (sum(n / 400 for n in seeds) / 5), sum(100 * n / 400 for n in seeds) / 5,
            100 * round(right / 2000, 12),
        )  # fmt: skip
        assert len({fixed(value, 1) for value in ways}) == 1, right
        assert len({fixed(-value, 1, signed=True) for value in ways}) == 1, right
        assert len({quantity(value) for value in ways}) == 1, right
        columns = (Column("method", "Method", text=True), Column("acc", "Acc.", scale=100, digits=1, better="higher"))
        rows = [*((str(place), value / 100) for place, value in enumerate(ways)), ("far", -1.0)]
        marks = ranked(Table.of(columns, rows), "acc").cells("acc")
        assert [cell.emphasis for cell in marks] == ["best"] * len(ways) + [""], right


@pytest.mark.parametrize(
    ("error", "text"), [(0.02, f"0.050{PM}0.020"), (0.0, "0.050"), (1e-17, "0.050"), (None, "0.050")]
)
def test_an_error_of_rounding_alone_is_no_error(error, text):
    """Items that all differ by the same have an error of zero, or of the last bits of a sum."""
    cell = Number(0.05, error)
    assert plain(cell, Column("loss", "Loss")) == text.replace(PM, f"{NB}{PM}{NB}")
    table = Table.of((Column("method", "Method", text=True), Column("loss", "Loss")), [("a", cell)])
    assert table.has_alike == (error is not None and error < 1e-9)


def test_no_number_has_a_hyphen_or_a_negative_zero():
    texts = [fixed(value, digits, signed) for value in (-1e-9, -0.5, -1234.5) for digits in (0, 2) for signed in (0, 1)]
    assert len(texts) == 12
    assert not any("-" in text for text in texts)
    assert fixed(-1e-9, 2) == "0.00" and fixed(-1234.5, 2) == f"{MINUS}1,234.50"


def test_best_and_second_are_marked_as_they_are_shown():
    marked = ranked(MAIN, "arc_easy/acc", among=(1, 2))
    assert [cell.emphasis for cell in marked.cells("arc_easy/acc")] == ["", "best", "second"]
    lowest = ranked(MAIN, "peak_bytes")
    assert lowest == MAIN  # a single number has no rival
    equal = Table(MAIN.columns[1:2], tuple((Number(value),) for value in (0.6301, 0.6304, 0.6, 0.5)))
    emphasis = [cell.emphasis for cell in ranked(equal, "arc_easy/acc").cells("arc_easy/acc")]
    assert emphasis == ["best", "best", "", ""]  # shown as 63.0 both, so that nothing is second


def test_a_table_refuses_rows_that_do_not_fit_and_keys_that_repeat():
    with pytest.raises(ValueError, match="a row does not have 5 cells"):
        Table(MAIN.columns, ((Text("a"),),), label="odd")
    with pytest.raises(ValueError, match="share a key"):
        Table((SCORE, SCORE), ())
    with pytest.raises(KeyError, match="has no column 'acc'"):
        MAIN.cells("acc")


def test_markdown_has_emphasis_units_and_directions_and_shows_foreign_text():
    text = table_text(ranked(MAIN, "arc_easy/acc", among=(1, 2)))
    lines = text.splitlines()
    up, down = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
    titles = [
        "Method",
        f"ARC-Easy{NB}(%){NB}{up}",
        "Validation loss",
        f"Gain{NB}(points)",
        f"Memory{NB}(GiB){NB}{down}",
    ]
    assert lines[0] == f"| {' | '.join(titles)} |"
    assert lines[1] == "| :-- | --: | --: | --: | --: |"
    assert f"**63.0**{NB}{PM}{NB}0.9\N{DAGGER}" in lines[3]
    assert f"<ins>60.8</ins>{NB}{PM}{NB}0.9" in lines[4]
    assert len(lines) == 8 and "<script" not in text
    assert lines[-2:] == ["\N{DAGGER} Not significantly worse than the best.  ", "\u1d43 2 of 3 seeds."]


def test_a_section_stands_under_its_heading_or_opens_on_a_click_and_an_empty_one_vanishes():
    sections = [Section("More", (Bullets(("a", "b")), MAIN)), Section("Nothing", ("", Bullets(()), Command("")))]
    inner = "- a\n- b\n\nAccuracy in percent.\n\n| Method"
    assert f"# Title\n\n## More\n\n{inner}" in to_markdown("Title", sections)
    assert "Nothing" not in to_markdown("Title", sections)
    folded = section_text(sections[0], folded=True)
    assert folded.startswith(f"<details>\n<summary>More</summary>\n\n{inner}") and folded.endswith("</details>")
    assert not section_text(sections[1], folded=True) and not section_html(sections[1])


def test_a_table_without_a_caption_stands_below_its_title_unless_the_section_has_it():
    table = replace(MAIN, caption="", title="Scores")
    assert "#### Scores\n\n| Method" in section_text(Section("Every task", (table,)))
    assert "<h3>Scores</h3>" in section_html(Section("Every task", (table,)))
    assert "####" not in section_text(Section("Scores", (table,)))
    assert "<h3>" not in section_html(Section("Scores", (table,)))


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 120])
def test_the_terminal_drops_errors_then_columns_and_never_breaks_a_number(width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    table = Table(MAIN.columns, (*MAIN.rows[:2], (Text("DoRA"), *MAIN.rows[1][1:])), rules=(1,))
    console.print(grid(table, width))
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert "49.6" in text and "Full FT" in text and "DoRA" in text
    assert (PM in text) == (width >= 80)
    assert ("2.83" in text) == (width >= 30)
    assert ("1.25" in text) == (width >= 40)
    assert ("13.5" in text) == (width >= 60)


def test_html_escapes_and_keeps_raw_values():
    page = table_html(ranked(MAIN, "arc_easy/acc", among=(1, 2)))
    assert "<script" not in page and "&lt;script" in page
    assert f'data-value="0.6304"><strong>63.0</strong>{NB}{PM}{NB}0.9<sup>\N{DAGGER}</sup>' in page
    assert 'data-key="arc_easy/acc" data-better="higher"' in page
    assert page.count("<tr") == 5 and page.count("<tr class=rule") == 1
    assert 'title="out of memory">OOM' in page


def test_data_files_have_raw_values_under_stable_keys():
    lines = [*csv.DictReader(io.StringIO(table_csv(MAIN)))]
    assert [line["method"] for line in lines] == ["base", "full", "evil"]
    assert float(lines[1]["arc_easy/acc"]) == 0.6304 and float(lines[1]["arc_easy/acc_stderr"]) == 0.0093
    assert (lines[2]["gain_low"], lines[2]["peak_bytes"]) == ("-0.03", "")
    assert MAIN.records()[0]["peak_bytes"] is None


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_a_real_latex_sets_typed_cells(tmp_path):
    body = tabular(ranked(MAIN, "arc_easy/acc", among=(1, 2)))
    assert r"\textbf{63.0}\,{\scriptsize$\pm$0.9}$^{\dagger}$" in body
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{array,booktabs}\\begin{document}\n" + body + "\n\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-1500:]


def test_tables_of_one_label_are_numbered_whatever_the_label_and_however_often():
    labels = ("pairs", "task_eq-bench", "pairs", "task_eq-bench", "pairs_2", "example-1", "pairs", "example-2")
    sections = [Section("A", (replace(MAIN, label=label), "text")) for label in labels]
    own = [section.tables[0].label for section in with_own_labels(sections)]
    assert own == [
        "pairs", "task_eq-bench", "pairs_2", "task_eq-bench_2", "pairs_2_2", "example-1", "pairs_3", "example-2",
    ]  # fmt: skip
    assert [*named_tables(sections)] == own
    assert [*named_tables(with_own_labels(sections))] == own
    assert all(section.blocks[1] == "text" for section in with_own_labels(sections))
    columns = (MAIN.columns[0], *(replace(SCORE, key=f"c{i}", title=f"Task {i}") for i in range(24)))
    wide = Table(columns, tuple((row[0], *[row[1]] * 24) for row in MAIN.rows), caption="Wide.", label="pairs")
    text = latex.document(with_own_labels([Section("A", (wide, wide))]))
    written = re.findall(r"\\label\{(.*?)\}", text)
    assert len(written) == len({*written}) >= 4, "parts of the first are not named as the second table is"


def test_a_task_of_any_name_has_a_label_that_latex_and_a_folder_take(runs):
    odd = "mine/100% #hard ~ {eq}-bench"
    for kind in (BASE, LORA):
        path = add_evaluation(add_run(runs, kind), kind, LOOKS[2])
        scores = record.read(record.EvaluationRecord, path)
        record.write(dataclasses.replace(scores, evaluation={**scores.evaluation, "task": odd}), path)
    comparison = Comparison(load([runs]))
    [label] = [label for label in named_tables(report.details(comparison)) if label.startswith("task_")]
    assert label == "task_mine_100_hard_eq_bench"
    [macro] = [
        line
        for line in numbers.to_latex(comparison, named_tables(report.details(comparison))).splitlines()
        if line.startswith(f"% {label}, lora, acc:")
    ]
    assert macro.endswith(" metrics.acc.value"), "with the field that it comes from"


def test_two_settings_of_one_task_have_labels_of_their_own_in_the_appendix_and_on_the_page(runs):
    for kind in (BASE, LORA):
        folder = add_run(runs, kind)
        for look in (LOOKS[2], evaluation("arc_easy", num_fewshot=5)):
            add_evaluation(folder, kind, look)
    sections = with_own_labels(report.details(Comparison(load([runs]))))
    labels = re.findall(r"\\label\{(.*?)\}", latex.document(sections))
    ids = re.findall(r'<table id="(.*?)"', "".join(map(section_html, sections)))
    assert {"tab:task_arc_easy", "tab:task_arc_easy_2"} <= {*labels}
    assert {"table-task_arc_easy", "table-task_arc_easy_2"} <= {*ids}
    assert len({*labels}) == len(labels)
    assert len({*ids}) == len(ids)
