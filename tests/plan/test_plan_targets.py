"""`harness.plan targets`: every linear layer of a model and the presets that cover it."""

import pytest

from harness.config.compose import experiments
from harness.plan.__main__ import main
from harness.run import isolate

MODELS = "llama-3.1-8b,mixtral-8x7b,gpt2,phi-3-mini,pythia-70m,opt-125m,gemma-2-2b"


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """model -> pattern -> row."""
    specs = [experiment.model for _, experiment in experiments([f"model={MODELS}"])]
    ended = isolate.call("harness.plan.count:layers", specs, log=tmp_path_factory.mktemp("plan") / "log.txt")
    assert ended.kind == "returned", ended.reason
    return {one["model"]: {row["pattern"]: row for row in one["layers"]} for one in ended.value}


def row(listed, model, name):
    """(d_in, d_out, count, presets) of the only pattern that ends in `name`."""
    (found,) = [row for pattern, row in listed[model].items() if pattern.endswith(name)]
    (shape,) = found["shapes"]
    return shape["d_in"], shape["d_out"], found["count"], found["presets"]


def test_llama(listed):
    assert len(listed["llama-3.1-8b"]) == 8
    assert row(listed, "llama-3.1-8b", "q_proj") == (4096, 4096, 32, ["attention_qv", "attention", "all_linear"])
    assert row(listed, "llama-3.1-8b", "k_proj") == (4096, 1024, 32, ["attention", "all_linear"])
    assert row(listed, "llama-3.1-8b", "down_proj") == (14336, 4096, 32, ["mlp", "all_linear"])
    head = listed["llama-3.1-8b"]["lm_head"]
    assert (head["output_head"], head["tied"], head["presets"]) == (True, False, [])


@pytest.mark.parametrize(
    ("model", "name", "expected"),
    [
        ("gpt2", "c_attn", (768, 2304, 12, ["attention_qv", "attention", "all_linear"])),
        ("gpt2", "mlp.c_proj", (3072, 768, 12, ["mlp", "all_linear"])),
        ("phi-3-mini", "qkv_proj", (3072, 9216, 32, ["attention_qv", "attention", "all_linear"])),
        ("phi-3-mini", "gate_up_proj", (3072, 16384, 32, ["mlp", "all_linear"])),
        ("pythia-70m", "query_key_value", (512, 1536, 6, ["attention_qv", "attention", "all_linear"])),
        ("pythia-70m", "dense_4h_to_h", (2048, 512, 6, ["mlp", "all_linear"])),
        ("opt-125m", "fc1", (768, 3072, 12, ["mlp", "all_linear"])),
        ("gemma-2-2b", "o_proj", (2048, 2304, 26, ["attention", "all_linear"])),
        ("mixtral-8x7b", "q_proj", (4096, 4096, 32, ["attention_qv", "attention", "all_linear"])),
    ],
)
def test_other_families(listed, model, name, expected):
    assert row(listed, model, name) == expected


def test_experts_are_counted_per_parameter(listed):
    experts = listed["mixtral-8x7b"]["model.layers.{0..31}.mlp.experts.gate_up_proj"]
    assert (experts["experts"], experts["shapes"]) == (8, [{"d_in": 4096, "d_out": 28672}])


def test_the_table_names_tied_heads(capsys):
    assert main(["targets", "model=smollm2-135m"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("smollm2-135m: linear layers")
    assert [line.split()[0] for line in lines[2:4]] == [
        "model.layers.{0..29}.self_attn.q_proj", "model.layers.{0..29}.self_attn.k_proj",
    ]  # fmt: skip
    assert lines[-1].endswith("(output head, tied to the embeddings)")
