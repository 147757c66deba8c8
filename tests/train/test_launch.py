"""A whole run with two processes: its record, and that nothing of it is left."""

import dataclasses
import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.config import config
from harness.records import record
from harness.records.events import Measured, PhaseStarted, StepLogged
from harness.records.record import EvaluationRecord
from harness.run import device_map, inputs, run, worker
from harness.run.outcome import ladder
from harness.train import distributed, launcher
from tests.train.hungry import HungryOnRank1


@pytest.fixture(scope="module")
def make(compose):
    return lambda *words: inputs.resolve(config.build(compose(*words)))


def ignore(event):
    pass


def test_a_run_of_two_processes_is_one_run(make, tiny_overrides):
    words = [*tiny_overrides, "method=lora", "train.micro_batch_size=2", "train.eval_every=2"]
    two = make(*words, "launch.num_processes=2")
    events = []
    found = run.run(two, events.append)
    assert found.status == "ok", found.current.reason
    assert found.current.provenance["num_processes"] == 2
    assert found.measured.summed_peak_memory_bytes >= found.peak_memory_bytes > 0
    phases = [event.name for event in events if isinstance(event, PhaseStarted)]
    assert phases == ["load", "train", "validate", "train", "evaluate", "validate"], "a look at step 2 of 3"
    assert [event.done for event in events if isinstance(event, StepLogged)] == [1, 2, 3]
    assert sorted(path.name for path in two.folder.iterdir() if path.is_dir()) == ["evaluations", "weights"]
    alone = run.run(dataclasses.replace(two, force=True, launch=config.LaunchSpec()), ignore)
    assert alone.measured.summed_peak_memory_bytes is None
    assert alone.training.losses == pytest.approx(found.training.losses, rel=1e-5)
    assert alone.training.trained_tokens == found.training.trained_tokens
    assert [loss for _, loss in alone.training.validation] == pytest.approx(
        [loss for _, loss in found.training.validation], rel=1e-5
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_whose_model_is_divided_is_saved_and_evaluated_whole(make, tiny_overrides, method):
    """What is evaluated has been read again from what was saved."""
    words = [*tiny_overrides, f"method={method}", "train.micro_batch_size=2", "train.eval_every=2", "keep=checkpoint"]
    divided = make(*words, "launch.num_processes=2", "launch.sharding=fsdp")
    found = run.run(divided, ignore)
    assert found.status == "ok", found.current.reason
    assert {key: found.current.provenance[key] for key in ("num_processes", "sharding")} == {
        "num_processes": 2, "sharding": "fsdp",
    }  # fmt: skip
    assert found.config["launch"] == {"num_processes": 2, "sharding": "fsdp", "num_nodes": 1}
    kept = [path.name for path in (divided.folder / "checkpoint.final").iterdir()]
    assert sorted(kept) == ["step-000000003.safetensors", "step-000000003.shards"]
    weights, scores = saved(divided), losses(divided)
    alone = run.run(dataclasses.replace(divided, force=True, launch=config.LaunchSpec()), ignore)
    assert alone.training.losses == pytest.approx(found.training.losses, rel=1e-5)
    assert alone.measured.fingerprint == found.measured.fingerprint
    expected = saved(divided)
    assert weights.keys() == expected.keys()
    assert all(torch.allclose(weights[name], expected[name], atol=1e-5) for name in expected)
    assert losses(divided) == pytest.approx(scores, rel=1e-4)
    assert [loss for _, loss in alone.training.validation] == pytest.approx(
        [loss for _, loss in found.training.validation], rel=1e-5
    )


def saved(experiment):
    return {name: t for file in experiment.weights_folder.glob("*.safetensors") for name, t in load_file(file).items()}


def losses(experiment):
    files = sorted(experiment.folder.glob("evaluations/*.json"))
    found = [record.read(EvaluationRecord, file).metrics["loss"].value for file in files]
    assert found
    return found


def is_killed_at_two(experiment, todo, emit):
    """The first attempt at a run, of which a process is killed once a checkpoint of two steps is there."""

    def watched(event):
        emit(event)
        if isinstance(event, Measured) and event.checkpoint_step == 2:
            ranks = sorted(process.pid for process in multiprocessing.active_children())
            os.kill([os.getpid(), *ranks][experiment.run_seed - 1], signal.SIGKILL)

    worker.execute(experiment, todo, emit if (experiment.folder / "record.json").exists() else watched)


@pytest.mark.parametrize(
    ("seed", "reason"),
    [
        (1, "killed by SIGKILL"),
        (2, r"RankError: rank 0: killed by SIGKILL \(in phase train at \d+ of 60\)"),
        (3, r"RankError: rank 1: killed by SIGKILL \(in phase train at \d+ of 60\)"),
    ],
)
def test_a_divided_run_goes_on_after_any_of_its_processes_is_killed(make, tiny_overrides, monkeypatch, seed, reason):
    words = [
        *tiny_overrides, f"seed={seed}", "method=full", "train.micro_batch_size=2", "train.checkpoint_seconds=0",
        "max_retries=1", "launch.num_processes=2", "launch.sharding=fsdp", "train.max_steps=60",
    ]  # fmt: skip
    asked = make(*words)  # it trains on until it is killed, long enough not to be at its end by then
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with monkeypatch.context() as patched:
        patched.setattr(run, "WORK", "test_launch:is_killed_at_two")
        found = run.run(asked, ignore)
    assert [attempt.status for attempt in found.attempts] == ["failed", "ok"], found.current.reason
    assert re.match(reason, found.attempts[0].reason)
    assert found.current.resumed_at_step >= 2
    weights = saved(asked)
    expected = run.run(dataclasses.replace(asked, force=True), ignore)
    assert expected.current.resumed_at_step is None
    assert found.training.losses == expected.training.losses
    assert weights.keys() == saved(asked).keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved(asked).items())


def test_memory_that_ran_out_on_another_rank_is_the_runs_and_smaller_micro_batches_follow(make, tiny_overrides):
    words = ["method=lora", "train.micro_batch_size=2", "launch.num_processes=2"]
    asked = make(*tiny_overrides, *words)
    asked = dataclasses.replace(asked, method=HungryOnRank1(room=1, **vars(asked.method)))
    found = run.run(asked, ignore)
    assert [(a.status, a.micro_batch_size) for a in found.attempts] == [("oom", 2), ("ok", 1)], found.attempts
    reason = found.attempts[0].reason
    assert reason.startswith("RankError: rank 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB in ")
    assert found.attempts[0].seconds < 30
    assert found.attempts[0].peak_memory_bytes > 0, "rank 0 has said what it took"


def is_killed_by_the_kernel_at_two(experiment, todo, emit):
    """`is_killed_at_two` where the kernel counts the kill as one for lack of memory."""
    counts = iter([0])
    launcher.out_of_memory_kills = lambda: next(counts, 1)
    is_killed_at_two(experiment, todo, emit)


def test_a_rank_that_the_kernel_has_killed_ran_out_of_memory(make, tiny_overrides, monkeypatch):
    words = [
        "seed=3",
        "method=lora",
        "train.micro_batch_size=2",
        "train.checkpoint_seconds=0",
        "launch.num_processes=2",
    ]
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(run, "WORK", "test_launch:is_killed_by_the_kernel_at_two")
    found = run.run(make(*tiny_overrides, *words), ignore)
    assert [(a.status, a.micro_batch_size) for a in found.attempts] == [("oom", 2), ("ok", 1)], found.attempts
    text = r"RankError: rank 1: killed by the kernel: out of memory in phase train at [23] of 3"
    assert re.fullmatch(text, found.attempts[0].reason), "rank 0 may have told of its next step before the kill"
    assert found.attempts[0].seconds < 30


def test_loaders_of_several_ranks_have_processes_of_their_own(make, tiny_overrides):
    words = [*tiny_overrides, "method=lora", "train.micro_batch_size=2", "train.dataloader_num_workers=1"]
    found = run.run(make(*words, "launch.num_processes=2"), ignore)
    assert found.status == "ok", found.current.reason


@pytest.mark.gpu
def test_a_model_is_divided_among_two_gpus(make, tiny_overrides):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    words = [*tiny_overrides, "method=lora", "train.micro_batch_size=2", "train.eval_every=2", "train.precision=bf16"]
    found = run.run(make(*words, "launch.num_processes=2", "launch.sharding=fsdp"), ignore)
    assert found.status == "ok", found.current.reason
    alone = run.run(make(*words, "force=true"), ignore)
    assert found.training.losses == pytest.approx(alone.training.losses, rel=1e-2)


@pytest.mark.gpu
def test_a_model_is_evaluated_over_two_gpus(make, tiny_overrides):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    words = [*tiny_overrides, "method=base"]
    one = make(*words)
    assert run.run(one, ignore).status == "ok"
    expected = losses(one)
    assert run.run(make(*words, "model.device_map=auto", "force=true"), ignore).status == "ok"
    assert losses(one) == pytest.approx(expected, rel=1e-4)


def test_the_ladder_keeps_what_every_process_takes_whole(make, tiny_overrides):
    words = [*tiny_overrides, "method=lora", "train.global_batch_size=8", "train.micro_batch_size=4"]
    sizes = [rung.micro_batch_size for rung in ladder(make(*words, "launch.num_processes=2"))]
    assert sizes == [4, 2, 1]


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [
        (["method=base"], 1, {"device_map": {"": 0}}),
        (["method=base", "model.device_map=auto"], 1, {"device_map": "auto"}),
        (["method=lora", "launch.num_processes=2", "launch.sharding=fsdp"], 2, {}),
        (["method=lora", "launch.num_processes=2", "launch.sharding=fsdp"], 1, {"device_map": "auto"}),
        (["method=base", "launch.num_processes=2", "launch.sharding=fsdp"], 1, {"device_map": "auto"}),
    ],
)
def test_where_a_models_weights_go_on_gpus(make, tiny_overrides, monkeypatch, words, number, expected):
    experiment = make(*tiny_overrides, "train.micro_batch_size=2", *words)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed, "world_size", lambda: number)
    assert device_map.options(experiment) == expected


@pytest.mark.parametrize(("fraction", "expected"), [(1.0, 5), (0.5, 2), (0.875, 2), (0.9, 4)])
def test_free_memory_is_that_of_the_fullest_gpu_that_holds_the_model(monkeypatch, fraction, expected):
    """A third GPU, which is empty, is not the model's; the cache of torch's allocator is free.

    The process may be allowed a part of each GPU: 70 of 80 GiB, which the second one's cache has taken, or 72.
    """
    gib = 2**30
    free, reserved, allocated = {0: 40, 1: 3, 2: 80}, {0: 30, 1: 70, 2: 0}, {0: 30, 1: 68, 2: 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu=0: (free[gpu] * gib, 80 * gib))
    for name, held in (("memory_reserved", reserved), ("memory_allocated", allocated)):
        monkeypatch.setattr(torch.cuda, name, lambda gpu=0, held=held: held[gpu] * gib)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu=0: allocated[gpu] * gib)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda gpu=0: fraction)
    assert device_map.free_bytes() == expected * gib
