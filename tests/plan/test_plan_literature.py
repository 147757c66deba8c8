"""The page of published figures: every row names its source, and the committed page is of these rows."""

from pathlib import Path

import pytest

from harness.config import config
from harness.plan import literature
from harness.plan.__main__ import main

PAGE = Path(__file__).parents[2] / "reports" / "plan" / "README.md"


def test_every_cell_composes_and_is_planned_once(compose):
    cells = literature.cells()
    assert len(cells) == len(set(cells)) == 7
    assert len(literature.ROWS) == 8
    for cell in cells:
        experiment = config.build(compose(*cell))
        assert experiment.model.architecture is not None, "no weights are needed"
        assert experiment.train.max_length == 2048


def test_the_page_sets_the_figures_beside_the_prediction():
    plan = {
        f"{part}_bytes": 10**9 * size for part, size in zip((*literature._PARTS, "peak"), (1, 2, 3, 4, 9), strict=True)
    }
    text = literature.page(dict.fromkeys(literature.cells(), plan))
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 8
    assert all("| **9.0** | 1.0 | 2.0 | 3.0 | 4.0 |" in row for row in rows)
    assert all("https://" in row for row in rows)


def test_the_committed_page_is_of_these_rows():
    text = PAGE.read_text()
    for row in literature.ROWS:
        [line] = [line for line in text.splitlines() if line.startswith(f"| {row.what} | {row.figure} ")]
        assert line.endswith(f"| {row.source} | {row.why} |")
        predicted = float(line.split("**")[1])
        published = float(row.figure.split()[-1])
        assert 0.5 < predicted / published < 1.3, "the same order, and the page says what the rest is"


@pytest.mark.parametrize("option", ["--json", "--counts"])
def test_options_that_the_page_would_ignore_are_refused(option, capsys):
    assert main(["literature", option]) == 2
    assert "literature: the page is Markdown alone; leave out --json and --counts" in capsys.readouterr().err
