"""A page names evaluations in bfloat16, and what it would change of the others; a table holds one precision."""

import dataclasses

from harness.records import record
from harness.report.analysis import remarks
from harness.report.analysis.comparable import check
from harness.report.data.groups import grouped
from harness.report.data.load import load
from tests.report.conftest import BASE, DORA, LOOKS, LORA, add_evaluation, add_run

ROUNDED = tuple(dataclasses.replace(look, precision="bf16") for look in LOOKS)
EXACT = tuple(dataclasses.replace(look, train_precision="bf16") for look in LOOKS)


def groups(runs, looks, loss_in_bf16=None):
    for kind, own in looks:
        folder = add_run(runs, kind)
        for look in own:
            path = add_evaluation(folder, kind, look)
            if look.role == "validation" and loss_in_bf16:
                found = record.read(record.EvaluationRecord, path)
                value = found.metrics["loss"].value + loss_in_bf16[kind.name]
                added = {**found.provenance, remarks.LOSS_IN_BF16: value}
                record.write(dataclasses.replace(found, provenance=added), path)
    return grouped(load([runs]).rows)


def test_nothing_is_said_where_training_and_evaluation_are_in_float32(tmp_path):
    assert remarks.precision_remarks(groups(tmp_path, [(BASE, LOOKS), (LORA, LOOKS)])) == []


def test_evaluations_from_before_the_setting_are_named_as_rounded(tmp_path):
    [line] = remarks.precision_remarks(groups(tmp_path, [(BASE, ROUNDED), (LORA, ROUNDED), (DORA, EXACT)]))
    assert line.startswith("Evaluated in BF16: LoRA. Rounding cancels")


def test_the_change_by_bfloat16_is_given_for_each_method(tmp_path):
    changes = {"base": 0.02, "lora": 0.1693, "dora": -0.0121}
    found = groups(tmp_path, [(BASE, EXACT), (LORA, EXACT), (DORA, EXACT)], changes)
    [line] = remarks.precision_remarks(found)
    assert line.endswith("would change (in nats) by \N{MINUS SIGN}0.0121 (DoRA), +0.1693 (LoRA).")


def test_two_precisions_make_no_table(tmp_path):
    found = groups(tmp_path, [(BASE, ROUNDED), (LORA, ROUNDED), (DORA, EXACT)])
    refused = {difference.key for difference in check(found, ("method", "train.precision")).refused}
    assert refused == {"eval.precision", "eval.train_precision"}
    assert not check(found, ("method", "eval.precision")).refused
