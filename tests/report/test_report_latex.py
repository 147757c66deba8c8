"""LaTeX: what is written, and that a real one sets it unedited in the classes of the usual conferences."""

import dataclasses
import itertools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.report import write
from harness.report.document import Bullets, Column, Command, Missing, Note, Number, Section, Table, Text
from harness.report.writers import latex
from harness.report.writers.latex import PREAMBLE, document, floats
from harness.report.writers.tabular import tabular
from harness.report.writers.tex import breakable, escape, listing
from tests.report.conftest import HOSTILE

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")


def has(file: str) -> bool:
    """Whether TeX finds a file; False without TeX."""
    if shutil.which("kpsewhich") is None:
        return False
    return subprocess.run(["kpsewhich", file], capture_output=True, timeout=60, check=False).returncode == 0


@dataclass(frozen=True)
class Class:
    """A document class, or one of the same type size, width and columns, and its bibliography style."""

    head: str
    style: str = "plainnat"
    appendix: str = r"\appendix"


CLASSES = {
    "neurips": Class(
        r"\documentclass{article}\usepackage[letterpaper,textwidth=5.5in,textheight=9in]{geometry}"
        r"\renewcommand{\rmdefault}{ptm}\usepackage{natbib}"
    ),
    "icml": Class(
        r"\documentclass[twocolumn]{article}"
        r"\usepackage[letterpaper,textwidth=6.75in,textheight=9in,columnsep=0.25in]{geometry}\usepackage{times,natbib}"
    ),
    "acl": Class(
        r"\documentclass[11pt,twocolumn]{article}"
        r"\usepackage[a4paper,textwidth=16cm,textheight=24.7cm,columnsep=6mm]{geometry}\usepackage{times,natbib}"
    ),
    "ieee": Class(r"\documentclass[conference]{IEEEtran}", "IEEEtran", r"\appendices"),
    "article": Class(r"\documentclass{article}\usepackage[textwidth=5.5in,textheight=9in]{geometry}", "plain"),
}
PAPER = r"""%s
%s
%s
\usepackage{url}
\begin{document}
\title{A title}\author{An author}\maketitle
\input{setup}
\bibliographystyle{%s}\bibliography{references}
\clearpage%s
\input{appendix}
\clearpage
\input{checklist}
\end{document}
"""
TABLES = r"""%s
%s
%s
\begin{document}
%s
\end{document}
"""
WIDE = 6.0  # points by which a word may stand over the margin


def compiled(folder: Path, name: str, text: str, runs: int = 1) -> str:
    """The log of a document that pdflatex could set."""
    (folder / f"{name}.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", f"{name}.tex"]
    for number in range(runs):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:]
        if runs > 1 and number == 0:
            cited = subprocess.run(
                ["bibtex", name], cwd=folder, capture_output=True, text=True, timeout=60, check=False
            )
            assert cited.returncode == 0 and "warning" not in cited.stdout.lower(), cited.stdout
    return (folder / f"{name}.log").read_text(errors="replace")


def problems(log: str) -> list[str]:
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log)]
    found = re.findall(r"^!.*|^LaTeX Warning: (?!Label|There were|`h').*", log, re.MULTILINE)
    return [*found, *(f"{points} pt over the margin" for points in wide if points > WIDE)]


@pytest.fixture(scope="module", params=["methods", "tuned"])
def made(request, tmp_path_factory) -> Path:
    if request.param == "tuned":
        return request.getfixturevalue("tuned_report")
    return write(request.getfixturevalue("tree"), "methods", tmp_path_factory.mktemp("latex") / "methods").parent


@needs_latex
@pytest.mark.parametrize("encoding", ["", r"\usepackage[T1]{fontenc}"], ids=["OT1", "T1"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_real_latex_sets_a_paper_unedited_in_every_class(made, tmp_path, name, encoding):
    if not has("threeparttable.sty") or (name == "ieee" and not has("IEEEtran.cls")):
        pytest.skip("texlive-latex-extra or texlive-publishers is not installed")
    folder = tmp_path / "paper"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("figures", "*.html"))
    kind = CLASSES[name]
    log = compiled(folder, "paper", PAPER % (kind.head, encoding, PREAMBLE, kind.style, kind.appendix), runs=3)
    assert not problems(log)
    tables = sorted(path for path in folder.glob("tables/*.tex") if ".tabular" not in path.name)
    assert len(tables) >= 6
    inputs = "\n".join(rf"\input{{tables/{path.stem}}}" for path in tables)
    assert not problems(compiled(folder, "floats", TABLES % (kind.head, encoding, PREAMBLE, inputs)))
    bare = "\n".join(
        rf"\begin{{table*}}\footnotesize\setlength{{\tabcolsep}}{{3pt}}\input{{tables/{path.stem}}}\end{{table*}}"
        for path in sorted(folder.glob("tables/*.tabular*.tex"))
    )
    assert not problems(compiled(folder, "bare", TABLES % (kind.head, encoding, PREAMBLE, bare)))


def test_every_table_has_a_caption_a_label_and_a_bare_twin(made):
    names = {path.name for path in (made / "tables").glob("*.tex")}
    floated = sorted(name for name in names if ".tabular" not in name)
    tabulars = {name: names & {f"{name[:-4]}.tabular{part}.tex" for part in ("", "-2", "-3")} for name in floated}
    assert all(name.replace(".tex", ".tabular.tex") in tabulars[name] for name in floated)
    assert {*floated}.union(*tabulars.values()) == names
    labels = []
    for name in floated:
        text = (made / "tables" / name).read_text()
        assert text.splitlines()[0] == f"% Made from records by harness.report. The preamble needs {PREAMBLE}"
        assert text.count(r"\caption{") == text.count(r"\label{tab:") == len(tabulars[name]) >= 1
        assert text.count(r"\begin{tabular}") == len(tabulars[name])
        assert "resizebox" not in text and "scalebox" not in text
        assert text.isascii()
        labels += re.findall(r"\\label\{(.*?)\}", text)
        for bare in ((made / "tables" / file).read_text() for file in tabulars[name]):
            assert r"\caption" not in bare and bare.count(r"\begin{tabular}") == 1
    assert len({*labels}) == len(labels)


def table(columns: int, rows: int = 4, error: float | None = 0.0123) -> Table:
    scores = [Column(f"t{i}", f"Task{i}", "%", 100.0, 1, "higher", spanner="Tasks") for i in range(columns)]
    lines = [
        (Text(f"Method {row}"), *(Number(0.5 + row / 100 + i / 1000, error) for i in range(columns)))
        for row in range(rows)
    ]
    return Table((Column("method", "Method", text=True), *scores), tuple(lines), caption="Scores.", label="scores")


def test_a_table_takes_a_column_then_the_page_then_gives_up_its_errors_then_becomes_several():
    kinds = {n: floats(table(n)) for n in (2, 6, 12, 24)}
    assert r"\begin{table}[tp]" in kinds[2][0] and r"\centering\small" in kinds[2][0]
    assert r"\begin{table*}[tp]" in kinds[6][0] and r"$\pm$1.2" in kinds[6][0]
    assert [len(kinds[n]) for n in (2, 6, 12)] == [1, 1, 1]
    assert "$\\pm$: one standard error." in kinds[6][0]
    assert all(r"$\pm$" not in part for n in (12, 24) for part in kinds[n])
    assert all("Standard errors are at most 1.2 \\% (Tasks)." in part for n in (12, 24) for part in kinds[n])
    several = kinds[24]
    assert len(several) >= 2
    assert [re.search(r"label\{(.*?)\}", part).group(1) for part in several[:2]] == ["tab:scores", "tab:scores-2"]
    assert all(f"Part {i} of {len(several)}." in part for i, part in enumerate(several, 1))
    shown = [re.findall(r"Task(\d+)", part.partition(r"\midrule")[0]) for part in several]
    assert [*itertools.chain(*shown)] == [str(i) for i in range(24)], "every column is somewhere, once"


LONG_TEXTS = {  # the cells of a column of words; beside it are two others, and a column of numbers
    "a label and one long reason": ("LoRA (rsLoRA=false, init=default)", "x " * 120, "undecided", "a"),
    "several words that cannot be cut": ("(num_virtual_tokens=20,", "(init_lora_weights=pissa) " * 2, "y " * 150, "b"),
    "four long ones": tuple(f"{letter * 21} and more words behind it" for letter in "aoex"),
    "a word for each": ("a", "b", "c", "d"),
}


@needs_latex
@pytest.mark.parametrize("name", CLASSES)
def test_no_word_of_a_wrapped_column_stands_over_its_margin(tmp_path, name):
    if not has("threeparttable.sty") or (name == "ieee" and not has("IEEEtran.cls")):
        pytest.skip("texlive-latex-extra or texlive-publishers is not installed")
    parts = []
    for label, texts in LONG_TEXTS.items():
        columns = [*(Column(f"c{i}", f"Column {i}", text=True) for i in range(4)), Column("n", "Number", digits=1)]
        lines = [(*map(Text, texts), Number(1.5)), (*(Text(text[:60]) for text in texts), Number(20.5))]
        parts += floats(Table(tuple(columns), tuple(lines), label=re.sub(r"\W", "-", label), title=label))
    kind = CLASSES[name]
    log = compiled(tmp_path, "wrapped", TABLES % (kind.head, "", PREAMBLE, "\n".join(parts)))
    assert not problems(log) and len(parts) >= len(LONG_TEXTS)


def test_sentences_below_a_table_stand_below_its_last_part_and_marks_below_each():
    notes = (Note("A sentence."), Note("A mark.", "\N{DAGGER}"))
    parts = floats(dataclasses.replace(table(24), notes=notes))
    assert len(parts) > 1
    assert ["A sentence." in part for part in parts] == [*[False] * (len(parts) - 1), True]
    assert all("A mark." in part for part in parts)


def test_each_part_of_a_wide_table_names_the_quantities_whose_highest_errors_it_gives():
    units = ("%", "points", "")
    columns = [Column(f"c{i}", f"Quantity {i}", units[i % 3], digits=2) for i in range(24)]
    row = (Text("Method"), *(Number(10.0, 0.01 * i) for i in range(24)))
    parts = floats(Table((Column("m", "Method", text=True), *columns), (row, row), label="wide", title="Wide"))
    assert len(parts) > 1
    for part in parts:
        shown = [int(number) for number in re.findall(r"Q.*?(\d+)", part.partition("Standard errors")[2])]
        noted = part.partition("Standard errors are at most ")[2]
        assert shown and all(f"0.{i:02} " in noted for i in shown)
        assert "one standard error" not in part
    every = " ".join(part.partition("Standard errors")[2] for part in parts)
    assert all(f"(Quantity {i})" in every for i in range(1, 24))


def test_a_long_table_becomes_several_pages():
    parts = floats(table(3, rows=100))
    assert len(parts) == 3
    assert sum(part.count("Method ") - 1 for part in parts) >= 97


def test_a_row_without_a_value_in_its_part_is_left_out_of_it():
    wide = table(24, rows=2)
    half = (Text("Half"), *(Missing() if i > 7 else Number(1.0) for i in range(24)))
    parts = floats(Table(wide.columns, (*wide.rows, half), caption="Scores.", label="scores"))
    assert ["Half" in part for part in parts] == [True, *[False] * (len(parts) - 1)]


def test_points_stand_below_each_other_whatever_is_bold_underlined_or_marked():
    columns = (Column("m", "Method", text=True), Column("s", "Score", "%", 100.0, better="higher"))
    cells = (
        Number(0.0951, 0.0081, digits=2, emphasis="second"),
        Number(0.631, 0.1034, digits=1, emphasis="best", marks="\N{DAGGER}"),
        Number(0.5),
        Missing("none"),
    )
    lines = tabular(Table(columns, tuple((Text(str(i)), cell) for i, cell in enumerate(cells)))).splitlines()
    assert lines[0] == r"\begin{tabular}{@{}lc@{}}"
    assert lines[2] == r"Method & Score (\%)~$\uparrow$ \\"
    scriptsize = r"\,{\scriptsize$\pm$"
    assert (
        lines[4] == rf"0 & \phantom{{6}}\underline{{9.51}}{scriptsize}\phantom{{1}}0.81}}\phantom{{$^{{\dagger}}$}} \\"
    )
    assert lines[5] == rf"1 & \textbf{{63.1}}\phantom{{1}}{scriptsize}10.3\phantom{{1}}}}$^{{\dagger}}$ \\"
    assert lines[6].startswith(r"2 & 50.0\phantom{1}\phantom{\,{\scriptsize$\pm$")
    assert lines[7] == r"3 & -- \\"


def test_numbers_of_equal_decimals_need_no_padding():
    columns = (Column("m", "Method", text=True), Column("n", "Number", digits=0))
    lines = tabular(
        Table(columns, ((Text("a"), Number(4_884_480)), (Text("b"), Number(-12, signed=True))))
    ).splitlines()
    assert lines[0] == r"\begin{tabular}{@{}lr@{}}"
    assert lines[4:6] == [r"a & 4,884,480 \\", r"b & $-$12 \\"]


@pytest.mark.parametrize("character", list('\\{}$&#%_^~<>|"`[]*'))
def test_no_character_of_latex_stands_for_itself(character):
    written = escape(f"a{character}b")
    assert re.fullmatch(r"a(\\[{}$&#%_]|\\(text\w+|`)\{\}|\{[\[\]*]\})b", written), written


def test_names_of_people_and_of_methods_are_set_and_other_scripts_are_named_by_code_point():
    assert escape("(IA)\N{SUPERSCRIPT THREE}") == "(IA)$^3$"
    assert escape("Popovi\u0107, \u00c5sa Gallou\u00e9dec \u0142") == r"Popovi\'{c}, \r{A}sa Gallou\'{e}dec \l{}"
    assert escape("\u4e2d\u202e\u0105") == r"\texttt{U+4E2D} \texttt{U+0105}"
    assert escape("a--b") == "a-{}-b"
    assert escape("\N{MINUS SIGN}1 \N{PLUS-MINUS SIGN} 2 \N{EN DASH}") == r"$-$1 $\pm$ 2 --"


def test_a_listing_cannot_be_left():
    text = listing("a\\end{verbatim}\\input{x}\n" + "word " * 40 + "\u4e2d")
    assert text.count(r"\end{verbatim}") == 1
    assert max(map(len, text.splitlines())) <= 44
    assert text.isascii()


@needs_latex
def test_hostile_text_is_set_as_text(tmp_path):
    if not has("threeparttable.sty"):
        pytest.skip("texlive-latex-extra is not installed")
    odd = [
        HOSTILE,
        r"\def\x{$%&#_^~}",
        "a_very_long,setting_without_a_blank/" * 6,
        "\u4e2d \u00e9 \U0001f680",
        "[x]",
        "*y",
    ]
    columns = (Column("m", HOSTILE, text=True), Column("t", r"\input{/etc/passwd}", "%#", text=True))
    rows = tuple((Text(one[:40], marks="\N{DAGGER}"), Text(one)) for one in odd)
    made = Table(columns, rows, notes=(Note(HOSTILE, "\N{DAGGER}"),), caption=r"\input{x} % & # $", label="odd")
    sections = [Section(HOSTILE, (Bullets(tuple(odd)), Command("\n".join(odd)), HOSTILE, made))]
    text = TABLES % (r"\documentclass{article}", "", PREAMBLE, document(sections))
    assert not re.findall(r"^!.*", compiled(tmp_path, "odd", text), re.MULTILINE)
    assert "/etc/passwd" not in text.replace(r"\textbackslash{}input\{/etc/passwd\}", "")


def test_old_tables_go(tmp_path):
    (tmp_path / "gone.tex").write_text("old")
    assert {path.name for path in latex.write({"odd": table(2)}, tmp_path)} == {"odd.tex", "odd.tabular.tex"}
    assert {path.name for path in tmp_path.iterdir()} == {"odd.tex", "odd.tabular.tex"}


def test_words_break_after_commas_and_underscores():
    assert breakable("short_word") == r"short\_word"
    assert r"\allowbreak{}" in breakable("a_setting_that_is_longer_than_a_line")
