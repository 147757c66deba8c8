"""Every adapter type that the installed PEFT has, through the one generic method: ten steps, save and load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.config import PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoConfig
from workshop import Workshop

from harness.evaluate import heldout
from harness.methods.base import Method
from harness.methods.contexts import Packed, TrainedWith
from harness.methods.peft import CANNOT, IN_EVERY_LAYER, UNMERGED, VIRTUAL, Peft

pytestmark = pytest.mark.filterwarnings("ignore")  # each type has warnings of its own

TYPES = sorted(str(getattr(key, "value", key)) for key in PEFT_TYPE_TO_CONFIG_MAPPING)
OPTIONS = {
    "ADAPTION_PROMPT": "adapter_len=4 adapter_layers=2",
    "C3A": "block_size=16",
    "CARTRIDGE": "num_virtual_tokens=4",
    "CPT": "cpt_token_ids=[5,6,7] cpt_mask=[1,1,1] cpt_tokens_type_mask=[1,1,1]",
    "IA3": "target_modules=[k_proj,down_proj] feedforward_modules=[down_proj]",
    "PREFIX_TUNING": "num_virtual_tokens=4",
    "PROMPT_TUNING": "num_virtual_tokens=4",
    "P_TUNING": "num_virtual_tokens=4",
    "PVERA": "r=64",
    "ROAD": "group_size=16",
    "SHIRA": "r=2",
    "VBLORA": "vector_length=16",
    "WAVEFT": "n_frequency=64",
}


def answer_loss(model: Any, workshop: Workshop) -> float:
    """Without dropout and sampling, so that what is compared is what was learnt."""
    scores = heldout.score(model, workshop.rows, "fp32", 4, lambda _: None)
    return heldout.metrics(scores)["loss"].value


def test_what_cannot_work_is_still_there() -> None:
    assert set(CANNOT) | set(OPTIONS) <= set(TYPES)
    assert len(TYPES) - len(CANNOT) >= 35


@pytest.mark.parametrize("peft_type", CANNOT)
def test_what_cannot_be_trained_says_why(peft_type: str, make: Callable[..., Method], workshop: Workshop) -> None:
    with pytest.raises(ValueError, match=f"peft_type={peft_type} cannot be trained here: (it|its|on) "):
        workshop.attach(make("peft", f"method.peft_type={peft_type}"))


@pytest.mark.parametrize("peft_type", [name for name in TYPES if name not in CANNOT])
def test_a_type_learns_and_is_loaded_again(
    peft_type: str, make: Callable[..., Method], workshop: Workshop, tmp_path: Path
) -> None:
    options = [f"method.options.{option}" for option in OPTIONS.get(peft_type, "").split()]
    method = make("peft", f"method.peft_type={peft_type}", *options)
    model = workshop.attach(method, steps=10)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == method.expected_trainable(workshop.load(method))
    before = answer_loss(model, workshop)
    workshop.train(model, method, 10, 1e-2)
    assert answer_loss(model, workshop) < before
    logits = workshop.logits(model)
    method.save(model, tmp_path)
    assert torch.allclose(workshop.logits(method.restore(workshop.load(method), tmp_path)), logits, atol=1e-4)


@pytest.mark.parametrize(("peft_type", "scales", "decayed"), [("IA3", "ia3_l", None), ("BOFT", "boft_s", "boft_R")])
def test_scales_that_are_held_as_matrices_are_not_decayed(
    peft_type: str, scales: str, decayed: str | None, make: Callable[..., Method], workshop: Workshop
) -> None:
    options = [f"method.options.{option}" for option in OPTIONS.get(peft_type, "").split()]
    method = make("peft", f"method.peft_type={peft_type}", *options)
    model = workshop.attach(method)
    decay = {id(p): group["weight_decay"] for group in method.param_groups(model, 1e-3, 0.1) for p in group["params"]}
    trained = {name: decay[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert {value for name, value in trained.items() if f".{scales}." in name} == {0.0}
    others = {value for name, value in trained.items() if f".{scales}." not in name}
    assert others == ({0.1} if decayed else set())
    assert decayed is None or any(decayed in name for name in trained)


def test_virtual_tokens_are_those_of_the_installed_peft() -> None:
    prompts = {
        str(getattr(key, "value", key))
        for key, schema in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if issubclass(schema, PromptLearningConfig)
    }
    assert set(VIRTUAL) == prompts - set(CANNOT)
    assert len(VIRTUAL) == 5


def perturbed(method: Method, workshop: Workshop) -> Any:
    model = workshop.attach(method)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def check_merged(method: Method, workshop: Workshop, folder: Path) -> None:
    """Merged and read back, the model answers as it does attached, which is not as the base does."""
    model = perturbed(method, workshop)
    attached = workshop.logits(model)
    assert (attached - workshop.logits(workshop.load(method))).abs().max() > 1e-3
    plain = method.merge(model)
    plain.save_pretrained(folder)
    for merged in (plain, type(plain).from_pretrained(folder)):
        assert torch.allclose(workshop.logits(merged), attached, atol=1e-4, rtol=1e-4)


MERGED = [name for name in TYPES if name not in (*CANNOT, *UNMERGED)]


@pytest.mark.parametrize("peft_type", [name for name in TYPES if name not in CANNOT])
def test_a_type_is_merged_into_a_model_that_answers_as_it_does_or_refused(
    peft_type: str, make: Callable[..., Method], workshop: Workshop, biased: Workshop, tmp_path: Path
) -> None:
    assert len(MERGED) == 32
    options = [f"method.options.{option}" for option in OPTIONS.get(peft_type, "").split()]
    method = make("peft", f"method.peft_type={peft_type}", *options)
    assert method.merges == (peft_type in MERGED)
    if method.merges:
        check_merged(method, biased if peft_type == "BEFT" else workshop, tmp_path)
    else:
        with pytest.raises(ValueError, match="cannot be merged into the base model"):
            method.merge(workshop.attach(method))


@pytest.mark.parametrize("peft_type", [name for name in MERGED if name != "BEFT"])  # the head has no bias
def test_a_head_that_the_base_ties_is_merged_alone(
    peft_type: str, make: Callable[..., Method], workshop: Workshop, tmp_path: Path
) -> None:
    options = [o for o in OPTIONS.get(peft_type, "").split() if "_modules" not in o]
    target = ["target_modules=[lm_head]", *(["feedforward_modules=[]"] if peft_type == "IA3" else [])]
    block = {"C3A": ["block_size=4"], "ROAD": ["group_size=4"], "VBLORA": ["vector_length=4"]}.get(peft_type, options)
    method = make("peft", f"method.peft_type={peft_type}", *(f"method.options.{o}" for o in (*block, *target)))
    check_merged(method, workshop, tmp_path)


@pytest.mark.parametrize(
    ("options", "tied"),
    [
        ({"target_modules": ["embed_tokens"]}, False),
        ({"target_modules": ["embed_tokens"], "use_dora": True}, False),
        ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ({"target_modules": ["embed_tokens", "lm_head"]}, False),
        ({"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"]}, False),
        ({"target_modules": ["lm_head"], "use_dora": True}, False),
        ({"target_modules": ["lm_head"], "init_lora_weights": "pissa"}, False),
        ({"target_modules": ["q_proj"], "target_parameters": ["lm_head.weight"]}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}, True),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [5, 6]}}, False),
    ],
)
def test_what_is_adapted_of_tied_embeddings_is_merged_as_it_acts(
    options: dict[str, Any], tied: bool, workshop: Workshop, tmp_path: Path
) -> None:
    method = Peft(peft_type="LORA", target="all_linear", options=options, lr=1e-3)
    check_merged(method, workshop, tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).tie_word_embeddings is tied


@pytest.mark.parametrize("peft_type", ["HIRA", "OFT", "TINYLORA"])
def test_embeddings_that_the_base_ties_are_merged_alone(peft_type: str, workshop: Workshop, tmp_path: Path) -> None:
    options = {"target_modules": ["embed_tokens"]}
    check_merged(Peft(peft_type=peft_type, target="all_linear", options=options, lr=1e-3), workshop, tmp_path)


def test_an_adapter_that_acts_from_a_token_on_is_not_merged(workshop: Workshop) -> None:
    method = Peft(peft_type="LORA", target="all_linear", options={"alora_invocation_tokens": [5]}, lr=1e-3)
    with pytest.raises(ValueError, match="cannot be merged into the base model"):
        method.merge(workshop.attach(method))


def test_virtual_tokens_of_any_type_refuse_what_the_named_methods_refuse(
    make: Callable[..., Method], workshop: Workshop
) -> None:
    checkpointed = TrainedWith(dataclasses.replace(workshop.training(1, 1e-3), gradient_checkpointing=True))
    refusing: dict[str, tuple[bool, bool]] = {}
    for name in ("LOHA", *VIRTUAL):
        method = make("peft", f"method.peft_type={name}")
        refusing[name] = (bool(method.unsupported(Packed())), bool(method.unsupported(checkpointed)))
    assert refusing == {name: (name in VIRTUAL, name in IN_EVERY_LAYER) for name in ("LOHA", *VIRTUAL)}
    for named, peft_type in (("prompt", "PROMPT_TUNING"), ("p_tuning", "P_TUNING"), ("prefix", "PREFIX_TUNING")):
        method = make(named)
        assert refusing[peft_type] == (bool(method.unsupported(Packed())), bool(method.unsupported(checkpointed)))


def test_virtual_tokens_of_any_type_count_towards_the_context(make: Callable[..., Method], workshop: Workshop) -> None:
    method = make("peft", "method.peft_type=PROMPT_TUNING", "method.options.num_virtual_tokens=2000")
    with pytest.raises(ValueError, match=r"train.max_length=64 and method.num_virtual_tokens=2000 make 2064 tokens"):
        workshop.attach(method)
