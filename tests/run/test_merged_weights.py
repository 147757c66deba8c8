"""A run looked at with its update merged into the base: another row of the same run, with nothing trained twice."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from harness.config import config
from harness.config.experiment import evaluations
from harness.records import record
from harness.records.record import EvaluationRecord
from harness.report.data.groups import Measure, grouped
from harness.report.data.load import load
from harness.report.writers.flat import columns
from harness.run import inputs, run, state

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def make(compose, shared_overrides):
    """An experiment in a folder of this module's, ready to run."""
    words = shared_overrides()
    return lambda *more: inputs.resolve(config.build(compose(*words, *more)))


def loss(experiment):
    (look,) = evaluations(experiment)
    return record.read(EvaluationRecord, record.evaluation_path(experiment.folder, look.eval_id)).metrics["loss"].value


@pytest.fixture(scope="module")
def looked_at(make):
    """QLoRA with attached and with merged weights, beside the base model."""
    words = ["method=qlora", "method.r=4", "train.lr=1e-2", "train.max_steps=5"]
    attached, merged = (make(*words, f"eval.weights={weights}") for weights in ("attached", "merged"))
    for experiment in (make("method=base", "eval.weights=merged"), attached, merged):
        assert run.run(experiment, lambda _: None).status == "ok"
    return attached, merged


def test_the_merged_weights_are_another_look_at_the_same_run(looked_at):
    attached, merged = looked_at
    assert attached.folder == merged.folder
    kept = state.read(attached)
    assert [attempt.weights_from for attempt in kept.attempts] == [kept.attempts[0].started_at] * 2, "trained once"
    assert evaluations(merged)[0].eval_id == f"{evaluations(attached)[0].eval_id}-merged"
    assert state.done(attached) and state.done(merged)


def test_they_are_those_that_the_adapter_command_writes(looked_at):
    from harness.adapter import load as trained
    from harness.data import tokenized
    from harness.evaluate import heldout
    from harness.run.worker import wanted_tokens
    from harness.sources import models

    attached, merged = looked_at
    assert loss(merged) != loss(attached), "rounding the base away from its four bits changes something"
    assert loss(merged) == pytest.approx(loss(attached), abs=1e-2)
    rows = tokenized(attached.data, models.tokenizer(attached.model), wanted_tokens(attached)).validation[:8]
    by_hand = trained.merged(trained.find(attached.folder)).to(torch.float32)
    scores = heldout.score(by_hand, rows, "fp32", 2048, lambda _: None)
    assert loss(merged) == pytest.approx(heldout.metrics(scores)["loss"].value, abs=1e-5)


def test_a_run_may_be_asked_for_merged_weights_alone(looked_at, make, tmp_path):
    _, merged = looked_at
    alone = dataclasses.replace(merged, runs_dir=str(tmp_path))
    assert run.run(alone, lambda _: None).status == "ok"
    assert loss(alone) == pytest.approx(loss(merged), abs=1e-6)


def test_a_report_shows_both_and_compares_each_with_the_base(looked_at, tmp_path):
    attached, _ = looked_at
    runs = tmp_path / "runs"
    shutil.copytree(attached.runs_dir, runs)
    rows = load([runs]).rows
    assert [row.label for row in rows] == ["base", "qlora (attached)", "qlora (merged)"]
    assert columns(rows)[-1] == "weights"
    groups = grouped(rows)
    measure = Measure(evaluations(attached)[0].eval_id, "loss")
    gaps = [group.gain(measure) for group in groups[1:]]
    assert [gap.value for gap in gaps] == [pytest.approx(loss(e) - loss_of_base(groups)) for e in looked_at]


def loss_of_base(groups):
    (scored,) = (scores[0] for scores in groups[0].evaluations.values())
    return scored.record.metrics["loss"].value


def test_what_cannot_be_merged_is_refused_when_composed(make):
    with pytest.raises(
        ValueError, match=r"eval.weights=merged: method=prompt cannot be merged .*eval.weights=attached"
    ):
        make("method=prompt", "eval.weights=merged")
    (look,) = evaluations(make("method=base", "eval.weights=merged"))
    assert look.weights == "attached", "an untrained model has nothing to merge"
