"""Counts of attention with grouped heads and of 8-bit products, and what a count that fails costs."""

import pytest
import torch
from torch.utils.flop_counter import flop_registry

from harness.measure import operations
from harness.measure.operations import formula
from harness.measure.profile import Profiler

KERNELS = {
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu",
}  # fmt: skip
ROWS, HEADS, KEY_HEADS, QUERIES, KEYS, SIZE = 2, 8, 2, 16, 24, 4


def heads(number, tokens):
    return torch.empty(ROWS, number, tokens, SIZE, device="meta")


def refuse(*_, **__):
    raise AssertionError("query/key/value shapes are incompatible")  # as torch 2.11 does for unequal heads


def test_every_attention_kernel_of_this_torch_has_a_formula_of_ours():
    names = {name for name in dir(torch.ops.aten) if name.startswith("_scaled_dot_product_")}
    products = {name.removesuffix("_backward") for name in names if "math" not in name and "fused" not in name}
    assert set(operations._ATEN) >= KERNELS
    assert products & KERNELS <= set(operations._ATEN)
    assert len(operations._ATEN) == 8
    for name in operations._ATEN:
        packet = getattr(torch.ops.aten, name)
        assert formula(packet.default) is operations._ATEN[name], "before torch's registry"


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_grouped_heads_count_as_many_as_the_query_has(kernel):
    query, key = heads(HEADS, QUERIES), heads(KEY_HEADS, KEYS)
    product = 2 * ROWS * HEADS * QUERIES * KEYS * SIZE
    forward, backward = (formula(getattr(torch.ops.aten, kernel + end).default) for end in ("", "_backward"))
    assert forward(query, key, key, out_val=None) == 2 * product
    assert backward(query, query, key, key, out_val=None) == 5 * product


@pytest.mark.parametrize("kernel", sorted(KERNELS - {"_scaled_dot_product_flash_attention_for_cpu"}))
def test_equal_heads_count_as_in_torch(kernel):
    query, key = heads(HEADS, QUERIES), heads(HEADS, KEYS)
    for end, arguments in (("", (query, key, key)), ("_backward", (query, query, key, key))):
        packet = getattr(torch.ops.aten, kernel + end)
        assert formula(packet.default)(*arguments, out_val=None) == flop_registry[packet](*arguments, out_val=None) > 0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("int8_linear_matmul", lambda a, b: (a, b)),
        ("int8_scaled_mm", lambda a, b: (a, b, torch.ones(3), torch.ones(7))),
        ("int8_mixed_scaled_mm", lambda a, b: (a.half(), a, b, torch.ones(3), torch.ones(7))),
    ],
)
def test_products_in_8_bits_are_counted(name, arguments):
    import bitsandbytes  # noqa: F401 - defines the operators

    a, b = torch.zeros(3, 5, dtype=torch.int8), torch.zeros(7, 5, dtype=torch.int8)
    operator = getattr(torch.ops.bitsandbytes, name).default
    assert formula(operator)(*arguments(a, b), out_val=None) == 2 * 3 * 5 * 7


def test_a_count_that_fails_costs_the_profile_and_not_the_step(monkeypatch):
    monkeypatch.setitem(operations._OWN, "aten", {"mm": refuse})
    formula.cache_clear()
    model = torch.nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters())
    profiler = Profiler(1)
    profiler.begin(1, model, optimizer)
    inputs = {"input_ids": torch.ones(2, 4)}
    profiler.micro_batch(inputs)
    with profiler.forward():
        loss = model(inputs["input_ids"]).sum()
    loss.backward()
    profiler.end(optimizer)
    formula.cache_clear()
    assert profiler.result is None
    assert torch.equal(model.weight.grad, torch.full((4, 4), 2.0))


def test_a_plan_whose_count_fails_is_not_made(monkeypatch, compose, tiny_model):
    from harness.config import config
    from harness.plan import predict

    monkeypatch.setitem(operations._OWN, "aten", {"mm": refuse})
    formula.cache_clear()
    composed = compose("model.source=path", f"model.path={tiny_model}", "model.name=tiny", "method=lora", "train=smoke")
    plan = predict._cell(config.build(composed), None, None)
    formula.cache_clear()
    assert plan["unpredicted"].startswith("AssertionError")
    assert plan["flops"] is None
