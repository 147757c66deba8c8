"""Claims and margins that no score can decide: percent in place of a share, and a row against itself."""

import re
from pathlib import Path

import pytest
import yaml

from harness.config.sweep_file import is_share, read

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").rglob("*.yaml"))
FILE = {
    "name": "asked", "question": "Which?", "primary": "arc_easy/acc", "varies": ["method", "method.r"],
    "cells": [{"method": ["full"]}, {"method": "lora", "method.r": [16, 64]}],
}  # fmt: skip
ALWAYS, NEVER, NOTHING = "it holds whatever the scores are", "it cannot hold", "no score is left of it"
UNDECIDABLE = {
    "full >= base - 1 on arc_easy/acc": ALWAYS,
    "full == base +- 1 on arc_easy/acc": ALWAYS,
    "full - base == 0 +- 2 on arc_easy/acc_norm": ALWAYS,
    "full <= base + 1.5 on gsm8k/exact_match,strict-match": ALWAYS,
    "2 * full >= full on arc_easy/acc": ALWAYS,
    "full >= 0 on arc_easy/acc": ALWAYS,
    "full >= 0.5 * base + 0.5 * lora[r=16] - 1 on arc_easy/p_right": ALWAYS,
    "full >= 60 on arc_easy/acc": NEVER,
    "full > base + 1 on arc_easy/acc": NEVER,
    "full == base + 3 +- 1 on arc_easy/acc": NEVER,
    "full >= full on arc_easy/acc": NOTHING,
    "full >= full[method=full] - 0.1 on test_loss": NOTHING,
    "lora[r=16] < lora[r=16.0] on peak_memory_bytes": NOTHING,
    "0 * full >= 0 * base on arc_easy/acc": NOTHING,
    "full / full in [1, 2] on peak_memory_bytes": "full and full are the same row of the results",
    "lora[r=64] / lora[r=64.0] in [1, 2] on tokens_per_second": "are the same row of the results",
    "full == base +- 1e400 on arc_easy/acc": "a number in it is too large to count with",
    "1e400 * full >= base on test_loss": "a number in it is too large to count with",
}
DECIDABLE = (
    "full >= base - 0.01 on arc_easy/acc", "full == base +- 0.99 on arc_easy/acc", "full >= base + 1 on arc_easy/acc",
    "full >= base - 1 on test_loss", "full <= 100 on wmt16/bleu", "full >= -3 on blimp/likelihood_diff",
    "lora[r=16] == lora[r=64] +- 0.01 on arc_easy/acc", "full >= 0.5 * base + 0.5 * lora[r=16] on arc_easy/p_right",
    "full > base + 1e6 on peak_memory_bytes", "lora[r=16] / full in [0, 0.5] on trainable_parameters",
)  # fmt: skip


@pytest.mark.parametrize("claim", UNDECIDABLE)
def test_a_claim_that_no_score_decides_is_refused(claim):
    with pytest.raises(ValueError, match=re.escape(UNDECIDABLE[claim])) as refused:
        read({**FILE, "claims": [claim]})
    assert f'claim "{claim}": ' in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("claim", DECIDABLE)
def test_a_claim_that_scores_decide_is_taken(claim):
    assert read({**FILE, "claims": [claim]}).claims[0].claim == claim


def test_best_rates_of_one_row_are_refused():
    tuned = {
        "stages": {"tune": {"settings": ["lr_scale"], "seeds": [0], "rule": "lowest_validation_loss"},
                   "final": {"seeds": [1, 2, 3]}},
        "cells": [{**grid, "lr_scale": [0.3, 1, 3]} for grid in FILE["cells"]],
    }  # fmt: skip
    with pytest.raises(ValueError, match="are the same row of the results"):
        read({**FILE, **tuned, "claims": ["best_lr(full) / best_lr(full) in [5, 20]"]})


@pytest.mark.parametrize(("primary", "margin"), [("arc_easy/acc", 1.0), ("gsm8k/exact_match,flexible-extract", 2.0)])
def test_a_margin_in_points_of_a_share_is_refused(primary, margin):
    with pytest.raises(ValueError, match="lies between 0 and 1, so that every difference would count as none"):
        read({**FILE, "primary": primary, "margin": margin})


def test_a_margin_of_a_loss_may_be_large():
    assert read({**FILE, "primary": "test_loss", "margin": 1.0}).margin == 1.0
    assert [is_share(name) for name in ("arc_easy/acc", "x/bleu", "test_loss", "x/f1,none")] == [
        True, False, False, True,
    ]  # fmt: skip


def test_every_shipped_claim_can_be_decided():
    files = [path for path in SWEEPS if read(yaml.safe_load(path.read_text())).claims]
    assert len(files) == 8
