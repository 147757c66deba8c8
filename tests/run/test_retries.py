"""What is tried again by itself, and what is not: a fault of the machine is, an error of code or settings never."""

import errno
import os
import signal
from pathlib import Path

import pytest

from harness.config import config
from harness.measure import hardware
from harness.records import record
from harness.records.events import Message, PhaseStarted
from harness.records.record import RunRecord
from harness.run import inputs, outcome, run, run_folder
from harness.run.isolate import Ended
from harness.run.outcome import is_machines_fault

GIB = 2**30
HERE = Path(__file__).parent


def dies_once(experiment, todo, emit):
    """A run's process that is killed the first time, and the second time fails as code does."""
    emit(PhaseStarted("train"))
    marker = experiment.folder / "tried"
    if marker.exists():
        raise ValueError("target=[nosuch]: it matches no module")
    marker.write_text("")
    os.kill(os.getpid(), signal.SIGKILL)


def always_dies(experiment, todo, emit):
    emit(PhaseStarted("train"))
    raise OSError(errno.EIO, "Input/output error")


def does_it_all(experiment, todo, emit):
    emit(PhaseStarted("train"))


def never_fits(experiment, todo, emit):
    raise MemoryError


def fills_the_card(experiment, todo, emit):
    emit(PhaseStarted("train"))
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.fixture
def tried(compose, tiny_overrides, monkeypatch):
    """The record after a run whose process does what the function does."""
    monkeypatch.syspath_prepend(str(HERE))

    def made(function: str, *words: str) -> tuple[RunRecord, list[str]]:
        monkeypatch.setattr(run, "WORK", f"test_retries:{function}")
        experiment = inputs.resolve(config.build(compose(*tiny_overrides, "method=lora", "train/oom=none", *words)))
        said = []
        result = run.run(experiment, lambda event: said.append(event.text) if isinstance(event, Message) else None)
        assert result == record.read(RunRecord, experiment.folder / "record.json")
        return result, said

    return made


def test_a_kill_is_tried_again_and_an_error_is_not(tried):
    result, said = tried("dies_once", "max_retries=5")
    assert [attempt.status for attempt in result.attempts] == ["failed", "failed"]
    assert result.attempts[0].reason == "killed by SIGKILL (in phase train)"
    assert result.current.reason == "target=[nosuch]: it matches no module (in phase train)"
    assert said == ["lora: killed by SIGKILL (in phase train); try 2 of 6"]


def test_there_is_a_limit_and_every_attempt_is_kept(tried):
    result, said = tried("always_dies", "max_retries=2")
    assert len(result.attempts) == 3
    assert all("Input/output error" in attempt.reason for attempt in result.attempts)
    assert [line.rpartition("; ")[2] for line in said] == ["try 2 of 3", "try 3 of 3"]


def test_memory_that_ran_out_is_a_result(tried):
    result, _ = tried("never_fits", "max_retries=5")
    assert [attempt.status for attempt in result.attempts] == ["oom"]


@pytest.mark.parametrize(
    ("held", "status", "attempts"),
    [
        ({"0": 60 * GIB}, "failed", 3),
        ({"0": 0, "1": 2 * GIB}, "failed", 3),
        ({"0": GIB // 2}, "oom", 1),
        ({}, "oom", 1),
    ],
)
def test_memory_that_other_programs_hold_is_no_result_of_the_method(tried, monkeypatch, held, status, attempts):
    monkeypatch.setattr(hardware, "device", lambda: "cuda")
    monkeypatch.setattr(hardware, "showing", lambda number: {"CUDA_VISIBLE_DEVICES": "0"})
    looked_at = []
    monkeypatch.setattr(hardware, "other_programs_bytes", lambda visible: (looked_at.append(visible), held)[1])
    monkeypatch.setattr(outcome, "_GONE_SECONDS", 0.1)
    result, _ = tried("fills_the_card", "max_retries=2")
    assert [attempt.status for attempt in result.attempts] == [status] * attempts
    assert set(looked_at) == {"0"}, "the cards that the run saw"
    company = [
        f"; other programs hold {taken / GIB:.1f} GiB of GPU {card}" for card, taken in held.items() if taken > GIB
    ]
    assert result.current.reason.rpartition(" (in")[0].endswith(tuple(company)) if company else company == []


def test_memory_of_a_card_that_a_process_leaves_late_is_not_anothers(tried, monkeypatch):
    monkeypatch.setattr(hardware, "device", lambda: "cuda")
    monkeypatch.setattr(hardware, "showing", lambda number: {})
    answers = iter([{"0": 70 * GIB}, {"0": 70 * GIB}, {"0": 0}])
    monkeypatch.setattr(hardware, "other_programs_bytes", lambda visible: next(answers))
    assert tried("fills_the_card")[0].status == "oom"


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (Ended("killed", reason="killed by SIGSEGV", cause="machine"), True),
        (Ended("raised", reason="OSError: [Errno 5] Input/output error", cause="machine"), True),
        (Ended("raised", reason="RuntimeError: CUDA error: whatever it says", cause="work"), False),
        (Ended("oom", reason="killed by the kernel: out of memory", cause="host_memory"), False),
        (Ended("returned"), False),
    ],
)
def test_a_fault_of_the_machine_is_told_by_its_cause(ended, expected):
    assert is_machines_fault(ended) is expected


@pytest.mark.parametrize(("number", "ending"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_after_the_end_of_the_work_comes_after_its_record(tried, tmp_path, monkeypatch, number, ending):
    """Without a record, weights are of no attempt, and the training would be repeated."""
    write = run_folder.write_record

    def interrupted(result, folder):
        os.kill(os.getpid(), number)
        write(result, folder)

    monkeypatch.setattr(run_folder, "write_record", interrupted)
    handler = signal.getsignal(number)
    with pytest.raises(ending):
        tried("does_it_all")
    assert signal.getsignal(number) is handler
    recorded = [record.read(RunRecord, path) for path in record.find_runs(tmp_path / "runs")]
    assert [run_record.status for run_record in recorded] == ["ok"]


def test_retries_change_no_recipe(compose, tiny_overrides):
    ids = {config.build(compose(*tiny_overrides, f"max_retries={n}")).recipe_id for n in (0, 3)}
    assert len(ids) == 1
