"""What is looked at on the way: a profiled step, windows, divergence, early stopping; none of it moves a weight."""

import dataclasses

import pytest
import torch

from harness.measure.operations import KINDS
from harness.records.events import StepLogged, Validated
from harness.train.loop import DivergedError, train


def weights(job):
    return {name: p.detach().clone() for name, p in job.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("lora", {"micro_batch_size": 4}),
        ("full", {"gradient_checkpointing": "true"}),
        ("qlora", {"precision": "bf16"}),
        ("prefix", {}),
    ],
)
def test_a_profiled_step_changes_no_number(job, method, settings):
    found = []
    for profile in (True, False):
        made = dataclasses.replace(job(method=method, **settings), profile=profile)
        found.append((train(made), weights(made)))
    (profiled, after), (plain, expected) = found
    assert (profiled.losses, profiled.gradient_norms) == (plain.losses, plain.gradient_norms)
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert plain.profile is None
    assert plain.flops_per_second is None
    profile = profiled.profile
    assert profile.step == 2
    assert sum(rows for rows, _ in profile.micro_batches) == 8
    assert sum(rows * tokens for rows, tokens in profile.micro_batches) == profiled.padded_tokens[1]
    assert set(profile.live_bytes) == set(KINDS)
    assert sum(profile.live_bytes.values()) == profile.live_peak_bytes > 0
    assert profile.live_bytes["weights"] > 0
    assert profile.live_bytes["activations"] > 0
    positions, seconds = sum(profiled.padded_tokens[2:]), sum(profiled.step_seconds[2:])
    expected_rate = profile.flops / profiled.padded_tokens[1] * positions / seconds
    assert profiled.flops_per_second == pytest.approx(expected_rate)


def test_the_profile_is_what_the_model_needs(job):
    """Weights and both moments to the byte; operations as 6 per parameter and token, less what has no gradient."""
    made = job(method="full", max_steps=3)
    trained = sum(p.numel() for p in made.model.parameters() if p.requires_grad)
    held = sum(t.untyped_storage().nbytes() for t in [*made.model.parameters(), *made.model.buffers()])
    profile = train(made).profile
    assert profile.live_bytes["weights"] == held
    assert 8 * trained <= profile.live_bytes["optimizer"] <= 8 * trained + 4 * 100
    lora, checkpointed = (
        train(job(max_steps=2, method=method, gradient_checkpointing=again)).profile
        for method, again in (("lora", "false"), ("full", "true"))
    )
    assert lora.flops < profile.flops < checkpointed.flops


def test_rows_are_counted_with_the_tokens(job, rows):
    result = train(job(rows=rows(18), max_steps=6, micro_batch_size=4))
    assert result.sequences == (8, 8, 2, 8, 8, 2)


def test_windows_change_no_number_and_name_the_step_that_diverged(job, monkeypatch):
    plain = train(job(max_steps=7, eval_every=3))
    from harness.train import callback

    class Windowed(callback.TrainingMonitor):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self._window = 4

    monkeypatch.setattr("harness.train.loop.TrainingMonitor", Windowed)
    events = []
    windowed = train(job(max_steps=7, eval_every=3, emit=events.append))
    assert (windowed.losses, windowed.validation) == (plain.losses, plain.validation)
    steps = [event.done for event in events if isinstance(event, StepLogged)]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    validations = [(event.step, event.loss) for event in events if isinstance(event, Validated)]
    assert tuple(validations) == windowed.validation
    with pytest.raises(DivergedError, match=r"^step [2-4]: loss "):
        train(job(method="full", lr=1e30, lr_scheduler_type="constant", warmup_steps=0.0, max_steps=6))


def test_a_loss_that_leaves_for_good_ends_the_run(job):
    settings = {"method": "full", "lr": 0.3, "lr_scheduler_type": "constant", "warmup_steps": 0.0, "max_steps": 30}
    with pytest.raises(DivergedError, match=r"^step \d+: loss .* for 2 steps above 1\.5 times the first loss"):
        train(job(**settings, divergence_factor=1.5, divergence_steps=2))
    assert len(train(job(**settings, divergence_factor="null")).losses) == 30


def test_early_stopping_keeps_the_weights_of_the_lowest_validation_loss(job):
    curve = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    made = job(
        validate=lambda: next(curve), eval_every=2, patience=2, max_steps=12, lr_scheduler_type="constant_with_warmup"
    )
    result = train(made)
    assert (result.stopped_early_at, result.kept_step) == (8, 4)
    assert result.validation == ((2, 3.0), (4, 2.0), (6, 2.5), (8, 2.6))
    assert len(result.losses) == len(result.step_seconds) == 8
    assert result.overfitted is False, "what was learnt after the step that is kept is not in the weights"


def test_patience_that_does_not_run_out_still_keeps_the_lowest(job):
    curve = iter([3.0, 2.0, 2.5])
    snapshots = {}
    made = {}

    def validate():
        loss = next(curve)
        snapshots[loss] = weights(made["job"])
        return loss

    made["job"] = job(validate=validate, eval_every=2, patience=5, max_steps=6)
    result = train(made["job"])
    assert (result.stopped_early_at, result.kept_step) == (None, 4)
    after = weights(made["job"])
    assert all(torch.equal(after[name], snapshots[2.0][name]) for name in after)
    assert any(not torch.equal(after[name], snapshots[2.5][name]) for name in after)


def test_a_run_that_overfits_is_flagged(job):
    curve = iter([2.0, 2.5])
    result = train(job(validate=lambda: next(curve), eval_every=4, max_steps=8, lr=3e-2, warmup_steps=0.0))
    assert sum(result.losses[4:]) < sum(result.losses[:4])
    assert result.overfitted is True
    assert result.kept_step is None
    assert train(job()).overfitted is None


@pytest.mark.parametrize("wrong", [{"patience": 2}, {"divergence_factor": 1.0}, {"divergence_steps": 0}])
def test_settings_that_mean_nothing_are_refused(experiment, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        experiment(**wrong)


def test_a_schedule_that_ends_with_the_steps_cannot_be_cut_short(experiment):
    with pytest.raises(ValueError, match=r"train\.patience=1 with method=adalora"):
        experiment(method="adalora", eval_every=2, patience=1)
