"""A model whose weights are divided between two processes: what it learns, how it ends, and what is refused."""

import dataclasses
import os
import pickle

import pytest
import torch
from launched import BELONGS, shared
from torch.distributed.checkpoint import FileSystemWriter

from harness.evaluate import heldout
from harness.records.events import Measured, Message
from harness.train import distributed, fsdp
from harness.train.resume import Checkpoints
from harness.train.signals import PreemptedError
from tests.train.test_distributed import AttemptLog

TWO = "launch.num_processes=2"
DIVIDED = (TWO, "launch.sharding=fsdp")


def with_validation(job, rows, cuda=False):
    """Validate with the model that is trained, which every process has a part of; `cuda` takes a GPU's path."""
    held_out = rows(4, seed=1)
    validate = lambda: heldout.metrics(heldout.score(job.model, held_out, "fp32", 512, lambda _: None))["loss"].value  # noqa: E731
    return dataclasses.replace(job, validate=validate, cuda=cuda)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("full", {"gradient_checkpointing": "true"}),
        ("full", {"precision": "bf16"}),
        ("lora", {"gradient_checkpointing": "true", "precision": "bf16"}),
    ],
)
def test_a_divided_model_gives_what_whole_ones_give(job, rows, method, settings):
    """Weights in float32 and bfloat16, layers computed again, and a process that is left without a row."""
    own = ("method.precision=bf16_fp32_master",) if method == "full" and "precision" in settings else ()
    common = {"method": method, "max_steps": 4, "micro_batch_size": 2, "lr": 1e-3, "eval_every": 2, **settings}
    make = lambda words: lambda: with_validation(job(*own, *words, rows=rows(17), **common), rows)  # noqa: E731
    expected, after = shared(make((TWO,)))
    found, divided = shared(make(DIVIDED))
    close = 1e-5 if "precision" not in settings else 2e-3
    assert found.losses == pytest.approx(expected.losses, rel=close)
    assert found.gradient_norms == pytest.approx(expected.gradient_norms, rel=10 * close)
    assert [loss for _, loss in found.validation] == pytest.approx([loss for _, loss in expected.validation], rel=close)
    assert len(found.validation) == 2
    for name in ("real_tokens", "padded_tokens", "trained_tokens", "sequences", "learning_rates"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.profile.flops == pytest.approx(expected.profile.flops, rel=1e-6)
    assert found.profile.live_peak_bytes is None
    assert divided.keys() == after.keys()
    assert all(torch.allclose(divided[name], after[name], atol=10 * close) for name in after)
    assert all(type(tensor) is torch.Tensor for tensor in divided.values())


@pytest.mark.parametrize("words", [(TWO,), DIVIDED], ids=["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_gpus_path_gives_in_two_processes_what_a_cpus_gives(job, rows, words, method):
    """The fused head over a head that is divided, the probe of the largest micro batch, and no masks."""
    common = {"method": method, "max_steps": 4, "micro_batch_size": 2, "lr": 1e-3, "eval_every": 2}
    make = lambda cuda: with_validation(job(*words, rows=rows(17), **common), rows, cuda)  # noqa: E731
    expected, after = shared(lambda: make(False))
    found, on_gpu = shared(lambda: make(True))
    assert found.losses == pytest.approx(expected.losses, abs=2e-5)
    assert found.gradient_norms == pytest.approx(expected.gradient_norms, rel=2e-3)
    assert [loss for _, loss in found.validation] == pytest.approx([loss for _, loss in expected.validation], abs=1e-4)
    assert (found.real_tokens, found.trained_tokens) == (expected.real_tokens, expected.trained_tokens)
    assert on_gpu.keys() == after.keys()
    assert all(torch.allclose(on_gpu[name], after[name], atol=1e-4) for name in after)


@pytest.fixture
def checkpoints(tmp_path):
    belongs = dataclasses.replace(BELONGS, sharding="fsdp")
    return Checkpoints(folder=tmp_path / "checkpoint", of=belongs, every_seconds=None)


def interrupted(make, checkpoints, steps):
    """Train until the first process, which alone is told, has done so many steps."""
    once = AttemptLog(steps)
    asked = lambda: distributed.rank() == 0 and once()  # noqa: E731
    stopped = lambda: dataclasses.replace(make(), checkpoints=dataclasses.replace(checkpoints, requested=asked))  # noqa: E731
    with pytest.raises(PreemptedError, match=f"step {steps}"):
        shared(stopped)


PARTICULAR = {
    "adapters with dropout": ("lora", ["method.lora_dropout=0.3"], {}),
    "all weights": ("full", [], {"gradient_checkpointing": "true"}),
    "a master copy": ("full", ["method.precision=bf16_fp32_master"], {"precision": "bf16"}),
}


@pytest.mark.parametrize("name", PARTICULAR)
def test_a_divided_run_goes_on_to_the_bit(job, rows, checkpoints, name):
    """Each process from its own part, and with early stopping, whose lowest weights an attempt before may have kept."""
    method, words, changed = PARTICULAR[name]
    settings = {"method": method, "max_steps": 5, "micro_batch_size": 2, "lr": 1e-3, "eval_every": 1, "patience": 3}

    def make():
        found = iter([1.0, 0.5, 2.0, 3.0, 4.0])
        return job(*DIVIDED, *words, rows=rows(17), validate=lambda: next(found), **settings, **changed)

    def made(seen):
        own = make()
        for _ in range(seen):  # a validation that an attempt has made is not made again
            own.validate()
        return own

    expected, after = shared(make)
    assert (expected.kept_step, expected.stopped_early_at) == (2, 5)
    interrupted(make, checkpoints, 3)
    files = ["step-000000003.safetensors", "step-000000003.shards"]
    lowest = ["lowest-2.safetensors", "lowest-2.shards"]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [*lowest, *files]
    sizes = [path.stat().st_size for path in (checkpoints.folder / files[1]).glob("*.distcp")]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * min(sizes), "no process has the whole"
    events = []
    going_on = lambda: dataclasses.replace(made(3), checkpoints=checkpoints)  # noqa: E731
    found, again = shared(going_on, events.append)
    assert Measured(resumed_at_step=3, checkpoint_step=3) in events
    for name in ("losses", "gradient_norms", "validation", "real_tokens", "padded_tokens", "sequences", "profile",
                 "kept_step", "stopped_early_at"):  # fmt: skip
        assert getattr(found, name) == getattr(expected, name), name
    assert again.keys() == after.keys()
    assert all(torch.equal(again[name], after[name]) for name in after)


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "of whole models"])
def test_a_checkpoint_that_is_not_whole_is_not_used(job, rows, checkpoints, damage):
    """By none of the processes, whichever of them has found it out."""
    make = lambda: job(*DIVIDED, rows=rows(17), max_steps=3, micro_batch_size=2, lr=1e-3)  # noqa: E731
    interrupted(make, checkpoints, 1)
    (part,) = checkpoints.folder.glob("*/__1_*")
    kept = part.read_bytes()
    if damage == "flipped":
        part.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    elif damage == "cut":
        part.write_bytes(kept[:-1])
    elif damage == "missing":
        part.unlink()
    else:
        checkpoints = dataclasses.replace(checkpoints, of=dataclasses.replace(checkpoints.of, sharding="none"))
    events = []
    again = lambda: dataclasses.replace(make(), checkpoints=checkpoints)  # noqa: E731
    found, _ = shared(again, events.append)
    assert len(found.losses) == 3
    damaged = f"{part}: damaged, its checksum is not the one that was written"
    reasons = {"missing": f"{part} is missing", "of whole models": "another sharding"}
    reason = reasons.get(damage, damaged)
    aside = checkpoints.folder.with_name("checkpoint.set-aside")
    said = [event.text for event in events if isinstance(event, Message)]
    assert said == [f"checkpoint of step 1 not used, training from the beginning: {reason}; see {aside}"]


def test_shards_that_cannot_be_written_cost_the_checkpoint_and_not_the_run(job, rows, checkpoints, monkeypatch):
    """The other rank has written its own by then: what is there is still the checkpoint before."""
    write = FileSystemWriter.write_data

    def full(self, *arguments):
        if "step-000000002" in str(self.path) and distributed.rank() == 1:
            raise OSError(28, "No space left on device")
        return write(self, *arguments)

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    events = []
    often = dataclasses.replace(checkpoints, every_seconds=0.0)
    make = lambda: dataclasses.replace(  # noqa: E731
        job(*DIVIDED, rows=rows(17), max_steps=3, micro_batch_size=2), checkpoints=often
    )
    found, _ = shared(make, events.append)
    assert len(found.losses) == 3
    said = [event.text for event in events if isinstance(event, Message)]
    assert said == ["no checkpoint at step 2: [Errno 28] No space left on device"]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "step-000000001.safetensors",
        "step-000000001.shards",
    ]


class Executed:
    """What a pickle may hold."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("held", [Executed(), os.system, torch.load])
def test_a_table_of_shards_executes_nothing(tmp_path, monkeypatch, held):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(held))
    with pytest.raises(ValueError, match="a table of shards has no room for"):
        fsdp._Reader(tmp_path).read_metadata()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("method", "words", "text"),
    [
        ("lora", ["launch.sharding=fsdp"], "launch.num_processes=1: one process has nobody to divide the model with"),
        ("lora", [TWO, "launch.sharding=zero"], "launch.sharding=.zero.: must be 'none' or 'fsdp'"),
        ("qlora", [*DIVIDED], "method=qlora: a base of method.quantization=nf4 is packed, and cannot be divided"),
        ("qdora", [*DIVIDED, "method.quantization=int8"], "a base of method.quantization=int8 is packed"),
        (
            "galore",
            [*DIVIDED],
            "method=galore: it projects to singular vectors of whole gradients; use launch.sharding",
        ),
        ("prefix", [*DIVIDED], "method=prefix: its virtual tokens are put in front of the model from outside it"),
        ("adalora", [*DIVIDED], "method=adalora: between its steps it looks at whole matrices"),
        ("unsloth", [*DIVIDED], "method=unsloth with launch.num_processes=2: its kernels are for one GPU"),
        ("lora", ["model.device_map=auto"], "model.device_map=auto with method=lora: .* launch.sharding=fsdp"),
        ("base", ["model.device_map=balanced"], "model.device_map=.balanced.: must be 'auto'"),
    ],
)
def test_what_cannot_be_divided_is_refused_when_it_is_composed(experiment, method, words, text):
    with pytest.raises(ValueError, match=text):
        experiment(*words, method=method, micro_batch_size=4)


def test_how_a_model_is_held_is_no_part_of_a_recipe(experiment):
    plain, divided = experiment(micro_batch_size=4), experiment(*DIVIDED, micro_batch_size=4)
    assert plain.recipe_id == divided.recipe_id
    assert experiment(method="base").recipe_id == experiment("model.device_map=auto", method="base").recipe_id
    assert experiment(*DIVIDED, method="base").launch.sharding == "fsdp", "what is not trained is not divided"
