"""Trained parameters at the published shapes of Llama-3.1-8B, on the meta device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.config import config
from harness.methods.base import Method
from harness.sources import models

CASES = [
    ("lora", ["method.r=8", "target=attention_qv"], 3_407_872),
    ("lora", ["method.r=16", "target=attention"], 13_631_488),
    ("lora", ["method.r=16", "target=mlp"], 28_311_552),
    ("lora", ["method.r=16", "target=all_linear"], 41_943_040),
    ("lora", ["method.r=64", "target=all_linear"], 167_772_160),
    ("qlora", ["method.r=16", "target=all_linear"], 41_943_040),
    ("dora", ["method.r=16", "target=all_linear"], 43_319_296),
    ("qdora", ["method.r=16", "target=all_linear"], 43_319_296),
    ("vera", ["method.r=256", "target=attention_qv"], 180_224),
    ("ia3", [], 524_288),
    ("prompt", ["method.num_virtual_tokens=100"], 409_600),
    ("prefix", ["method.num_virtual_tokens=20"], 1_310_720),
    ("ln_tuning", [], 266_240),
    ("full", [], 8_030_261_248),
    ("head", [], 128_256 * 4096),
    ("lora_fa", ["method.r=8", "target=attention_qv"], 32 * 8 * (4096 + 1024)),
    ("adapter", ["method.placement=houlsby"], 32 * 2 * (2 * 4096 * 64 + 64 + 4096)),
    ("llama_adapter", ["method.adapter_layers=null"], 30 * (10 * 4096 + 1)),
    ("spectrum", ["method.fraction=0.25", "target=mlp"], 8 * 3 * 4096 * 14336),
    ("lora_plus", ["method.r=16", "target=all_linear"], 41_943_040),
    ("unsloth", ["method.r=16", "target=all_linear"], 41_943_040),
    ("alora", ["method.r=32", "target=all_linear"], 83_886_080),
    ("adalora", ["method.init_r=12", "target=all_linear"], 12 * (41_943_040 // 16 + 32 * 7)),
    ("p_tuning", ["method.num_virtual_tokens=20"], 20 * 4096 + 3 * 4097 * 4096),
    ("prefix", ["method.prefix_projection=true"], 20 * 1024 + 1025 * 1024 + 1025 * 2 * 32 * 1024),
]
WITH_PROMPTS = ("prompt", "p_tuning", "prefix", "llama_adapter")


@pytest.fixture
def llama() -> Any:
    from transformers import LlamaConfig

    shape = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131_072, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        return models.skeleton_of(shape, torch.bfloat16)


@pytest.mark.parametrize(("name", "overrides", "count"), CASES)
def test_the_formula_gives_the_published_count(
    name: str, overrides: list[str], count: int, make: Callable[..., Method], llama: Any
) -> None:
    assert make(name, "method.lr=1e-3", *overrides).expected_trainable(llama) == count


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
@pytest.mark.parametrize(("name", "overrides", "count"), [case for case in CASES if case[0] not in WITH_PROMPTS])
def test_what_is_attached_has_that_count(
    name: str, overrides: list[str], count: int, make: Callable[..., Method], llama: Any, workshop: Any
) -> None:
    setting = dataclasses.replace(workshop.setting(), rows=[], compute_dtype=torch.bfloat16)
    model = make(name, *overrides).attach(llama, setting)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("init", ["pissa", "olora", "eva"])
def test_a_rank_above_a_matrix_with_singular_vectors_is_refused(compose, tiny_model, init):
    """PEFT would train matrices of a lower rank than the one that the recipe and its label name."""
    method = config.build(compose("method=lora", f"method.init_lora_weights={init}", "method.r=128")).method
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(ValueError, match=r"method.r=128 with init=.* has 32 singular vectors; use method.r=32 or less"):
        method.peft_config(model, None)


def test_another_count_than_the_formula_says_is_refused(compose):
    method = config.build(compose("method=lora")).method
    method.check_count(10, 10)
    method.check_count(10, 0)  # a model without weights, to which a type cannot be attached
    with pytest.raises(ValueError, match="method=lora: 9 parameters would train, and its formula gives 10"):
        method.check_count(10, 9)
