"""Provenance of a number: commit, uncommitted changes, versions, device."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
from harness.measure import hardware, proc
from harness.records import redact
from harness.run.server import ALLOCATOR_SETTINGS

_PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "lm_eval", "tokenizers", "numpy",
)  # fmt: skip
_OPENMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # how threads wait, which affects timings on a busy machine
# Environment variables, by how they begin, that change what a device computes or how fast it is
_SETTINGS = (
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING", "CUDA_", "CUBLAS_", "CUDNN_",
    "NCCL_", "TORCH_NCCL_", "TORCH_CUDNN_", "TORCH_BLAS_", "NVIDIA_TF32_OVERRIDE", "TRITON_",
)  # fmt: skip
_TRAINING_PARTS = (
    "data", "methods", "train", "run/worker.py", "sources/models.py",
)  # fmt: skip


@functools.cache
def facts() -> dict[str, Any]:
    """Return the provenance that all runs of this process share. Does not import torch."""
    commit, dirty = _commit()
    return {
        "harness": harness.__version__,
        "commit": commit,
        "uncommitted_changes": dirty,
        "program": _program(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": proc.cpu_field("model name") or None,
        "cpu_bfloat16_units": hardware.bfloat16_units(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _program() -> str:
    """Return a digest of this package's modules, which is the same in another commit that leaves them as they are."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def with_versions_of(packages: tuple[str, ...]) -> dict[str, Any]:
    """Return the versions with those of packages that a method puts before all others; {} without such packages.

    They replace code of the libraries, so that rows of other methods were computed by other code.
    """
    return {"versions": {**facts()["versions"], **{name: _version(name) for name in packages}}} if packages else {}


@functools.cache
def training_code() -> str:
    """Return a digest of the code that training depends on: ours, and the versions of Python and the libraries."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(json.dumps([facts()["python"], facts()["versions"]], sort_keys=True).encode())
    for part in _TRAINING_PARTS:
        for file in sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]:
            digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def device() -> dict[str, Any]:
    """Return the facts of the device that the run computes on. Imports torch."""
    import torch

    openmp = {name: os.environ[name] for name in _OPENMP if name in os.environ}
    if not torch.cuda.is_available():
        processor = {
            "device": "cpu",
            "device_name": proc.cpu_field("model name") or None,
            "threads": torch.get_num_threads(),
        }
        return {**processor, "openmp": openmp, "num_processes": 1}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    uuid = getattr(properties, "uuid", None)
    return {
        "device": "cuda",
        "device_name": torch.cuda.get_device_name(),
        "device_memory_bytes": properties.total_memory,
        "device_uuid": None if uuid is None else f"GPU-{uuid}",
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "openmp": openmp,
        "driver": hardware.driver_version(),
        "cudnn": torch.backends.cudnn.version(),
        "nccl": _nccl(),
        "triton": _version("triton"),
        "attention_order": _attention_order(),
        "device_settings": _device_settings(),
        "num_processes": 1,
        "allocator": next((os.environ[name] for name in ALLOCATOR_SETTINGS if name in os.environ), None),
    }


def _nccl() -> str | None:
    """Return NCCL's version; None where torch was built without it."""
    import torch

    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError):
        return None


def _attention_order() -> list[str] | None:
    """Return torch's kernels for scaled dot-product attention that are enabled, in the order in which it tries them."""
    from torch.nn import attention

    try:
        backends = attention._cur_sdpa_kernel_backends(with_priority=True)
    except (AttributeError, TypeError):  # another version of torch
        return None
    return [backend.name.lower() for backend in backends]


def _device_settings() -> dict[str, str]:
    """Return the environment's settings of the allocator, CUDA's libraries and the devices."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS)}


def command() -> str:
    """Return the command line as it can be typed again, without its secrets."""
    import shlex

    name = Path(sys.argv[0]).name
    words = ["python", "-m", "harness"] if name == "__main__.py" else [name]
    return redact.text(shlex.join([*words, *sys.argv[1:]]))


def _commit() -> tuple[str | None, bool | None]:
    """Return (commit, True if tracked files differ from it) of this code's checkout; (None, None) outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
