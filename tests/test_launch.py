"""A whole run with two processes: its record, and that nothing of it is left."""

import dataclasses

import psutil
import pytest

from harness import config, run, sources
from harness.ladder import ladder


@pytest.fixture(scope="module")
def make(compose):
    return lambda *words: sources.resolve(config.build(compose(*words)))


def ignore(event):
    pass


def test_a_run_of_two_processes_is_one_run(make, tiny_overrides):
    words = [*tiny_overrides, "method=lora", "train.micro_batch_size=2", "train.eval_every=2"]
    two = make(*words, "launch.num_processes=2")
    events = []
    found = run.run(two, events.append)
    assert found.status == "ok", found.current.reason
    assert found.current.provenance["num_processes"] == 2
    assert found.current.summed_peak_memory_bytes >= found.current.peak_memory_bytes > 0
    assert [event["phase"] for event in events if "phase" in event] == ["load", "train", "validate"]
    assert [event["done"] for event in events if "loss" in event] == [1, 2, 3]
    assert sorted(path.name for path in two.folder.iterdir() if path.is_dir()) == ["evaluations", "weights"]
    assert not [p for p in psutil.Process().children(recursive=True) if "meeting" in " ".join(p.cmdline())]
    alone = run.run(dataclasses.replace(two, force=True, launch=config.LaunchSpec()), ignore)
    assert alone.current.summed_peak_memory_bytes is None
    assert alone.current.training.losses == pytest.approx(found.current.training.losses, rel=1e-5)
    assert alone.current.training.trained_tokens == found.current.training.trained_tokens
    assert [loss for _, loss in alone.current.training.validation] == pytest.approx(
        [loss for _, loss in found.current.training.validation], rel=1e-5
    )


def test_the_ladder_keeps_what_every_process_takes_whole(make, tiny_overrides):
    words = [*tiny_overrides, "method=lora", "train.global_batch_size=8", "train.micro_batch_size=4"]
    sizes = [rung.micro_batch_size for rung in ladder(make(*words, "launch.num_processes=2"))]
    assert sizes == [4, 2, 1]
