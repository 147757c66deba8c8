"""Full fine-tuning in each precision, and optimizers that step parameters one by one."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from workshop import Workshop, replaced

from harness.measure.operations import tensors_in
from harness.methods.base import Method
from harness.methods.contexts import InProcesses, TrainedWith
from harness.methods.optimizers import MasterAdamW, PerParameterOptimizer, _bucketed, paged
from harness.records.settings import TrainSpec
from harness.run import inputs
from harness.sources import models
from harness.train.loop import Job, train

Make = Callable[..., Method]
HELD = {"fp32": torch.float32, "bf16_fp32_master": torch.bfloat16, "bf16": torch.bfloat16}
SMALL_RATE = 1e-5  # a bfloat16 weight of 0.02 has neighbors 1.2e-4 apart: one step of this rounds away


def spec(rows: int, **changes: Any) -> TrainSpec:
    fields: dict[str, Any] = {
        "lr": SMALL_RATE, "max_steps": 40, "epochs": None, "global_batch_size": rows, "micro_batch_size": rows,
        "max_length": 64, "lr_scheduler_type": "constant", "warmup_steps": 0.0, "weight_decay": 0.0,
        "max_grad_norm": 1.0,
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
    resolved = inputs.resolve(asked)
    assert recipe(resolved)["method"]["precision"] == "fp32"
    assert resolved.recipe_id == inputs.resolve(given).recipe_id
    assert inputs.decided(asked, resolved) == ["method=full: precision is fp32 on cpu"]


def test_weights_in_bfloat16_are_not_computed_in_float32(make: Make) -> None:
    with pytest.raises(ValueError, match=r"method.precision=bf16 with train.precision=fp32: .*method.precision=fp32"):
        make("full", "method.precision=bf16").require(TrainedWith(spec(4, precision="fp32")))


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
            PerParameterOptimizer(groups, torch.optim.AdamW, master, in_backward)
            if one_by_one
            else torch.optim.AdamW(groups)
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


def some_weights(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    shapes = [(6, 4), (4,), (33, 7), (5,), (40, 40), (3, 3)]
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]


def step(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], number: int) -> None:
    sum((w.float() * number).square().sum() for w in weights[1:] if number > 1 or w.dim() > 1).backward()
    optimizer.step()
    optimizer.zero_grad()


def over_copies(weights: list[torch.nn.Parameter], bucket_bytes: int | None) -> torch.optim.Optimizer:
    """In buckets, or with None one for each."""
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "lr": 1e-2, "weight_decay": 0.1},
        {"params": [w for w in weights if w.dim() == 1], "lr": 3e-2, "weight_decay": 0.0},
    ]
    if bucket_bytes is not None:
        return MasterAdamW(groups, bucket_bytes)
    return PerParameterOptimizer(groups, functools.partial(torch.optim.AdamW, fused=True), True, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bucket_bytes", [1, 300, 2**20])
def test_buckets_of_copies_step_as_one_optimizer_for_each_to_the_bit(dtype: torch.dtype, bucket_bytes: int) -> None:
    """A parameter without a gradient stays, a schedule is followed, and a state that is loaded goes on."""
    results = []
    for limit in (None, bucket_bytes):
        weights = some_weights(dtype)
        optimizer = over_copies(weights, limit)
        for number in (1, 2, 3):
            for group in optimizer.param_groups:
                group["lr"] /= 2
            step(optimizer, weights, number)
        state = copy.deepcopy(optimizer.state_dict())
        optimizer = over_copies(weights, limit)
        optimizer.load_state_dict(state)
        step(optimizer, weights, 4)
        held = {id(t): t.nbytes for t in tensors_in(optimizer.state)}
        results.append(([w.detach().clone() for w in weights], sum(held.values())))
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))
    assert torch.equal(results[1][0][0], some_weights(dtype)[0]), "it has had no gradient"
    assert results[0][1] == results[1][1] > 0, "memory is counted by the state"


def test_no_bucket_is_larger_than_its_limit_unless_one_parameter_is() -> None:
    weights = some_weights(torch.bfloat16)
    sizes = [[4 * w.numel() for w in bucket] for bucket in _bucketed(weights, 1000)]
    assert [size for bucket in sizes for size in bucket] == [4 * w.numel() for w in weights]
    assert sizes == [[96, 16], [924, 20], [6400], [36]]


@pytest.mark.parametrize("name", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_states_of_a_paged_optimizer_stay_paged_when_they_are_loaded(name: str, monkeypatch: Any) -> None:
    """The driver's memory is played; which states go where is bitsandbytes' own decision."""
    from bitsandbytes import functional
    from bitsandbytes.optim.optimizer import Optimizer8bit

    def buffer(self: Any, p: Any, dtype: Any = torch.float32) -> Any:
        made = torch.zeros_like(p, dtype=dtype)
        if p.numel() >= 1e5:
            made.is_paged = True
            self.page_mng.paged_tensors.append(made)
        return made

    monkeypatch.setattr(Optimizer8bit, "get_state_buffer", buffer)
    monkeypatch.setattr(functional.GlobalPageManager.get_instance(), "paged_tensors", [])
    weights = [torch.nn.Parameter(torch.randn(400, 300)), torch.nn.Parameter(torch.randn(20, 20))]
    first, second = (paged(name, [{"params": weights, "lr": 1e-3}]) for _ in range(2))
    for index, weight in enumerate(weights):
        first.init_state(first.param_groups[0], weight, 0, index)
        first.state[weight]["state1"].add_(3 + index)
        first.state[weight]["step"] = 7
    second.load_state_dict(first.state_dict())
    large, small = (second.state[weight] for weight in weights)
    assert (large["step"], small["step"]) == (7, 7)
    for key in ("state1", "state2"):
        assert torch.equal(large[key], first.state[weights[0]][key])
        assert torch.equal(small[key], first.state[weights[1]][key])
        assert large[key].is_paged
        assert not getattr(small[key], "is_paged", False)
        assert large[key].dtype == (torch.float32 if name.endswith("32bit") else torch.uint8)
    known = functional.GlobalPageManager.get_instance().paged_tensors
    assert sum(tensor is large["state1"] for tensor in known) == 1, "what pages it knows it"


def test_the_threshold_of_8_bits_is_a_field_and_changes_no_recipe_that_leaves_it(
    make: Make, compose: Any, tiny_overrides: Any
) -> None:
    from harness.config import config
    from harness.config.experiment import recipe

    method = make("qlora", "method.quantization=int8", "method.llm_int8_threshold=0")
    assert method.load_options(torch.bfloat16)["quantization_config"].llm_int8_threshold == 0
    with pytest.raises(ValueError, match=r"llm_int8_threshold=4.0 with method.quantization=nf4: .*quantization=int8"):
        make("qlora", "method.llm_int8_threshold=4")
    words = (*tiny_overrides, "method=qlora", "method.quantization=int8")
    recipes = [recipe(config.build(compose(*words, *more)))["method"]
               for more in ([], ["method.llm_int8_threshold=6"], ["method.llm_int8_threshold=4"])]  # fmt: skip
    assert recipes[0] == recipes[1]
    assert "llm_int8_threshold" not in recipes[0]
    assert recipes[2] == {**recipes[0], "llm_int8_threshold": 4.0}


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
    method.require(TrainedWith(spec(4)))
    with pytest.raises(ValueError, match=r"micro_batch_size=2 and train.global_batch_size=4: .*cannot accumulate"):
        method.require(TrainedWith(spec(4, micro_batch_size=2)))
    make("galore").require(TrainedWith(spec(4, micro_batch_size=2)))
    make("galore").require(InProcesses(2))
    with pytest.raises(ValueError, match=r"launch.num_processes=2: .* use one process"):
        method.require(InProcesses(2))


def test_a_setting_that_layerwise_galore_cannot_use_is_null_in_its_recipe(
    compose: Any, tiny_overrides: list[str]
) -> None:
    from harness.config import config

    asked = config.build(compose(*tiny_overrides, "method=galore", "method.layerwise=true"))
    resolved = inputs.resolve(asked)
    assert (asked.train.max_grad_norm, resolved.train.max_grad_norm) == (1.0, None)
    assert "method=galore: cannot use train.max_grad_norm, which is null in its recipe" in inputs.decided(
        asked, resolved
    )
    other = dataclasses.replace(asked, train=dataclasses.replace(asked.train, max_grad_norm=5.0))
    assert inputs.resolve(other).recipe_id == resolved.recipe_id


def test_accumulation_is_refused_when_composed(compose: Any, tiny_overrides: list[str]) -> None:
    from harness.config import config

    with pytest.raises(ValueError, match="cannot accumulate"):
        config.build(compose(*tiny_overrides, "method=galore", "method.layerwise=true", "train.micro_batch_size=2"))
