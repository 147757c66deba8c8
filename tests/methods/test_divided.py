"""Every method under which a model can be divided between two processes trains and saves what one process does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from workshop import NAMES, Workshop, replaced

from harness.methods.base import Method
from harness.methods.contexts import OnModel, Sharded
from harness.records.settings import LaunchSpec, TrainSpec
from harness.train import distributed, launcher
from harness.train.loop import Job, train

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),  # PEFT of normalizations
]
CANNOT = {"adalora", "galore", "p_tuning", "peft", "prefix", "prompt", "qdora", "qlora"}
CAN = [name for name in NAMES if name not in CANNOT and name not in ("base", "unsloth")]


def test_a_method_says_whether_its_model_can_be_divided(make: Callable[..., Method]) -> None:
    assert {name for name in NAMES if make(name).unsupported(Sharded())} == CANNOT
    assert len(CAN) == 14
    assert not make("qlora", "method.quantization=none").unsupported(Sharded())
    for init in ("pissa", "olora", "eva"):
        for name in ("lora", "dora", "lora_plus"):
            assert f"method.init_lora_weights={init} computes with whole weights" in make(
                name, f"method.init_lora_weights={init}"
            ).unsupported(Sharded())
    assert not make("lora", "method.init_lora_weights=gaussian").unsupported(Sharded())
    assert "paged" in make("qlora", "method.quantization=none", "method.optimizer_name=paged_adamw_32bit").unsupported(
        Sharded()
    )


@pytest.mark.parametrize("name", CAN)
def test_a_divided_model_trains_as_a_whole_one(
    name: str, make: Callable[..., Method], workshop: Workshop, biased: Workshop, tmp_path: Path
) -> None:
    method = make(name)
    dropout = [field for field in vars(method) if field.endswith("_dropout")]  # each process draws its own
    method = replaced(method, **dict.fromkeys(dropout, 0.0))
    place = biased if method.unsupported(OnModel(workshop.load(method))) else workshop
    losses, expected = trained(job(place, method, tmp_path), tmp_path / "alone")

    def work(emit: Any) -> Any:
        part = job(place, method, tmp_path, "fsdp")
        return trained(part, tmp_path / "divided") if distributed.rank() == 0 else train(part)

    found, saved = launcher.launch(LaunchSpec(num_processes=2), work, lambda event: None)
    assert found == pytest.approx(losses, rel=1e-5)
    assert saved.keys() == expected.keys()
    assert saved
    for tensor in saved:
        assert torch.allclose(saved[tensor], expected[tensor], atol=1e-5), tensor


def job(place: Workshop, method: Method, scratch: Path, sharding: Any = "none") -> Job:
    spec = TrainSpec(
        lr=1e-4, max_steps=3, epochs=None, global_batch_size=4, micro_batch_size=1, max_length=64,
        lr_scheduler_type="constant", warmup_steps=0.0, weight_decay=0.1, max_grad_norm=1.0,
        gradient_checkpointing=False,
        precision="fp32", loss_on="completion", group_by_length=False, eval_every=None,
    )  # fmt: skip
    return Job(
        model=place.attach(method), method=method, rows=place.rows, spec=spec, seed=0, tokenizer=place.tokenizer,
        validate=lambda: 0.0, emit=lambda _: None, scratch=str(scratch / "trainer"), sharding=sharding,
    )  # fmt: skip


def trained(work: Job, folder: Path) -> tuple[list[float | None], dict[str, torch.Tensor]]:
    """The losses, and what is saved."""
    losses = list(train(work).losses)
    folder.mkdir()
    work.method.save(work.model, folder)
    return losses, {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}
