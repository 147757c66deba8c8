"""The device's peak, and a share of it that is only taken where nothing speaks against the peak."""

import dataclasses
import types

import pytest
import torch

from harness.measure import mfu
from harness.measure.steps import StepMeter
from harness.records.record import Conditions, DevicePeak


@pytest.fixture
def around(monkeypatch):
    """Play what goes on beside the measurement."""

    def played(**conditions):
        seen = Conditions(**{"cpu_cores": 2, "other_cpu_cores": 0.0, **conditions})
        made = types.SimpleNamespace(look=lambda: None, since=lambda before: {"conditions": seen})
        monkeypatch.setattr(mfu, "Surroundings", lambda cuda: made)

    return played


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_peak_is_that_of_real_products_and_draws_nothing(around, dtype):
    around()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = mfu.measured(dtype, cuda=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.flops_per_second > 1e8
    assert found.dtype in ("float32", str(dtype).removeprefix("torch."))
    assert found.source.startswith("measured: products of ")
    assert found.doubt == ""


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({"other_cpu_cores": 1.0}, "other processes kept the processor busy"),
        ({"other_cpu_cores": None}, "the kernel does not say"),
        ({"other_device_processes": 1}, "another process was on the device"),
        ({"other_cpu_cores": 0.1}, ""),
    ],
)
def test_a_peak_measured_in_company_is_doubted(around, conditions, reason):
    around(**conditions)
    assert mfu.measured(torch.float32, cuda=False).doubt.startswith(reason)


def of(rate, doubt=""):
    return DevicePeak(flops_per_second=rate, dtype="float32", source="measured", doubt=doubt)


def training(rate):
    return dataclasses.replace(StepMeter().result([], []), flops_per_second=rate)


def test_a_share_is_of_the_higher_of_two_peaks_that_agree():
    found = mfu.with_share(training(40.0), of(95.0), of(100.0))
    assert (found.mfu, found.device_peak) == (0.4, of(100.0))
    assert mfu.with_share(training(None), of(95.0), of(100.0)).mfu is None


@pytest.mark.parametrize(
    "peaks", [(of(100.0, "busy"), of(100.0)), (of(100.0), of(100.0, "busy")), (of(30.0), of(100.0))]
)
def test_a_busy_processor_gives_no_share_and_fails_no_run(peaks):
    found = mfu.with_share(training(1000.0), *peaks)
    assert found.mfu is None
    assert found.device_peak.flops_per_second == 100.0
    assert found.device_peak.doubt


def test_a_share_above_the_whole_is_a_doubt_and_no_end():
    found = mfu.with_share(training(130.0), of(99.0), of(100.0))
    assert (found.mfu, found.flops_per_second) == (None, 130.0)
    assert found.device_peak.flops_per_second == 100.0
    assert "the count of operations or a clock is wrong" in found.device_peak.doubt


def test_the_dtype_of_a_cards_peak_is_the_run_s_and_no_matter_of_luck(around, monkeypatch):
    """Small products take as long to launch as to compute: which dtype is faster there says nothing."""
    around()
    asked = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        mfu, "_fastest", lambda size, dtype, *_: asked.append(dtype) or (1e-5 if dtype is torch.bfloat16 else 1e-6)
    )
    assert mfu.measured(torch.bfloat16, cuda=True).dtype == "bfloat16"
    assert set(asked) == {torch.bfloat16}


@pytest.mark.parametrize(("tf32", "expected"), [(False, ("float32", "highest")), (True, ("tf32", "high"))])
def test_a_peak_is_rounded_as_the_steps_are(around, monkeypatch, tf32, expected):
    """TF32 does up to eight times what float32 does: a share of the other peak would say nothing."""
    around()
    rounded = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(mfu, "_fastest", lambda *_: rounded.append(torch.get_float32_matmul_precision()) or 1e-3)
    assert mfu.measured(torch.float32, cuda=True, tf32=tf32).dtype == expected[0]
    assert set(rounded) == {expected[1]}
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
@pytest.mark.parametrize("largest", [0, 256])
def test_a_model_that_leaves_no_room_has_the_peak_of_smaller_products_or_none(around, monkeypatch, error, largest):
    around()
    real = mfu._fastest

    def full(size, *rest):
        if size > largest:
            raise error("CUDA out of memory")
        return real(size, *rest)

    monkeypatch.setattr(mfu, "_fastest", full)
    found = mfu.measured(torch.bfloat16, cuda=False)
    if largest:
        assert "256 x 256" in found.source
    else:
        assert found is None
        assert mfu.with_share(training(130.0), found, of(100.0)) == training(130.0)
        assert mfu.with_share(training(130.0), of(100.0), found) == training(130.0)


@pytest.mark.gpu
def test_a_card_does_more_in_bfloat16_than_in_float32_and_is_done_in_a_second():
    import time

    mfu.measured(torch.bfloat16, cuda=True)  # CUDA starts
    start = time.perf_counter()
    fast, slow = (mfu.measured(dtype, cuda=True) for dtype in (torch.bfloat16, torch.float32))
    assert time.perf_counter() - start < 2
    assert fast.flops_per_second > 1.5 * slow.flops_per_second > 1e12
