"""Secrets are planted wherever one can stand, and looked for in every file that is written."""

import json
import os

import pytest

from harness.records import redact

SECRETS = {
    "WANDB_API_KEY": "wandbkey0123456789abcdef",
    "HF_TOKEN": "hf_0123456789abcdefghijABCDEFGHIJ",
    "OPENAI_API_KEY": "sk-planted-0123456789abcdef",
    "MY_SECRET": 'with "quotes" and \\ and \u00e9',
    "DATABASE_PASSWORD": "planted-password-1",
}


@pytest.fixture
def planted(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_a_value_of_the_environment_is_removed_wherever_it_stands(planted):
    for value in SECRETS.values():
        assert value not in redact.text(f"before {value} after")
        assert json.dumps(value)[1:-1] not in redact.text(json.dumps({"reason": f"got {value}"}))
        assert value not in str(redact.anything({"a": [value, (f"x{value}",)], value: 1}))


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("python -m x +api_key=planted1 seed=1", "python -m x +api_key=<removed> seed=1"),
        ("train.HUB_TOKEN='planted1'", "train.HUB_TOKEN='<removed>'"),
        ("--url https://user:planted1@host/v1 -n 3", "--url https://<removed>@host/v1 -n 3"),
        ("token hf_planted1planted1planted1", "token <removed>"),
        ("+hub={api_key:planted1,n:3}", "+hub={api_key:<removed>,n:3}"),
        ('said {"hub_token": "planted1", "n": 3}', 'said {"hub_token": "<removed>", "n": 3}'),
        ("my.password: 'planted1'", "my.password: '<removed>'"),
    ],
)
def test_what_shows_that_it_is_a_secret_is_removed(written, kept):
    assert redact.text(written) == kept


@pytest.mark.parametrize(
    "harmless",
    [
        "method.num_virtual_tokens=8", "eval.batch_tokens=4096", "tokens_per_second=3", "hub:a/b@0123", "https://a/b@c",
        "unexpected token: all that follows", "eos_token: <|endoftext|>", "data_key: loss", "a_key: {a_long_name: 1}",
        "target_modules=[k_proj]", '{"trained_tokens": [4]}', "key=loss",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(harmless, monkeypatch):
    monkeypatch.setenv("SHORT_KEY", "loss")
    assert redact.text(harmless) == harmless


def test_a_log_loses_its_secrets_and_nothing_else(planted, tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"caf\xe9 " + SECRETS["HF_TOKEN"].encode() + b" end\n")
    redact.file(log)
    assert log.read_bytes() == b"caf\xe9 <removed> end\n"
    redact.file(tmp_path / "nothing")


def test_secrets_reach_no_file_of_a_run(harness, tiny_overrides, tmp_path):
    """A run that fails with them in its message, and one that is mirrored; then every byte below is searched."""
    done = harness(
        "-m", *tiny_overrides, "method=lora", "tracking=wandb", "train.max_steps=1",
        "data.train.0.prompt='{{prompt}} https://me:urlpassword@host/'", **SECRETS,
    )  # fmt: skip
    assert done.code == 0, done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert any(path.suffix == ".wandb" for path in files)
    planted = [value.encode() for value in (*SECRETS.values(), "urlpassword")]
    assert [path for path in files for value in planted if value in path.read_bytes()] == []
    assert os.environ.get("MY_SECRET") is None


def test_a_tokenizers_own_tokens_are_no_secrets():
    known = {"pad_token": "<|im_end|>", "tokenizer.eos_token": "<|endoftext|>", "my_eos_token_key": "abcdefghij"}
    assert redact.anything(known) == {**known, "my_eos_token_key": redact.REMOVED}
    assert (
        redact.text("pad_token=<|im_end|> hub_token=abcdefghij") == f"pad_token=<|im_end|> hub_token={redact.REMOVED}"
    )
