"""What the tests share: a tiny real model on disk, and configurations composed as the command line does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and a byte-level tokenizer with a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=2, pad_token_id=3,
        tie_word_embeddings=True, **SHAPE,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def letters_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty-four rows that a tiny model can learn: the answer repeats the question's letter."""
    path = tmp_path_factory.mktemp("letters") / "letters.jsonl"
    rows = [{"prompt": f"Say {chr(97 + i % 26)}{i}:", "completion": " " + chr(97 + i % 26) * 4} for i in range(64)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tiny_overrides(tiny_model: Path, letters_file: Path, tmp_path: Path) -> list[str]:
    """Overrides under which a run takes seconds: the tiny model on the letters, held-out loss only."""
    return [
        "model.source=path", f"model.path={tiny_model}", "model.name=tiny",
        "data=file", f"data.file={letters_file}", "eval.tasks=[]",
        "train=smoke", "eval=smoke", "train.precision=fp32", "tracking=none",
        f"runs_dir={tmp_path}/runs", f"reports_dir={tmp_path}/reports",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def compose() -> Callable[..., object]:
    """Compose `conf/` with overrides, as the command line does."""
    import hydra

    from harness import config
    from harness.assets import conf_dir

    config.register()

    def composed(*overrides: str) -> object:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose("config", overrides=list(overrides))

    return composed
