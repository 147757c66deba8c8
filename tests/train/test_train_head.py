"""The head at labeled positions only gives what the model's own loss gives."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.train.loss import label_nats, only_at

ADAPTERS = {
    "plain": None,
    "lora": peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
}


@pytest.fixture(params=list(ADAPTERS))
def model(request, tiny_model):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapter = ADAPTERS[request.param]
    return model if adapter is None else peft.get_peft_model(model, adapter)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_nats_and_gradients_are_the_models_own(model, rows, batch):
    inputs = batch(rows(6, seed=3))
    labels = inputs["labels"]
    unlabeled = {name: value for name, value in inputs.items() if name != "labels"}
    nats = label_nats(model, unlabeled, labels)
    nats.backward()
    ours = gradients(model)
    model.zero_grad()
    expected = model(**inputs).loss * (labels[:, 1:] != -100).sum()
    expected.backward()
    theirs = gradients(model)
    assert nats.item() == pytest.approx(expected.item(), rel=1e-5)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-5)


def test_a_row_without_a_label_gives_no_nats_but_a_graph(model, rows, batch):
    inputs = batch(rows(2))
    nats = label_nats(model, {"input_ids": inputs["input_ids"]}, torch.full_like(inputs["labels"], -100))
    nats.backward()
    assert nats.item() == 0


def test_the_head_is_whole_again_outside_the_context(model, rows, batch):
    ids = batch(rows(3))["input_ids"]
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    wanted[1, 2] = wanted[2, 0] = True
    model.eval()
    with torch.no_grad(), only_at(model, wanted):
        some = model(input_ids=ids).logits
    with torch.no_grad():
        everything = model(input_ids=ids).logits[:, -ids.shape[1] :]
    assert some.shape == (1, 2, everything.shape[-1])
    torch.testing.assert_close(some[0], everything[wanted])
