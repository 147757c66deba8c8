"""Several processes that train one run together give what one gives, up to rounding; here two, on the processor."""

import dataclasses

import pytest
import torch
from hydra.errors import ConfigCompositionException
from launched import BELONGS, shared, weights

from harness.train import distributed
from harness.train.batches import NO_ROW, LengthGroupedSampler, Shared
from harness.train.loop import DivergedError, train
from harness.train.resume import Checkpoints
from harness.train.signals import PreemptedError


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("number_of_rows", [17, 20])
def test_two_processes_give_what_one_gives(job, rows, method, number_of_rows):
    """Over two epochs whose last batch is short: of 17 rows one is left, and the other process has none."""
    make = lambda: job(method=method, rows=rows(number_of_rows), max_steps=6, micro_batch_size=2, lr=1e-3, eval_every=3)  # noqa: E731
    own = make()
    expected, after = train(own), weights(own)
    found, together = shared(make)
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)
    assert found.validation == expected.validation
    for name in ("learning_rates", "real_tokens", "trained_tokens", "sequences"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.profile.flops == pytest.approx(expected.profile.flops, rel=0.02)
    assert sorted(found.profile.micro_batches) == sorted(expected.profile.micro_batches)
    assert all(torch.allclose(together[name], after[name], atol=1e-6) for name in after)


class AttemptLog:
    def __init__(self, looks):
        self.looks = looks

    def __call__(self):
        self.looks -= 1
        return self.looks == 0


def test_several_processes_go_on_to_the_bit(job, rows, tmp_path):
    """Each draws dropout of its own, and counts of its own; the first one alone is told to end."""
    settings = {"rows": rows(17), "max_steps": 5, "micro_batch_size": 2, "lr": 1e-3}
    make = lambda: job("method.lora_dropout=0.3", **settings)  # noqa: E731
    expected, after = shared(make)
    checkpoints = Checkpoints(folder=tmp_path / "checkpoint", of=BELONGS, every_seconds=None)
    stopped = lambda: dataclasses.replace(make(), checkpoints=dataclasses.replace(checkpoints, requested=told))  # noqa: E731
    told = lambda: distributed.rank() == 0 and once()  # noqa: E731
    once = AttemptLog(2)
    with pytest.raises(PreemptedError):
        shared(stopped)
    found, again = shared(lambda: dataclasses.replace(make(), checkpoints=checkpoints))
    for name in ("losses", "gradient_norms", "real_tokens", "padded_tokens", "trained_tokens", "sequences", "profile"):
        assert getattr(found, name) == getattr(expected, name), name
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_what_the_first_one_says_is_said_alone(job):
    settings = {"divergence_factor": "null", "lr_scheduler_type": "constant_with_warmup", "max_steps": 30}
    make = lambda: job(lr=1e9, micro_batch_size=2, **settings)  # noqa: E731
    with pytest.raises(DivergedError, match="step"):
        shared(make)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 11, 12, 13, 30])
def test_together_they_take_every_row_once_and_as_many_batches(number, length):
    order = list(LengthGroupedSampler([5] * length, 12, 0, grouped=True))
    parts = [
        Shared(LengthGroupedSampler([5] * length, 12, 0, grouped=True), rank, number, 12, 2) for rank in range(number)
    ]
    taken = [list(part) for part in parts]
    assert {len(batches) for batches in taken} == {len(part) for part in parts} == {len(taken[0])}
    rows = [row for batches in taken for batch in batches for row in batch if row != NO_ROW]
    assert sorted(rows) == sorted(order)
    first = [row for batches in taken for batch in batches[: 6 // number] for row in batch if row != NO_ROW]
    assert sorted(first) == sorted(order[:12]), "a global batch is the same"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["launch.num_processes=3"], "size=8 x launch.num_processes=3.*choose another number of"),
        (["launch.num_processes=2"], "not a multiple of .* x launch.num_processes=2.*choose train.micro_batch_size=4"),
        (["method.layerwise=true", "launch.num_processes=2"], "cannot share gradients; use one process"),
        (["launch.num_processes=0"], "launch.num_processes=0: must be greater than or equal to 1"),
        (["launch.processes=2"], "launch.processes"),
    ],
)
def test_what_cannot_be_shared_is_refused_when_it_is_composed(experiment, words, text):
    with pytest.raises((ValueError, ConfigCompositionException), match=text):
        experiment(*words, method="galore")


def test_the_number_of_processes_is_no_part_of_a_recipe(experiment):
    one, two = (experiment(f"launch.num_processes={number}", micro_batch_size=4) for number in (1, 2))
    assert one.recipe_id == two.recipe_id


def test_the_memory_on_a_card_is_noted_before_the_rank_selects_it(monkeypatch):
    """Selecting a device makes CUDA's context there, which is part of what the run needs."""
    calls = []
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: calls.append(("selected", index)))
    monkeypatch.setattr(distributed.nvml, "note_baseline", lambda: calls.append("noted"))
    monkeypatch.setattr(distributed, "connect", lambda: (_ for _ in ()).throw(ConnectionError("nobody there")))
    with pytest.raises(ConnectionError), distributed.group():
        pass
    assert calls == ["noted", ("selected", 1)]
