"""What training on a GPU needs beside Python packages, and where a machine is not looked at for another."""

from pathlib import Path

import pytest

from harness.config import config, kernels
from harness.measure import hardware
from harness.records.settings import KernelSpec
from harness.run import inputs, preflight

COMPILES = "mod = compile_module_from_src(src=Path(os.path.join(dirname, 'driver.c')).read_text(), name='cuda_utils')"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a Triton whose driver has this source, with these programs, and with or without Python.h."""

    def made(source: str | None, *programs: str, header: bool = True, cc: str | None = None) -> None:
        monkeypatch.setattr(preflight, "_driver_source", lambda: source)
        monkeypatch.setattr(
            preflight.shutil, "which", lambda name: f"/usr/bin/{name}" if Path(name).name in programs else None
        )
        monkeypatch.setattr(preflight.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
        monkeypatch.delenv("CC", raising=False)
        if cc is not None:
            monkeypatch.setenv("CC", cc)
        if header:
            (tmp_path / "Python.h").touch()

    return made


@pytest.mark.parametrize(("programs", "cc"), [(("gcc",), None), (("clang",), None), (("icx",), "icx")])
def test_a_compiler_and_the_header_are_enough(machine, programs, cc):
    machine(COMPILES, *programs, cc=cc)
    assert preflight.missing() == ""


def test_what_is_missing_is_named(machine, tmp_path):
    machine(COMPILES)
    assert "neither gcc nor clang is on the PATH" in preflight.missing()
    machine(COMPILES, "gcc", cc="nosuch")
    assert "CC=nosuch is no program" in preflight.missing()
    (tmp_path / "Python.h").unlink()
    machine(COMPILES, "gcc", header=False)
    assert f"{tmp_path}/Python.h, which is not there" in preflight.missing()


@pytest.mark.parametrize("source", [None, "import triton._C.cuda_launcher"])
def test_a_triton_that_compiles_nothing_needs_nothing(machine, source):
    machine(source, header=False)
    assert preflight.missing() == ""


def test_this_machine_has_what_tests_are_built_with():
    assert Path(preflight.sysconfig.get_paths(preflight._scheme())["include"]).is_absolute()


@pytest.fixture
def launch_look(compose, tiny_overrides):
    """The look at the machine that a check takes of a run of four processes."""

    def made():
        words = ("method=lora", "launch.num_processes=4", "train.micro_batch_size=1")
        experiment = inputs.resolve(config.build(compose(*tiny_overrides, *words)))
        return next(look for key, look in preflight._checks(experiment, lambda event: None) if key[0] == "launch")

    return made


def test_the_machine_that_makes_the_run_is_looked_at_and_no_other(machine, monkeypatch, launch_look):
    machine(COMPILES)
    monkeypatch.setattr(preflight.launcher, "unsupported", lambda launch: "needs as many GPUs, and 1 can be seen")
    with pytest.raises(preflight.UnsupportedError, match="1 can be seen"):
        launch_look()()
    monkeypatch.setattr(preflight.launcher, "unsupported", lambda launch: "")
    look = launch_look()
    monkeypatch.setattr(hardware, "usable_cards", lambda: (hardware.Card("0", "NVIDIA H100", (9, 0), 1),))
    with pytest.raises(ValueError, match="needs a C compiler, and neither gcc nor clang"):
        look()
    monkeypatch.setenv(hardware.RUNS_ON, "cuda")
    monkeypatch.setattr(preflight.launcher, "unsupported", lambda launch: "needs as many GPUs, and 1 can be seen")
    launch_look()()


def test_compilers_of_another_machine_are_not_looked_for(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    spec = KernelSpec(compile=True)
    assert "needs the package triton" in kernels.unsupported(spec, "cuda")
    assert kernels.unsupported(spec, "cuda", is_here=False) == ""
