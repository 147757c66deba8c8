"""Full fine-tuning in each precision, and optimizers that step parameters one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from workshop import Workshop, replaced

from harness.methods.base import Method
from harness.methods.optimizers import OneByOne
from harness.records.specs import TrainSpec
from harness.run import sources
from harness.sources import models
from harness.train.loop import Job, train

Make = Callable[..., Method]
HELD = {"fp32": torch.float32, "bf16_fp32_master": torch.bfloat16, "bf16": torch.bfloat16}
SMALL_RATE = 1e-5  # a bfloat16 weight of 0.02 has neighbours 1.2e-4 apart: one step of this rounds away


def spec(rows: int, **changes: Any) -> TrainSpec:
    fields: dict[str, Any] = {
        "lr": SMALL_RATE, "max_steps": 40, "epochs": None, "global_batch_size": rows, "micro_batch_size": rows,
        "max_length": 64, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0,
        "gradient_checkpointing": False, "precision": "bf16", "loss_on": "completion", "group_by_length": False,
        "eval_every": None,
    }  # fmt: skip
    return TrainSpec(**(fields | changes))


def trained(workshop: Workshop, method: Method, **changes: Any) -> tuple[Any, Any]:
    """The model and what training says, after some steps under bfloat16."""
    torch.manual_seed(0)
    base = models.load(workshop.spec, method.load_options(torch.bfloat16))
    model = method.attach(base, replaced(workshop.setting(), compute_dtype=torch.bfloat16))
    job = Job(
        model=model, method=method, rows=workshop.rows, spec=method.training(spec(len(workshop.rows), **changes)),
        seed=0, tokenizer=workshop.tokenizer, validate=lambda: 0.0, emit=lambda _: None,
        scratch=str(workshop.folder / "scratch"),
    )  # fmt: skip
    return model, train(job)


def moved(model: Any, workshop: Workshop, method: Method) -> float:
    """Root of the mean squared change of the weights, of all that a model holds."""
    start = dict(models.load(workshop.spec, method.load_options(torch.bfloat16)).named_parameters())
    changes = [(p.detach().float() - start[n].float()).square().flatten() for n, p in model.named_parameters()]
    return float(torch.cat(changes).mean().sqrt())


def test_each_precision_holds_the_weights_in_what_it_says(make: Make, workshop: Workshop) -> None:
    for precision, dtype in HELD.items():
        model, training = trained(workshop, make("full", f"method.precision={precision}"), max_steps=2, lr=1e-3)
        assert {p.dtype for p in model.parameters()} == {dtype}, precision
        assert training.losses[1] < training.losses[0], precision


def test_a_master_keeps_the_small_updates_that_bfloat16_rounds_away(make: Make, workshop: Workshop) -> None:
    """Forty steps of 1e-5: float32 moves by about 4e-4, the master's copy follows it, pure bfloat16 hardly moves."""
    distance = {}
    for precision in HELD:
        method = make("full", f"method.precision={precision}")
        distance[precision] = moved(trained(workshop, method)[0], workshop, method)
    assert distance["bf16_fp32_master"] == pytest.approx(distance["fp32"], rel=0.15)
    assert distance["bf16"] < 0.5 * distance["fp32"]


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cuda", "bf16", "bf16_fp32_master"), ("cuda", "fp32", "fp32"), ("cpu", "bf16", "fp32"), ("cpu", "fp32", "fp32")],
)
def test_the_hardware_decides_where_nobody_has(device: str, precision: str, expected: str, make: Make) -> None:
    for name in ("full", "galore"):
        settled = make(name).settled(device, precision)
        assert settled.precision == expected
        assert make(name, "method.precision=bf16").settled(device, precision).precision == "bf16"


def test_what_the_hardware_decided_is_said_and_in_the_recipe(compose: Any, tiny_overrides: list[str]) -> None:
    from harness.config import config
    from harness.config.experiment import recipe

    asked = config.build(compose(*tiny_overrides, "method=full"))
    given = config.build(compose(*tiny_overrides, "method=full", "method.precision=fp32"))
    resolved = sources.resolve(asked)
    assert recipe(resolved)["method"]["precision"] == "fp32"
    assert resolved.recipe_id == sources.resolve(given).recipe_id
    assert sources.decided(asked, resolved) == ["method=full: precision is fp32 on cpu"]


def test_weights_in_bfloat16_are_not_computed_in_float32(make: Make) -> None:
    with pytest.raises(ValueError, match=r"method.precision=bf16 with train.precision=fp32: .*method.precision=fp32"):
        make("full", "method.precision=bf16").check_training(spec(4, precision="fp32"))


def weights_and_groups() -> tuple[list[torch.nn.Parameter], list[dict[str, Any]]]:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(6, 4)), torch.nn.Parameter(torch.randn(4))]
    return weights, [{"params": weights[:1], "lr": 1e-2, "weight_decay": 0.1},
                     {"params": weights[1:], "lr": 1e-2, "weight_decay": 0.0}]  # fmt: skip


@pytest.mark.parametrize(("master", "in_backward"), [(False, True), (True, False), (True, True)])
def test_one_by_one_is_the_same_optimizer(master: bool, in_backward: bool) -> None:
    """In float32 all ways give AdamW's weights to the bit, also while a schedule changes the rate."""
    results = []
    for one_by_one in (False, True):
        weights, groups = weights_and_groups()
        optimizer = (
            OneByOne(groups, torch.optim.AdamW, master, in_backward) if one_by_one else torch.optim.AdamW(groups)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        for step in range(4):
            sum((w * (step + 1)).square().sum() for w in weights).backward()
            if one_by_one and in_backward:
                assert all(w.grad is None for w in weights)
                assert optimizer.gradient_norm() > 0
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        results.append([w.detach() for w in weights])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_layerwise_galore_trains_as_galore_does(make: Make, workshop: Workshop) -> None:
    """Without clipping and accumulation the two differ in memory alone."""
    curves = {}
    for layerwise in ("true", "false"):
        method = make("galore", f"method.layerwise={layerwise}", "method.r=4", "method.precision=fp32")
        unclipped = {} if layerwise == "true" else {"max_grad_norm": None}
        curves[layerwise] = trained(workshop, method, max_steps=4, lr=1e-2, precision="fp32", **unclipped)[1]
    assert curves["true"].losses == pytest.approx(curves["false"].losses, abs=1e-5)
    assert curves["true"].gradient_norms == pytest.approx(curves["false"].gradient_norms, rel=1e-4)
    assert curves["true"].losses[-1] < curves["true"].losses[0]


def test_layerwise_galore_refuses_what_it_cannot_keep(make: Make) -> None:
    method = make("galore", "method.layerwise=true")
    method.check_training(spec(4))
    with pytest.raises(ValueError, match=r"micro_batch_size=2 and train.global_batch_size=4: .*cannot accumulate"):
        method.check_training(spec(4, micro_batch_size=2))
    make("galore").check_training(spec(4, micro_batch_size=2))
    make("galore").check_processes(2)
    with pytest.raises(ValueError, match=r"launch.num_processes=2: .* use one process"):
        method.check_processes(2)


def test_a_setting_that_layerwise_galore_cannot_use_is_null_in_its_recipe(
    compose: Any, tiny_overrides: list[str]
) -> None:
    from harness.config import config

    asked = config.build(compose(*tiny_overrides, "method=galore", "method.layerwise=true"))
    resolved = sources.resolve(asked)
    assert (asked.train.max_grad_norm, resolved.train.max_grad_norm) == (1.0, None)
    assert "method=galore: cannot use train.max_grad_norm, which is null in its recipe" in sources.decided(
        asked, resolved
    )
    other = dataclasses.replace(asked, train=dataclasses.replace(asked.train, max_grad_norm=5.0))
    assert sources.resolve(other).recipe_id == resolved.recipe_id


def test_accumulation_is_refused_when_composed(compose: Any, tiny_overrides: list[str]) -> None:
    from harness.config import config

    with pytest.raises(ValueError, match="cannot accumulate"):
        config.build(compose(*tiny_overrides, "method=galore", "method.layerwise=true", "train.micro_batch_size=2"))
