"""What vLLM is given; the rest needs a GPU."""

import json

import pytest

from harness.evaluate import served, tasks


@pytest.fixture
def adapter(tmp_path):
    def made(**config):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 12, **config}))
        return served.Served(name="base", revision="abc", adapter=tmp_path)

    return made


def test_a_lora_adapter_is_served_beside_its_base(adapter, evaluation, tmp_path):
    found = served.options(adapter(rank_pattern={"q_proj": 20}), evaluation("piqa", backend="vllm", precision="bf16"))
    assert (found["pretrained"], found["revision"], found["dtype"]) == ("base", "abc", "bfloat16")
    assert (found["lora_local_path"], found["max_lora_rank"]) == (str(tmp_path), 32)
    assert "lora_local_path" not in served.options(served.Served(name="base"), evaluation("piqa", backend="vllm"))


@pytest.mark.parametrize(
    "config", [{"peft_type": "IA3"}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"r": 999}]
)
def test_what_vllm_does_not_take_is_refused(adapter, evaluation, config):
    with pytest.raises(ValueError, match=r"eval\.backend=vllm takes"):
        served.options(adapter(**config), evaluation("piqa", backend="vllm"))


def test_without_a_gpu_or_the_library_it_says_so(monkeypatch):
    assert "needs a CUDA device" in served.unsupported(False)
    monkeypatch.setattr(served, "find_spec", lambda name: None)
    assert "pip install 'harness[vllm]'" in served.unsupported(True)
    monkeypatch.setattr(served, "find_spec", lambda name: object())
    assert served.unsupported(True) == ""


@pytest.mark.gpu
def test_a_model_on_vllm_scores_as_ours(tiny_model, tiny, evaluation):
    pytest.importorskip("vllm")
    look = evaluation("piqa", backend="vllm")
    backend = served.backend(served.Served(name=str(tiny_model)), look)
    _, theirs, _ = tasks.score_on(backend, tasks.load("piqa", "package", None), look)
    _, ours, _ = tasks.score(*tiny, tasks.load("piqa", "package", None), evaluation("piqa"), lambda *_: None)
    for a, b in zip(theirs["loglikelihoods"], ours["loglikelihoods"], strict=True):
        assert a == pytest.approx(b, abs=5e-2)
