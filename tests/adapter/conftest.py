"""Tiny trained runs, made once, and the command called as a person would."""

from __future__ import annotations

from pathlib import Path

import pytest

RUNS = {
    "lora": ["method=lora", "train.lr=1e-2"],
    "lora_again": ["method=lora", "train.lr=1e-2", "seed=1"],
    "rslora": ["method=lora", "method.use_rslora=true", "method.r=8", "train.lr=1e-2"],
    "dora": ["method=dora", "method.r=4", "train.lr=1e-2"],
    "qlora": ["method=qlora", "method.r=4", "train.lr=1e-2", "train.precision=bf16"],
    "full": ["method=full", "train.lr=1e-3"],
    "prompt": ["method=prompt"],
    "base": ["method=base"],
}


@pytest.fixture(scope="session")
def made(tiny_model, letters_file, tmp_path_factory) -> dict[str, Path]:
    """Name -> folder of a run that ended well."""
    from harness.config.compose import experiments
    from harness.run import inputs, run

    shared = [
        "model.source=path", f"model.path={tiny_model}", "model.name=tiny", "data=file", f"data.file={letters_file}",
        "eval.tasks=[]", "eval=smoke", "tracking=none", f"runs_dir={tmp_path_factory.mktemp('adapter')}/runs",
        "train=smoke", "train.max_steps=5",
    ]  # fmt: skip
    folders = {}
    for name, words in RUNS.items():
        precision = [] if any("precision" in word for word in words) else ["train.precision=fp32"]
        experiment = inputs.resolve(experiments([*shared, *precision, *words])[0][1])
        result = run.run(experiment, lambda _: None)
        assert result.status == "ok", (name, result.current.reason)
        folders[name] = experiment.folder
    return folders


@pytest.fixture
def adapter(capsys):
    """Call the command: (exit code, standard output, standard error)."""
    from harness.adapter.__main__ import main

    def command(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture(scope="session")
def prompt_ids(tiny_model):
    """Some tokens that the command's own prompts do not hold, of shape (1, tokens)."""
    import torch

    return torch.tensor([[4 + i * 37 % 250 for i in range(30)]])
