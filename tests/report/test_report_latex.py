"""Tables and appendix as LaTeX: what is written, and that a real LaTeX sets it without a complaint."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import HOSTILE

from harness.report import write
from harness.report.pages.summary import Table
from harness.report.writers.latex import PREAMBLE, escape, tabular
from harness.report.writers.latex import write as write_tables

DOCUMENT = r"""\documentclass[a4paper]{article}
%s\usepackage{longtable}
\begin{document}\raggedright\parindent0pt
%s
\appendix
\input{appendix}
\end{document}
"""
needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
ODD = Table(
    r"Odd \input{/etc/passwd} % & # $ _ ^ ~ {",
    ("Method \N{GREEK SMALL LETTER ALPHA}", "n items", "score", "with words", "text"),
    (
        (HOSTILE, "4,884,480", "0.596 \N{PLUS-MINUS SIGN} 0.031", "+0.1 [0.0, 0.2] a", r"\def\x{$%&#_^~}"),
        ("\N{CJK UNIFIED IDEOGRAPH-4E2D} \N{LATIN SMALL LETTER E WITH ACUTE} \N{ROCKET}", "-", "-", "-", "-"),
        ("", "12", "112.5 \N{PLUS-MINUS SIGN} 1,203.1", "-12.25 b", "a_very_long,setting_without_a_blank/" * 6),
    ),
)


def compiled(document: str, folder: Path) -> str:
    """The log of a document that pdflatex could set."""
    (folder / "paper.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"],
        cwd=folder, capture_output=True, text=True, errors="replace", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    return (folder / "paper.log").read_text(errors="replace")


@needs_latex
@pytest.mark.parametrize(("which", "number"), [("methods", 9), ("tuned", 13)])
def test_a_real_latex_sets_every_table_and_the_appendix(tree, tuned_report, tmp_path, which, number):
    if which == "tuned":
        shutil.copytree(tuned_report, tmp_path, dirs_exist_ok=True)
    else:
        write(tree, "methods", tmp_path)
    tables = sorted(tmp_path.glob("tables/*.tex"))
    assert len(tables) == number
    (tmp_path / "tables" / "odd.tex").write_text(tabular(ODD))
    inputs = "\n\n\\bigskip ".join(rf"\input{{tables/{path.stem}}}" for path in [*tables, Path("odd.tex")])
    log = compiled(DOCUMENT % (PREAMBLE, inputs), tmp_path)
    assert not re.findall(
        r"^!.*|^LaTeX Warning: (?!Label|Table).*|^Package siunitx (Warning|Error).*", log, re.MULTILINE
    )
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log)]
    assert max(wide, default=0.0) < 12, "a line of the appendix runs far into the margin"


def test_numbers_are_aligned_and_words_behind_them_have_a_column():
    lines = tabular(ODD).splitlines()
    assert r"S[table-format=7]S[table-format=3.3(5)]S[table-format=+2.2]@{\,}l" in "\n".join(lines)
    first = next(line for line in lines if "4884480" in line)
    assert r"4884480 & 0.596 \pm 0.031 & +0.1 & {[}0.0, 0.2{]} a" in first
    assert r"\multicolumn{2}{c}" in lines[7]
    widths = {len(re.split(r"(?<!\\)&", line)) for line in lines if line.endswith(r"\\")}
    assert widths == {6, 5}  # the header spans two columns once


@pytest.mark.parametrize("character", list("\\{}$&#%_^~<>|\"`'-[]*"))
def test_no_character_of_latex_stands_for_itself(character):
    written = escape(f"a{character}b")
    assert re.fullmatch(r"a(\\[{}$&#%_]|\\text\w+\{\}|\{[-\[\]*]\})b", written), written


def test_other_scripts_are_named_by_code_point():
    assert escape("\u4e2d\u00e9\u0142\u202e") == r"\texttt{U+4E2D}" + "\u00e9\u0142"


def test_old_tables_go(tmp_path):
    (tmp_path / "gone.tex").write_text("old")
    assert [path.name for path in write_tables({"odd": ODD}, tmp_path)] == ["odd.tex"]
    assert [path.name for path in tmp_path.iterdir()] == ["odd.tex"]
