"""Every method that is on disk, and the tiny random models that it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from workshop import NAMES, SMALL, Workshop, on

from harness.config import config
from harness.methods.base import Method
from harness.methods.contexts import OnDevice, OnModel


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads, and much slower on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def workshop(tiny_model: Path) -> Workshop:
    return on(tiny_model)


@pytest.fixture(scope="session")
def biased(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The tiny model with biases, for what trains nothing else."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("biased")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    shape = AutoConfig.from_pretrained(tiny_model, attention_bias=True, mlp_bias=True)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return on(folder)


@pytest.fixture(scope="session")
def make(compose: Callable[..., Any]) -> Callable[..., Method]:
    """A method from its YAML and overrides, sized for the tiny model."""

    def made(name: str, *overrides: str) -> Method:
        composed = compose(f"method={name}", *SMALL.get(name, []), *overrides)
        return config._method(OmegaConf.to_container(composed.method, resolve=True))

    return made


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest, make: Callable[..., Method]) -> Method:
    found = make(request.param)
    if found.unsupported(OnDevice("cpu")):
        pytest.skip(found.unsupported(OnDevice("cpu")))
    return found


@pytest.fixture
def place(method: Method, workshop: Workshop, biased: Workshop) -> Workshop:
    """The tiny model, or one with biases for what needs them."""
    return biased if method.unsupported(OnModel(workshop.load(method))) else workshop
