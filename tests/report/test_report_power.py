"""`harness report power`: what cannot be planned with is refused, and nothing that was given is changed."""

import json

import pytest

from harness.report.__main__ import main

DESIGN = ("--items", "1319", "--seeds", "3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--items", "0", "--seeds", "3"), "items=0"),
        (("--items", "1319", "--seeds", "0"), "seeds=0"),
        ((*DESIGN, "--methods", "0"), "methods=0"),
        ((*DESIGN, "--methods", "1"), "methods=1"),
        ((*DESIGN, "--effect", "150"), "--effect 150: scores differ by at most 100 points"),
        ((*DESIGN, "--disagreement", "0.05", "--rerun-disagreement", "0.2"), "rerun_disagreement=0.2"),
        ((*DESIGN, "--rerun-disagreement", "0.2"), "disagreement=0.1, rerun_disagreement=0.2"),
        ((*DESIGN, "--disagreement", "2"), "a share of the items is at most 1"),
        ((*DESIGN, "--disagreement", "nan"), "disagreement=nan"),
        ((*DESIGN, "--disagreement", "0"), "disagreement=0"),
        ((*DESIGN, "--seed-deviation", "nan"), "finite and not negative"),
        ((*DESIGN, "--seed-deviation", "-1"), "finite and not negative"),
    ],
)
def test_a_design_that_cannot_be_is_refused(words, message, capsys):
    assert main(["power", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("effect", ["0", "-1", "nan", "inf"])
def test_an_effect_is_a_positive_number(effect, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["power", *DESIGN, f"--effect={effect}"])
    assert ended.value.code == 2
    assert f"'{effect}' is not a number above zero" in capsys.readouterr().err


def test_few_items_detect_no_difference_that_the_assumed_disagreement_forbids(capsys):
    """Methods that disagree on 10 % of 30 items cannot differ by 17 points: 22 points take 22 % of the items."""
    assert main(["power", "--items", "30", "--seeds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["right_or_wrong"] is True
    assert 0.2 < document["detectable"] < 0.24
    assert main(["power", *DESIGN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detectable"] == pytest.approx(0.0268, abs=0.001)
