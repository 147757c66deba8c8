"""The work that a run lacks, from its state, without a disk."""

import dataclasses

import pytest

from harness.config import config
from harness.config.experiment import evaluations
from harness.run.state import RunState, inspect, work_left
from tests.records.test_record import BLANK, attempt, run_record

WHOLE = run_record(attempt())


@pytest.fixture
def make(compose, tiny_overrides, tmp_path):
    def made(*words):
        return config.build(compose(*tiny_overrides, f"runs_dir={tmp_path}", "method=lora", *words))

    return made


def of(experiment, found=WHOLE, has_weights=True, left_out=0):
    ids = [evaluation.eval_id for evaluation in evaluations(experiment)]
    return RunState(found, has_weights, frozenset(ids[left_out:]))


def test_a_run_without_a_record_lacks_everything(make):
    experiment = make()
    assert inspect(experiment) == RunState(None)
    todo = work_left(experiment, RunState(None))
    assert (todo.train, todo.evaluations, todo.weights_from) == (True, evaluations(experiment), None)


def test_a_complete_run_lacks_nothing_unless_it_is_forced(make):
    assert work_left(make(), of(make())) is None
    assert work_left(make("force=true"), of(make())).train


def test_a_missing_evaluation_is_made_with_the_weights_that_are_there(make):
    experiment = make()
    todo = work_left(experiment, of(experiment, left_out=1))
    assert (todo.train, todo.evaluations) == (False, evaluations(experiment)[:1])
    assert todo.weights_from == WHOLE.current.weights_from


def test_lost_weights_are_made_again_unless_none_were_to_be_kept(make):
    experiment, kept_none = make(), dataclasses.replace(WHOLE, config={"keep": "none"})
    assert work_left(experiment, of(experiment, has_weights=False)).train
    assert work_left(experiment, of(experiment, kept_none, has_weights=False)) is None
    assert work_left(experiment, of(experiment, kept_none, has_weights=False, left_out=1)).train


@pytest.mark.parametrize("status", ["oom", "diverged"])
def test_a_result_without_weights_is_made_again_on_request_only(make, status):
    ended = run_record(dataclasses.replace(BLANK, status=status))
    assert work_left(make(), of(make(), ended, has_weights=False)) is None
    assert work_left(make(f"rerun=[{status}]"), of(make(), ended, has_weights=False)).train


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_what_has_no_result_is_tried_again(make, status):
    ended = run_record(dataclasses.replace(BLANK, status=status))
    assert work_left(make(), of(make(), ended, has_weights=False)).train


def test_an_attempt_that_failed_after_its_evaluations_has_only_to_end_well(make):
    failed = run_record(attempt(status="failed", reason="killed by SIGKILL"))
    todo = work_left(make(), of(make(), failed))
    assert (todo.train, todo.evaluations) == (False, ())
