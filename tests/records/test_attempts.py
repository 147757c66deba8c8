"""Measurements of a run over its attempts, of which each records what happened in it alone."""

import dataclasses

import pytest
from test_record import BLANK, COUNTS, FINGERPRINT, TRAINING, attempt, run_record

from harness.records.record import Phase

FIRST, SECOND, THIRD = (f"2026-01-0{day}T00:00:00.000+00:00" for day in (1, 2, 3))
LOAD, TRAIN, SCORE = (
    Phase(seconds=s, peak_memory_bytes=1, peak_reserved_bytes=None, resident_bytes=1) for s in (1, 2, 3)
)
TRAINED = attempt(
    started_at=FIRST, weights_from=FIRST, phases={"load": LOAD, "train": TRAIN}, peak_memory_bytes=7,
    required_memory_bytes=8, summed_peak_memory_bytes=14, micro_batch_size=2, gradient_checkpointing=True,
    max_length=64, ended_in="evaluate",
)  # fmt: skip
EVALUATED = dataclasses.replace(
    BLANK, started_at=SECOND, status="ok", weights_from=FIRST, phases={"load": TRAIN, "evaluate": SCORE},
    peak_memory_bytes=3, required_memory_bytes=3,
)  # fmt: skip
REPEATING = dataclasses.replace(  # as attempts that only evaluate were recorded before
    TRAINED, started_at=SECOND, phases={"load": LOAD, "train": TRAIN, "evaluate": SCORE}, summed_peak_memory_bytes=None
)
PARTS = (
    "phases", "training", "data", "fingerprint", "peak_memory_bytes", "required_memory_bytes", "micro_batch_size",
    "gradient_checkpointing", "max_length", "status", "reason", "started_at",
)  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_an_evaluation_has_the_measurements_of_the_training_as_if_it_repeated_them(part):
    found, before = (run_record(TRAINED, later).measured for later in (EVALUATED, REPEATING))
    assert getattr(found, part) == getattr(before, part)


def test_the_attempt_that_trained_is_found_and_the_last_one_keeps_its_own():
    run = run_record(TRAINED, EVALUATED)
    assert (run.trained_by, run.current) == (TRAINED, EVALUATED)
    assert (run.training, run.peak_memory_bytes) == (TRAINING, 7)
    assert (run.current.training, run.measured.summed_peak_memory_bytes) == (None, 14)


def test_an_attempt_alone_is_measured_as_it_is():
    for one in (TRAINED, REPEATING, dataclasses.replace(EVALUATED, weights_from=None), BLANK):
        assert run_record(one).measured == one
    assert run_record(BLANK).trained_by is None


@pytest.mark.parametrize(("peak", "expected"), [(9, 9), (5, 7), (None, 7)])
def test_the_peak_of_a_training_is_the_highest_of_the_attempts_that_it_took(peak, expected):
    too_large = attempt(started_at=FIRST, status="oom", training=None, weights_from=None, peak_memory_bytes=99)
    begun = attempt(started_at=FIRST, status="failed", training=None, weights_from=None, ended_in="train")
    lost = dataclasses.replace(BLANK, started_at=SECOND, ended_in="load")
    ended = attempt(started_at=THIRD, weights_from=THIRD, resumed_at_step=3, peak_memory_bytes=peak)
    assert run_record(too_large, begun, lost, ended).peak_memory_bytes == expected
    anew = dataclasses.replace(ended, resumed_at_step=None)
    assert run_record(too_large, begun, anew).peak_memory_bytes == peak


def test_an_untrained_model_has_the_data_of_an_earlier_attempt_and_a_training_has_not():
    looked = attempt(weights_from=None, training=None)
    for recipe, data, counted in (({"train": None}, COUNTS, FINGERPRINT), ({"train": {"lr": 1.0}}, None, None)):
        run = dataclasses.replace(run_record(looked, BLANK), recipe=recipe)
        assert (run.measured.data, run.measured.fingerprint) == (data, counted)
