"""`harness.adapter convert`: held against the singular values of the merged difference, by hand."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def deltas(plain, tuned):
    """Weight -> the change of each two-dimensional one."""
    before = dict(plain.named_parameters())
    return {name: p.detach() - before[name].detach() for name, p in tuned.named_parameters() if p.dim() == 2}


def merged_of(tiny_model, folder):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    return PeftModel.from_pretrained(base, folder).merge_and_unload()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_enough_rank_loses_nothing_that_a_linear_layer_holds(kind, made, adapter, tiny_model, tmp_path):
    code, said, err = adapter("convert", made[kind], tmp_path / "out", "--to", "lora", "--r", 128, "--json")
    assert (code, err) == (0, "")
    found = json.loads(said)
    assert set(found) == {
        "run", "out", "layers", "rank", "lost", "lost_elsewhere", "weights", "largest_difference", "largest_logit",
        "positions", "positions_with_another_first_token",
    }  # fmt: skip
    assert (found["run"], found["out"], found["rank"]) == (str(made[kind]), str(tmp_path / "out"), 128)
    assert found["lost"] < 1e-3
    assert found["largest_difference"] < 1e-3
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    ours = deltas(plain, merged_of(tiny_model, tmp_path / "out"))
    theirs = deltas(plain, merged_of(tiny_model, made[kind] / "weights"))
    assert sum(bool(change.abs().max() > 1e-6) for change in theirs.values()) > 4
    for name, change in theirs.items():
        torch.testing.assert_close(ours[name], change, atol=1e-5, rtol=1e-3)


def test_what_is_lost_is_what_the_smaller_singular_values_hold(made, adapter, tiny_model, tmp_path):
    code, said, _ = adapter("convert", made["dora"], tmp_path / "out", "--to", "lora", "--r", 2, "--json")
    assert code == 0
    found = json.loads(said)
    changes = deltas(AutoModelForCausalLM.from_pretrained(tiny_model), merged_of(tiny_model, made["dora"] / "weights"))
    values = [torch.linalg.svdvals(change.double()) for change in changes.values()]
    whole = sum(float(s.square().sum()) for s in values)
    lacking = sum(float(s[2:].square().sum()) for s in values)
    assert found["lost"] == pytest.approx((lacking / whole) ** 0.5, rel=1e-3)
    assert found["lost_elsewhere"] == 0
    assert found["weights"].keys() <= changes.keys()
    for name, weight in found["weights"].items():
        own = torch.linalg.svdvals(changes[name].double())
        assert weight["lost"] == pytest.approx(float(own[2:].norm() / own.norm()), rel=1e-3)
    assert all(
        t.shape[0] == 2 for name, t in load_file(tmp_path / "out/adapter_model.safetensors").items() if "A" in name
    )
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 2)


def test_full_fine_tuning_loses_what_lora_does_not_hold(made, adapter, tmp_path):
    code, said, _ = adapter("convert", made["full"], tmp_path / "out", "--to", "lora", "--r", 4)
    assert code == 0
    assert "% of it in weights that LoRA does not hold" in said
    code, said, _ = adapter("convert", made["full"], tmp_path / "more", "--to", "lora", "--r", 64, "--json")
    found = json.loads(said)
    assert found["lost"] >= found["lost_elsewhere"] > 0


def test_what_cannot_be_converted_is_refused(made, adapter, tmp_path):
    code, _, err = adapter("convert", made["prompt"], tmp_path / "out", "--to", "lora", "--r", 4)
    assert (code, "cannot be merged into the base's weights" in err) == (2, True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    code, _, err = adapter("convert", made["lora"], tmp_path / "full", "--to", "lora", "--r", 4)
    assert (code, "is there already and not empty" in err) == (2, True)
