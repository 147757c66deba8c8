"""The devices that runs compute on, as CUDA will show them to a run; found without torch and without touching CUDA.

NVML answers about whole cards. CUDA's driver answers where NVML cannot: in a container without NVML, about a card that
is divided (MIG), and in another order than that of the bus. It is queried in a separate process, because a process
that has initialized CUDA cannot fork others that use it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from harness.measure import proc
from harness.measure.nvml import as_text, initialized

BFLOAT16_CAPABILITY = 8  # major compute capability from which NVIDIA cards compute bfloat16 in hardware (Ampere)
_BFLOAT16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}  # flag of a processor -> name
RUNS_ON = "HARNESS_RUNS_ON"  # environment: cpu or cuda, where runs are planned here and made on other machines
VISIBLE = "CUDA_VISIBLE_DEVICES"
BUS_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # index n of CUDA is then index n of NVML and of nvidia-smi
_LINKS_ARE_KNOWN = (550, 40, 7)  # first driver version that reports missing links
_DRIVER_QUERY = Path(__file__).with_name("cuda_driver.py")
_DRIVER_SECONDS = 60.0  # eight cards without persistence mode take several


@dataclass(frozen=True)
class Card:
    """A GPU, or a slice of one, that a run may compute on."""

    visible_as: str  # its name in CUDA_VISIBLE_DEVICES
    name: str
    capability: tuple[int, int]
    memory_bytes: int


class _UnansweredError(Exception):
    """NVML cannot say which devices CUDA would show."""


def device() -> Literal["cpu", "cuda"]:
    """Return the kind of device that runs compute on, here or where they are planned for."""
    if elsewhere := os.environ.get(RUNS_ON):
        return "cuda" if elsewhere == "cuda" else "cpu"
    return "cuda" if usable_cards() else "cpu"


def precision() -> Literal["bf16", "fp32"]:
    """Return the precision that "auto" stands for: bf16 where the device that trains computes it in hardware.

    Raises:
        ValueError: the runs are made on other machines.
    """
    if os.environ.get(RUNS_ON):
        raise ValueError(
            "train.precision=auto: this machine cannot know what those compute in hardware that make the runs; use "
            "train.precision=bf16 (NVIDIA GPUs from Ampere on) or train.precision=fp32"
        )
    capabilities = [card.capability[0] for card in usable_cards()]
    if capabilities:
        return "bf16" if min(capabilities) >= BFLOAT16_CAPABILITY else "fp32"
    return "bf16" if bfloat16_units() else "fp32"


def bfloat16_units() -> list[str]:
    """Return the names of this processor's bfloat16 units; [] where it multiplies bfloat16 in float32."""
    return [_BFLOAT16_UNITS[flag] for flag in sorted(_BFLOAT16_UNITS.keys() & _cpu_flags())]


def without_bfloat16_units() -> str:
    """Return the name of a device here that computes bfloat16 without units for it; "" where none does."""
    if os.environ.get(RUNS_ON):
        return ""
    if cards := usable_cards():
        return next((card.name for card in cards if card.capability[0] < BFLOAT16_CAPABILITY), "")
    return "" if bfloat16_units() else "this processor"


def device_names() -> list[str]:
    """Return the name in CUDA_VISIBLE_DEVICES of each GPU that runs of this machine may use; [] on a CPU."""
    return [] if os.environ.get(RUNS_ON) else [card.visible_as for card in usable_cards()]


def memory_bytes() -> int | None:
    """Return the memory of the smallest GPU that a run may use; None on a CPU, and for runs of other machines."""
    if os.environ.get(RUNS_ON):
        return None
    return min((card.memory_bytes for card in usable_cards()), default=None)


def showing(number: int) -> dict[str, str]:
    """Return the environment that shows a process `number` GPUs; {} where it sees no more than that anyway."""
    names = device_names()
    return {VISIBLE: ",".join(names[:number])} if len(names) > number else {}


def link_settings() -> dict[str, str]:
    """Return the environment without which accelerate refuses this machine's cards; {} for most.

    RTX 40 cards have no links to each other, and drivers before 550.40.07 offer them all the same. accelerate then
    refuses any process that uses one of several cards, a single process among them, and counts hidden cards as well
    (accelerate/state.py, PartialState; utils/environment.py, check_cuda_p2p_ib_support). Its launcher sets these two.
    """
    if not torch_has_cuda() or not _links_are_missing():
        return {}
    return {name: "1" for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE") if name not in os.environ}


@cache
def _links_are_missing() -> bool:
    try:
        with _Nvml() as nvml:
            names = [as_text(_answer(nvml, "nvmlDeviceGetName", handle)) for handle in _all_handles(nvml)]
    except _UnansweredError:
        return False
    if len(names) < 2 or not any("RTX 40" in name for name in names):
        return False
    version = tuple(int(part) for part in (driver_version() or "").split(".") if part.isdigit())
    return version < _LINKS_ARE_KNOWN


def driver_version() -> str | None:
    """Return the driver's version; None where NVML does not say."""
    try:
        with _Nvml() as nvml:
            return as_text(_answer(nvml, "nvmlSystemGetDriverVersion"))
    except _UnansweredError:
        return None


def usable_cards() -> tuple[Card, ...]:
    """Return the cards that the installed torch can use."""
    return cards() if torch_has_cuda() else ()


@cache
def torch_has_cuda() -> bool:
    """Return whether the installed torch was built for CUDA, as `torch.version.cuda` says; torch is not imported.

    Its shared libraries are elsewhere in each distribution (wheel, conda, a build of one's own).
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    stated = re.search(r"^cuda\b[^=]*= *(\S+)", Path(spec.origin).with_name("version.py").read_text(), re.MULTILINE)
    return stated is not None and stated[1] != "None"


def cards() -> tuple[Card, ...]:
    """Return the cards that CUDA_VISIBLE_DEVICES leaves visible, in CUDA's order."""
    visible = os.environ.get(VISIBLE)
    names = None if visible is None else visible_names(visible)
    if names == []:
        return ()
    try:
        return _by_nvml(names)
    except _UnansweredError:
        order = os.environ.get("CUDA_DEVICE_ORDER", BUS_ORDER["CUDA_DEVICE_ORDER"])
        slices = [name for name in names or () if name.startswith("MIG-")]
        if slices:  # CUDA shows a process the first slice alone
            return tuple(card for name in slices for card in _by_driver(name, order))
        return _by_driver(visible, order)


def visible_names(text: str) -> list[str]:
    """Return the devices that a value of CUDA_VISIBLE_DEVICES names, read as CUDA reads it.

    The first name that cannot be one ends the list, and a repeated one empties it. Indices are numbers with anything
    behind them (`1gpu` is 1); UUIDs begin with `GPU-` or `MIG-` and stand among their own kind.
    """
    prefix = next((kind for kind in ("GPU-", "MIG-") if text.strip().startswith(kind)), "")
    names: list[str] = []
    for part in text.split(","):
        name = part.strip() if prefix else _leading_number(part.strip())
        if not name or not name.startswith(prefix):
            break
        if name in names:
            return []
        names.append(name)
    return names


def _leading_number(text: str) -> str:
    digits = text.removeprefix("+")
    length = next((i for i, sign in enumerate(digits) if not sign.isdigit()), len(digits))
    return str(int(digits[:length])) if length else ""


def other_programs_bytes(visible: str | None) -> dict[str, int]:
    """Return the memory that other programs hold on each card that CUDA_VISIBLE_DEVICES=`visible` names.

    Call it when this program holds no memory there. Memory of the driver and of screens belongs to the machine and is
    not counted. A card that NVML cannot query is left out.
    """
    names = None if visible is None else visible_names(visible)
    try:
        with _Nvml() as nvml:
            return {name: _held(nvml, handle) for name, handle in _handles(nvml, names)} if names != [] else {}
    except _UnansweredError:
        return {}


def _held(nvml: Any, handle: Any) -> int:
    try:
        memory = _answer(nvml, "nvmlDeviceGetMemoryInfo", handle, nvml.nvmlMemory_v2)  # without the driver's own
    except (_UnansweredError, AttributeError, TypeError):  # an old driver, or an old package
        memory = _answer(nvml, "nvmlDeviceGetMemoryInfo", handle)
    try:
        screens = _answer(nvml, "nvmlDeviceGetGraphicsRunningProcesses", handle)
    except _UnansweredError:
        screens = []
    return int(memory.used) - sum(int(process.usedGpuMemory or 0) for process in screens)


class _Nvml:
    """Context in which NVML is initialized; raises `_UnansweredError` where there is none."""

    def __enter__(self) -> Any:
        self._nvml = initialized()
        if self._nvml is None:
            raise _UnansweredError
        return self._nvml

    def __exit__(self, *_: object) -> None:
        self._nvml.nvmlShutdown()


def _answer(nvml: Any, function: str, *arguments: Any) -> Any:
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError) as error:
        raise _UnansweredError from error


def _by_nvml(names: Sequence[str] | None) -> tuple[Card, ...]:
    if os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID") != "PCI_BUS_ID" and not _are_uuids(names):
        raise _UnansweredError
    with _Nvml() as nvml:
        return tuple(_card(nvml, name, handle) for name, handle in _handles(nvml, names))


def _are_uuids(names: Sequence[str] | None) -> bool:
    return bool(names and not names[0].isdigit())


def _handles(nvml: Any, names: Sequence[str] | None) -> list[tuple[str, Any]]:
    """Return (name, NVML's handle) of each visible device, up to the first that does not exist."""
    whole = _all_handles(nvml)
    if names is not None and names[0].startswith("MIG-"):
        return [(name, _answer(nvml, "nvmlDeviceGetHandleByUUID", name)) for name in names]
    by_name = {str(i): handle for i, handle in enumerate(whole)}
    if _are_uuids(names):
        uuids = {as_text(_answer(nvml, "nvmlDeviceGetUUID", handle)): handle for handle in whole}
        by_name = {name: handle for name in names or () if (handle := _by_prefix(uuids, name)) is not None}
    chosen = [*itertools.takewhile(by_name.__contains__, by_name if names is None else names)]
    if any(_is_divided(nvml, by_name[name]) for name in chosen):
        raise _UnansweredError
    return [(name, by_name[name]) for name in chosen]


def _all_handles(nvml: Any) -> list[Any]:
    """Return NVML's handles of the machine's GPUs, hidden ones among them."""
    return [_answer(nvml, "nvmlDeviceGetHandleByIndex", i) for i in range(_answer(nvml, "nvmlDeviceGetCount"))]


def _by_prefix(uuids: dict[str, Any], name: str) -> Any:
    """Return the handle of the only UUID with this prefix; CUDA accepts a unique prefix of a UUID."""
    matches = [handle for uuid, handle in uuids.items() if uuid.startswith(name)]
    return matches[0] if len(matches) == 1 else None


def _is_divided(nvml: Any, handle: Any) -> bool:
    """Return whether MIG is on, and CUDA shows a slice of this card in its place."""
    try:
        return bool(_answer(nvml, "nvmlDeviceGetMigMode", handle)[0])
    except _UnansweredError:  # a card that cannot be divided
        return False


def _card(nvml: Any, name: str, handle: Any) -> Card:
    whole = handle
    if name.startswith("MIG-"):
        whole = _answer(nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
    major, minor = _answer(nvml, "nvmlDeviceGetCudaComputeCapability", whole)
    memory = int(_answer(nvml, "nvmlDeviceGetMemoryInfo", handle).total)
    return Card(name, as_text(_answer(nvml, "nvmlDeviceGetName", handle)), (int(major), int(minor)), memory)


@cache
def _by_driver(visible: str | None, order: str) -> tuple[Card, ...]:
    """Return the cards that CUDA's driver reports, queried in a separate process; () where there is no driver."""
    environment = {name: value for name, value in os.environ.items() if name != VISIBLE} | {"CUDA_DEVICE_ORDER": order}
    if visible is not None:
        environment[VISIBLE] = visible
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_DRIVER_QUERY)],
            env=environment, capture_output=True, text=True, timeout=_DRIVER_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    names = [] if visible is None else visible_names(visible)
    cards = json.loads(done.stdout)
    names = names if len(names) >= len(cards) else [card["uuid"] for card in cards]
    return tuple(
        Card(name, card["name"], (card["major"], card["minor"]), card["memory_bytes"])
        for name, card in zip(names, cards, strict=False)
    )


def _cpu_flags() -> set[str]:
    return set(proc.cpu_field("flags").split())
