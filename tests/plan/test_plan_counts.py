"""`harness.plan` against published numbers: what trains in Llama-3.1-8B, and the size of every model shipped."""

import json

import pytest

from harness.config.compose import experiments
from harness.plan.__main__ import main
from harness.run import isolate
from harness.sources.packages import conf_dir

# closed forms of the methods' papers on Llama-3.1-8B: hidden 4096, 32 layers, keys and values 1024, MLP 14336
TRAINED = {
    "method=lora method.r=8 target=attention_qv": 3_407_872,
    "method=lora method.r=16 target=attention": 13_631_488,
    "method=lora method.r=16 target=mlp": 28_311_552,
    "method=lora method.r=16 target=all_linear": 41_943_040,
    "method=lora method.r=64 target=all_linear": 167_772_160,
    "method=lora method.r=16 target=[q_proj,v_proj]": 6_815_744,
    "method=qlora method.r=16 target=all_linear": 41_943_040,
    "method=dora method.r=16 target=all_linear": 43_319_296,
    "method=vera method.r=256 target=attention_qv": 180_224,
    "method=ia3": 524_288,
    "method=prompt method.num_virtual_tokens=100": 409_600,
    "method=prefix method.num_virtual_tokens=20": 1_310_720,
    "method=ln_tuning": 266_240,
    "method=full": 8_030_261_248,
    "method=base": 0,
}
# as the Hub's own index of each repository's safetensors says; tied embeddings counted once
TOTALS = {
    "llama-7b": 6_738_415_616, "llama-13b": 13_015_864_320, "llama-33b": 32_528_943_616, "llama-65b": 65_285_660_672,
    "llama-2-13b": 13_015_864_320, "llama-2-70b": 68_976_648_192,
    "gemma-2-2b": 2_614_341_888, "gemma-2-9b": 9_241_705_984, "gpt2": 124_439_808, "llama-2-7b": 6_738_415_616,
    "llama-3.1-70b": 70_553_706_496, "llama-3.1-8b": 8_030_261_248, "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824, "mistral-7b": 7_248_023_552, "mixtral-8x7b": 46_702_792_704,
    "opt-1.3b": 1_315_758_080, "opt-125m": 125_239_296, "phi-3-mini": 3_821_079_552, "pythia-1.4b": 1_414_647_808,
    "pythia-160m": 162_322_944, "pythia-1b": 1_011_781_632, "pythia-410m": 405_334_016,
    "pythia-6.9b": 6_857_302_016, "pythia-70m": 70_426_624, "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-7b": 7_615_616_512, "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360,
    "smollm2-1.7b": 1_711_376_384, "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120,
    "tinyllama-1.1b": 1_100_048_384,
}  # fmt: skip


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """The rows of both tables, counted in one process."""
    log = tmp_path_factory.mktemp("plan") / "log.txt"
    trained = [experiments([*row.split(), "model=llama-3.1-8b"])[0][1] for row in TRAINED]
    totals = [experiments(["method=base", f"model={name}"])[0][1] for name in TOTALS]
    ended = isolate.call("harness.plan.count:cells", [*trained, *totals], log=log)
    assert ended.kind == "returned", ended.reason
    return dict(zip([*TRAINED, *TOTALS], ended.value, strict=True))


@pytest.mark.parametrize("row", TRAINED)
def test_what_trains_in_llama_8b_to_the_digit(counts, row):
    assert counts[row]["trainable_parameters"] == TRAINED[row]
    assert counts[row]["expected_trainable_parameters"] == TRAINED[row]
    assert counts[row]["base_parameters"] == 8_030_261_248


@pytest.mark.parametrize("model", TOTALS)
def test_a_shipped_model_has_its_published_size(counts, model):
    assert counts[model]["total_parameters"] == counts[model]["base_parameters"] == TOTALS[model]


def test_every_shipped_model_is_among_them():
    assert sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml")) == sorted(TOTALS)
    assert len(TOTALS) == 36


def test_adapted_modules_are_named_by_pattern(counts):
    found = counts["method=lora method.r=8 target=attention_qv"]
    assert found["adapted_modules"] == 64
    assert found["targets"] == {
        "model.layers.{0..31}.self_attn.q_proj": 32, "model.layers.{0..31}.self_attn.v_proj": 32,
    }  # fmt: skip
    assert counts["method=prompt method.num_virtual_tokens=100"]["adapted_modules"] == 0


def test_the_command_expands_cells_and_prints_json(capsys):
    assert main(["method=lora,dora", "method.r=4,8", "model=smollm2-135m", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["method"], one["trainable_parameters"]) for one in found] == [
        ("lora", 1_221_120), ("lora", 2_442_240), ("dora", 1_376_640), ("dora", 2_597_760),
    ]  # fmt: skip
    assert found[1]["cell"] == "method=lora method.r=8 model=smollm2-135m"
    assert found[1]["trainable_percent"] == pytest.approx(100 * 2_442_240 / (134_515_008 + 2_442_240))


def test_a_prompt_that_begins_as_words_is_planned_without_the_models_tokenizer(capsys):
    """In bytes, which stand for the tokens in a plan, it has more of them than the prompt."""
    text = "method.init_text='Answer the following question in one word:'"
    words = ["method=prompt", "method.init=text", text, "method.num_virtual_tokens=12", "model=llama-3.1-8b"]
    assert main([*words, "--counts", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["trainable_parameters"] == row["expected_trainable_parameters"] == 12 * 4096


def test_what_cannot_train_is_a_row_that_says_why(capsys):
    assert main(["method=lora,bitfit", "model=llama-3.2-1b"]) == 0
    out = capsys.readouterr().out
    assert "11,272,192" in out
    assert "method=bitfit: nothing to train: this llama model has no biases" in out


def test_a_local_folder_is_read_and_not_the_table_of_the_default_model(tiny_model, capsys):
    words = ["model.source=path", f"model.path={tiny_model}", "model.name=tiny", "method=full"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["total_parameters"] == 90_688


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=nosuch"], "Available: "),
        (["method=lora", "method.rnak=8"], "no such setting"),
        (["model=nosuch"], "Available: "),
        (["target=nosuch"], "not a preset"),
        (["target=[nosuch]", "model=llama-3.2-1b"], "method=lora model=llama-3.2-1b: target=[nosuch]"),
        (["targets", "model=nosuch"], "Available: "),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(words, said, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert not out


def test_without_a_table_or_files_it_says_what_to_give(monkeypatch):
    from harness.plan import count
    from harness.sources import models

    def unreachable(spec):
        raise OSError("no connection\nand a long story")

    monkeypatch.setattr(models, "location", unreachable)
    spec = experiments(["model=llama-3.2-1b", "model.hub_id=someone/else"])[0][1].model
    with pytest.raises(ValueError, match=r"nothing here tells its shapes \(no connection\): give model.source=path"):
        count.skeleton(spec)
