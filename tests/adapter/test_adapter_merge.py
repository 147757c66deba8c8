"""`harness.adapter merge`, held against models put together by hand."""

import json
import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
RANK = 4


def logits(model, ids):
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits.float()


def plain(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def difference(out):
    return float(re.search(r"difference of logits from the attached model's: (\S+) ", out).group(1))


@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_a_merged_folder_is_a_plain_model_with_the_same_logits(made, adapter, tiny_model, prompt_ids, tmp_path, name):
    code, out, err = adapter("merge", made[name], tmp_path / "out")
    assert (code, err) == (0, "")
    assert difference(out) < 1e-5
    attached = PeftModel.from_pretrained(plain(tiny_model), str(made[name] / "weights"))
    merged = plain(tmp_path / "out")
    assert not hasattr(merged, "peft_config")
    base, tuned = logits(plain(tiny_model), prompt_ids), logits(attached, prompt_ids)
    assert (tuned - base).abs().max() > 0.01
    torch.testing.assert_close(logits(merged, prompt_ids), tuned, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("ab")["input_ids"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["use_cache"] is True


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # PEFT's
@pytest.mark.parametrize(("module", "precision"), [("lm_head", "bf16"), ("lm_head", "fp32"), ("embed_tokens", "bf16")])
def test_a_module_that_was_trained_whole_is_kept_where_the_base_ties_it(
    tiny_model, letters_file, adapter, prompt_ids, tmp_path, module, precision
):
    from harness.config.compose import experiments
    from harness.run import inputs, run

    words = [
        "model.source=path", f"model.path={tiny_model}", "model.name=tiny", "data=file", f"data.file={letters_file}",
        "eval.tasks=[]", "eval=smoke", "tracking=none", f"runs_dir={tmp_path}/runs", "train=smoke", "train.max_steps=5",
        "method=peft", "method.peft_type=LORA", f"method.options={{r: 4, modules_to_save: [{module}]}}",
        "train.lr=1e-2", f"train.precision={precision}",
    ]  # fmt: skip
    experiment = inputs.resolve(experiments(words)[0][1])
    assert run.run(experiment, lambda _: None).status == "ok"
    code, out, err = adapter("merge", experiment.folder, tmp_path / "out")
    assert (code, err) == (0, "")
    within = 1e-4 if precision == "fp32" else 0.1
    assert difference(out) < within
    tuned = PeftModel.from_pretrained(plain(tiny_model), str(experiment.folder / "weights"))
    expected = logits(tuned, prompt_ids)
    assert (expected - logits(plain(tiny_model), prompt_ids)).abs().max() > 0.01
    torch.testing.assert_close(logits(plain(tmp_path / "out"), prompt_ids), expected, atol=within, rtol=within)


def test_full_weights_are_written_as_they_are(made, adapter, tmp_path):
    code, out, _ = adapter("merge", made["full"], tmp_path / "out")
    assert code == 0
    assert difference(out) == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", made["full"] / "weights"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_quantized_base_is_dequantized_first(made, adapter, tiny_model, tmp_path):
    from bitsandbytes import functional

    code, out, _ = adapter("merge", made["qlora"], tmp_path / "out")
    assert code == 0
    assert "this is another model" in out
    assert difference(out) < 0.05  # bfloat16
    assert "another model" in (tmp_path / "out" / "README.md").read_text()
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    name = "model.layers.1.mlp.up_proj"
    base = load_file(tiny_model / "model.safetensors")[f"{name}.weight"].to(torch.bfloat16)
    packed, state = functional.quantize_4bit(base, quant_type="nf4", compress_statistics=True)
    saved = load_file(made["qlora"] / "weights" / "adapter_model.safetensors")
    a, b = (saved[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB")
    update = 32 / RANK * (b @ a)
    assert update.abs().max() > 0.01
    expected = functional.dequantize_4bit(packed, state).float() + update
    found = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.weight"]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=2**-8)


def test_gguf_loads_back_as_the_merged_model(made, adapter, prompt_ids, tmp_path):
    code, out, err = adapter("merge", made["lora"], tmp_path / "gguf", "--format", "gguf")
    assert (code, err) == (0, "")
    assert difference(out) < 1e-5
    assert "the tokenizer agrees on 4 of 4 prompts" in out
    adapter("merge", made["lora"], tmp_path / "folder")
    loaded = plain(tmp_path / "gguf", gguf_file="model.gguf")
    torch.testing.assert_close(logits(loaded, prompt_ids), logits(plain(tmp_path / "folder"), prompt_ids))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gguf", gguf_file="model.gguf")
    assert (
        tokenizer("Say a0:")["input_ids"] == AutoTokenizer.from_pretrained(tmp_path / "folder")("Say a0:")["input_ids"]
    )
    assert tokenizer.eos_token == "</s>"


def test_nothing_is_written_over(made, adapter, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, out, err = adapter("merge", made["lora"], tmp_path / "out")
    assert (code, out) == (2, "")
    assert "not empty; nothing is overwritten" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prompt", "method=prompt cannot be merged into the base's weights"),
        ("base", "method=base trains nothing"),
    ],
)
def test_what_cannot_be_merged_says_so(made, adapter, tmp_path, name, said):
    code, out, err = adapter("merge", made[name], tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_run_says_what_to_give(adapter, tmp_path):
    assert adapter("merge", tmp_path, tmp_path / "out") == (
        2, "", f"harness.adapter: {tmp_path}: no record.json in it; give a run's folder, runs/<recipe_id>/seed-<n>\n",
    )  # fmt: skip


def test_another_base_is_refused_and_both_are_named(made, adapter, tiny_model, tmp_path):
    import shutil

    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(tiny_model, moved)
    shutil.copytree(tiny_model, other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<s>"}))
    words = ["merge", made["full"], tmp_path / "out", "--base", "model.source=path", "model.name=elsewhere"]
    code, _, err = adapter(*words, f"model.path={other}")
    assert code == 2
    assert re.search(r"trained on model tiny \(path:\w+\), and the base given is elsewhere \(path:\w+\)", err)
    assert not (tmp_path / "out").exists()
    code, out, _ = adapter(*words, f"model.path={moved}")
    assert code == 0
    assert difference(out) == 0
    code, _, err = adapter("merge", made["full"], tmp_path / "third", "--base", "seed=1")
    assert (code, err) == (2, "harness.adapter: --base seed=1: only settings of the model group, model=... or "
                              "model.<name>=...\n")  # fmt: skip
