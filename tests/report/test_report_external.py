"""PEFT's published rows: methods told apart, intervals that are not empty, and what their readers must know."""

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from harness.report.analysis import external
from tests.report.conftest import shown

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "peft_method_comparison"


def published(name, accuracy, *, rate=1e-4, status="success", items="gsm8k", **settings):
    return {
        "run_info": {
            "created_at": "2026", "peft_branch": "main", "peft_config": settings or None,
            "train_config": {"optimizer_kwargs": {"lr": rate}},
        },
        "train_info": {"status": status, "metrics": [{"test accuracy": accuracy, "forgetting": 0.1, "step": 5000}]},
        "meta_info": {"model_info": {}, "dataset_info": {items: {}}, "package_info": {}, "system_info": {}},
    }  # fmt: skip


@pytest.fixture
def read(tmp_path):
    def made(**rows):
        for name, row in rows.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(row))
        return external.read_peft(tmp_path)[0]

    return made


def test_variants_of_lora_are_told_apart(read):
    rows = read(
        a=published("a", 0.4, peft_type="LORA"), b=published("b", 0.4, peft_type="LORA", use_dora=True),
        c=published("c", 0.4, peft_type="LORA", use_rslora=True), d=published("d", 0.4),
    )  # fmt: skip
    assert [one.method for one in rows] == ["LORA", "LORA (DoRA)", "LORA (rsLoRA)", "full"]


def test_an_interval_is_wilsons_and_the_status_is_shown(read):
    rows = read(
        good=published("good", 0.478), zero=published("zero", 0.0), gone=published("gone", 0.3, status="failed")
    )
    cells = {line["External row"]: line for line in shown(external.table(rows))}
    assert {name: row["Status"] for name, row in cells.items()} == {
        "good": "success",
        "zero": "success",
        "gone": "failed",
    }
    found = binomtest(round(0.478 * 1319), 1319).proportion_ci(method="wilson")
    assert cells["good"]["GSM8K accuracy (%)"] == f"47.8 ({100 * found.low:.1f} to {100 * found.high:.1f})"
    assert cells["zero"]["GSM8K accuracy (%)"] == "0.0 (0.0 to 0.3)"
    lines = external.remarks(rows)
    assert any("zero: gsm8k/accuracy is 0 of 1,319 items" in line for line in lines)
    assert "gone is a run with the status failed" in lines


def test_without_a_known_test_set_there_is_no_interval(read):
    [row] = read(a=published("a", 0.5, items="other"))
    assert (row.num_items, row.scores["gsm8k/accuracy"].stderr) == (None, None)


def test_a_rate_that_methods_share_was_not_tuned(read):
    rows = read(**{
        name: published(name, 0.4, peft_type=name, rate=rate)
        for name, rate in (("LORA", 1e-4), ("VERA", 1e-4), ("IA3", 1e-4), ("PREFIX", 1e-3))
    })  # fmt: skip
    assert any("3 of 4 rows share 1e-4" in line for line in external.remarks(rows))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="PEFT's published rows are not on this machine")
def test_eight_of_the_twelve_published_rows_share_one_rate():
    rows, problems = external.read_peft(PUBLISHED)
    assert (len(rows), problems) == (12, [])
    lines = external.remarks(rows)
    assert any("8 of 12 rows share 1e-4" in line for line in lines)
    assert any(line.startswith("ln_tuning") and "0 of 1,319" in line for line in lines)
    assert {"LORA", "LORA (DoRA)", "LORA (rsLoRA)", "full"} <= {one.method for one in rows}
