"""Every adapter type that the installed PEFT has, through the one generic method: ten steps, save and load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from workshop import Workshop

from harness.methods.base import Method

pytestmark = pytest.mark.filterwarnings("ignore")  # each type has warnings of its own

TYPES = sorted(str(getattr(key, "value", key)) for key in PEFT_TYPE_TO_CONFIG_MAPPING)
OPTIONS: dict[str, str] = {}
CANNOT: dict[str, str] = {}


@pytest.mark.parametrize("peft_type", [name for name in TYPES if name not in CANNOT])
def test_a_type_learns_and_is_loaded_again(
    peft_type: str, make: Callable[..., Method], workshop: Workshop, tmp_path: Path
) -> None:
    method = make("peft", f"method.peft_type={peft_type}", f"method.options={{{OPTIONS.get(peft_type, '')}}}")
    method = make("peft", f"method.peft_type={peft_type}", *[f"method.options.{o}" for o in OPTIONS.get(peft_type, "").split() if o])
    model = workshop.attach(method, steps=10)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == method.expected_trainable(workshop.load(method))
    losses = workshop.train(model, method, 10, 1e-2)
    assert losses[-1] < losses[0]
    logits = workshop.logits(model)
    method.save(model, tmp_path)
    assert torch.allclose(workshop.logits(method.restore(workshop.load(method), tmp_path)), logits, atol=1e-4)
