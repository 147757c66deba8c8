"""Trials of a tuning stage that share one machine: how many, with which part of it, and what their records say."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.config.config import build
from harness.measure import hardware
from harness.plan.devices import Device
from harness.records import record
from harness.records.record import RunRecord
from harness.run import inputs, isolate, run, state
from harness.run.progress import board
from harness.sweep import checks, concurrent, local, sweep
from harness.sweep.planned_runs import PlannedRun, Wanted

GIB = 2**30


@pytest.fixture
def trial(compose, tiny_overrides):
    """Trials as a sweep has planned them."""

    def planned(*words):
        return PlannedRun(
            Wanted(("method=lora", *words), "tune"), build(compose(*tiny_overrides, "method=lora", *words))
        )

    return planned


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores, free memory and GPUs, on which each trial takes so much."""

    def made(cores, peak=GIB, memory=64 * GIB, gpus=()):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
        monkeypatch.setattr(hardware, "device_names", lambda: list(gpus))
        monkeypatch.setattr(hardware, "memory_bytes", lambda: memory if gpus else None)
        monkeypatch.setattr(concurrent, "named", lambda name: Device(name, memory, None, on_gpu=False))
        monkeypatch.setattr(checks, "peak_bytes", lambda plan, device, folder: peak)

    return made


def parts(trials):
    found = concurrent.shares(trials, trials)
    return [(part.environment.get("CUDA_VISIBLE_DEVICES"), part.threads, part.runs) for part in found]


def test_as_many_as_there_are_cores_trials_and_memory_for(machine, trial):
    trials = [trial(f"seed={seed}") for seed in range(6)]
    machine(cores=2)
    assert parts(trials) == [(None, 1, 2)] * 2
    machine(cores=16)
    assert parts(trials) == [(None, 2, 6)] * 6, "no more than there are trials, who have the cores"
    machine(cores=16, peak=9 * GIB, memory=32 * GIB)
    assert parts(trials) == [(None, 5, 3)] * 3
    machine(cores=1)
    assert parts(trials) == []
    machine(cores=16)
    assert parts(trials[:1]) == [], "one trial has the machine"


@pytest.mark.parametrize(("peak", "memory"), [(None, 64 * GIB), (30 * GIB, 32 * GIB)])
def test_trials_come_alone_where_two_do_not_fit_or_nothing_is_known(machine, trial, peak, memory):
    machine(cores=8, peak=peak, memory=memory)
    assert parts([trial("seed=0"), trial("seed=1")]) == []


def test_a_gpu_holds_several_where_they_fit_and_each_has_its_own_context(machine, trial):
    trials = [trial(f"seed={seed}") for seed in range(6)]
    machine(cores=16, peak=10 * GIB, memory=24 * GIB, gpus=["0", "GPU-1"])
    assert parts(trials) == [("0", 4, 2), ("GPU-1", 4, 2), ("0", 4, 2), ("GPU-1", 4, 2)]
    machine(cores=16, peak=11 * GIB + GIB // 2, memory=24 * GIB, gpus=["0"])
    assert parts(trials) == [("0", 16, 1)], "two and their contexts are more than is usable"


def test_the_number_may_be_limited_and_no_part_is_less_than_a_core(machine, trial):
    machine(cores=4)
    limited = [trial(f"seed={seed}", "max_concurrent_trials=2") for seed in range(6)]
    assert parts(limited) == [(None, 2, 2)] * 2
    assert parts([trial("max_concurrent_trials=1")] * 3) == []
    with pytest.raises(ValueError, match=r"max_concurrent_trials=5: this machine has 4 cores.*use at most 4"):
        parts([trial("max_concurrent_trials=5")] * 6)


def test_a_run_of_several_processes_has_the_machine(machine, trial):
    machine(cores=8)
    assert parts([trial("launch.num_processes=2", "train.micro_batch_size=2", f"seed={s}") for s in (0, 1)]) == []


def test_trials_of_a_sweep_that_goes_on_have_the_threads_of_its_finished_ones(machine, trial, monkeypatch):
    machine(cores=8)
    trials = [trial(f"seed={seed}") for seed in range(6)]
    before = SimpleNamespace(current=SimpleNamespace(provenance={"threads": 4}))
    finished = {trials[0].experiment.folder}
    monkeypatch.setattr(state, "done", lambda experiment: experiment.folder in finished)
    monkeypatch.setattr(state, "read", lambda experiment: before)
    found = concurrent.shares(trials, trials[1:])
    assert [(part.threads, part.runs) for part in found] == [(4, 2)] * 2


@pytest.mark.parametrize("status", ["oom", "failed"])
def test_a_trial_that_came_to_nothing_beside_others_is_made_again_alone(trial, monkeypatch, status):
    trials = [trial(f"seed={seed}") for seed in range(3)]
    made = []

    def once(experiment):
        part = isolate.share.get()
        made.append((experiment.seed, part.runs, "oom" in experiment.rerun))
        return "ok"

    statuses = {0: "ok", 1: status, 2: "diverged"}
    monkeypatch.setattr(sweep, "run_cell", once)
    monkeypatch.setattr(sweep, "_status", lambda planned: statuses[planned.experiment.seed])
    said = []
    monkeypatch.setattr(board, "say", said.append)
    shares = [isolate.Share({}, 1, runs=2), isolate.Share({}, 1, runs=2)]
    results = sweep._trials(trials, shares)
    assert [result.return_value for result in results] == ["ok"] * 3
    assert sorted(made[:3]) == [(0, 2, False), (1, 2, False), (2, 2, False)]
    assert made[3:] == [(1, 1, True)]
    assert said == ["trials without a result beside others: 1; made again, one after another"]


def test_another_launcher_makes_trials_as_it_makes_runs(trial, monkeypatch):
    alone = sweep._Sweep(None, (), None, "launch", runs_come_alone=True)
    launched = dataclasses.replace(alone, runs_come_alone=False)
    trials = [trial("seed=0"), trial("seed=1")]
    assert launched.launch_of(trials, trials) == "launch"
    with pytest.raises(ValueError, match=r"max_concurrent_trials=2 is for runs .*n_jobs"):
        launched.launch_of([trial("max_concurrent_trials=2")], trials)
    monkeypatch.setattr(concurrent, "shares", lambda trials, started: [])
    assert alone.launch_of(trials, trials) == "launch"
    assert alone.launch_of(trials, []) == "launch"


def test_a_number_of_trials_is_refused_where_there_are_none(trial):
    concurrent.check_no_trials([trial("seed=0")])
    with pytest.raises(ValueError, match=r"max_concurrent_trials=2: only a sweep with stages .*hydra/launcher=local"):
        concurrent.check_no_trials([trial("seed=0"), trial("seed=1", "max_concurrent_trials=2")])


def test_the_record_of_each_run_says_how_many_shared_its_device(trial, machine):
    machine(cores=2)
    trials = [trial(f"seed={seed}", "train.max_steps=2") for seed in (0, 1)]
    results = local.at_once(
        [lambda p=planned: run.run(inputs.resolve(p.experiment), lambda event: None) for planned in trials],
        concurrent.shares(trials, trials),
        pytest.fail,
    )
    for result in results:
        attempt = result.return_value.current
        assert attempt.status == "ok", attempt.reason
        assert (attempt.concurrent_runs, attempt.provenance["threads"], attempt.devices) == (2, 1, 0.5)
    alone = run.run(inputs.resolve(trial("seed=2", "train.max_steps=2").experiment), lambda event: None)
    assert (alone.current.concurrent_runs, alone.current.devices) == (1, 1.0)
    kept = [record.read(RunRecord, path) for path in record.find_runs(Path(alone.config["runs_dir"]))]
    assert sorted(run.current.concurrent_runs for run in kept) == [1, 2, 2]
