"""`harness report power`: what cannot be planned with is refused, and nothing that was given is changed."""

import json

import pytest

from harness.report.__main__ import main

DESIGN = ("--items", "1319", "--seeds", "3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*DESIGN, "--methods", "1"), "methods=1"),
        ((*DESIGN, "--effect", "150"), "--effect 150: scores differ by at most 100 points"),
        ((*DESIGN, "--disagreement", "0.05", "--rerun-disagreement", "0.2"), "rerun_disagreement=0.2"),
        ((*DESIGN, "--rerun-disagreement", "0.2"), "disagreement=0.1, rerun_disagreement=0.2"),
        ((*DESIGN, "--disagreement", "2"), "a share of the items is at most 1"),
    ],
)
def test_a_design_that_cannot_be_is_refused(words, message, capsys):
    assert main(["power", *words]) == 2
    assert message in capsys.readouterr().err


def test_few_items_detect_no_difference_that_the_assumed_disagreement_forbids(capsys):
    """Methods that disagree on 10 % of 30 items cannot differ by 17 points: 22 points take 22 % of the items."""
    assert main(["power", "--items", "30", "--seeds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["right_or_wrong"] is True
    assert 0.2 < document["detectable"] < 0.24
    assert main(["power", *DESIGN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detectable"] == pytest.approx(0.0268, abs=0.001)


def test_a_design_that_detects_no_difference_says_so(capsys):
    """Scores differ by at most 100 points: 128 points are none."""
    scattered = ["--items", "400", "--seeds", "3", "--methods", "3", "--seed-deviation", "40"]
    assert main(["power", *scattered]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 methods, 3 seeds each, 400 items: one comparison detects no difference with 80% power."
    assert lines[1] == "Adjusted for all 3 pairs (family-wise error 5 %): none."
    assert "one more seed per method: none" in lines[2]
    assert main(["power", "--items", "2", "--seeds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["detectable"], document["detectable_adjusted"]) == (None, None)
