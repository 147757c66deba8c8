"""Scores without contaminated items, and examples of answers, against the files of the items themselves."""

import dataclasses
import json
from hashlib import sha256

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from harness.records import data_check, record
from harness.report import write
from harness.report.analysis import contamination, multiverse
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.pages import examples, protocol
from tests.report.conftest import BASE, DORA, LORA, add_evaluation, add_run, evaluation, plain_text, shown

SEEDS = (0, 1)
CHECK = "c0ffee00"
LEFT_OUT = (3, 17, 40, 41, 299)
ITEMS = 300


def _check(**fields):
    overlap = data_check.Overlap(
        name="arc_easy", items=ITEMS, items_without_words=0, items_found=len(LEFT_OUT), train_rows_found=4,
        examples=(), found_ids=tuple(f"arc_easy:{number}" for number in LEFT_OUT),
    )  # fmt: skip
    near = data_check.Near(threshold=0.7, rows_looked_at=9, rows=9, found=0, across_validation=0, examples=())
    return data_check.DataCheck(
        schema=record.SCHEMA, check_id=CHECK, data="science_qa", content="5a5a5a5a", model="smollm2-135m",
        data_license=None, model_license=None, sources=(), given_rows=9, train_rows=9, validation_rows=1, test_rows=1,
        removed={}, problems=(), contradictions=(0, 0), near=near, ngram=13, shortest_ngram=5, lengths=(),
        overlaps=(dataclasses.replace(overlap, **fields),), tokenizer={}, notices=(), refusals=(), template=None,
        balance=data_check.Balance(answers=9, most_common=(), topics=()), loss_on="completion",
    )  # fmt: skip


def _named(path, name):
    """Give the items the ids of lm-eval's, and texts."""
    columns = parquet.read_table(path).to_pydict()
    count = len(columns["item_id"])
    columns["item_id"] = [f"arc_easy:{sha256(str(i).encode()).hexdigest()}:{i}" for i in range(count)]
    columns["question"] = [f"Question number {i}?" for i in range(count)]
    columns["target"] = [f"truth {i}" for i in range(count)]
    columns["answer"] = [f"{name} says {i}" for i in range(count)]
    parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def planted(runs):
    """Two methods with two seeds, of whose training rows five items of ARC-Easy are found."""
    look = evaluation("arc_easy", limit=ITEMS)
    for kind in (BASE, LORA, DORA):
        for seed in SEEDS if kind is not BASE else SEEDS[:1]:
            folder = add_run(runs, kind, seed)
            _named(add_evaluation(folder, kind, look, seed).with_suffix(".parquet"), kind.name)
            if kind is not BASE:
                path = folder / "record.json"
                run = json.loads(path.read_text())
                run["attempts"][-1]["data"]["check"] = CHECK
                record.write_text(json.dumps(run), path)
    record.write(_check(), data_check.path(runs, CHECK))
    return runs


def _scores(runs):
    """Return method -> (score on all items, score on the clean ones), in percent, from the files alone."""
    by_method = {}
    for path in runs.glob("*/seed-*/evaluations/*.parquet"):
        method = json.loads((path.parents[1] / "record.json").read_text())["method"]
        columns = parquet.read_table(path).to_pydict()
        clean = [int(item.split(":")[2]) not in LEFT_OUT for item in columns["item_id"]]
        right = np.array(columns["metric/acc"])
        by_method.setdefault(method, []).append((right.mean(), right[clean].mean()))
    return {method: 100 * np.mean(pairs, axis=0) for method, pairs in by_method.items()}


def test_scores_without_contaminated_items_are_those_of_the_other_items(planted):
    comparison = Comparison(load([planted]))
    table = contamination.table(comparison)
    assert [plain_text(column.heading) for column in table.columns[1:]] == [
        "ARC-e, 295 of 300 items (%) \N{UPWARDS ARROW}", "Change (points)",
    ]  # fmt: skip
    expected = _scores(planted)
    lines = {row["method"]: row for row in table.records()}
    assert lines.keys() == expected.keys() == {"base", "lora", "dora"}
    for method, (whole, clean) in expected.items():
        assert 100 * lines[method]["arc_easy/acc"] == pytest.approx(clean)
        assert 100 * lines[method]["arc_easy/acc/change"] == pytest.approx(clean - whole)
    most = max(abs(clean - whole) for method, (whole, clean) in expected.items() if method != "base")
    [line] = contamination.lines(comparison)
    assert plain_text(line) == (
        "5 of 300 evaluated items of ARC-Easy occur in the training rows. Without them no score of a method changes by "
        f"more than {most:.1f} points."
    )


def test_the_report_says_what_contamination_is_worth_and_tests_the_verdicts_without_it(planted, tmp_path):
    page = write(planted, out=tmp_path / "report").read_text()
    body, behind = page.split("## Details")
    assert "5 of 300 evaluated items of ARC-Easy occur in the training rows." in body.split("## Limitations")[1]
    assert "<summary>Contamination</summary>" in behind
    assert (tmp_path / "report/tables/contamination.tex").is_file()
    names = [
        outcome.name
        for contest in Comparison(load([planted])).contests
        for outcome in multiverse._outcomes(contest, Comparison(load([planted])))
    ]
    assert names[:2] == ["ARC-Easy", "ARC-Easy without contaminated items"]


def test_another_best_method_without_contaminated_items_is_named(planted):
    """LoRA is right on 100 items, of which four were trained on; DoRA on 97 others."""
    for path in planted.glob("*/seed-*/evaluations/*.parquet"):
        method = json.loads((path.parents[1] / "record.json").read_text())["method"]
        columns = parquet.read_table(path).to_pydict()
        numbers = [int(item.split(":")[2]) for item in columns["item_id"]]
        first, last = {"base": (0, 80), "lora": (0, 100), "dora": (100, 197)}[method]
        columns["metric/acc"] = [float(first <= number < last) for number in numbers]
        parquet.write_table(pyarrow.table(columns), path)
        found = record.read(record.EvaluationRecord, path.with_suffix(".json"))
        score = dataclasses.replace(found.metrics["acc"], value=float(np.mean(columns["metric/acc"])))
        record.write(dataclasses.replace(found, metrics={"acc": score}), path.with_suffix(".json"))
    [line] = contamination.lines(Comparison(load([planted])))
    assert line.endswith("; DoRA is then best, not LoRA."), line


def test_an_older_check_that_names_no_items_is_said_to_name_none(planted):
    record.write(_check(found_ids=None), data_check.path(planted, CHECK))
    comparison = Comparison(load([planted]))
    assert contamination.table(comparison) is None
    [line] = contamination.lines(comparison)
    assert "5 of 300 items of ARC-Easy occur in the training rows; which ones is not recorded" in line


def test_clean_data_have_no_section(planted):
    record.write(_check(items_found=0, found_ids=()), data_check.path(planted, CHECK))
    comparison = Comparison(load([planted]))
    assert contamination.table(comparison) is None and contamination.lines(comparison) == []


def test_examples_are_drawn_by_the_hash_of_their_ids(planted, tmp_path):
    rule, *tables = examples.blocks(Comparison(load([planted])))
    assert rule == examples.RULE
    ids = [f"arc_easy:{sha256(str(i).encode()).hexdigest()}:{i}" for i in range(ITEMS)]
    drawn = sorted(range(ITEMS), key=lambda i: sha256(ids[i].encode()).hexdigest())[: examples.MOST_ITEMS]
    assert len(tables) == len(drawn) == 3
    for table, number in zip(tables, drawn, strict=True):
        assert {line["Method"]: line["Text"] for line in shown(table)} == {
            "Question": f"Question number {number}?", "Reference": f"truth {number}",
            "Base model": f"base says {number}", "LoRA": f"lora says {number}", "DoRA": f"dora says {number}",
        }  # fmt: skip
    assert "<summary>Example answers</summary>" in write(planted, out=tmp_path / "report").read_text()


def test_records_without_texts_have_no_examples(tree):
    assert [*examples.blocks(Comparison(load([tree], "methods")))] == []


def test_energy_is_stated_or_said_to_be_unmeasured(planted):
    def stated():
        return "".join(map(str, protocol._compute(Comparison(load([planted])))[1]))

    assert "Energy and CO2 emissions were not measured." in stated()
    for path in planted.glob("*/seed-*/record.json"):
        run = json.loads(path.read_text())
        for phase in run["attempts"][-1]["phases"].values():
            phase["energy_joules"] = 1.8e6
        record.write_text(json.dumps(run), path)
    assert "Training used 2.00 kWh, as the devices measured it; CO2 emissions are not estimated." in stated()
