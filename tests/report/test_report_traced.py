"""Every digit of report.md and of appendix.md is claimed by a computation of its own, from the files of the records.

Two reports: the small tree of the other tests, with one seed beside two and exact tests, and a tuned sweep that has
something in every place of a page. The claims are made with json, pyarrow, numpy and scipy alone, but for
comparisons: they are those of the public function, on tables that are laid out here.
"""

import dataclasses
import re

import pytest
import traced_files
import tuned_tree
from ledger import ANYWHERE, check, is_explained, spots
from traced_appendix import appendix
from traced_origin import compared
from traced_report import Traced, main_table
from traced_tradeoff import advice
from traced_words import answer, equality, failures, figure, limits, names, remarks

from harness.report import write
from tests.report.conftest import build

BODY = (names, answer, main_table, compared, equality, remarks, advice, failures, figure, limits)
DIGITS = re.compile(r"\d+(?:\.\d+)?")


def _small(method, rate, status, seed):
    return {0.3: "lora lr=0.3", 3e-4: "lora lr=3e-4"}[rate] if method == "lora" else method


def _planted(place, at):
    return dataclasses.replace(place, text=f"{place.text[:at]}{(int(place.text[at]) + 5) % 10}{place.text[at + 1 :]}")


@pytest.fixture(scope="module", params=["methods", "tuned"])
def traced(request, tmp_path_factory):
    if request.param == "tuned":
        folder, named = request.getfixturevalue("tuned_report"), tuned_tree.named
    else:
        runs = build(tmp_path_factory.mktemp("methods") / "runs")
        folder, named = write(runs, "methods", runs.parent / "report").parent, _small
    runs = folder.parent / "runs"
    return Traced(runs, folder, traced_files.read(runs, request.param, named), "arc_easy")


@pytest.fixture(scope="module")
def claims(traced):
    """The claims by the page that they are of."""
    details = [*appendix(traced)]
    return {"report.md": [*details, *(claim for part in BODY for claim in part(traced))], "appendix.md": details}


@pytest.mark.parametrize("page", ["report.md", "appendix.md"])
def test_every_digit_of_the_page_follows_from_the_files(traced, claims, page):
    places = spots((traced.folder / page).read_text())
    problems = check(places, claims[page])
    assert not problems, "\n".join(problems)
    counted = sum(len(DIGITS.findall(place.text)) for place in places)
    assert counted > {"report.md": 500, "appendix.md": 400}[page]


@pytest.mark.parametrize("page", ["report.md", "appendix.md"])
def test_a_wrong_digit_anywhere_is_found(traced, claims, page):
    """Each number in turn gets another last digit, or where it rests on draws another first one."""
    unseen, drawn, tried = [], 0, 0
    for place in spots((traced.folder / page).read_text()):
        mine = [claim for claim in claims[page] if claim.section in (place.section, ANYWHERE)]
        for found in DIGITS.finditer(place.text):
            tried += 1
            last, first = (_planted(place, at) for at in (found.end() - 1, found.start()))
            if is_explained(last, mine):
                drawn += 1
                if is_explained(first, mine):
                    unseen.append(f"{place.section}/{'/'.join(place.row[:1])}: {place.text}")
    assert not unseen, "\n".join(unseen)
    assert tried > {"report.md": 500, "appendix.md": 400}[page]
    assert drawn < tried / 4
