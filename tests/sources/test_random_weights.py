"""Random weights: of the right shapes, the same each time, trained like any others, and in no table of scores."""

import json

import pytest
import torch

from harness.config import config
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.pages.report import page
from harness.run import inputs, preflight, run
from harness.sources import models, random_weights

SHAPE = "{model_type: llama, vocab_size: 300, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, \
num_attention_heads: 4, num_key_value_heads: 2, tie_word_embeddings: true}"


@pytest.fixture(scope="module")
def described(compose, shared_overrides, tmp_path_factory):
    """Experiments on random weights of a tiny shape, kept in a cache of their own."""
    cache = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("HARNESS_CACHE", str(cache))
    words = [word for word in shared_overrides() if not word.startswith("model.")]

    def made(*more):
        own = ("model.weights=random", f"model.architecture={SHAPE}", "train.packing=true", "train.max_length=64")
        return inputs.resolve(config.build(compose(*words, *own, *more)))

    yield made
    patch.undo()


def test_a_folder_is_written_once_and_read_as_any_other(described):
    spec = described("method=lora").model
    assert spec.content.startswith("random:")
    folder = random_weights.folder_of(spec)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" not in index, "tied to the embeddings"
    assert random_weights.folder_of(spec) == folder
    model = models.load(spec, {"dtype": torch.float32})
    assert model.config.num_hidden_layers == 2
    weights = dict(model.named_parameters())
    assert weights["model.embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert (weights["model.norm.weight"] == 1).all()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = models.tokenizer(spec)
    text = "Any text, \u00fcberall."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_check_draws_none_and_tokens_are_those_of_the_folder(described, monkeypatch):
    """A model of eight billion is sixteen gigabytes that nobody needs to learn that it does not fit."""
    from transformers import AutoTokenizer

    experiment = described("method=lora")
    kept = AutoTokenizer.from_pretrained(random_weights.folder_of(experiment.model))
    monkeypatch.setattr(random_weights, "_write", lambda *_: pytest.fail("drew weights"))
    assert preflight.check([experiment], lambda event: None) == []
    own = models.tokenizer(experiment.model)
    text, chat = (
        "Any text, \u00fcberall.</s>",
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    )
    assert own(text)["input_ids"] == kept(text)["input_ids"]
    assert own.apply_chat_template(chat, tokenize=False) == kept.apply_chat_template(chat, tokenize=False)
    names = ("eos_token_id", "pad_token_id", "bos_token_id", "unk_token_id", "padding_side")
    assert [getattr(own, name) for name in names] == [getattr(kept, name) for name in names]
    assert len(own) == len(kept)


def test_large_models_are_written_in_shards(described, monkeypatch, tmp_path):
    monkeypatch.setattr(random_weights, "_SHARD_BYTES", 4000)
    spec = described("method=lora").model
    random_weights._write(spec, tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3
    from transformers import AutoModelForCausalLM

    split = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    whole = models.load(spec, {"dtype": torch.bfloat16})
    assert all(torch.equal(a, b) for a, b in zip(split.parameters(), whole.parameters(), strict=True))


def test_a_run_on_them_is_marked_and_has_costs_and_no_scores(described):
    from pathlib import Path

    experiment = described("method=lora", "method.r=2", "method.lora_alpha=4")
    result = run.run(experiment, lambda event: None)
    assert (result.status, result.current.reason) == ("ok", "")
    assert result.recipe["model"]["weights"] == "random"
    assert result.training.tokens_per_second > 0
    assert result.measured.data.packed_rows > 0
    text = page(Comparison(load([Path(experiment.runs_dir)])))
    assert "The weights are random: memory and speed are real, scores mean nothing." in text


def test_other_recipes_do_not_say_that_their_weights_are_not_random(compose):
    from harness.config.experiment import recipe

    assert set(recipe(config.build(compose()))["model"]) == {"content", "name"}


def test_nothing_is_fetched_for_them_and_an_unknown_shape_is_refused(compose, monkeypatch):
    def forbidden(*_, **__):
        pytest.fail("asked the network")

    monkeypatch.setattr(inputs.hub, "commit", forbidden)
    monkeypatch.setattr(inputs.hub, "download_model", forbidden)
    large = inputs.resolve(config.build(compose("model=llama-3.1-8b", "model.weights=random")))
    assert large.model.content.startswith("random:")
    inputs.fetch(large)
    with pytest.raises(ValueError, match=r"model\.weights=random: its shapes are not known"):
        inputs.resolve(config.build(compose("model.weights=random", "model.architecture=null")))


def test_weights_do_not_depend_on_the_number_of_cores_that_draw_them(monkeypatch):
    monkeypatch.setattr(random_weights, "_SLICE", 1000)
    like = torch.empty(70, 100, device="meta")
    drawn = []
    for cores in (1, 3, 8):
        monkeypatch.setattr(random_weights.os, "sched_getaffinity", lambda process, n=cores: set(range(n)))
        drawn.append(random_weights._drawn("layers.0.weight", like))
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    slices = drawn[0].view(-1).split(1000)
    assert all(not torch.equal(slices[0], other) for other in slices[1:])
    assert not torch.equal(drawn[0], random_weights._drawn("layers.1.weight", like))
    assert drawn[0].float().mean().abs() < 4 * 0.02 / 7000**0.5, "within four standard errors of zero"
    assert drawn[0].float().std() == pytest.approx(0.02, rel=0.05)
