"""Official tasks on chats and on attached methods: prompts as the template writes them, answers as each row alone."""

import copy

import pytest
import torch

from harness.evaluate import tasks


def score(model, tokenizer, evaluation):
    return tasks.score(model, tokenizer, tasks.load(evaluation.task, "package", None), evaluation, lambda *_: None)


@pytest.fixture
def attached(compose, tiny_overrides):
    """A method on the tiny model as it begins: (model, tokenizer)."""
    from harness.config import config
    from harness.run import inputs
    from harness.run.worker import setting
    from harness.sources import models

    def made(method):
        experiment = inputs.resolve(config.build(compose(*tiny_overrides, f"method={method}")))
        tokenizer = models.tokenizer(experiment.model)
        base = models.load(experiment.model, {})
        return experiment.method.attach(base, setting(experiment, tokenizer, [])).eval(), tokenizer

    return made


@pytest.mark.parametrize("method", ["base", "prompt"])
def test_a_chat_template_wraps_the_prompts_on_both_backends(method, attached, evaluation):
    model, tokenizer = attached(method)
    found = {}
    for backend in ("shared_prefix", "hf"):
        look = evaluation("arc_easy", limit=4, num_fewshot=2, chat_template=True, backend=backend)
        _, found[backend], _ = score(model, tokenizer, look)
    _, plain, _ = score(model, tokenizer, evaluation("arc_easy", limit=4, num_fewshot=2))
    assert "<user>" in found["hf"]["question"][0] or "<assistant>" in found["hf"]["question"][0]
    assert found["hf"]["prompt_hash"] == found["shared_prefix"]["prompt_hash"] != plain["prompt_hash"]
    for ours, theirs in zip(found["shared_prefix"]["loglikelihoods"], found["hf"]["loglikelihoods"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


METHODS = (
    "base", "lora", "qlora", "dora", "vera", "ia3", "adapter", "llama_adapter", "alora", "prompt",
    "prefix", "p_tuning", "full",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_as_with_lm_evals_own_model(method, attached, evaluation):
    """Few-shot: choices share a context, and items their examples."""
    model, tokenizer = attached(method)
    torch.manual_seed(0)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    look = evaluation("mmlu_anatomy", limit=6, num_fewshot=2, batch_tokens=2048)
    _, ours, facts = score(model, tokenizer, look)
    _, theirs, _ = score(model, tokenizer, evaluation("mmlu_anatomy", limit=6, num_fewshot=2, backend="hf"))
    for a, b in zip(ours["loglikelihoods"], theirs["loglikelihoods"], strict=True):
        assert a == pytest.approx(b, abs=1e-3)
    assert facts["shared_context"]
    assert facts["shared_prefix"]


def test_examples_are_turns_of_a_chat_of_their_own(tiny, evaluation):
    task = tasks.load("arc_easy", "package", None)
    tasks.score(*tiny, task, evaluation("arc_easy", limit=1, num_fewshot=2, chat_template=True), lambda *_: None)
    [leaf] = task["tasks"].values()
    prompt = leaf.instances[0].args[0]
    assert prompt.count("<user>") == 3
    assert prompt.count("<assistant>") in (2, 3), "two answers, and perhaps the beginning of the third"


@pytest.mark.parametrize("backend", ["shared_prefix", "hf"])
def test_a_chat_template_with_a_date_makes_the_same_prompts_every_day(tiny, evaluation, backend):
    model, tokenizer = tiny
    dated = copy.copy(tokenizer)
    dated.chat_template = "[{{ strftime_now('%d %b %Y') }}]" + tokenizer.chat_template
    task = tasks.load("arc_easy", "package", None)
    look = evaluation("arc_easy", limit=1, chat_template=True, backend=backend)
    tasks.score(model, dated, task, look, lambda *_: None)
    [leaf] = task["tasks"].values()
    assert leaf.instances[0].args[0].startswith("[26 Jul 2024]<user>")


@pytest.mark.parametrize("method", ["prompt", "prefix", "lora"])
def test_what_is_generated_behind_virtual_tokens_is_the_models_own_greedy_answer(method, attached, evaluation):
    """Items of unlike length in one batch give what each gives alone."""
    model, tokenizer = attached(method)
    _, together, _ = score(model, tokenizer, evaluation("gsm8k", limit=4, num_fewshot=1, batch_size=4))
    _, alone, _ = score(model, tokenizer, evaluation("gsm8k", limit=4, num_fewshot=1, batch_size=1))
    assert together["answer"] == alone["answer"]
    assert any(together["answer"])
