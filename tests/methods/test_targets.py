"""Presets on the architectures that people use: the exact modules, on tiny random models without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.methods import targets
from harness.methods.base import Method
from harness.methods.contexts import OnModel
from harness.sources import models

SHAPE = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SEPARATE = (
    ["self_attn.q_proj", "self_attn.v_proj"],
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
    ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
)
# model type -> (further sizes, prefix of the layer, attention_qv, attention, mlp)
EXPECTED: dict[str, tuple[dict[str, Any], str, list[str], list[str], list[str]]] = {
    **{kind: ({}, "model.layers.0.", *SEPARATE) for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")},
    "gpt2": (
        {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}, "transformer.h.0.",
        ["attn.c_attn"], ["attn.c_attn", "attn.c_proj"], ["mlp.c_fc", "mlp.c_proj"],
    ),
    "gpt_neox": (
        {}, "gpt_neox.layers.0.", ["attention.query_key_value"],
        ["attention.query_key_value", "attention.dense"], ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
    ),
    "phi3": (
        {}, "model.layers.0.", ["self_attn.qkv_proj"],
        ["self_attn.o_proj", "self_attn.qkv_proj"], ["mlp.gate_up_proj", "mlp.down_proj"],
    ),
    "opt": (
        {"ffn_dim": 32, "word_embed_proj_dim": 8, "max_position_embeddings": 64}, "model.decoder.layers.0.",
        ["self_attn.v_proj", "self_attn.q_proj"],
        ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"], ["fc1", "fc2"],
    ),
}  # fmt: skip
EXPERTS = {"mlp.experts.gate_up_proj": (4, 16, 64), "mlp.experts.down_proj": (4, 32, 16)}


def tiny(kind: str, **sizes: Any) -> Any:
    from transformers import AutoConfig

    given = {**SHAPE, **sizes}
    if kind in ("gpt2", "gpt_neox", "opt"):
        given = {k: v for k, v in given.items() if k not in ("num_key_value_heads", "head_dim")}
    if kind == "gpt2":
        given = {k: v for k, v in given.items() if k.startswith("n_") or k.endswith("_id") or k == "vocab_size"}
    return models.skeleton_of(AutoConfig.for_model(kind, **given), torch.float32)


def test_all_named_architectures_are_here() -> None:
    assert len(EXPECTED) == 10


@pytest.mark.parametrize("kind", EXPECTED)
def test_presets_find_these_modules_and_no_others(kind: str) -> None:
    sizes, prefix, query_value, attention, mlp = EXPECTED[kind]
    model = tiny(kind, **sizes)
    found = {preset: list(targets.resolve(model, preset)) for preset in targets.PRESETS}
    assert found["attention_qv"] == [prefix + name for name in query_value]
    assert found["attention"] == [prefix + name for name in attention]
    assert found["mlp"] == [prefix + name for name in mlp]
    assert set(found["all_linear"]) == {*found["attention"], *found["mlp"]}


def test_experts_belong_to_the_mlp_and_are_parameters() -> None:
    model = tiny("mixtral", num_local_experts=4)
    prefix = "model.layers.0."
    modules, experts = targets.resolve_all(model, "all_linear")
    assert list(modules) == [prefix + name for name in SEPARATE[1]], "the router is not adapted"
    assert experts == {prefix + name: shape for name, shape in EXPERTS.items()}
    assert targets.resolve_all(model, "mlp") == ({}, experts)
    with pytest.raises(ValueError, match=r"experts that are three-dimensional.*gate_up_proj.*target=attention"):
        targets.resolve(model, "all_linear")


@pytest.mark.parametrize("target", ["mlp", "all_linear"])
def test_lora_adapts_experts(target: str, make: Callable[..., Method], workshop: Any) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": 260, "num_local_experts": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **shape)).requires_grad_(False)
    method = make("lora", f"target={target}", "method.r=2")
    before, expected = workshop.logits(model), method.expected_trainable(model)
    adapted = method.attach(model, workshop.setting())
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == expected
    assert torch.allclose(workshop.logits(adapted), before, atol=1e-5)
    losses = workshop.train(adapted, method, 4, 5e-3)
    assert losses[-1] < losses[0]


def test_ia3_refuses_experts_that_it_cannot_scale(make: Callable[..., Method]) -> None:
    method = make("ia3")
    assert "this mixtral model holds those of its experts" in method.unsupported(OnModel(tiny("mixtral")))
    dense = {kind: method.unsupported(OnModel(tiny(kind, **sizes))) for kind, (sizes, *_) in EXPECTED.items()}
    assert set(dense.values()) == {""}
    assert all(method.expected_trainable(tiny(kind, **sizes)) > 0 for kind, (sizes, *_) in EXPECTED.items())


@pytest.mark.parametrize("name", ["qlora", "qdora"])
def test_experts_that_would_stay_in_16_bits_are_refused(name: str, make: Callable[..., Method]) -> None:
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    model = tiny("mixtral", num_local_experts=4)
    reason = make(name).unsupported(OnModel(model))
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    assert f"{experts / sum(p.numel() for p in model.parameters()):.0%} of this mixtral model are experts" in reason
    assert make(name, "method.quantization=none").unsupported(OnModel(model)) == ""
    assert make(name).unsupported(OnModel(tiny("llama"))) == ""
    packed = replace_with_bnb_linear(model, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    left = [p for n, p in packed.named_parameters() if ".experts." in n]
    assert left
    assert {type(p) for p in left} == {torch.nn.Parameter}, "the installed library packs no expert"


@pytest.mark.parametrize(
    "overrides",
    [["dora"], ["lora", "method.lora_dropout=0.1"], ["lora", "method.init_lora_weights=pissa"], ["vera"], ["alora"]],
)
def test_what_cannot_adapt_experts_says_so(overrides: list[str], make: Callable[..., Method], workshop: Any) -> None:
    method = make(overrides[0], "target=all_linear", *overrides[1:])
    with pytest.raises(ValueError, match=r"three-dimensional.*use target=attention"):
        method.attach(tiny("mixtral", num_local_experts=4), workshop.setting())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("re:(", "not a regular expression"),
        ("atention", r"not a preset. Allowed: attention_qv, attention, mlp, all_linear"),
        ((), "name at least one module"),
        ("re:nothing", r"no linear module of this model. Its linear modules: q_proj \(1\)"),
        (("q_proj", "no_proj"), r"no_proj of it matches no linear module"),
    ],
)
def test_wrong_targets_say_what_is_allowed(target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        targets.resolve(tiny("llama"), target)
