"""What needs no cluster of the launcher for one: what SLURM says is read, and what was submitted is remembered."""

import os
import re
import shlex
import signal
import stat
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.config import compose as harness_compose
from harness.config import config
from harness.measure import hardware
from harness.records import record
from harness.records.settings import LaunchSpec
from harness.sweep import sweep
from harness.sweep.cluster import control, job, queue, slurm, submissions
from harness.sweep.cluster.submissions import Submission, Tasks
from harness.sweep.local import DetachedSweepError
from harness.sweep.status import find
from tests.sweep.test_sweep_command import add, add_sweep, cell

ROOT = Path(__file__).parents[2]


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Put commands on the path that answer as SLURM's do."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answer(name, text, code=0, error=""):
        script = folder / name
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\necho '{error}' >&2\nexit {code}\n")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)

    return answer


def submission(job, runs, at="2026-01-01T00:00:00.000+00:00", words=()):
    return Submission(schema=record.SCHEMA, job=job, submitted_at=at, runs=tuple(runs), at_once=2, words=tuple(words))


def test_what_waits_and_runs_is_read(answers):
    answers("squeue", "7|0|RUNNING|None|2026-01-01T10:00:00|n1\n7|1|PENDING|Priority|N/A|\n9|N/A|PENDING|None|N/A|")
    found = queue.queued(["7", "9"])
    assert found["7_0"].says("7_0") == ("running", "SLURM job 7_0 on n1, until 2026-01-01T10:00:00 at the latest")
    assert found["7_1"].says("7_1") == ("waiting", "SLURM: Priority")
    assert found["9"].says("9") == ("waiting", "SLURM: PENDING")


def test_no_job_left_is_no_error_and_no_answer_is_one(answers):
    assert queue.queued([]) == {}
    answers("squeue", "", 1, "slurm_load_jobs error: Invalid job id specified")
    assert queue.queued(["7"]) == {}
    answers("squeue", "", 1, "slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(OSError, match=r"squeue does not answer: .*Unable to contact"):
        queue.queued(["7"])


@pytest.mark.parametrize("hours", [-1, 0, 1])
@pytest.mark.parametrize("queued", ["7", "9", None])
def test_a_job_in_the_queue_stands_for_its_run_whatever_the_clocks_say(answers, tmp_path, hours, queued):
    """The newer job was submitted on a machine whose clock is behind: its run would be submitted once more."""
    answers("squeue", f"{queued}|N/A|RUNNING|None|N/A|n1" if queued else "")
    for number, hour in (("7", 12), ("9", 12 + hours)):
        submissions.keep(submission(number, [("a", 0)], f"2026-01-01T{hour}:00:00.000+00:00"), tmp_path, "s")
    tasks = submissions.Tasks(tmp_path, "s")
    assert tasks.of[("a", 0)].job == (queued or ("7" if hours < 0 else "9"))
    assert [task.job for _, task in tasks.live()] == ([queued] if queued else [])


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("TIMEOUT", "0:0", "its time limit was reached (SLURM: TIMEOUT)"),
        ("OUT_OF_MEMORY", "0:125", "it used more memory than it had asked for (SLURM: OUT_OF_MEMORY)"),
        ("NODE_FAIL", "1:0", "its node failed (SLURM: NODE_FAIL)"),
        ("PREEMPTED", "0:0", "preempted (SLURM: PREEMPTED)"),
        ("FAILED", "0:9", "killed by signal 9 (SLURM: FAILED)"),
        ("FAILED", "137:0", "killed by signal 9 (SLURM: FAILED)"),
        ("FAILED", "7:0", "it ended with exit code 7 (SLURM: FAILED)"),
    ],
)
def test_how_a_job_ended_in_words(state, code, expected):
    assert queue.ending(state, code) == expected


def test_endings_come_from_the_controller_and_else_from_the_accounting(answers):
    line = "JobId=8 ArrayJobId=7 ArrayTaskId={} JobName=x JobState={} Reason=None ExitCode=0:{}"
    answers("scontrol", "\n".join([line.format("3", "FAILED", 9), line.format("4-5", "CANCELLED", 0)]))
    assert list(queue.endings("7")) == ["7_3", "7_4", "7_5"]
    answers("scontrol", "", 1, "slurm_load_jobs error: Invalid job id specified")
    answers("sacct", "7_3|CANCELLED by 0|0:0\n7_4|TIMEOUT|0:0")
    assert queue.endings("7") == {
        "7_3": "canceled (SLURM: CANCELLED)", "7_4": "its time limit was reached (SLURM: TIMEOUT)",
    }  # fmt: skip
    answers("sacct", "", 1)
    assert queue.endings("7") == {}


def test_the_newest_job_of_a_run_counts_and_slurm_goes_before_the_record(answers, tmp_path):
    cells = [cell(name, stage=None) for name in ("a", "b", "c", "d")]
    add_sweep(tmp_path, cells, tuning=None)
    add(tmp_path, cells[1], status="failed", reason="preempted, requeued (1 of 3) in phase train at 3 of 9")
    add(tmp_path, cells[3], 1.0)
    runs = [(one.recipe_id, one.seed) for one in cells]
    submissions.keep(submission("7", runs[:3]), tmp_path, "asked")
    submissions.keep(submission("8", [runs[0]], at="2026-01-02T00:00:00.000+00:00"), tmp_path, "asked")
    answers("squeue", "7|1|PENDING|BeginTime|N/A|\n8|N/A|RUNNING|None|N/A|n1")
    answers("scontrol", "ArrayJobId=7 ArrayTaskId=2 JobState=NODE_FAIL ExitCode=1:0")
    stored, tasks = find(tmp_path, "asked"), Tasks(tmp_path, "asked")
    assert [stored.status(one, tasks) for one in cells] == [
        ("running", "SLURM job 8 on n1"),
        ("waiting", "SLURM: BeginTime"),
        ("failed", "SLURM job 7_2: its node failed (SLURM: NODE_FAIL)"),
        ("ok", ""),
    ]
    assert {run for run, _ in tasks.live()} == {runs[0], runs[1]}


def test_a_sweep_is_submitted_again_with_the_launchers_settings_of_the_last_time(tmp_path):
    add_sweep(tmp_path, [cell("a")])
    words = ["hydra.launcher.partition=gpu", "hydra.launcher.cpus=2", "hydra.launcher.wait=true"]
    submissions.keep(submission("7", [("a", 0)], words=words), tmp_path, "asked")
    found = control.submission_words("asked", find(tmp_path, "asked"), ["seed=3", "hydra.launcher.cpus=8"])
    assert found == [
        "sweep=asked", "train=smoke", "lr_scale=1,3", f"runs_dir={tmp_path}", "seed=3", "hydra/launcher=slurm",
        "hydra.launcher.partition=gpu", "hydra.launcher.cpus=8", "hydra.launcher.wait=false",
    ]  # fmt: skip
    new = control.submission_words("methods", None, ["seed=3"])
    assert new == ["sweep=methods", "seed=3", "hydra/launcher=slurm", "hydra.launcher.wait=false"]


def test_what_was_never_submitted_cannot_be_collected(tmp_path):
    add_sweep(tmp_path, [cell("a")])
    with pytest.raises(
        ValueError, match=r"nothing of it was submitted to a cluster; for its report: python -m harness"
    ):
        control.tasks_of(find(tmp_path, "asked"))


def test_without_slurm_or_with_a_job_that_it_would_not_take_nothing_is_planned(monkeypatch, answers, compose):
    spec = config.checked(
        slurm.SlurmSpec, launcher(compose, "time_minutes=30", "gpus=2", "memory_gib=1.5"), "hydra.launcher"
    )
    assert spec.sbatch() == {
        "gres": "gpu:2", "cpus-per-task": 4, "mem": "1536M", "time": 30, "requeue": True,
    }  # fmt: skip
    answers("sbatch", "", 1, "sbatch: error: invalid partition specified: x")
    with pytest.raises(ValueError, match=r"such a job \(--gres=gpu:2 .*\): invalid partition specified: x"):
        slurm.check(spec)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="there is no sbatch here; submit from a machine of the cluster"):
        slurm.check(spec)


def launcher(compose, *words):
    from hydra import compose as composed
    from hydra import initialize_config_dir

    from harness.sources.packages import conf_dir

    config.register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        overrides = ["hydra/launcher=slurm", *(f"hydra.launcher.{word}" for word in words)]
        return composed("config", overrides=overrides, return_hydra_config=True).hydra.launcher


def test_a_signal_before_the_start_is_refused(compose):
    with pytest.raises(ValueError, match=r"signal_seconds=120: must be less than hydra.launcher.time_minutes=2"):
        config.checked(slurm.SlurmSpec, launcher(compose, "time_minutes=2"), "hydra.launcher")


@pytest.mark.parametrize("name", ["nodes", "N", "ntasks", "n", "ntasks-per-node"])
def test_nodes_and_tasks_are_no_options_of_sbatch(name):
    said = f"hydra.launcher.options.{name}=2: on how many nodes a run trains, with one task on each, is said by launch"
    with pytest.raises(ValueError, match=said):
        config.checked(slurm.SlurmSpec, {**SPEC, "setup": [], "options": {name: 2}}, "hydra.launcher")
    allowed = config.checked(slurm.SlurmSpec, {**SPEC, "setup": [], "options": {name: 1}}, "hydra.launcher")
    assert allowed.sbatch()[name] == 1


def test_a_job_needs_a_gpu_for_each_process_of_its_run():
    planned = [asked(num_processes=4)]
    said = r"method=lora: launch.num_processes=4 needs 4 GPUs on a node, and hydra.launcher.gpus=2: give a node 4"
    with pytest.raises(ValueError, match=said):
        slurm.launch(planned, "name", slurm.SlurmSpec(**{**SPEC, "gpus": 2}), ())
    with pytest.raises(ValueError, match=r"num_processes=4 on launch.num_nodes=2 needs 2 GPUs on a node, .*gpus=1: "):
        slurm._check_gpus([asked(num_processes=4, num_nodes=2)], slurm.SlurmSpec(**{**SPEC, "gpus": 1}))
    for gpus in (0, 4):  # none: on processors
        slurm._check_gpus(planned, slurm.SlurmSpec(**{**SPEC, "gpus": gpus}))


def asked(trains=True, **launch):
    """A planned run."""
    experiment = SimpleNamespace(launch=LaunchSpec(**launch), method=SimpleNamespace(trains=trains))
    return SimpleNamespace(experiment=experiment, cell=("method=lora",))


def test_runs_on_as_many_nodes_are_an_array_and_what_trains_nothing_has_one(answers):
    answers("scontrol", "MaxArraySize = 3")
    queue.largest_array.cache_clear()
    one, two = asked(num_processes=2), asked(num_processes=2, num_nodes=2)
    base = asked(trains=False, num_processes=2, num_nodes=2)
    assert list(slurm._parts([two, one, base, two, two])) == [(1, [one, base]), (2, [two, two]), (2, [two])]
    queue.largest_array.cache_clear()


def test_a_job_asks_for_its_nodes_and_one_task_on_each():
    spec = slurm.SlurmSpec(**SPEC)
    assert {**spec.sbatch(), "nodes": 3, "ntasks-per-node": 1} == spec.sbatch(nodes=3)


def test_the_run_on_several_nodes_that_the_page_shows_fits_its_gpus():
    page = (ROOT / "sweeps" / "CLUSTER.md").read_text()
    [line] = re.findall(r"^python -m harness.sweep submit .*launch.num_nodes.*$", page, re.MULTILINE)
    words, gpus = shlex.split(line)[5:-1], int(line.rpartition("hydra.launcher.gpus=")[2])
    cells = harness_compose.experiments(["method=lora", "train=standard", *words])
    planned = [SimpleNamespace(experiment=experiment, cell=cell) for cell, experiment in cells]
    assert [slurm._nodes(one) for one in planned] == [2]
    slurm._check_gpus(planned, slurm.SlurmSpec(**{**SPEC, "gpus": gpus}))


def test_an_option_of_sbatch_is_added_by_its_name(compose):
    spec = config.checked(
        slurm.SlurmSpec, launcher(compose, "options.reservation=mine", "options.exclusive=true"), "hydra.launcher"
    )
    assert {key: spec.sbatch()[key] for key in spec.options} == {"reservation": "mine", "exclusive": True}
    table = config.checked(slurm.SlurmSpec, launcher(compose, "options={reservation: mine}"), "hydra.launcher")
    assert table.options == {"reservation": "mine"}


def test_a_machine_that_plans_for_others_guesses_no_precision(monkeypatch):
    monkeypatch.setenv(hardware.RUNS_ON, "cuda")
    assert hardware.device() == "cuda"
    with pytest.raises(ValueError, match=r"train.precision=auto: this machine cannot know"):
        hardware.precision()


SPEC = {
    "partition": None, "account": None, "qos": None, "constraint": None, "gpus": 0, "cpus": 3, "memory_gib": None,
    "time_minutes": 60, "array_parallelism": 2, "setup": (), "signal_seconds": 120, "max_requeues": 2, "offline": True,
    "wait": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("number", "restarts", "minutes", "why", "requeues"),
    [
        (signal.SIGUSR2, None, 5, "preempted, requeued (1 of 2)", True),
        (signal.SIGUSR2, "1", 57.5, "out of time, requeued (2 of 2)", True),
        (signal.SIGUSR2, "2", 5, "preempted, after 2 requeues,", False),
        (signal.SIGTERM, None, 5, "ended by SLURM", False),
    ],
)
def test_what_slurm_tells_a_job_and_what_becomes_of_it(monkeypatch, number, restarts, minutes, why, requeues):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    notice = job._Notice(slurm.SlurmSpec(**SPEC))
    began = time.monotonic()
    monkeypatch.setattr(job.time, "monotonic", lambda: began + 60 * minutes)
    notice(number, None)
    notice(signal.SIGTERM, None)  # which follows: the first word counts
    assert (notice.stop.why, notice.requeues) == (why, requeues)


def test_a_run_whose_failure_cannot_be_recorded_costs_no_other_of_its_job(monkeypatch, tmp_path):
    def refuse(experiment, *_):
        raise ValueError("record.json: record schema 3, this version reads 2")

    monkeypatch.setattr(job, "_refusal", lambda experiment: "")
    monkeypatch.setattr(job.sweep, "run_cell", refuse)
    monkeypatch.setattr(job.run, "fail", refuse)
    said = []
    monkeypatch.setattr(job.board, "say", said.append)
    assert job._made(SimpleNamespace(folder=tmp_path)) == "failed"
    assert said == [
        f"{tmp_path}: ValueError: record.json: record schema 3, this version reads 2; not recorded: record.json: "
        "record schema 3, this version reads 2"
    ]


def ended(status, at, stopped="no"):
    current = SimpleNamespace(started_at=at, interrupted=status == "failed" and stopped != "no")
    return SimpleNamespace(status=status, current=current)


@pytest.mark.parametrize(
    ("recorded", "cells_per_job", "failed"),
    [
        (None, 2, True),
        (ended("failed", "2026-01-01T01:00:00.000+00:00"), 2, False),
        (ended("failed", "2026-01-01T01:00:00.000+00:00"), 1, True),
        (ended("failed", "2026-01-01T01:00:00.000+00:00", stopped="training"), 2, True),
        (ended("failed", "2025-01-01T01:00:00.000+00:00"), 2, True),
    ],
    ids=["no record", "its own reason", "tried again by its job", "interrupted", "before"],
)
def test_the_end_of_a_job_is_no_reason_of_a_run_that_failed_in_it(
    answers, monkeypatch, tmp_path, recorded, cells_per_job, failed
):
    """The job went on with its other runs, and was out of time in one of them."""
    several = replace(submission("7", [("a", 0), ("b", 0)]), cells_per_job=cells_per_job)
    submissions.keep(several, tmp_path, "asked")
    submissions.jobs_folder(tmp_path, "asked").mkdir()
    answers("squeue", "")
    answers("scontrol", "")
    answers("sacct", "")
    reasons = []
    monkeypatch.setattr(slurm, "experiment_of", lambda *_: None)
    monkeypatch.setattr(slurm.state, "readable", lambda experiment: recorded)
    monkeypatch.setattr(slurm.run, "fail", lambda experiment, reason, patience: reasons.append(reason))
    tasks = Tasks(tmp_path, "asked")
    slurm.settle(tmp_path, "asked", tasks, tasks.of["a", 0])
    assert bool(reasons) is failed
    assert tasks.is_told(tasks.of["a", 0])


def test_an_end_that_cannot_be_recorded_is_of_its_job_alone(answers, monkeypatch, tmp_path):
    def refuse(*_):
        raise ValueError("record.json: record schema 3, this version reads 2")

    submissions.keep(submission("7", [("a", 0)]), tmp_path, "asked")
    answers("squeue", "")
    monkeypatch.setattr(slurm, "experiment_of", lambda *_: None)
    monkeypatch.setattr(slurm.run, "fail", refuse)
    tasks = Tasks(tmp_path, "asked")
    slurm.settle(tmp_path, "asked", tasks, tasks.of["a", 0])
    assert not tasks.is_told(tasks.of["a", 0])


def test_a_job_computes_on_the_cores_that_it_asked_for(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert job._threads(slurm.SlurmSpec(**SPEC)) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert job._threads(slurm.SlurmSpec(**SPEC)) == 2


def test_what_differs_on_a_node_is_named():
    before = {"train": {"precision": "bf16", "lr": 0.1}, "data": {"content": "a"}, "same": 1}
    now = {"train": {"precision": "fp32", "lr": 0.1}, "data": {"content": "b"}, "same": 1}
    assert list(job._changed(before, now)) == ["train.precision=bf16 is fp32", "data.content=a is b"]


def test_runs_that_are_left_to_a_cluster_are_no_failure_and_make_no_report(compose, tiny_overrides, tmp_path, capfd):
    def leave(pending, name):
        raise DetachedSweepError(f"{len(pending)} go on")

    arguments = [*tiny_overrides, "method=lora"]
    assert sweep.execute(compose(*arguments), arguments, lambda words: compose(*words), leave) == 0
    assert "2 go on" in capfd.readouterr().err
    assert list((tmp_path / "runs" / "sweeps").glob("*/sweep.json"))
    assert not list((tmp_path / "reports").iterdir())


def test_trials_that_are_over_say_how_to_go_on_and_make_no_report(answers, tmp_path, capsys):
    cells = [cell("a"), cell("b")]
    add(tmp_path, cells[0], 1.0)
    add(tmp_path, cells[1], status="diverged", reason="the loss is no number")
    add_sweep(tmp_path, cells, choices=None)
    submissions.keep(submission("7", [("a", 0), ("b", 0)]), tmp_path, "asked")
    submissions.jobs_folder(tmp_path, "asked").mkdir()
    for number in (0, 1):  # what submitit leaves behind when a job's work is over
        (submissions.jobs_folder(tmp_path, "asked") / f"7_{number}_0_result.pkl").touch()
    answers("squeue", "")
    assert control.collect(find(tmp_path, "asked"), wait=False) == 1
    out = capsys.readouterr().out
    assert "  tune   2: 1 ok, 1 diverged" in out
    assert f"the trials are over: python -m harness.sweep submit asked --runs {tmp_path} chooses" in out
