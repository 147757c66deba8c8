"""`harness.adapter combine`, held against weighted sums by hand."""

import inspect
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from harness.adapter.__main__ import TYPES
from harness.adapter.combine import lost_by_combining

PROJECTION = "base_model.model.model.layers.0.self_attn.q_proj"


def update(folder):
    """s B A of one layer of a saved adapter."""
    saved = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    a, b = (saved[f"{PROJECTION}.lora_{side}.weight"] for side in "AB")
    return config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"]) * (b @ a)


def test_cat_is_the_weighted_sum_also_of_other_ranks_and_scales(made, adapter, tmp_path):
    out = tmp_path / "out"
    words = ("--weights", "0.7", "-0.3", out, "--combination-type", "cat")
    code, said, err = adapter("combine", made["lora"], made["rslora"], *words)
    assert (code, err) == (0, "")
    assert re.search(r"weighted sum of their updates: \d\.\d+e-0[6-9]|updates: \de-0[6-9]", said)
    expected = 0.7 * update(made["lora"] / "weights") - 0.3 * update(made["rslora"] / "weights")
    torch.testing.assert_close(update(out), expected, atol=1e-6, rtol=1e-4)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 24


def test_svd_is_the_best_of_its_rank(made, adapter, tmp_path):
    code, said, _ = adapter("combine", made["lora"], made["lora_again"], tmp_path / "out", "--weights", "0.7", "0.3")
    assert code == 0
    assert "(svd, rank 16)" in said
    assert "another token first at 0 of" in said
    expected = 0.7 * update(made["lora"] / "weights") + 0.3 * update(made["lora_again"] / "weights")
    u, s, vh = torch.linalg.svd(expected)
    torch.testing.assert_close(update(tmp_path / "out"), (u[:, :16] * s[:16]) @ vh[:16], atol=1e-5, rtol=1e-3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Weight 0.7: lora on file" in card
    assert "seed 1" in card
    assert str(tmp_path) not in card


def test_every_type_that_peft_offers_is_offered():
    from peft import LoraModel

    offered = inspect.signature(LoraModel.add_weighted_adapter).parameters["combination_type"].annotation
    assert set(TYPES) == set(re.findall(r"[a-z]\w+", offered.partition("[")[2])), "as its annotation lists them"
    assert len(TYPES) == 11


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_writes_an_adapter_that_reads_back(made, tmp_path, kind):
    from harness.adapter.combine import combine

    how = {"combination_type": kind, **({} if kind in ("svd", "linear", "cat") else {"density": 0.5})}
    folders = [made["lora"], made["lora_again"]]
    found = combine(folders, [0.7, 0.3], how, [], tmp_path / "out", lambda _: None)
    assert found["rank"] == (32 if kind == "cat" else 16)
    assert found["largest_difference"] <= 1e-4 * max(1.0, found["largest_logit"])
    assert update(tmp_path / "out").abs().max() > 0


def test_a_pruning_type_takes_a_density(made, adapter, tmp_path):
    words = ("--combination-type", "ties", "--density", "0.2", tmp_path / "out")
    code, said, _ = adapter("combine", made["lora"], made["lora_again"], "--weights", "1", "1", *words)
    assert code == 0
    assert "(ties, rank 16)" in said
    assert "density 0.2" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("names", "words", "said"),
    [
        (("lora", "qlora"), (), "adapters with another quantization of the base cannot be combined"),
        (("lora", "prompt"), (), "adapters with another type cannot be combined"),
        (("prompt", "prompt"), (), "PEFT offers no combination of PROMPT_TUNING adapters"),
        (("lora", "dora"), (), "weight-decomposed"),
        (("lora", "full"), (), "method=full saves no PEFT adapter"),
        (("lora", "rslora"), ("--combination-type", "linear"), "must have the same r value"),
    ],
)
def test_what_does_not_go_together_is_refused(made, adapter, tmp_path, names, words, said):
    folders = [made[name] for name in names]
    code, out, err = adapter("combine", *folders, "--weights", "0.5", "0.5", tmp_path / "out", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ""),
        ({"use_rslora": True, "init_lora_weights": "gaussian"}, ""),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights=lora_ga cannot be combined"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "init_lora_weights=loftq cannot be"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4 cannot be combined"),
        ({"init_lora_weights": "olora"}, "a base that PEFT changes"),
        ({"lora_bias": True}, "more than A and B (lora_bias)"),
        ({"bias": "lora_only"}, "more than A and B (bias=lora_only)"),
        ({"modules_to_save": ["lm_head"]}, "more than A and B (modules_to_save)"),
    ],
)
def test_what_peft_would_drop_or_get_wrong_is_refused(options, said):
    """PEFT takes the singular vectors of PiSSA out of the base anew for each adapter, and combines A and B alone."""
    from peft import LoraConfig

    lost = lost_by_combining({**LoraConfig(**options).to_dict(), "peft_type": "LORA"})
    assert said in lost
    assert bool(lost) == bool(said)


@pytest.mark.parametrize("target", [["q_proj"], ["embed_tokens"], ["q_proj", "embed_tokens"]])
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of tied weights and of several adapters
def test_the_distance_of_an_exact_sum_is_zero_also_on_embeddings(tiny_model, target):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from harness.adapter import combine

    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=target, init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config, adapter_name="of_run_0")
    model.add_adapter("of_run_1", config)
    names, weights = ["of_run_0", "of_run_1"], [0.7, 0.3]
    model.base_model.add_weighted_adapter(names, weights, adapter_name="combined", combination_type="cat")
    assert combine._distance(model, names, weights) < 1e-5


def test_weights_must_be_as_many_numbers_as_runs(made, adapter, tmp_path):
    code, _, err = adapter("combine", made["lora"], made["dora"], tmp_path / "out", "--weights", "1")
    assert (code, err) == (2, "harness.adapter: --weights 1: 2 runs need 2 numbers\n")
    code, _, err = adapter("combine", made["lora"], "--weights", "1", tmp_path / "out")
    assert code == 2
    assert "give at least two runs" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--weights=nan,1",), "--weights nan,1: 2 runs need 2 numbers"),
        (("--weights=1,inf",), "--weights 1,inf: 2 runs need 2 numbers"),
        (("--weights=1,1", "--combination-type", "ties", "--density", "5"), "--density 5.0: give the share"),
        (("--weights=1,1", "--combination-type", "dare_ties", "--density", "0"), "--density 0.0: give the share"),
    ],
)
def test_numbers_that_make_no_adapter_are_refused(words, said, adapter, tmp_path, monkeypatch):
    """A weight of nan made an adapter of nan; PEFT prunes nothing at a density of 5, and everything at 0."""
    monkeypatch.setattr("harness.adapter.load.find", lambda folder: folder)
    monkeypatch.setattr("harness.adapter.load.on_base", lambda run, base: run)
    code, _, err = adapter("combine", "a", "b", tmp_path / "out", *words)
    assert (code, said in err) == (2, True)


def test_adapters_of_two_bases_are_refused(made, adapter, tmp_path):
    other = tmp_path / "seed-0"
    shutil.copytree(made["lora"], other)
    record = (other / "record.json").read_text()
    content = json.loads(record)["config"]["model"]["content"]
    (other / "record.json").write_text(record.replace(content, "path:0123456789abcdef"))
    code, _, err = adapter("combine", made["lora"], other, "--weights", "1", "1", tmp_path / "out")
    assert code == 2
    assert "trained on model tiny (path:0123456789abcdef), and the base given is tiny (path:" in err
