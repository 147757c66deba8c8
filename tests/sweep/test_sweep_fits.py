"""Cells that are predicted not to fit are recorded as skipped before anything starts, unless that is not wanted."""

import pytest

from harness.config import config
from harness.measure import hardware
from harness.plan.devices import named
from harness.run import inputs, state
from harness.sweep import checks
from harness.sweep.planned_runs import PlannedRun, Wanted


@pytest.fixture
def planned(compose, tiny_overrides):
    def made(*words):
        experiment = inputs.resolve(config.build(compose(*tiny_overrides, *words)))
        return PlannedRun(Wanted(words), experiment)

    return made


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(checks.board, "say", lines.append)
    return lines


def folder(plan):
    from pathlib import Path

    path = Path(plan.experiment.runs_dir)
    path.mkdir(parents=True, exist_ok=True)
    return path


SMALL, LARGE = "plan.device=514MiB", "plan.device=24GiB"  # of the first 2 MiB are left beside CUDA's own


def test_what_cannot_fit_is_skipped_with_what_it_would_need_and_the_rest_is_shown_and_stays(planned, said):
    full = planned("method=full", SMALL, "train.max_length=512", "train/oom=none")
    base = planned("method=base", SMALL)
    assert checks.set_aside([full, base], folder(full)) == [base], "nothing is trained of it, and nothing planned"
    found = state.read(full.experiment)
    assert found.status == "skipped"
    assert found.current.reason.startswith("would need 0.")
    assert "GiB" in found.current.reason
    assert "plan.enforce=false" in found.current.reason
    assert any("does not fit" in line for line in said)


def test_a_model_that_processes_divide_is_not_judged_by_one_device(planned, said):
    several = ("launch.num_processes=2", "launch.sharding=fsdp", "train.micro_batch_size=2")
    divided = planned("method=full", SMALL, "train.max_length=512", "train/oom=none", *several)
    assert checks.set_aside([divided], folder(divided)) == [divided]
    assert not said


def test_a_cell_that_fits_is_planned_once_for_all_its_seeds_and_rates(planned, said, monkeypatch):
    asked = []
    real = checks.isolate.call
    monkeypatch.setattr(checks.isolate, "call", lambda *a, **k: (asked.append(a[1]), real(*a, **k))[1])
    cells = [planned("method=lora", LARGE, f"seed={seed}", f"lr_scale={scale}") for seed in (0, 1) for scale in (1, 2)]
    assert checks.set_aside(cells, folder(cells[0])) == cells
    [experiments] = asked
    assert len(experiments) <= 2, "as asked, and with the smallest micro batch"
    assert any("lora on tiny" in line and "fits" in line for line in said)
    assert checks.set_aside(cells, folder(cells[0])) == cells
    assert len(asked) == 1


def test_what_fits_with_a_smaller_micro_batch_is_left_to_the_ladder(planned, said, monkeypatch):
    cell = planned("method=lora", LARGE, "train/oom=fair")

    def plans(function, experiments, device, mfu, **_):
        found = [
            {"unpredicted": None, "fits": one.train.micro_batch_size == 1, "peak_bytes": 2**30,
             "micro_batch_size": one.train.micro_batch_size, "max_length": 8}
            for one in experiments
        ]  # fmt: skip
        return checks.isolate.Ended("returned", value=found)

    monkeypatch.setattr(checks, "_known", {})
    monkeypatch.setattr(checks.isolate, "call", plans)
    assert checks.set_aside([cell], folder(cell)) == [cell]
    assert any("fits with micro batches of 1" in line for line in said)
    monkeypatch.setattr(checks, "_known", {})
    without = planned("method=lora", LARGE, "train/oom=none", "train.global_batch_size=4", "train.micro_batch_size=4")
    assert checks.set_aside([without], folder(without)) == []
    monkeypatch.setattr(checks, "_known", {})
    unenforced = planned("method=lora", LARGE, "train/oom=none", "plan.enforce=false")
    assert checks.set_aside([unenforced], folder(unenforced)) == [unenforced]


def test_without_a_limit_nothing_is_planned(planned, said, monkeypatch):
    monkeypatch.setattr(checks.isolate, "call", lambda *_, **__: pytest.fail("planned"))
    monkeypatch.setattr(hardware, "memory_bytes", lambda: None)
    cell = planned("method=lora")
    assert checks.set_aside([cell], folder(cell)) == [cell]
    assert said == []
    assert checks.set_aside([], folder(cell)) == []


def test_the_gpu_of_the_machine_is_the_limit_where_there_is_one(planned, monkeypatch):
    monkeypatch.setattr(hardware, "memory_bytes", lambda: 24 * 2**30)
    found = checks._device(planned("method=lora").experiment)
    assert found.usable_bytes == named("24GiB").usable_bytes


def test_a_device_that_nobody_knows_is_refused(planned):
    cell = planned("method=lora", "plan.device=rtx-9999")
    with pytest.raises(ValueError, match="give one of rtx-3090"):
        checks.set_aside([cell], folder(cell))


def test_no_weight_depends_on_it(planned):
    assert planned("method=lora", SMALL).identity == planned("method=lora", "plan.enforce=false").identity
