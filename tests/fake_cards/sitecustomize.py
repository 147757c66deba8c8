"""Give every Python process below this folder on PYTHONPATH the cards that the file FAKE_CARDS describes.

Replaced are the answers of NVML (a module `pynvml` beside this one), of CUDA's driver and of torch's C functions; what
torch, bitsandbytes and this project decide by them is their own code. Whoever touches CUDA leaves a line in the file
FAKE_CARDS_LOG, and a process that is forked afterwards is in torch's "bad fork", as with a real driver. There is no
kernel: the first tensor on a card fails, which is where a test ends.
"""

import ctypes
import importlib.abc
import importlib.machinery
import json
import os
import pathlib
import sys
import types

_REAL_CDLL = ctypes.CDLL


def machine():
    """The description: `cards`, and whether NVML answers."""
    return json.loads(pathlib.Path(os.environ["FAKE_CARDS"]).read_text())


def shown():
    """The cards that CUDA shows to this process: CUDA_VISIBLE_DEVICES as the CUDA C programming guide describes it."""
    cards, visible = machine()["cards"], os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return _first_slices(cards)
    chosen = []
    for name in visible.split(","):
        slices = [slice_ for card in cards for slice_ in card.get("slices", ())]
        if name.isdigit():
            matches = cards[int(name) : int(name) + 1]
        else:
            matches = [one for one in [*cards, *slices] if name and one["uuid"].startswith(name)]
        if len(matches) != 1:
            break
        chosen += matches
    slices = [one for one in chosen if one["uuid"].startswith("MIG-")]
    return slices[:1] or _first_slices(chosen)


def _first_slices(cards):
    """A divided card is shown as the first of its slices, and then alone."""
    divided = [card["slices"][0] for card in cards if card.get("slices")]
    return divided[:1] or cards


def touched(what):
    """Note that this process has initialized CUDA."""
    fields = {
        "what": what, "pid": os.getpid(), "parent": os.getppid(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "order": os.environ.get("CUDA_DEVICE_ORDER"),
    }  # fmt: skip
    with pathlib.Path(os.environ["FAKE_CARDS_LOG"]).open("a") as file:
        file.write(json.dumps(fields) + "\n")


class _Driver:
    """libcuda's functions, called through ctypes with pointers."""

    def __getattr__(self, name):
        raise AttributeError(f"libcuda: undefined symbol: {name}")

    def cuInit(self, flags):  # noqa: N802
        touched("cuInit")
        return 0 if machine()["cards"] else 100  # CUDA_ERROR_NO_DEVICE

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(shown())
        return 0

    def cuDeviceGet(self, handle, index):  # noqa: N802
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, name, length, handle):  # noqa: N802
        name.value = shown()[handle.value]["name"].encode()
        return 0

    def cuDeviceGetAttribute(self, value, attribute, handle):  # noqa: N802
        value._obj.value = shown()[handle.value]["capability"][{75: 0, 76: 1}[attribute]]
        return 0

    def cuDeviceTotalMem_v2(self, memory, handle):  # noqa: N802
        memory._obj.value = shown()[handle.value]["memory_bytes"]
        return 0

    def cuDeviceGetUuid(self, identity, handle):  # noqa: N802
        digits = shown()[handle.value]["uuid"].partition("-")[2].replace("-", "")
        identity[:] = bytes.fromhex(digits.ljust(32, "0")[:32])
        return 0


class _Nvml:
    """libnvidia-ml as torch calls it."""

    def __init__(self):
        if not machine()["nvml"]:
            raise OSError("libnvidia-ml.so.1: cannot open shared object file: No such file or directory")

    def nvmlInit(self):  # noqa: N802
        return 0

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
        count._obj.value = len(machine()["cards"])
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetUUID(self, handle, buffer, length):  # noqa: N802
        buffer.value = machine()["cards"][handle.value - 1]["uuid"].encode()
        return 0


def _load(name, *arguments, **options):
    if name == "libcuda.so.1":
        return _Driver()
    return _Nvml() if name == "libnvidia-ml.so.1" else _REAL_CDLL(name, *arguments, **options)


def _dress_torch(torch):
    """Give a torch that was built for processors the C functions of one that was built for CUDA."""
    cuda, state = torch.cuda, types.SimpleNamespace(by=None, device=0)

    def initialize(what, answer):
        def called(*_):
            touched(what)
            state.by = state.by or os.getpid()  # what torch's handler at a fork knows
            return answer()

        return called

    def properties(index):
        card = shown()[index]
        return types.SimpleNamespace(
            name=card["name"], major=card["capability"][0], minor=card["capability"][1],
            total_memory=card["memory_bytes"], multi_processor_count=132, uuid=card["uuid"].partition("-")[2],
        )  # fmt: skip

    def generators():
        cuda.default_generators = tuple(torch.Generator() for _ in shown())

    torch.version.cuda = "13.0"
    functions = {
        "getDeviceCount": initialize("cudaGetDeviceCount", lambda: len(shown())),
        "init": initialize("init", generators),
        "getDevice": lambda: state.device,
        "setDevice": lambda index: setattr(state, "device", index),
        "getArchFlags": lambda: "sm_80 sm_90",
        "getCurrentRawStream": lambda device: 0,
        "synchronize": lambda: None,
        "memoryStats": lambda device: {},
        "resetPeakMemoryStats": lambda device: None,
        "emptyCache": lambda: None,
    }
    for name, function in functions.items():
        setattr(torch._C, f"_cuda_{name}", function)
    cuda._cudart = types.SimpleNamespace()
    cuda._is_in_bad_fork = lambda: state.by not in (None, os.getpid())
    cuda._get_device_properties = properties
    cuda._exchange_device = cuda._maybe_exchange_device = lambda index: state.device
    torch.distributed.init_process_group = _over_gloo(torch.distributed.init_process_group)


def _over_gloo(form):
    def formed(backend=None, *arguments, **options):
        return form("gloo" if backend == "nccl" else backend, *arguments, **options)

    return formed


def _dress_hardware(module):
    module.torch_has_cuda = lambda: True


def _dress_peft(module):
    """Have a library ask for more than this project can answer without CUDA, if the description says so."""
    if machine().get("asks_at_import"):
        sys.modules["torch"].cuda.get_device_properties(0)


class _Dresser(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Changes a module once it has been executed."""

    def __init__(self, changes):
        self.changes, self.loaders = changes, {}

    def find_spec(self, name, path, target=None):
        if name not in self.changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        self.loaders[name] = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec):
        return self.loaders[spec.name].create_module(spec)

    def exec_module(self, module):
        self.loaders[module.__name__].exec_module(module)
        self.changes[module.__name__](module)


if "FAKE_CARDS" in os.environ:
    ctypes.CDLL = _load
    sys.meta_path.insert(
        0, _Dresser({"torch": _dress_torch, "harness.measure.hardware": _dress_hardware, "peft": _dress_peft})
    )
