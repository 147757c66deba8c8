"""What vLLM is given; the rest needs a GPU."""

import ast
import dataclasses
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.config import config
from harness.config.experiment import evaluations
from harness.evaluate import tasks, vllm
from harness.run import evaluations as scores
from harness.run import inputs, preflight


@pytest.fixture
def adapter(tmp_path):
    def made(**config):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 12, **config}))
        return vllm.Served(name="base", revision="abc", adapter=tmp_path)

    return made


def test_a_lora_adapter_is_served_beside_its_base(adapter, evaluation, tmp_path):
    found = vllm.options(adapter(rank_pattern={"q_proj": 20}), evaluation("piqa", backend="vllm", precision="bf16"))
    assert (found["pretrained"], found["revision"], found["dtype"]) == ("base", "abc", "bfloat16")
    assert (found["lora_local_path"], found["max_lora_rank"]) == (str(tmp_path), 32)
    assert "lora_local_path" not in vllm.options(vllm.Served(name="base"), evaluation("piqa", backend="vllm"))


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"r": 999},
        {"alora_invocation_tokens": [1]}, {"target_parameters": ["experts"]}, {"bias": "lora_only"},
        {"lora_bias": True}, {"init_lora_weights": "pissa_niter_4"},
    ],
)  # fmt: skip
def test_what_vllm_does_not_take_is_refused(adapter, evaluation, config):
    with pytest.raises(ValueError, match=r"eval\.backend=vllm takes"):
        vllm.options(adapter(**config), evaluation("piqa", backend="vllm"))


def test_tokenizer_and_weights_are_of_one_revision_and_only_free_memory_is_taken(evaluation):
    look = evaluation("piqa", backend="vllm")
    found = vllm.options(vllm.Served(name="a/b", revision="abc", trust_remote_code=True), look, free=0.5)
    assert (found["revision"], found["tokenizer_revision"], found["trust_remote_code"]) == ("abc", "abc", True)
    assert found["gpu_memory_utilization"] == 0.45


def test_what_is_given_is_what_lm_evals_model_takes(adapter, evaluation):
    """Its own parameters, and beside them vLLM's: `gpu_memory_utilization`, `enable_prefix_caching`."""
    source = find_spec("lm_eval").submodule_search_locations[0] + "/models/vllm_causallms.py"
    [model] = [one for one in ast.walk(ast.parse(Path(source).read_text())) if getattr(one, "name", "") == "VLLM"]
    [init] = [one for one in model.body if getattr(one, "name", "") == "__init__"]
    taken = {one.arg for one in init.args.args}
    given = vllm.options(adapter(), evaluation("piqa", backend="vllm"))
    assert given.keys() - taken == {"gpu_memory_utilization", "enable_prefix_caching"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["lora"], ""),
        (["base"], ""),
        (["lora_plus"], ""),
        (["qlora", "method.quantization=none"], ""),
        (["full"], "it saves no LoRA adapter; use eval.backend=shared_prefix, or eval.weights=merged"),
        (["prefix"], "it saves no LoRA adapter; use eval.backend=shared_prefix"),
        (["ia3"], "it saves no LoRA adapter"),
        (["dora"], "it trains magnitudes"),
        (
            ["qlora"],
            "its base is quantized (method.quantization=nf4); use eval.backend=shared_prefix, or eval.weights=m",
        ),
        (["qdora"], "it trains magnitudes"),
        (["lora", "method.init_lora_weights=pissa"], "its A and B belong to other weights than those published"),
        (["lora", "method.bias=all"], "it trains biases"),
        (["alora"], "it acts from its invocation on; use eval.backend=shared_prefix"),
    ],
)
def test_methods_that_cannot_be_served_are_known_before_they_train(compose, words, reason):
    method = config.build(compose(f"method={words[0]}", *words[1:])).method
    found = preflight.unserved(method, merged=False, precision="bf16")
    assert found == "" if not reason else reason in found
    assert preflight.unserved(method, merged=True, precision="fp32") == ""
    assert ("16 bits" in preflight.unserved(method, merged=False, precision="fp32")) == (not reason and method.trains)


def test_they_are_skipped_with_the_reason(compose, tiny_overrides, monkeypatch):
    monkeypatch.setattr(preflight.vllm, "unsupported", lambda cuda: "")
    asked = [
        config.build(
            compose(*tiny_overrides, f"method={name}", "eval.tasks=[piqa]", "eval.backend=vllm", "eval.precision=bf16")
        )
        for name in ("lora", "qlora")
    ]
    [found] = preflight.check_tasks(asked, lambda event: None)
    assert found[:2] == (1, "unsupported")
    assert "its base is quantized" in found[2]


@pytest.fixture
def stand_in(monkeypatch, hflm):
    """lm-eval's vLLM model replaced by its Hugging Face model over what it is given; returns what it was given."""
    started = []

    def start(**options):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        started.append(options)
        name = options["pretrained"]
        return hflm(AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name))

    module = SimpleNamespace(VLLM=start)
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", module)
    return started


@pytest.mark.parametrize("weights", ["attached", "merged"])
def test_one_server_answers_all_tasks_of_a_run(stand_in, compose, tiny_overrides, tiny, tiny_model, weights):
    words = (*tiny_overrides, "method=base", "eval.tasks=[piqa,arc_easy]", "eval.backend=vllm", "eval.limit=3")
    experiment = inputs.resolve(config.build(compose(*words)))
    experiment.folder.mkdir(parents=True)
    run = scores.Scores()
    run.experiment, (run.model, run.tokenizer), run.emit = experiment, tiny, lambda event: None
    looks = [one for one in evaluations(experiment) if one.kind == "lm_eval"]
    found = [run.score(dataclasses.replace(look, weights=weights)) for look in looks]
    assert run.model is None, "its memory is the server's"
    assert [len(columns["item_id"]) for _, columns, _ in found] == [3, 3]
    [options] = stand_in
    assert (options["pretrained"] == str(tiny_model)) == (weights == "attached")
    assert list(experiment.folder.iterdir()) == [], "what was merged for the server is not kept"


def test_without_a_gpu_or_the_library_it_says_so(monkeypatch):
    assert "needs a CUDA device" in vllm.unsupported(False)
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    assert "pip install 'harness[vllm]'" in vllm.unsupported(True)
    monkeypatch.setattr(vllm, "find_spec", lambda name: object())
    assert vllm.unsupported(True) == ""


@pytest.mark.gpu
def test_a_model_on_vllm_scores_as_ours(tiny_model, tiny, evaluation):
    pytest.importorskip("vllm")
    look = evaluation("piqa", backend="vllm")
    backend = vllm.backend(vllm.Served(name=str(tiny_model)), look)
    _, theirs, _ = tasks.score_on(backend, tasks.load("piqa", "package", None), look)
    _, ours, _ = tasks.score(*tiny, tasks.load("piqa", "package", None), evaluation("piqa"), lambda *_: None)
    for a, b in zip(theirs["loglikelihoods"], ours["loglikelihoods"], strict=True):
        assert a == pytest.approx(b, abs=5e-2)
