"""The flat table, as CSV, Parquet and a frame: exactly the promised columns, raw numbers, empty for unknown."""

import csv
import dataclasses
import io
import json

import pytest
from pyarrow import parquet

from harness.report import frame
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.pages import report
from harness.report.writers.flat import columns, flat, of_one_type, to_csv, write_parquet
from tests.report.conftest import BASE, DORA, LOOKS, LORA, TASK_ITEMS, add_evaluation, add_run, evaluation

IDENTITY = ["label", "method", "model", "data", "learning_rate"]
FIXED = [
    "seed", "status", "reason", "recipe_id", "trainable_parameters", "total_parameters", "peak_memory_bytes",
    "tokens_per_second", "train_seconds", "flops_per_second", "mfu", "train_energy_joules", "device_hours",
    "tuning_device_hours", "cost", "timing_warnings", "validation_loss", "validation_loss_stderr", "validation/n",
    "test_loss", "test_loss_stderr", "test/n",
]  # fmt: skip


def task_columns(task, *metrics):
    return [f"{task}/{name}" for metric in metrics or ("acc", "acc_norm") for name in (metric, f"{metric}_stderr")] + [
        f"{task}/n"
    ]


def test_the_columns_are_the_promised_ones(tree):
    text = to_csv(load([tree], "methods").rows)
    header = next(csv.reader(io.StringIO(text)))
    settings = ["method.r", "method.lora_alpha", "method.target"]
    assert header == [*IDENTITY, *settings, *FIXED, *task_columns("arc_easy"), *task_columns("hellaswag")]
    assert len(list(csv.DictReader(io.StringIO(text)))) == 9


def test_numbers_are_raw_and_unknown_is_empty(tree):
    rows = list(csv.DictReader(io.StringIO(to_csv(load([tree], "methods").rows))))
    lora, full, vera = rows[1], rows[5], rows[8]
    assert (lora["peak_memory_bytes"], lora["trainable_parameters"]) == (str(1400 * 2**20), "4884480")
    assert float(lora["tokens_per_second"]) == 185.0
    assert (full["status"], full["train_seconds"], full["test_loss"]) == ("oom", "", "")
    assert (vera["status"], vera["reason"][:9]) == ("", "no record")
    assert rows[6]["reason"].startswith("</td><script>")
    assert rows[0]["train_seconds"] == ""


def test_a_limit_is_named_only_where_one_task_has_several(runs):
    folder = add_run(runs, LORA)
    add_evaluation(folder, LORA, evaluation("hellaswag"))
    add_evaluation(folder, LORA, evaluation("arc_easy"))
    fixed = len(IDENTITY) + len(FIXED)
    assert columns(load([runs]).rows)[fixed:] == (*task_columns("arc_easy"), *task_columns("hellaswag"))
    add_evaluation(folder, LORA, evaluation("arc_easy", limit=50))
    assert columns(load([runs]).rows)[fixed:] == (
        *task_columns("arc_easy[limit=50]"), *task_columns("arc_easy[limit=300]"), *task_columns("hellaswag"),
    )  # fmt: skip


def test_every_row_of_a_sweep_is_told_apart_by_typed_columns(runs, tmp_path):
    """A notebook needs no JSON: rank, rate, model and data are columns, and the base has no settings."""
    kinds = [
        dataclasses.replace(kind, settings={**kind.settings, "r": r}, lr=lr)
        for kind in (LORA, DORA)
        for r in (4, 64)
        for lr in (1e-4, 3e-4)
    ]
    add_run(runs, BASE)
    for kind in kinds:
        add_evaluation(add_run(runs, kind), kind, LOOKS[2])
    rows = load([runs]).rows
    table = flat(rows)
    assert columns(rows)[: len(IDENTITY) + 1] == (*IDENTITY, "method.r")
    identities = {(line["method"], line["method.r"], line["learning_rate"]) for line in table}
    assert identities == {("base", None, None), *((kind.name, kind.settings["r"], kind.lr) for kind in kinds)}
    assert {(line["model"], line["data"]) for line in table} == {("smollm2-135m", None), ("smollm2-135m", "science_qa")}
    assert len({line["label"] for line in table}) == 9
    scored = [line for line in table if line["method"] != "base"]
    for line in scored:
        score = line["arc_easy/acc"]
        assert line["arc_easy/n"] == 300
        assert line["arc_easy/acc_stderr"] == pytest.approx((score * (1 - score) / 299) ** 0.5)
    written = parquet.read_table(write_parquet(rows, tmp_path / "records.parquet"))
    assert str(written.schema.field("method.r").type) == "int64"
    assert str(written.schema.field("arc_easy/n").type) == "int64"


def test_settings_of_several_types_and_lists_are_kept(runs, tmp_path):
    values = ["all_linear", ["q_proj", "v_proj"], True, 8, 0.5, None]
    for i, value in enumerate(values):
        add_run(runs, dataclasses.replace(LORA, lr=1e-4 * (i + 1), settings={"target": value}))
    rows = load([runs]).rows
    cells = {line["learning_rate"]: line["method.target"] for line in flat(rows)}
    expected = ["all_linear", '["q_proj", "v_proj"]', True, 8, 0.5, None]
    assert [cells[1e-4 * (i + 1)] for i in range(len(values))] == expected
    table = parquet.read_table(write_parquet(rows, tmp_path / "records.parquet"))
    read_back = dict(zip(table["learning_rate"].to_pylist(), table["method.target"].to_pylist(), strict=True))
    texts = ["all_linear", '["q_proj", "v_proj"]', "true", "8", "0.5", None]
    assert [read_back[1e-4 * (i + 1)] for i in range(len(values))] == texts


def test_a_column_has_one_type_and_whole_numbers_are_numbers():
    assert of_one_type([1, 0.5, None]) == [1, 0.5, None]
    assert of_one_type([True, None, False]) == [True, None, False]
    assert of_one_type([True, 2]) == ["true", "2"]
    assert of_one_type(["pissa", True, None, 3]) == ["pissa", "true", None, "3"]
    assert of_one_type([None, None]) == [None, None]


def test_rows_that_differ_in_few_shot_say_so(runs):
    folder = add_run(runs, BASE)
    for look in (*LOOKS, evaluation("arc_easy", num_fewshot=5)):
        add_evaluation(folder, BASE, look)
    table = flat(load([runs]).rows)
    assert [row["arc_easy/num_fewshot"] for row in table] == [5, 0]
    assert [row["hellaswag/acc"] is None for row in table] == [True, False]
    assert table[0]["validation_loss"] == table[1]["validation_loss"] is not None


def test_parquet_holds_the_flat_table_with_its_types(tree, tmp_path):
    rows = load([tree], "methods").rows
    table = parquet.read_table(write_parquet(rows, tmp_path / "records.parquet"))
    assert table.column_names[:5] == IDENTITY
    assert table.num_rows == 9
    for name in columns(rows):
        assert table[name].to_pylist() == [line[name] for line in flat(rows)], name
    assert json.loads(table["recipe"][1].as_py()) == rows[1].record.recipe
    assert str(table.schema.field("peak_memory_bytes").type) == "int64"


def test_a_frame_has_one_row_per_run(tree):
    found = frame(tree, "methods")
    assert len(found) == 9
    assert found.loc[1, "label"] == "lora lr=3e-4"
    assert found["train_seconds"].isna().tolist() == [True, False, False, False, False, True, True, True, True]
    assert found.groupby("method")["arc_easy/acc"].mean()["ia3"] == pytest.approx(found.loc[4, "arc_easy/acc"])


def test_a_frame_has_one_row_per_run_and_item(tree):
    found = frame([str(tree)], "methods", items=True)
    assert len(found) == 5 * sum(TASK_ITEMS.values())
    assert not found.duplicated(["recipe_id", "seed", "eval_id", "item_id"]).any()
    runs = frame(tree, "methods").set_index(["recipe_id", "seed"])
    scores = found[found["task"] == "arc_easy"].groupby(["recipe_id", "seed"])["metric/acc"].mean()
    assert len(scores) == 5
    for run, value in scores.items():
        assert runs.loc[run, "arc_easy/acc"] == pytest.approx(value)
    losses = found[found["role"] == "test"].groupby(["recipe_id", "seed"])[["metric/nll", "num_tokens"]].sum()
    for run, line in losses.iterrows():
        assert runs.loc[run, "test_loss"] == pytest.approx(line["metric/nll"] / line["num_tokens"])


def test_a_frame_names_what_could_not_be_read(runs):
    items = add_evaluation(add_run(runs, LORA), LORA, LOOKS[2]).with_suffix(".parquet")
    items.write_bytes(b"PAR1")
    found = frame(runs, items=True)
    assert found.empty
    assert found.attrs["unreadable"][0].startswith(items.relative_to(runs).as_posix())


def test_methods_stand_in_one_order_in_every_table_of_a_report(tree):
    comparison = Comparison(load([tree], "methods"))
    [main] = [table for section in report.body(comparison) for table in section.tables if table.label == "main"]
    order = [cell.key for cell in main.cells("method")]
    tables = [table for section in report.details(comparison) for table in section.tables]
    named = {table.label: [cell.key for cell in table.cells("method")] for table in tables if "method" in table.keys}
    assert {"losses", "cost", "compute", "seeds", "task_arc_easy", "pairs"} <= {*named}
    untested = order[0]  # the base model, which the tables of pairs name last
    for label, keys in named.items():
        listed = [key for key in dict.fromkeys(keys) if key in order and (label != "pairs" or key != untested)]
        assert listed == [key for key in order if key in listed], label
    [settings] = [table for table in tables if table.label == "hyperparameters"]
    assert [key for key in order if key in settings.keys] == [*settings.keys[1:]]
