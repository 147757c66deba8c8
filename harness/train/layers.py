"""Where a model has its layers, whatever a method has put around it."""

from __future__ import annotations

from typing import Any


def unwrapped(model: Any) -> Any:
    """The model that an adapter is wrapped around; the model itself where there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layers_of(model: Any) -> list[Any]:
    """The modules that the architecture wants on one device each, the outer ones first; none where it names none."""
    base = unwrapped(model)
    names = set(base._no_split_modules or ())
    return [module for module in base.modules() if type(module).__name__ in names]
