"""`hydra/launcher=local`: several runs at once, each with its part of the machine, and what Ctrl-C does to them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.measure import hardware
from harness.records import record
from harness.records.record import RunRecord
from harness.run import isolate
from harness.sweep import local, sweep
from harness.sweep.local import LocalSpec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


# --- what runs in the other process ---


def part(emit):
    import torch

    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


# --- the tests ---


@pytest.fixture
def machine(monkeypatch):
    """A machine with that many cores and those graphics cards."""

    def made(cores, names=()):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
        monkeypatch.setattr(hardware, "device_names", lambda: list(names))
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    return made


def test_each_gpu_is_one_slot_and_the_cores_are_divided(machine):
    machine(16, ["0", "GPU-5f3", "7"])
    found = local.shares(LocalSpec())
    assert [one.environment for one in found] == [{"CUDA_VISIBLE_DEVICES": name} for name in ("0", "GPU-5f3", "7")]
    assert [one.threads for one in found] == [5, 5, 5]
    assert len(local.shares(LocalSpec(n_jobs=2))) == 2


def test_the_cores_of_a_cpu_are_divided(machine, monkeypatch):
    machine(9)
    assert [(one.environment, one.threads) for one in local.shares(LocalSpec(n_jobs=4))] == [({}, 2)] * 4
    assert [one.threads for one in local.shares(LocalSpec())] == [4, 4]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # whoever asks for fewer gets fewer
    assert [one.threads for one in local.shares(LocalSpec())] == [1, 1]


def test_more_slots_than_devices_are_refused(machine):
    machine(16, ["0", "1"])
    with pytest.raises(ValueError, match=r"n_jobs=3: this machine has 2 GPUs for it.*use at most 2"):
        local.shares(LocalSpec(n_jobs=3))
    machine(2)
    with pytest.raises(ValueError, match=r"n_jobs=3: this machine has 2 cores"):
        local.shares(LocalSpec(n_jobs=3))


def test_jobs_run_at_once_in_order_and_one_that_raises_costs_only_itself():
    both = threading.Barrier(2, timeout=20)

    def meet(number):
        both.wait()
        return number

    def fail():
        raise ValueError("not this one")

    jobs = [lambda: meet(0), lambda: meet(1), fail, lambda: 3]
    made = local.at_once(jobs, [isolate.Share({}, 1), isolate.Share({}, 1)], pytest.fail)
    assert [one.value for one in made] == [0, 1, None, 3]
    with pytest.raises(ValueError, match="not this one"):
        _ = made[2].return_value


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_that_arrives_as_the_last_run_ends_is_no_ctrl_c(number):
    def end():
        os.kill(os.getpid(), number)  # as for every process of a group; the run ends before the sweep looks

    with pytest.raises(SystemExit) as stop:
        local.at_once([end], [isolate.Share({}, 1)], pytest.fail)
    assert stop.value.code == 128 + number


@pytest.mark.parametrize(
    ("sent", "ending", "is_waited_for"),
    [
        ([signal.SIGUSR2, signal.SIGTERM], SystemExit, True),
        ([signal.SIGINT] * 2, KeyboardInterrupt, True),
        ([signal.SIGINT] * 3, KeyboardInterrupt, False),
    ],
    ids=["scheduler", "twice", "thrice"],
)
def test_a_run_that_writes_a_checkpoint_is_waited_for_until_a_third_ctrl_c(monkeypatch, sent, ending, is_waited_for):
    monkeypatch.setattr(local, "_LOOK_SECONDS", 0.05)
    part, ended = isolate.Share({}, 1), threading.Event()

    def write():
        for number in sent:
            os.kill(os.getpid(), number)
            time.sleep(0.3)
        ended.wait(0.5 if is_waited_for else 20.0)
        ended.set()

    with pytest.raises(ending):
        local.at_once([write], [part], lambda text: None)
    assert ended.is_set() is is_waited_for
    assert part.stop.why
    ended.set()


def test_a_process_keeps_to_its_part(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    call = lambda: isolate.call("test_sweep_local:part", log=tmp_path / "log.txt").value  # noqa: E731
    parts = [isolate.Share({"CUDA_VISIBLE_DEVICES": "3"}, 1), isolate.Share({"CUDA_VISIBLE_DEVICES": "5"}, 2)]
    barrier = threading.Barrier(2, timeout=60)
    found = local.at_once([lambda: (barrier.wait(), call())[1]] * 2, parts, pytest.fail)
    assert sorted(one.return_value for one in found) == [("3", "1", 1), ("5", "2", 2)]


LONG = ["method=full", "train.max_steps=3000", "train.lr_scheduler_type=constant_with_warmup", "eval.test=never"]


def start(words):
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "-m", "hydra/launcher=local", "hydra.launcher.n_jobs=2", *words],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip


def runs_in(folder):
    found = [record.read(RunRecord, path) for path in record.find_runs(folder)]
    return {one.seed: one for one in found if one.method == "full"}


def wait_for_logs(runs, number):
    """Until so many runs have begun to write."""
    deadline = time.monotonic() + 120
    while len(list(runs.glob("*/seed-*/log.txt"))) < number:
        assert time.monotonic() < deadline, "the runs did not begin"
        time.sleep(0.1)


def test_the_first_interrupt_finishes_what_runs_and_the_second_stops_it(tiny_overrides, tmp_path):
    runs = tmp_path / "runs"
    short = [word if word != "train.max_steps=3000" else "train.max_steps=150" for word in LONG]
    sweep = start([*tiny_overrides, *short, "seed=0,1,2,3"])
    wait_for_logs(runs, 3)  # the untouched model and two more
    os.killpg(sweep.pid, signal.SIGINT)
    _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, err
    assert "the runs under way are finished" in err
    assert [one.status for one in runs_in(runs).values()] == ["ok"] * len(runs_in(runs))
    assert 1 <= len(runs_in(runs)) <= 2

    sweep = start([*tiny_overrides, *LONG, "seed=7,8,9"])
    wait_for_logs(runs, 3 + len(runs_in(runs)))
    time.sleep(1.5)
    for _ in range(2):
        os.killpg(sweep.pid, signal.SIGINT)
        time.sleep(0.5)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, err
    stopped = [one for seed, one in runs_in(runs).items() if seed >= 7]
    assert len(stopped) == 2
    assert all(one.status == "failed" and one.current.reason.startswith("interrupted in phase") for one in stopped)
    assert "Traceback" not in err


def test_a_sweep_in_two_slots_ends_like_any_other(tiny_overrides, tmp_path, harness):
    done = harness("-m", *tiny_overrides, "method=lora,full", "seed=0,1", "hydra/launcher=local")
    assert done.code == 0, done.err
    found = [record.read(RunRecord, path) for path in record.find_runs(tmp_path / "runs")]
    assert sorted((one.method, one.status) for one in found) == [
        ("base", "ok"),
        *[("full", "ok")] * 2,
        *[("lora", "ok")] * 2,
    ]
    assert len(re.findall(r"^\d/5 .*: ok", done.err, re.MULTILINE)) == 5


def test_a_run_of_several_gpus_does_not_fit_into_a_part_with_one():
    asked = SimpleNamespace(experiment=SimpleNamespace(launch=SimpleNamespace(num_processes=2)), cell=("method=lora",))
    with pytest.raises(ValueError, match=r"method=lora: .*one GPU, and launch\.num_processes=2"):
        sweep.at_once([asked], [isolate.Share({"CUDA_VISIBLE_DEVICES": "0"}, 1)])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["hydra.launcher.n_jobs=0"], r"hydra.launcher.n_jobs=0: .*greater than or equal to 1"),
        (["hydra.launcher.n_jobs=two"], r"hydra.launcher.n_jobs=\"two\": .*integer"),
        (["hydra.launcher.n_jobs=9999"], r"n_jobs=9999: this machine has \d+"),
        (["hydra.launcher.jobs=2"], r"hydra.launcher.jobs"),
    ],
)
def test_a_wrong_launcher_setting_is_refused(harness, tiny_overrides, words, expected):
    done = harness("-m", *tiny_overrides, "hydra/launcher=local", *words)
    assert done.code == 2
    assert re.search(expected, done.err), done.err
    assert "Traceback" not in done.err
