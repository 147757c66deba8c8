"""Kernels of the training step that the settings ask for, put into a model and taken out of it again.

None of them was measured on a GPU here; `python -m tests.bench gpu` measures them where there is one. Liger's are on by
default where they are available: its authors report less time and memory for the models that it has kernels for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch

from harness.records.settings import KernelSpec
from harness.train.fsdp import layers_of, unwrapped

_ABSENT = object()


class Kernels:
    """Switches the kernels that `spec` asks for on and off in a model; off is as the model was loaded.

    They must be off in a step that is profiled operation by operation: compiled layers and fused kernels hide the
    operations to count. The peaks leave the memory of that step out. They must be off in an evaluation as well: a score
    must not depend on the kernels of training.
    """

    def __init__(self, model: Any, spec: KernelSpec) -> None:
        self._model, self._spec, self._on = model, spec, False
        self._usual = unwrapped(model).config._attn_implementation

    def turn(self, on: bool) -> None:
        """Let the model compute with the kernels that were asked for, or as it was loaded."""
        if on == self._on:
            return
        self._on = on
        if self._spec.attention != "auto":
            unwrapped(self._model).set_attn_implementation(self._spec.attention if on else self._usual)
        if self._spec.tf32:
            torch.set_float32_matmul_precision("high" if on else "highest")
        for change in self._changes:
            change.make(on)

    def without(self, function: Callable[[], float]) -> Callable[[], float]:
        """Return the function, wrapped so that all kernels are off while it runs."""

        def called() -> float:
            was_on = self._on
            self.turn(on=False)
            try:
                return function()
            finally:
                self.turn(on=was_on)

        return called

    @functools.cached_property
    def _changes(self) -> list[_Change]:
        """Return Liger's changes before those of the compiler, which takes the layers as Liger leaves them."""
        liger = _liger(self._model) if self._spec.liger is True else []
        return liger + (_compiled(self._model) if self._spec.compile else [])


def settled(spec: KernelSpec, model: Any, may: bool) -> KernelSpec:
    """Return the kernels with `auto` resolved for this model; `may`: whether there is a GPU for it."""
    if spec.liger != "auto":
        return spec
    return replace(spec, liger=may and _has_liger(model))


def _has_liger(model: Any) -> bool:
    if find_spec("liger_kernel") is None:
        return False
    from liger_kernel.transformers import monkey_patch

    return unwrapped(model).config.model_type in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN


def unknown(model: Any, spec: KernelSpec) -> str:
    """Return why this model has no such kernels; "" when it has. `model` may have no weights."""
    name = type(model).__name__
    if spec.compile and not layers_of(model):
        return f"train.kernels.compile=true: {name} does not say which of its modules are layers (_no_split_modules)"
    if spec.attention.startswith("flash") and not model._supports_flash_attn:
        return f"train.kernels.attention={spec.attention}: transformers has none for {name}; use auto, sdpa or eager"
    if spec.attention == "sdpa" and not model._supports_sdpa:
        return f"train.kernels.attention=sdpa: transformers has none for {name}; use auto or eager"
    if spec.liger is True:
        from liger_kernel.transformers import monkey_patch

        supported = monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN
        if model.config.model_type not in supported:
            return (
                f"train.kernels.liger=true: liger-kernel has none for {name}; it has for {', '.join(sorted(supported))}"
            )
    return ""


@dataclass(frozen=True)
class _Change:
    """An entry of a namespace, with and without the kernel."""

    namespace: dict[str, Any]
    key: str
    usual: Any
    changed: Any

    def make(self, on: bool) -> None:
        value = self.changed if on else self.usual
        if value is _ABSENT:
            self.namespace.pop(self.key, None)
        else:
            self.namespace[self.key] = value


def _liger(model: Any) -> list[_Change]:
    """Return the changes that Liger makes to the model and to the Python module of its architecture.

    Liger replaces functions and classes there. The loss is left alone, because logits are computed at labeled positions
    only in any case.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    base = unwrapped(model)
    places = [vars(module) for module in base.modules()] + [vars(sys.modules[type(base).__module__])]
    before = [dict(place) for place in places]
    _apply_liger_kernel_to_instance(model=base, cross_entropy=False, fused_linear_cross_entropy=False)
    return [
        _Change(place, key, original.get(key, _ABSENT), value)
        for place, original in zip(places, before, strict=True)
        for key, value in place.items()
        if original.get(key, _ABSENT) is not value
    ]


def _compiled(model: Any) -> list[_Change]:
    """Return a change for each layer: a function that is compiled once for all lengths, as batches have many."""
    return [
        _Change(vars(layer), "_compiled_call_impl", _ABSENT, torch.compile(layer._call_impl, dynamic=True))
        for layer in layers_of(model)
    ]
