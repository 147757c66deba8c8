"""The referee on tables as people write them: LaTeX of all kinds, spreadsheets, and columns that are no scores."""

import math
from pathlib import Path

import numpy as np
import pytest
from test_review import reviewed as reviewed

from harness.review.__main__ import main, review
from harness.review.tables import read_tables
from harness.stats.pairings import pairing_bounds


@pytest.fixture
def read(tmp_path):
    """Write a table and return the rows of its only part."""

    def run(text, suffix=".csv", **items):
        path = tmp_path / f"table{suffix}"
        path.write_text(text, encoding="utf-8")
        [(_, submission)] = read_tables(path, items)
        return submission.rows

    return run


def in_latex(*lines):
    return "\\begin{tabular}{lcc}\n" + " \\\\\n".join(lines) + "\\\\\n\\end{tabular}\n"


# --- cells ---

CELLS = {
    r"47.2": (0.472, None),
    r"\textbf{47.2}": (0.472, None),
    r"47.2\,\%": (0.472, None),
    r"$47.2_{\pm 1.4}$": (0.472, 0.014),
    r"$47.2^{\pm 1.4}$": (0.472, 0.014),
    r"$47.2_{1.4}$": (0.472, 0.014),
    r"47.2 {\scriptsize (1.4)}": (0.472, 0.014),
    r"47.2\,{\scriptsize$\pm$1.4}$^{\dagger}$": (0.472, 0.014),
    r"47.2$^{*}$": (0.472, None),
    r"47.2\textsuperscript{a}": (0.472, None),
    r"47.2\phantom{$^{\dagger}$}": (0.472, None),
    r"47.2 (+1.1)": (0.472, None),
    r"47.2 (1)": (0.472, None),
    r"\cellcolor{gray!20}47.2": (0.472, None),
    r"\cellcolor[HTML]{EFEFEF} 47.2": (0.472, None),
    r"\textcolor{red}{47.2}": (0.472, None),
    r"\underline{\num{47.2}}": (0.472, None),
    r"\SI{47.2}{\percent}": (0.472, None),
    r"$\bm{47.2}$": (0.472, None),
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_score_in_latex_is_read(cell, read):
    [lora, _] = read(in_latex("Method & Seeds & GSM8K", f"LoRA & 3 & {cell}", "DoRA & 3 & 48.0"), ".tex")
    value, error = CELLS[cell]
    assert lora.scores["GSM8K"].value == pytest.approx(value)
    assert lora.scores["GSM8K"].error == (None if error is None else pytest.approx(error))
    assert lora.scores["GSM8K"].bold == any(word in cell for word in ("textbf", "bm"))


@pytest.mark.parametrize(
    ("cell", "value", "error"),
    [
        ("47.2*", 0.472, None),
        ("47.2\u2020", 0.472, None),
        ("47.2 (1.4)", 0.472, 0.014),
        ("47.2 (45.1)", 0.472, None),
        ("47.2\u00b11.4", 0.472, 0.014),
        ("47.2 +/- 1.4 %", 0.472, 0.014),
        (".472", 0.472, None),
        ("\u22120.5", -0.5, None),
        ('"47,2"', 0.472, None),
        ("47.2% (44.5% to 49.9%)", 0.472, None),
    ],
)
def test_a_score_in_a_spreadsheet_is_read(cell, value, error, read):
    [row] = read(f"method,seeds,acc\nlora,3,{cell}\n")
    assert row.scores["acc"].value == pytest.approx(value)
    assert row.scores["acc"].error == (None if error is None else pytest.approx(error))


@pytest.mark.parametrize(
    ("cell", "rate"),
    [
        (r"$3\times10^{-4}$", 3e-4),
        (r"$3 \cdot 10^{-4}$", 3e-4),
        (r"$10^{-4}$", 1e-4),
        (r"\num{3e-4}", 3e-4),
        (r"3e--4", 3e-4),
        (r"tuned", None),
    ],
)
def test_a_rate_in_latex_is_read(cell, rate, read):
    [lora] = read(in_latex(r"Method & $\eta$ & GSM8K", f"LoRA & {cell} & 47.2"), ".tex")
    assert lora.rate == (None if rate is None else pytest.approx(rate))


def test_a_power_of_ten_in_a_heading_counts(read):
    [lora] = read(in_latex(r"Method & LR ($\times 10^{-4}$) & GSM8K", "LoRA & 3 & 47.2"), ".tex")
    assert lora.rate == pytest.approx(3e-4)


def test_the_scale_of_greek_letters_and_of_rslora_is_read(reviewed, tmp_path):
    path = tmp_path / "table.tex"
    lines = [r"Method & $r$ & $\alpha$ & LR & Seeds & Acc", "LoRA & 64 & 64 & 1e-4 & 3 & 47.2 $\\pm$ 1.0"]
    path.write_text(in_latex(*lines, "rsLoRA & 64 & 64 & 1e-4 & 3 & 51.3 $\\pm$ 1.0"))
    _, faults, found = reviewed(path)
    assert "scale" in faults
    assert any("scaled by 8" in entry["text"] for entry in found["findings"])


# --- layouts ---

MANY_LINES = r"""
% \begin{tabular}{ll} an older version & of it \\ \end{tabular}
\begin{tabular*}{\textwidth}{@{\extracolsep{\fill}}lcccc@{}}
\specialrule{1pt}{0pt}{0pt}
Method & \makecell{Seeds\\(runs)} & \begin{tabular}[c]{@{}c@{}}Learning\\ rate\end{tabular} &
\shortstack{GSM8K\\($n=1{,}319$)} & \multicolumn{2}{c}{MATH (\%)} \\ \midrule[1pt]
\rowcolor[HTML]{EFEFEF} (IA)$^3$ \citep{liu2022} & 3 & 3e-3 & 44.1 & 20.1 & $\pm$ 0.4 \\% a remark \\
\multirow{2}{*}{LoRA} & 3 & 3e-4 & 47.2 & 20.4 & $\pm$ 0.4 \tabularnewline
 & 3 & 1e-3 & 46.0 & 19.8 & $\pm$ 0.4 \\*
\bottomrule
\end{tabular*}
"""


def test_cells_of_several_lines_and_columns_are_read(read):
    rows = read(MANY_LINES, ".tex")
    assert [(row.name, row.method, row.seeds, row.rate) for row in rows] == [
        ("(IA)^3", "ia3", 3, 3e-3), ("LoRA", "lora", 3, 3e-4), ("LoRA", "lora", 3, 1e-3),
    ]  # fmt: skip
    assert {task: (score.items, score.error) for task, score in rows[0].scores.items()} == {
        "GSM8K": (1319, None), "MATH": (None, pytest.approx(0.004)),
    }  # fmt: skip


def test_every_table_of_a_paper_is_reviewed(tmp_path, capsys):
    path = tmp_path / "paper.tex"
    good = in_latex("Method & Seeds & Acc", r"LoRA & 3 & 47.2 $\pm$ 1.4", r"DoRA & 3 & 48.0 $\pm$ 1.4")
    bad = good.replace("47.2", "147.2")
    path.write_text(good + in_latex("Set & License & Rows", "GSM8K & MIT & many") + bad)
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert f"{path} (table 3): 2 rows" in out
    assert "147.2 %, which is no share" in out
    assert "(table 2): no table with a heading and rows" in out
    assert main([str(path)]) == 1
    path.write_text(good + good.replace("DoRA & 3 &", "DoRA &"))
    assert main([str(path)]) == 1
    assert "1 of 2 rows have another number of cells" in capsys.readouterr().out


PUBLISHED = r"""
\begin{tabular}{llccccc}
\toprule
\textbf{Model} & \textbf{PEFT Method} & \textbf{\# Params (\%)} & Seeds & \textbf{BoolQ} & PIQA & Avg. \\
\midrule
ChatGPT & - & - & - & 73.1 & 85.4 & 79.3 \\
\midrule
\multirow{2}{*}{LLaMA-7B} & LoRA & 0.83 & 3 & 68.9\textsubscript{$\pm$.3} & 80.7\textsubscript{$\pm$.4} & 74.8 \\
& DoRA$^{\dagger}$ (Ours) & 0.43 & 3 & \textbf{70.0}\textsubscript{$\pm$.3} & \textbf{82.6}$_{\pm.2}$ & 76.3 \\
\midrule
\multirow{2}{*}{LLaMA-13B} & LoRA & 0.67 & 3 & 72.1\textsubscript{$\pm$.3} & 83.5\textsubscript{$\pm$.4} & 77.8 \\
& DoRA (Ours) & 0.68 & 3 & \textbf{72.4}\textsubscript{$\pm$.3} & \textbf{84.9}\textsubscript{$\pm$.2} & 78.7 \\
\bottomrule
\end{tabular}
"""


def test_a_table_of_a_paper_is_read_by_its_models(tmp_path):
    """The method has a column of its own behind the model's, and one model has a single row."""
    path = tmp_path / "table.tex"
    path.write_text(PUBLISHED)
    tables = dict(read_tables(path, {}))
    assert [[row.method for row in submission.rows] for submission in tables.values()] == [
        ["chatgpt"], ["lora", "dora"], ["lora", "dora"],
    ]  # fmt: skip
    for name in ("LLaMA-7B", "LLaMA-13B"):
        submission = tables[f"{path} ({name})"]
        assert [score.error for score in submission.rows[0].scores.values()] == [
            pytest.approx(0.003), pytest.approx(0.004), None,
        ]  # fmt: skip
        assert [finding.check for finding in review(submission)] == []


def test_a_table_with_methods_as_columns_is_turned(read):
    lines = [
        "& Base & LoRA ($r=8$) & DoRA",
        r"LR & -- & 3e-4 & 5e-4",
        "Params (M) & 0 & 4.88 & 5.04",
        "Seeds & & 3 & 3",
    ]
    rows = read(in_latex(*lines, r"GSM8K ($n=1319$) & 40.0 & 47.2 $\pm$ 1.4 & \textbf{48.0} $\pm$ 1.3"), ".tex")
    assert [(row.method, row.is_base, row.rate, row.seeds) for row in rows] == [
        ("base", True, None, None), ("lora", False, 3e-4, 3), ("dora", False, 5e-4, 3),
    ]  # fmt: skip
    assert [(score.value, score.items) for row in rows for score in row.scores.values()] == [
        (pytest.approx(0.4), 1319), (pytest.approx(0.472), 1319), (pytest.approx(0.48), 1319),
    ]  # fmt: skip


def test_a_spreadsheet_with_decimal_commas_is_read(read):
    rows = read("Method;Seeds;GSM8K;std\nlora;3;47,2;1,4\ndora;3;48,1;1,3\n")
    assert [row.scores["GSM8K"].value for row in rows] == [pytest.approx(0.472), pytest.approx(0.481)]
    assert rows[0].scores["GSM8K"].error == pytest.approx(0.014)


def test_errors_stand_in_a_column_of_any_name(read):
    for heading in ("acc,acc_std", "acc,acc (std)", "acc,std", "acc,\u00b1", "acc,acc stderr"):
        [row] = read(f"method,seeds,{heading}\nlora,3,47.2,1.4\n")
        assert {task: score.error for task, score in row.scores.items()} == {"acc": pytest.approx(0.014)}, heading


def test_a_column_whose_name_ends_like_an_error_is_none(read):
    [row] = read("method,seeds,paraphrase,close\nlora,3,47.2,1.4\n")
    assert set(row.scores) == {"paraphrase", "close"}


COSTS = (
    "GPU (GB)", "Peak (GiB)", "Throughput (tok/s)", "Latency (ms)", "Trained (M)", "Mem.", "Cost ($)", "Gain",
    "vs. full", "Change (points)", "p-value", "Avg. rank", "Year", "Runtime (s)", "Steps/s", "Dropout",
    "Eval loss", "95% CI",
)  # fmt: skip


@pytest.mark.parametrize("title", COSTS)
def test_a_column_of_costs_or_differences_is_no_score(title, read):
    [row] = read(f"method,seeds,acc,{title}\nlora,3,47.2,1850\n")
    assert set(row.scores) == {"acc"}


def test_scores_of_two_settings_are_told_apart_by_their_whole_heading(read):
    [row] = read(in_latex("Method & Seeds & GSM8K (0-shot) & GSM8K (8-shot)", "LoRA & 3 & 41.0 & 47.2"), ".tex")
    assert {task: score.value for task, score in row.scores.items()} == {
        "GSM8K (0-shot)": pytest.approx(0.41), "GSM8K (8-shot)": pytest.approx(0.472),
    }  # fmt: skip


def test_a_heading_whose_lowest_line_is_a_unit_has_the_lines_above(read):
    lines = ("& Seeds & ARC-e & HSwag", r"Method & & (\%)~$\uparrow$ & change (points)", "LoRA & 3 & 61.9 & 3.3")
    [row] = read(in_latex(*lines), ".tex")
    assert set(row.scores) == {"ARC-e"}


def test_numbers_of_items_stand_in_a_column_for_each_task(read):
    columns = "arc_easy/acc,arc_easy/p_right,arc_easy/n,GSM8K,GSM8K n"
    [row] = read(f"method,seeds,{columns}\nlora,1,0.5,0.412,260,47.2,1319\n")
    assert {task: score.items for task, score in row.scores.items()} == {
        "arc_easy/acc": 260, "arc_easy/p_right": None, "GSM8K": 1319,
    }  # fmt: skip


def test_the_main_table_of_a_report_is_read():
    """Its cells have errors in small print, marks and invisible ones; its heading has four lines."""
    [(_, submission)] = read_tables(Path(__file__).parents[2] / "reports" / "demo" / "tables" / "main.tex", {})
    base, *trained = submission.rows
    assert base.is_base
    assert {row.method for row in trained} == {"lora", "dora", "qlora"}
    for row in submission.rows:
        assert set(row.scores) == {"ARC-e", "OBQA"}
        assert all(score.error and 0 < score.value < 1 for score in row.scores.values())


def test_timeqa_and_drop_are_scores(read):
    [row] = read("method,seeds,TimeQA,DROP,WinoGrande\nlora,3,47.2,51.0,60.0\n")
    assert set(row.scores) == {"TimeQA", "DROP", "WinoGrande"}


def test_items_count_where_scores_are_counts(read):
    columns = "WinoGrande,win rate,ROUGE-1,CoLA MCC,STS-B,F1,average,macro avg"
    [row] = read(f"method,seeds,n,{columns}\nlora,3,1267{',50.0' * 8}\n")
    assert {task for task, score in row.scores.items() if score.items} == {"WinoGrande"}


# --- units ---


@pytest.mark.parametrize(
    ("title", "cells", "values"),
    [
        ("acc (%)", ("0.9", "0.8"), (0.009, 0.008)),
        ("acc", ("0.9", "1.3"), (0.009, 0.013)),
        ("acc", ("0.9", "47.2"), (0.009, 0.472)),
        ("acc", ("0.9", "0.8"), (0.9, 0.8)),
        ("acc", ("0.480", "47.2"), (0.480, 0.472)),
        ("acc (%)", ("0.480", "47.2"), (0.480, 0.472)),
        ("acc (95 % CI)", ("0.48 (0.45 to 0.51)", "0.47 (0.44 to 0.50)"), (0.48, 0.47)),
        ("WER \u2193", ("120.1", "95.0"), (120.1, 95.0)),
    ],
)
def test_percent_and_shares_are_told_apart(title, cells, values, read):
    rows = read(f"method,seeds,{title}\nlora,3,{cells[0]}\ndora,3,{cells[1]}\n")
    [task] = rows[0].scores
    assert [row.scores[task].value for row in rows] == [pytest.approx(value) for value in values]


# --- rows of single runs ---

LONG = (
    "method,seed,lr,tuned,acc\nlora,0,3e-4,dev,50.0\nlora,1,3e-4,dev,51.0\ndora,0,5e-4,dev,50.2\ndora,1,5e-4,dev,50.9\n"
)


def test_a_row_for_each_seed_is_a_row_of_its_method(read, reviewed, tmp_path):
    rows = read(LONG)
    assert [(row.name, row.seeds) for row in rows] == [("lora", 2), ("dora", 2)]
    assert rows[0].scores["acc"].value == pytest.approx(0.505)
    assert rows[0].scores["acc"].error == pytest.approx(np.std([0.50, 0.51], ddof=1) / math.sqrt(2))
    assert reviewed(tmp_path / "table.csv")[:2] == (0, [])


@pytest.mark.parametrize(
    "columns", ["seed0,seed1,seed2", "acc_seed0,acc_seed1,acc_seed2", "acc (seed 0),acc (seed 1),acc (seed 2)"]
)
def test_a_column_for_each_seed_is_a_mean_over_seeds(columns, read, reviewed, tmp_path):
    [lora, dora] = read(
        f"method,lr,tuned,{columns},F1\nlora,3e-4,dev,50.0,51.0,52.0,40.0\ndora,5e-4,dev,50.2,50.9,51.9,41.0\n"
    )
    assert (lora.seeds, len(lora.scores)) == (3, 2)
    score = next(iter(lora.scores.values()))
    assert (score.value, score.error) == (pytest.approx(0.51), pytest.approx(0.01 / math.sqrt(3)))
    assert dora.scores["F1"].value == pytest.approx(0.41)
    assert reviewed(tmp_path / "table.csv")[:2] == (0, [])


def test_one_seed_and_its_number_is_one_seed(read, reviewed, tmp_path):
    read("method,seed,acc,acc std\nlora,42,50.0,1.0\ndora,42,51.0,1.0\n")
    code, faults, found = reviewed(tmp_path / "table.csv")
    assert (code, faults) == (1, ["seeds"])
    assert "one seed each: lora and dora" in found["findings"][0]["text"]


def test_two_rows_of_one_seed_are_named(read, reviewed, tmp_path):
    read(LONG.replace("lora,1,", "lora,0,"))
    _, faults, found = reviewed(tmp_path / "table.csv")
    assert "twice" in faults
    assert any("lora has several rows of one seed" in entry["text"] for entry in found["findings"])


def test_ranks_are_no_seeds_of_one_method(read):
    rows = read("method,r,alpha,seed,acc\nlora,8,16,0,50.0\nlora,8,16,1,51.0\nlora,64,128,0,52.0\nlora,64,128,1,53.0\n")
    assert [(row.seeds, row.scores["acc"].value) for row in rows] == [
        (2, pytest.approx(0.505)),
        (2, pytest.approx(0.525)),
    ]


def test_a_task_that_a_seed_lacks_is_named(read, reviewed, tmp_path):
    read("method,seed,A,B\nlora,0,50.0,40.0\nlora,1,51.0,\ndora,0,50.2,41.0\ndora,1,50.9,42.0\n")
    _, faults, found = reviewed(tmp_path / "table.csv")
    assert faults == ["seeds"]
    assert found["findings"][0]["text"] == "1 of 2 seeds of lora have no score on B, and it is left out"


def test_a_list_of_seeds_is_no_number_of_them(read):
    [row] = read('method,seeds,acc\nlora,"0,1,2",47.2\n')
    assert row.seeds is None


# --- names and settings ---


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("LoRA (full rank)", "lora"), ("Full FT", "full"), ("full fine-tuning", "full"), ("(IA)\u00b3", "ia3"),
        ("rsLoRA", "lora"), ("LoRA+", "lora_plus"), ("QLoRA, full data", "qlora"), ("P-tuning", "p_tuning"),
    ],
)  # fmt: skip
def test_a_method_is_recognized_by_its_name(name, method, read):
    [row] = read(f'method,seeds,acc\n"{name}",3,47.2\n')
    assert (row.method, row.is_base) == (method, False)


@pytest.mark.parametrize("name", ["Base model", "Pretrained", "Zero-shot", "Llama-3.2-3B (base)", "No fine-tuning"])
def test_an_untouched_model_is_recognized(name, read):
    [row, _] = read(f"method,seeds,acc\n{name},,40.0\nLoRA (base lr),3,47.2\n")
    assert row.is_base


def test_settings_are_compared_where_two_rows_have_one_name(reviewed, read, tmp_path):
    read("method,seeds,epochs,r,acc,acc std\nLoRA,3,1,8,47.0,1.0\nLoRA,3,3,64,48.0,1.0\nDoRA,3,3,64,48.1,1.0\n")
    _, faults, found = reviewed(tmp_path / "table.csv")
    assert faults == ["settings"]
    assert "epochs: 1 (LoRA), 3 (LoRA (2) and DoRA)" in found["findings"][0]["text"]


def test_a_setting_that_is_not_filled_in_is_no_difference(reviewed, read, tmp_path):
    read("method,seeds,epochs,warmup ratio,acc,acc std\nLoRA,3,3,0.1,47.0,1.0\nDoRA,3,-,,48.0,1.0\n")
    assert reviewed(tmp_path / "table.csv")[:2] == (0, [])


def test_precision_is_a_metric_beside_recall_and_a_setting_as_a_type(read):
    [row] = read("method,seeds,precision,recall\nlora,3,47.2,50.0\n")
    assert (set(row.scores), dict(row.settings)) == ({"precision", "recall"}, {})
    [row] = read("method,seeds,precision,acc\nlora,3,bf16,50.0\n")
    assert (set(row.scores), dict(row.settings)) == ({"acc"}, {"precision": "bf16"})


@pytest.mark.parametrize(
    ("words", "was_tuned"),
    [("validation", True), ("val loss", True), ("dev, never test", True), ("test", False), ("val + test", False),
     ("not on validation", False), ("no", False)],
)  # fmt: skip
def test_what_a_rate_was_chosen_on_is_read_by_words(words, was_tuned, read):
    [row] = read(f'method,lr,tuned,acc\nlora,3e-4,"{words}",47.2\n')
    assert row.rate_was_tuned is was_tuned


def test_several_in_bold_are_level_with_the_best(read, reviewed, tmp_path):
    read("method,seeds,acc,std\nlora,3,**47.2**,1.0\ndora,3,**47.0**,1.0\nfull,3,44.0,1.0\n")
    assert reviewed(tmp_path / "table.csv")[:2] == (0, [])
    read("method,seeds,acc,std\nlora,3,47.2,1.0\ndora,3,**47.0**,1.0\nfull,3,44.0,1.0\n")
    assert reviewed(tmp_path / "table.csv")[1] == ["bold"]


def test_an_average_is_no_count_of_items(read, reviewed, tmp_path):
    read("method,n,seeds,A,A std,B,B std,average\nlora,100,3,50.0,1,51.0,1,50.5\ndora,100,3,52.0,1,51.0,1,51.5\n")
    assert reviewed(tmp_path / "table.csv")[:2] == (0, [])


@pytest.mark.parametrize("items", [37, 164, 570, 1319])
def test_a_score_in_full_precision_is_possible(items, read, reviewed, tmp_path):
    """A share of the items, in percent and as the mean of runs, has lost digits of a float."""
    lines = [f"lora,{100 * right / items!r},{right / items!r},1" for right in range(1, items, 7)]
    lines += [f"lora,{100 * (right / items + 0.5 / items)!r},{right / items + 0.5 / items!r},2" for right in (3, 8, 20)]
    read(f"method,a,b,seeds\n{chr(10).join(lines)}\n", a=items, b=items)
    _, faults, _ = reviewed(tmp_path / "table.csv", "--items", str(items))
    assert "impossible" not in faults


# --- what is refused, and what is not left out in silence ---


def test_a_cell_that_is_not_read_is_named(read, reviewed, tmp_path, capsys):
    read("method,seeds,acc,acc std\nlora,3,47.2,1.0\ndora,3,47.x1,1.0\nia3,3,-,1.0\n")
    code, faults, found = reviewed(tmp_path / "table.csv")
    assert (code, faults) == (0, [])
    [note] = [entry for entry in found["findings"] if entry["check"] == "unreadable"]
    assert "acc: not read as scores, and left out: '47.x1' of dora" in note["text"]
    main([str(tmp_path / "table.csv")])
    assert "not read:\n   - acc" in capsys.readouterr().out


def test_items_are_of_a_column_in_any_case_or_refused(read, tmp_path, capsys):
    [row] = read("method,seeds,GSM8K\nlora,3,47.2\n", gsm8k=1319)
    assert row.scores["GSM8K"].items == 1319
    assert main([str(tmp_path / "table.csv"), "--items", "gsm=1319"]) == 2
    assert "--items gsm: no column of scores has this name; there is GSM8K" in capsys.readouterr().err


def test_items_are_those_of_every_setting_and_seed_of_a_task(read):
    [row] = read("method,seeds,GSM8K (0-shot),GSM8K (8-shot),MATH\nlora,3,41.0,47.2,20.0\n", gsm8k=1319)
    assert {task: score.items for task, score in row.scores.items()} == {
        "GSM8K (0-shot)": 1319, "GSM8K (8-shot)": 1319, "MATH": None,
    }  # fmt: skip
    for heading, name in (
        ("acc_seed0,acc_seed1", "acc"),
        ("acc (seed 0),acc (seed 1)", "acc"),
        ("seed0,seed1", "score"),
    ):
        [row] = read(f"method,lr,{heading}\nlora,3e-4,50.0,51.0\n", **{name: 100})
        assert {task: score.items for task, score in row.scores.items()} == {name: 100}


def test_an_option_for_something_else_is_refused(read, tmp_path, capsys):
    read("method,seeds,acc\nlora,3,47.2\n")
    assert main([str(tmp_path / "table.csv"), "--sweep", "mine"]) == 2
    assert "--sweep is for records of this project: leave it out" in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text("{}")
    assert main([str(tmp_path / "results"), "--items", "100"]) == 2
    assert "--items is for a table: leave it out" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere.csv")]) == 2
    assert f"{tmp_path / 'nowhere.csv'}: no such file or folder" in capsys.readouterr().err


def test_two_columns_of_one_name_are_refused(read):
    with pytest.raises(ValueError, match="2 columns of scores are named acc; name them apart"):
        read("method,seeds,acc,acc\nlora,3,47.2,50.0\n")


def test_a_file_of_any_case_is_read(tmp_path):
    (tmp_path / "TABLE.CSV").write_text("method,seeds,acc,std\nlora,3,47.2,1.0\n")
    assert main([str(tmp_path / "TABLE.CSV")]) == 0


# --- bounds ---


def test_scores_that_round_to_one_number_may_differ(read, tmp_path):
    """51.6 % of 14,042 items are any of 15 counts, so that equal scores may differ by 14 items, and be significant."""
    read("method,seeds,n,MMLU,std\nlora,1,14042,51.6,0.4\ndora,1,14042,51.6,0.4\n")
    [(_, submission)] = read_tables(tmp_path / "table.csv", {})
    [note] = [finding for finding in review(submission) if finding.check == "pairing"]
    assert "significant only if the two disagree on at most" in note.text
    exact = pairing_bounds(7246, 7246, 14042)
    assert exact.most_discordant is None
