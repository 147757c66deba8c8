"""A model whose weights are divided between two processes: what it learns, how it ends, and what is refused."""

import dataclasses

import pytest
import torch
from test_train_ranks import BELONGS, Told, weights

from harness import ranks
from harness.evaluate import heldout
from harness.preemption import PreemptedError
from harness.train import train
from harness.train.resume import Checkpoints

TWO = "launch.num_processes=2"
DIVIDED = (TWO, "launch.sharding=fsdp")


def shared(make, scratch):
    own = make()
    with ranks.start(2, scratch, lambda: train(make())).joined():
        training = train(own)
    return training, weights(own)


def with_validation(job, rows):
    """Validate with the model that is trained, which every process has a part of."""
    held_out = rows(4, seed=1)
    validate = lambda: heldout.metrics(heldout.score(job.model, held_out, "fp32", 512, lambda _: None))["loss"].value  # noqa: E731
    return dataclasses.replace(job, validate=validate)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("full", {"gradient_checkpointing": "true"}),
        ("full", {"precision": "bf16"}),
        ("lora", {"gradient_checkpointing": "true", "precision": "bf16"}),
    ],
)
def test_a_divided_model_gives_what_whole_ones_give(job, rows, tmp_path, method, settings):
    """Weights in float32 and bfloat16, layers computed again, and a process that is left without a row."""
    own = ("method.precision=bf16_fp32_master",) if method == "full" and "precision" in settings else ()
    common = {"method": method, "max_steps": 4, "micro_batch_size": 2, "lr": 1e-3, "eval_every": 2, **settings}
    make = lambda words: lambda: with_validation(job(*own, *words, rows=rows(17), **common), rows)  # noqa: E731
    expected, after = shared(make((TWO,)), tmp_path / "whole")
    found, divided = shared(make(DIVIDED), tmp_path / "divided")
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


def test_a_divided_run_that_is_told_to_end_ends_and_begins_anew(job, rows, tmp_path):
    """No checkpoint is made of parts, and one of whole models is set aside."""
    make = lambda: job(*DIVIDED, rows=rows(17), max_steps=3, micro_batch_size=2, lr=1e-3)  # noqa: E731
    expected, after = shared(make, tmp_path / "whole")
    belongs = dataclasses.replace(BELONGS, sharding="fsdp")
    checkpoints = Checkpoints(folder=tmp_path / "checkpoint", of=belongs, every_seconds=0.0)
    stopped = lambda: dataclasses.replace(make(), checkpoints=dataclasses.replace(checkpoints, asked=told))  # noqa: E731
    told = lambda: ranks.index() == 0 and once()  # noqa: E731
    once = Told(2)
    with pytest.raises(PreemptedError, match="step 2"):
        shared(stopped, tmp_path / "stopped")
    assert not list(tmp_path.rglob("*.safetensors"))
    found, again = shared(lambda: dataclasses.replace(make(), checkpoints=checkpoints), tmp_path / "again")
    assert found.losses == expected.losses
    assert all(torch.equal(again[name], after[name]) for name in after)
    assert belongs.differs_from(dataclasses.asdict(BELONGS)) == "another sharding"


def test_processes_that_begin_with_other_weights_are_refused(job, rows, tmp_path):
    make = lambda seed: job(*DIVIDED, rows=rows(8), micro_batch_size=2, seed=seed)  # noqa: E731
    own = make(0)
    with (
        pytest.raises(RuntimeError, match="do not begin with the same weights"),
        ranks.start(2, tmp_path, lambda: train(make(1))).joined(),
    ):
        train(own)


@pytest.mark.parametrize(
    ("method", "words", "text"),
    [
        ("lora", ["launch.sharding=fsdp"], "launch.num_processes=1: one process has nobody to divide the model with"),
        ("lora", [TWO, "launch.sharding=zero"], "launch.sharding=.zero.: must be 'none' or 'fsdp'"),
        ("qlora", [*DIVIDED], "method=qlora: a base of method.storage=nf4 is packed, and cannot be divided"),
        ("qdora", [*DIVIDED, "method.storage=int8"], "a base of method.storage=int8 is packed"),
        (
            "galore",
            [*DIVIDED],
            "method=galore: it projects to singular vectors of whole gradients; use launch.sharding",
        ),
        ("prefix", [*DIVIDED], "method=prefix: its virtual tokens are put in front of the model from outside it"),
        ("adalora", [*DIVIDED], "method=adalora: between its steps it looks at whole matrices"),
        (
            "lora",
            [*DIVIDED, "keep=checkpoint"],
            "keep=checkpoint with launch.sharding=fsdp: of a model in parts nothing",
        ),
        ("lora", [*DIVIDED, "train.eval_every=1", "train.patience=2"], "train.patience=2 with launch.sharding=fsdp"),
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
