"""What the tests share: a tiny real model on disk, and configurations composed as the command line does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_machines import Cards

# tiny models are slower on two threads than on one; tests of the real model ask for more themselves
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a card where there is none."""
    from harness.measure import hardware

    asked = [item for item in items if item.get_closest_marker("gpu")]
    if asked and hardware.device() != "cuda":
        for item in asked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _signals_restored() -> Iterator[None]:
    """Give the signals that end a run back their handlers, which a started command would otherwise inherit ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


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


def overrides_below(folder: Path, model: Path, letters: Path) -> list[str]:
    """Overrides under which a run takes seconds: the tiny model on the letters, held-out loss only."""
    return [
        "model.source=path", f"model.path={model}", "model.name=tiny",
        "data=file", f"data.file={letters}", "eval.tasks=[]",
        "train=smoke", "eval=smoke", "train.precision=fp32", "tracking=none", "max_retries=0",
        f"runs_dir={folder}/runs", f"reports_dir={folder}/reports",
    ]  # fmt: skip


@pytest.fixture
def tiny_overrides(tiny_model: Path, letters_file: Path, tmp_path: Path) -> list[str]:
    """What makes runs small, with results below this test's folder."""
    return overrides_below(tmp_path, tiny_model, letters_file)


@pytest.fixture(scope="module")
def shared_overrides(
    tiny_model: Path, letters_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], list[str]]:
    """The same, with results below a new folder at each call, for runs that several tests look at."""
    return lambda: overrides_below(tmp_path_factory.mktemp("shared"), tiny_model, letters_file)


@dataclass(frozen=True)
class Finished:
    """A command that is over."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def harness() -> Callable[..., Finished]:
    """Run `python -m harness` with the words given, in the folder `cwd`, as a person would."""

    def command(*words: str, cwd: Path = ROOT, **environment: str) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "harness", *words],
            capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=500, check=False,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    return command


@pytest.fixture
def cards(tmp_path: Path) -> Callable[..., Cards]:
    """Make a machine of described cards; without NVML, or with a library that asks CUDA when it is imported."""

    def made(*described: dict[str, object], **machine: object) -> Cards:
        file, log = tmp_path / "cards.json", tmp_path / "touches.jsonl"
        file.write_text(json.dumps({"nvml": True, "driver": "580.65.06", **machine, "cards": described}))
        log.write_text("")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        path = os.pathsep.join(filter(None, (str(ROOT / "tests" / "fake_cards"), inherited.get("PYTHONPATH"))))
        own = {"PYTHONPATH": path, "FAKE_CARDS": str(file), "FAKE_CARDS_LOG": str(log)}
        return Cards({**inherited, **own}, log)

    return made


@pytest.fixture(scope="session")
def compose() -> Callable[..., object]:
    """Compose `conf/` with overrides, as the command line does."""
    import hydra

    from harness.config import config
    from harness.sources.packages import conf_dir

    config.register()

    def composed(*overrides: str) -> object:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose("config", overrides=list(overrides))

    return composed
