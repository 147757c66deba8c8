"""Tokens and seconds against a count by hand."""

import time

import pytest
import torch

from harness.measure.steps import WARMUP_STEPS, StepMeter

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])  # 6 real of 8
LABELS = torch.tensor([[-100, -100, 7, 8], [-100, 9, -100, -100]])  # 3 trained


def step(meter, micro_batches=1, seconds=0.0):
    for _ in range(micro_batches):
        meter.micro_batch(MASK, LABELS)
    time.sleep(seconds)
    meter.end_step()
    meter.settle()
    return meter.result([], []).step_seconds[-1]


def test_tokens_are_summed_over_the_micro_batches_of_a_step():
    meter = StepMeter()
    meter.start()
    for micro_batches in (1, 3, 2):
        step(meter, micro_batches)
    result = meter.result([], [])
    assert result.real_tokens == (6, 18, 12)
    assert result.padded_tokens == (8, 24, 16)
    assert result.trained_tokens == (3, 9, 6)
    assert all(type(count) is int for count in result.real_tokens + result.padded_tokens + result.trained_tokens)


def test_the_first_steps_are_left_out_of_the_rate_and_of_nothing_else():
    meter = StepMeter()
    meter.start()
    seconds = [step(meter, 1, 0.1), step(meter, 1, 0.1), step(meter, 2, 0.02), step(meter, 1, 0.02)]
    assert WARMUP_STEPS == 2
    expected = (12 + 6) / (seconds[2] + seconds[3])
    assert meter.tokens_per_second() == pytest.approx(expected)
    result = meter.result([], [])
    assert result.tokens_per_second == pytest.approx(expected)
    assert result.warmup_steps_dropped == 2
    assert result.step_seconds == tuple(seconds)
    assert result.train_seconds == pytest.approx(sum(seconds))
    assert sum(seconds) >= 0.24


def test_there_is_no_rate_before_a_step_counts():
    meter = StepMeter()
    meter.start()
    assert meter.tokens_per_second() is None
    for _ in range(WARMUP_STEPS):
        step(meter)
        assert meter.tokens_per_second() is None
    assert meter.result([], []).tokens_per_second is None
    step(meter, 1, 0.001)
    assert meter.tokens_per_second() > 0


def test_a_pause_is_no_steps_time():
    meter = StepMeter()
    meter.start()
    step(meter)
    time.sleep(0.3)
    meter.start()
    assert step(meter) < 0.3
    assert meter.result([], []).train_seconds < 0.3


def test_micro_batches_of_a_step_that_did_not_end_are_not_counted():
    meter = StepMeter()
    meter.start()
    step(meter)
    meter.micro_batch(MASK, LABELS)
    assert meter.result([], []).real_tokens == (6,)


def test_histories_are_kept_as_they_are():
    history = [
        {"loss": 2.0, "grad_norm": 0.5, "learning_rate": 0.1},
        {"loss": 1.0, "grad_norm": 0.4, "learning_rate": 0.0},
    ]
    result = StepMeter().result(history, [(2, 1.5)])
    assert result.losses == (2.0, 1.0)
    assert result.gradient_norms == (0.5, 0.4)
    assert result.learning_rates == (0.1, 0.0)
    assert result.validation == ((2, 1.5),)
    assert result.train_seconds == 0
