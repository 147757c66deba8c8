"""The devices that runs are planned for: those that CUDA would show, by NVML or by the driver."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from accelerate.utils.environment import check_cuda_p2p_ib_support
from fake_machines import card

from harness.measure import hardware

GIB = 2**30
ROOT = Path(__file__).parents[2]
SLICES = [
    {"uuid": f"MIG-{n}a345678-1234-1234-1234-123456789012", "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
     "capability": [9, 0], "memory_bytes": 10 * GIB}
    for n in (1, 2)
]  # fmt: skip
OLD = {"name": "Tesla V100", "capability": [7, 0]}
LOOK = """
import json
from harness.measure import hardware
hardware._cpu_flags = set
print(json.dumps([hardware.device(), hardware.precision(), hardware.device_names(), hardware.memory_bytes()]))
"""


def seen(machine, **variables):
    """What is planned with: device, precision, names and GiB of the smallest card."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**machine.environment, **variables}, capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    device, precision, names, memory = json.loads(done.stdout)
    return device, precision, names, memory and memory / GIB


CPU = ("cpu", "fp32", [], None)


@pytest.mark.parametrize("nvml", [True, False])
@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("cuda", "fp32", 3, 16)),
        ("0", ("cuda", "bf16", ["0"], 80)),
        ("1,0", ("cuda", "bf16", ["1", "0"], 48)),
        ("2", ("cuda", "fp32", ["2"], 16)),
        ("GPU-11345678-1234-1234-1234-123456789012", ("cuda", "bf16", 1, 48)),
        ("GPU-11,GPU-00", ("cuda", "bf16", ["GPU-11", "GPU-00"], 48)),
        ("GPU-11,GPU-77,GPU-00", ("cuda", "bf16", ["GPU-11"], 48)),
        ("1,7,0", ("cuda", "bf16", ["1"], 48)),
        ("1,-1,0", ("cuda", "bf16", ["1"], 48)),
        ("GPU-77", CPU),
        ("", CPU),
        ("-1", CPU),
        ("NoDevFiles", CPU),
        ("7", CPU),
        ("0,0", CPU),
    ],
)
def test_what_is_visible_is_planned_with(cards, visible, expected, nvml):
    machine = cards(card(0), card(1, 48), card(2, 16, **OLD), nvml=nvml)
    found = seen(machine, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    names = expected[2]
    assert (*found[:2], len(found[2]) if isinstance(names, int) else found[2], found[3]) == expected
    assert bool(machine.touches()) is (not nvml and visible not in ("", "-1", "NoDevFiles", "0,0")), "NVML is enough"


@pytest.mark.parametrize("nvml", [True, False])
def test_a_slice_is_planned_as_a_slice(cards, nvml):
    machine = cards(card(0, slices=SLICES), card(1), nvml=nvml)
    one, two = (slice_["uuid"] for slice_ in SLICES)
    assert seen(machine, CUDA_VISIBLE_DEVICES=one) == ("cuda", "bf16", [one], 10)
    assert seen(machine, CUDA_VISIBLE_DEVICES=f"{one},{two}") == ("cuda", "bf16", [one, two], 10), "one each"
    assert seen(machine)[3] == 10, "CUDA shows the first slice of a divided card, and no other device"
    assert len(seen(machine)[2]) == 1
    assert seen(machine, CUDA_VISIBLE_DEVICES="0")[3] == 10
    assert seen(machine, CUDA_VISIBLE_DEVICES="1")[3] == 80
    assert seen(machine, CUDA_VISIBLE_DEVICES="MIG-77") == CPU


def test_another_order_than_that_of_the_bus_is_asked_of_cuda(cards):
    machine = cards(card(0), card(1, 48))
    assert seen(machine, CUDA_DEVICE_ORDER="FASTEST_FIRST", CUDA_VISIBLE_DEVICES="1")[3] == 48
    assert {touch["order"] for touch in machine.touches()} == {"FASTEST_FIRST"}
    machine.log.write_text("")
    assert seen(machine, CUDA_DEVICE_ORDER="FASTEST_FIRST", CUDA_VISIBLE_DEVICES="GPU-11")[3] == 48
    assert machine.touches() == [], "a UUID means the same in any order"


def test_the_driver_is_asked_by_a_program_that_needs_nothing_installed(tmp_path):
    """In a checkout that is run without being installed, a machine without NVML would else count as a processor."""
    program = ROOT / "harness" / "measure" / "cuda_driver.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(program)], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]", "")


def test_without_cards_a_machine_is_a_processor(cards):
    assert seen(cards()) == seen(cards(nvml=False)) == CPU


def test_runs_of_other_machines_are_not_planned_with_this_ones_cards(cards, monkeypatch):
    monkeypatch.setenv(hardware.RUNS_ON, "cuda")
    monkeypatch.setattr(hardware, "usable_cards", lambda: pytest.fail("asked for in vain"))
    assert hardware.device() == "cuda"
    assert (hardware.device_names(), hardware.memory_bytes(), hardware.showing(1)) == ([], None, {})
    with pytest.raises(ValueError, match=r"train\.precision=auto: this machine cannot know"):
        hardware.precision()


@pytest.mark.parametrize(("flags", "precision"), [(set(), "fp32"), ({"avx512f", "amx_bf16"}, "bf16")])
def test_precision_of_processors(monkeypatch, flags, precision):
    monkeypatch.setattr(hardware, "torch_has_cuda", lambda: False)
    monkeypatch.setattr(hardware, "cards", lambda: pytest.fail("a card that torch cannot use does not count"))
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
    assert hardware.precision() == precision


def test_names_are_read_as_torch_reads_them(monkeypatch):
    texts = [
        "0", "0,1", "1, 0", " 2", "0,0", "1,-1,0", "-1", "", "GPU-1,GPU-2", "GPU-1,MIG-2", "GPU-1,0", "0,GPU-1",
        "MIG-a,MIG-b", "MIG-a,MIG-a", "1gpu2,2ampere", "+1", "NoDevFiles", "void", "0,,1", "01,2", "GPU-1,GPU-1",
    ]  # fmt: skip
    assert len(texts) == 21
    for text in texts:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert hardware.visible_names(text) == [str(name) for name in torch.cuda._parse_visible_devices()], text


def test_a_process_is_shown_as_many_cards_as_it_uses(cards):
    code = "from harness.measure import hardware; print([hardware.showing(n).get(hardware.VISIBLE) for n in (1, 2, 3)])"
    machine = cards(card(0), card(1), card(2))
    done = subprocess.run(
        [sys.executable, "-c", code], env=machine.environment, capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "['0', '0,1', None]\n"


def test_a_sweep_says_which_device_has_no_units_for_bfloat16(cards):
    """torch multiplies it all the same, so that nothing but slowness would show."""
    machine = cards(card(0), card(1, 16, **OLD))
    code = """
import json
from types import SimpleNamespace as Some
from harness.measure import hardware
from harness.sweep.messages import _training_size
shown = []
for units in ([], ["AMX"]):
    hardware.bfloat16_units = lambda: units
    for precision in ("bf16", "fp32"):
        spec = Some(max_steps=3, global_batch_size=8, precision=precision, loss_on="completion")
        shown.append(_training_size(Some(train=spec, model=Some(name="m"), data=Some(name="d"))))
print(json.dumps(shown))
"""
    found = {}
    for visible in ("0", "1", "0,1", ""):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**machine.environment, "CUDA_VISIBLE_DEVICES": visible},
            capture_output=True, text=True, cwd=ROOT, check=True,
        )  # fmt: skip
        found[visible] = [line.split(", ")[1] for line in json.loads(done.stdout)]
    old = "bf16 on cuda (Tesla V100 has no units for it)"
    assert found == {
        "0": ["bf16 on cuda", "fp32 on cuda"] * 2,
        "1": [old, "fp32 on cuda"] * 2,
        "0,1": [old, "fp32 on cuda"] * 2,
        "": ["bf16 on cpu (this processor has no units for it)", "fp32 on cpu", "bf16 on cpu", "fp32 on cpu"],
    }


ROOMY, LINKLESS = "NVIDIA RTX A6000", "NVIDIA GeForce RTX 4090"
WITHOUT_LINKS = {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}


@pytest.mark.parametrize(
    ("names", "driver", "variables", "expected"),
    [
        ([LINKLESS, LINKLESS], "535.183.01", {}, WITHOUT_LINKS),
        ([LINKLESS, LINKLESS], "535.183.01", {"CUDA_VISIBLE_DEVICES": "0"}, WITHOUT_LINKS),
        ([ROOMY, LINKLESS], "535.183.01", {"CUDA_VISIBLE_DEVICES": "0"}, WITHOUT_LINKS),
        ([LINKLESS, LINKLESS], "535.183.01", {"NCCL_P2P_DISABLE": "0"}, {"NCCL_IB_DISABLE": "1"}),
        ([LINKLESS, LINKLESS], "550.40.06", {}, WITHOUT_LINKS),
        ([LINKLESS, LINKLESS], "550.40.07", {}, {}),
        ([LINKLESS, LINKLESS], "550.54.14", {}, {}),
        ([LINKLESS], "535.183.01", {}, {}),
        ([ROOMY, ROOMY], "535.183.01", {}, {}),
    ],
)
def test_processes_on_cards_without_links_get_what_accelerate_asks_for(
    cards, names, driver, variables, expected, monkeypatch
):
    """As accelerate decides it, by all cards of nvidia-smi, hidden ones too, for a single process as for several."""
    machine = cards(*(card(number, name=name) for number, name in enumerate(names)), driver=driver)
    code = """
import json
from harness.run import isolate
before = dict(isolate.os.environ)
found = isolate.environment()
print(json.dumps({name: value for name, value in found.items() if before.get(name) != value}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**machine.environment, **variables}, capture_output=True, text=True,
        cwd=ROOT, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == expected
    listed = "import subprocess, sys; sys.stdout.write({!r} if 'driver_version' in sys.argv[1] else {!r})"
    smi = machine.log.with_name("nvidia-smi")
    script = listed.format(driver, "\n".join(f"{len(names)}, {name}" for name in names))
    smi.write_text(f"#!{sys.executable}\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    needed = bool(expected) or "NCCL_P2P_DISABLE" in variables
    assert check_cuda_p2p_ib_support() is not needed, "accelerate's own answer for the same cards"


@pytest.mark.parametrize(
    ("used", "screens", "held"), [(0, (), 0), (30, (), 30), (3, (2,), 1)], ids=["free", "held", "a screen"]
)
def test_memory_of_other_programs_is_told_from_that_of_a_screen(cards, used, screens, held):
    taken = [size * GIB for size in screens]
    machine = cards(card(0), card(1, used_bytes=used * GIB, screens=taken))
    code = "import json; from harness.measure import hardware; print(json.dumps([hardware.other_programs_bytes(v) for v in ('0', '1', '', None)]))"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", code], env=machine.environment, capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert json.loads(done.stdout) == [{"0": 0}, {"1": held * GIB}, {}, {"0": 0, "1": held * GIB}]


@pytest.mark.parametrize(
    ("line", "expected"),
    [("cuda: Optional[str] = '13.0'", True), ("cuda = '12.6'", True), ("cuda: Optional[str] = None", False),
     ("cudart = '13.0'", False)],
)  # fmt: skip
def test_a_torch_for_cuda_is_known_by_its_version_wherever_its_libraries_lie(tmp_path, monkeypatch, line, expected):
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\nhip = None\n")
    monkeypatch.setattr(hardware, "find_spec", lambda name: types.SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert hardware.torch_has_cuda.__wrapped__() is expected
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    assert hardware.torch_has_cuda.__wrapped__() is False


def test_this_machine_is_as_torch_sees_it():
    assert hardware.torch_has_cuda() is (torch.version.cuda is not None)
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        assert len(hardware.usable_cards()) == torch.cuda.device_count()


def test_units_of_processors_have_names(monkeypatch):
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: {"fma", "avx512_bf16", "amx_bf16"})
    assert hardware.bfloat16_units() == ["AMX", "AVX512-BF16"]
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: {"fma", "avx2"})
    assert hardware.bfloat16_units() == []
