"""Check for the compiler that Triton needs on a machine with a GPU, before a run and not at its first kernel."""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

_COMPILERS = ("gcc", "clang")  # in Triton's order (triton/runtime/build.py); CC goes before them


def missing() -> str:
    """Return the error if Triton cannot compile the launcher of its kernels; "" if it can or need not.

    The output head's loss is a Triton kernel on a GPU, so that every run that trains needs it. Versions of Triton that
    come with a compiled launcher do not call `compile_module_from_src`.
    """
    source = _driver_source()
    if source is None or "compile_module_from_src" not in source:
        return ""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None or shutil.which(compiler) is None:
        given = f"CC={os.environ['CC']} is no program" if "CC" in os.environ else "neither gcc nor clang is on the PATH"
        return _lacking(f"a C compiler, and {given}")
    header = Path(sysconfig.get_paths(_scheme())["include"], "Python.h")
    return "" if header.is_file() else _lacking(f"{header}, which is not there")


def _lacking(what: str) -> str:
    return (
        f"training on a GPU compiles Triton's launcher, which needs {what}: install them (apt install gcc python3-dev, "
        "conda install gcc), or set CC"
    )


def _driver_source() -> str | None:
    """Return the source of Triton's driver for NVIDIA cards; None without Triton. It is not imported."""
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "backends" / "nvidia" / "driver.py"
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _scheme() -> str:
    """Return the sysconfig scheme that Triton uses to find the header; Debian's own names a folder without it."""
    scheme = sysconfig.get_default_scheme()
    return "posix_prefix" if scheme == "posix_local" else scheme
