"""Checks of the requested kernels (flash attention, Liger, torch.compile), without importing torch."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from harness.records.settings import KernelSpec, LaunchSpec, TrainSpec

# the module, and how to install it
_FLASH = {
    "flash_attention_2": ("flash_attn", "pip install flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "build it from the folder hopper of Dao-AILab/flash-attention"),
}
_LIGER = ("liger_kernel", "pip install 'harness[liger]'")
_COMPILERS = ("c++", "g++", "clang++")  # torch.compile writes C++ for a CPU, and Triton for a GPU
_PACKAGES = ("flash_attn", "flash_attn_3", "liger_kernel", "triton")


def unsupported(spec: KernelSpec, device: str, is_here: bool = True) -> str:
    """Return the reason why `device` ("cpu" or "cuda") cannot use these kernels; "" when it can.

    Without `is_here` the device is another machine's, whose compilers this machine cannot check.
    """
    needed = {f"train.kernels.attention={spec.attention}": _FLASH.get(spec.attention)}
    if spec.liger is True:
        needed["train.kernels.liger=true"] = _LIGER
    if spec.tf32 and device != "cuda":
        return "train.kernels.tf32=true needs a CUDA device"
    for setting, package in needed.items():
        if package is None:
            continue
        if device != "cuda":
            return f"{setting} needs a CUDA device"
        module, how = package
        if find_spec(module) is None:
            return f"{setting} needs the package {module}: {how}"
    return _uncompiled(device) if spec.compile and is_here else ""


def check(spec: TrainSpec, launch: LaunchSpec) -> None:
    """Refuse kernels that do not go together with the training settings.

    Raises:
        ValueError: names both settings, and what is allowed.
    """
    kernels = spec.kernels
    setting = f"train.kernels.attention={kernels.attention}"
    if kernels.attention in _FLASH and spec.precision == "fp32":
        raise ValueError(f"{setting} with train.precision=fp32: it computes in 16 bits; use bf16, or attention=sdpa")
    if kernels.attention in _FLASH and spec.deterministic:
        raise ValueError(
            f"{setting} with train.deterministic=true: its backward pass adds in any order; use attention=sdpa or eager"
        )
    if kernels.tf32 and spec.precision == "bf16":
        raise ValueError(
            "train.kernels.tf32=true with train.precision=bf16: it rounds products of float32 tensors, of which there "
            "are none; use train.precision=fp32, or leave it out"
        )
    if launch.sharding == "fsdp" and (kernels.compile or kernels.liger is True):
        name = "compile" if kernels.compile else "liger"
        raise ValueError(
            f"train.kernels.{name}=true with launch.sharding=fsdp: the two have not been tried together; leave one out"
        )


def facts(spec: KernelSpec) -> dict[str, Any]:
    """Return the facts that a record keeps beside the settings: versions of optional packages. {} for the defaults."""
    if spec == KernelSpec():
        return {}
    return {"kernel_versions": {name: version for name in _PACKAGES if (version := _version(name)) is not None}}


def _uncompiled(device: str) -> str:
    if device == "cuda" and find_spec("triton") is None:
        return "train.kernels.compile=true needs the package triton on a GPU: pip install triton"
    if not any(map(shutil.which, _COMPILERS)):
        return f"train.kernels.compile=true needs a C++ compiler: none of {', '.join(_COMPILERS)} is on the PATH"
    return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
