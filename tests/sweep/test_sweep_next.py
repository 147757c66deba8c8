"""`harness sweep next` as plain processes on one folder, with real training: each run is made once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.config import config
from harness.records import record
from harness.records.events import Measured, PhaseStarted
from harness.records.record import RunRecord
from harness.run import inputs, lock, run
from harness.sweep import worker
from harness.sweep.planned_runs import PlannedRun, Wanted
from harness.sweep.worker import WorkerSpec, _Taken, launch

NEXT = [sys.executable, "-m", "harness", "sweep", "next"]


@pytest.fixture
def sweep(tmp_path, shared_overrides):
    """Write a sweep of some cells; the words behind `harness sweep next`."""

    def made(cells: str, name: str = "shared") -> list[str]:
        (tmp_path / "conf" / "sweep").mkdir(parents=True, exist_ok=True)
        text = f"name: {name}\nquestion: Does it end?\nvaries: [method, train.lr]\ncells:\n{cells}"
        (tmp_path / "conf" / "sweep" / f"{name}.yaml").write_text(text)
        ours = ("runs_dir=", "reports_dir=", "train=")
        small = [word for word in shared_overrides() if not word.startswith(ours)]
        small += ["train=smoke", "reports_dir=reports", f"hydra.searchpath=[{tmp_path}/conf]"]
        return [name, *small]

    return made


def started(words: list[str], folder: Path, **more: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*NEXT, *words], cwd=folder, text=True, env=environment, **more)


def records_of(folder: Path) -> list[RunRecord]:
    return [record.read(RunRecord, path) for path in record.find_runs(folder / "runs")]


def is_making(worker: subprocess.Popen, runs: Path) -> bool:
    """Whether a worker holds a run that has no record yet."""
    for claim in runs.glob("sweeps/*/taken/*/claim-*.json"):
        recipe, _, seed = claim.parent.name.rpartition("-seed-")
        if not (runs / recipe / f"seed-{seed}" / "log.txt").is_file():
            continue
        if (runs / recipe / f"seed-{seed}" / "record.json").exists():
            continue
        if json.loads(claim.read_text())["pid"] == worker.pid:
            return True
    return False


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_run_of_another_machine_is_left_alone_while_it_beats_whatever_its_clock_says(tmp_path, hours):
    planned = SimpleNamespace(
        experiment=SimpleNamespace(folder=tmp_path / "run", runs_dir=str(tmp_path)), identity=("recipe", 0, ())
    )
    planned.experiment.folder.mkdir()
    other = lock.Owner(token="0", host="elsewhere", boot="x", pid=1, started="1")
    claim = lock._create(planned.experiment.folder, 1, other)
    then = time.time() + hours * 3600
    taken = _Taken(planned, "shared")
    taken._run.patience = 0.5
    for beat in range(5):
        os.utime(claim, (then + beat, then + beat))
        with taken.taken() as is_mine:
            assert not is_mine
        time.sleep(0.01)
    time.sleep(0.6)  # the other machine is gone
    with taken.taken() as is_mine:
        assert is_mine


def test_a_worker_ends_where_the_rows_have_changed_since_its_runs_were_planned(
    compose, tiny_overrides, letters_file, tmp_path, monkeypatch
):
    """It would make another run, find the planned one still open, and begin again without an end."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(letters_file.read_text())
    words = (*tiny_overrides, "method=lora", f"data.file={rows}")
    planned = PlannedRun(Wanted(words), inputs.resolve(config.build(compose(*words))))
    rows.write_text(letters_file.read_text() + '{"prompt": "Say x:", "completion": " xxxx"}\n')
    monkeypatch.setattr(run, "run", lambda experiment, watch: pytest.fail("another run was begun"))
    made = launch([planned], "shared", WorkerSpec(), [])
    with pytest.raises(ValueError, match="data=file: its files have changed since the run was planned"):
        _ = made[0].return_value


STEP_OF = "step.txt"  # of the newest checkpoint of a run whose process is not real
MOST_ATTEMPTS = 9


def crashes(experiment, todo, emit):
    """A run's process that crashes in one step in every attempt, with or without a further checkpoint before it."""
    file = experiment.folder / STEP_OF
    before = int(file.read_text()) if file.exists() else 0
    emit(PhaseStarted("train"))
    if before:
        emit(Measured(resumed_at_step=before, checkpoint_step=before))
    with (experiment.folder / "attempts.txt").open("a") as attempts:
        attempts.write("x")
    if (experiment.folder / "attempts.txt").stat().st_size == MOST_ATTEMPTS:
        raise ValueError("it is made without an end")
    if before < experiment.run_seed:
        file.write_text(str(before + 1))
        emit(Measured(checkpoint_step=before + 1))
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize("max_retries", [0, 2])
@pytest.mark.parametrize("checkpoints", [0, 1, 3])
def test_a_run_that_crashes_in_the_same_step_again_and_again_comes_to_an_end(
    compose, tiny_overrides, monkeypatch, checkpoints, max_retries
):
    """An attempt that leaves a later checkpoint is gone on from; the first that leaves none is a failure."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(run, "WORK", "test_sweep_next:crashes")
    words = (*tiny_overrides, "method=lora", f"seed={checkpoints}", f"max_retries={max_retries}")
    planned = PlannedRun(Wanted(words), inputs.resolve(config.build(compose(*words))))
    made = launch([planned], "shared", WorkerSpec(), [])
    assert made[0].return_value == "failed"
    attempts = record.read(RunRecord, planned.experiment.folder / "record.json").attempts
    tries = max_retries + 1
    assert len(attempts) == -(-(checkpoints + 1) // tries) * tries, "whole calls of the run, and no more"
    assert [attempt.interrupted for attempt in attempts] == [number < checkpoints for number in range(len(attempts))]
    hint = f"; can be resumed from step {checkpoints}" if checkpoints else ""
    assert attempts[-1].reason == f"killed by SIGSEGV (in phase train){hint}"


@pytest.mark.parametrize(("force", "rerun", "advice"), [(True, (), "force=false"), (False, ("oom",), r"rerun=\[\]")])
def test_a_worker_refuses_to_make_again_what_would_stay_open(tmp_path, monkeypatch, force, rerun, advice):
    monkeypatch.setattr(run, "run", lambda experiment, watch: pytest.fail("a run was begun"))
    planned = SimpleNamespace(experiment=SimpleNamespace(force=force, rerun=rerun))
    with pytest.raises(ValueError, match=f"would make the same runs again, without an end; give {advice}, or leave"):
        launch([planned], "shared", WorkerSpec(), [])


def test_four_workers_of_which_two_are_killed_make_twelve_runs_once_each(sweep, tmp_path):
    cells = "  - method: [lora, full]\n    seed: [0, 1, 2, 3, 4]\n  - method: [dora]\n"
    words = [*sweep(cells), "--all"]
    logs = [(tmp_path / f"worker-{number}.log").open("w") for number in range(4)]
    workers = [started(words, tmp_path, stdout=log, stderr=log) for log in logs]
    try:
        deadline = time.monotonic() + 300
        killed: list[subprocess.Popen] = []
        while len(killed) < 2:
            assert time.monotonic() < deadline, "".join(path.read_text() for path in tmp_path.glob("worker-*.log"))
            for worker in [one for one in workers if one not in killed and is_making(one, tmp_path / "runs")][:1]:
                worker.send_signal(signal.SIGKILL)
                killed.append(worker)
            time.sleep(0.02)
        codes = [worker.wait(timeout=250) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
        for log in logs:
            log.close()
    said = "".join(path.read_text() for path in tmp_path.glob("worker-*.log"))
    assert sorted(codes) == [-9, -9, 0, 0], said
    found = records_of(tmp_path)
    assert len(found) == 12
    assert {one.status for one in found} == {"ok"}
    assert [len(one.attempts) for one in found] == [1] * 12  # a killed attempt leaves no record
    assert sum(one.training is not None for one in found) == 11
    assert (tmp_path / "reports" / "shared" / "report.md").is_file()


OUTCOME = """
from harness.sweep import worker
from harness.sweep.__main__ import _own_stdout
file = _own_stdout()
print("to standard error")
worker.append(file, '{}\\n')
"""


def test_an_outcome_reaches_whatever_standard_output_is(tmp_path):
    """Node.js gives its children sockets, whose names cannot be opened."""
    (tmp_path / "file").write_text("before\n")
    command = [sys.executable, "-c", OUTCOME]
    ours, theirs = socket.socketpair()
    with (tmp_path / "file").open("a") as file, ours, theirs:
        for target in (file, theirs):
            subprocess.run(command, stdout=target, stderr=subprocess.PIPE, check=True)
        piped = subprocess.run(command, capture_output=True, check=True)
        assert (ours.recv(99), piped.stdout, piped.stderr) == (b"{}\n", b"{}\n", b"to standard error\n")
    assert (tmp_path / "file").read_text() == "before\n{}\n"
    worker.append(str(tmp_path / "named"), "a\n")
    worker.append(str(tmp_path / "named"), "b\n")
    assert (tmp_path / "named").read_text() == "a\nb\n"


def test_each_outcome_is_one_json_object_and_nothing_else_on_stdout(sweep, tmp_path):
    """Made one, made one that failed, all taken, none left, and wrong input, which is one line on stderr."""
    words = [*sweep("  - method: [lora]\n    train.lr: [1e-3, 1e30]\n"), "--json"]

    def called(*more: str) -> tuple[int, dict | None, str]:
        worker = started([*words, *more], tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = worker.communicate(timeout=200)
        return worker.returncode, json.loads(out) if out else None, err

    code, first, err = called()
    assert code == 0, err
    assert set(first) == {"outcome", "made", "exit_code", "sweep", "question", "command", "counts", "runs"}
    assert (first["outcome"], first["exit_code"], first["sweep"]) == ("made", 0, "shared")
    assert [(run["state"], "method=base" in run["overrides"]) for run in first["made"]] == [("ok", True)]
    assert first["counts"] == {"ok": 1, "waiting": 2}

    together = [started(words, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    ended = [worker.communicate(timeout=200)[0] for worker in together]
    documents = [json.loads(out) for out in ended]
    by_code = sorted((worker.returncode, len(found["made"])) for worker, found in zip(together, documents, strict=True))
    assert by_code == [(0, 1), (0, 1), (3, 0)], "two make the runs that are left, the third waits and finds none"
    assert [found["outcome"] for found in documents].count("none left") == 1
    assert sorted(run["state"] for found in documents for run in found["made"]) == ["diverged", "ok"]
    assert all(run["reason"] for found in documents for run in found["made"] if run["state"] == "diverged")

    code, last, err = called()
    assert (code, last["outcome"], last["made"], last["exit_code"]) == (3, "none left", [], 3), err
    code, none, err = called("train.max_steps=-1")
    assert (code, none) == (2, None)
    assert "train.max_steps" in err and "Traceback" not in err
