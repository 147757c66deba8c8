"""Sweeps on a real SLURM cluster: this machine on loopback, as two nodes, from Debian's packages and `cluster.sh`.

Jobs of a tiny model: an array with a cell that fails, a run that is preempted, one that runs out of time, one that is
killed and one that is canceled, one on two nodes and one that loses a node. The commands are those of
sweeps/CLUSTER.md.
"""

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from harness.config import config
from harness.records import record
from harness.records.record import RunRecord
from harness.run import inputs, run
from harness.sweep.cluster.submissions import Tasks

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "sweeps" / "CLUSTER.md"
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
SMALL = ["hydra.launcher.gpus=0", "hydra.launcher.cpus=1", "hydra.launcher.memory_gib=1"]
LONG = ["train.lr_scheduler_type=constant_with_warmup", "eval.test=never"]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """The cluster, for as long as this file's tests last."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs Debian's packages slurm-wlm and munge: there is no {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    ports = ("SLURMCTLD_PORT", "SLURMD_PORT", "SLURMD_PORT_2")
    environment = {**os.environ, **{name: str(free_port()) for name in ports}}
    script = str(Path(__file__).parent / "cluster.sh")
    # the daemons must not hold this process's pipes open
    with (folder.parent / "conf").open("w") as out:
        subprocess.run([script, "up", str(folder)], stdout=out, env=environment, check=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", (folder.parent / "conf").read_text().strip())
        try:
            yield folder
        finally:
            subprocess.run(["scancel", "--user", str(os.getuid())], check=False, timeout=30)
            subprocess.run([script, "down", str(folder)], check=True, timeout=60)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def page_commands() -> dict[str, list[str]]:
    """Subcommand of harness.sweep -> its words, as the page shows them first; "harness" for the main command."""
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^python -m harness.*$", PAGE.read_text(), re.MULTILINE):
        words = shlex.split(line)[2:]
        found.setdefault(words[1] if words[0] == "harness.sweep" else words[0], words)
    return found


@dataclass
class Sweep:
    """A sweep in a folder of its own, and the page's commands for it."""

    name: str
    folder: Path
    small: list[str]

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def command(self, name: str, *words: str) -> subprocess.CompletedProcess:
        """The page's command with this sweep's name, this cluster's partition and what makes runs small."""
        ours = {"lora_rank": self.name, "sweep=lora_rank": f"sweep={self.name}"}
        ours |= {"hydra.launcher.partition=gpu": "hydra.launcher.partition=main"}
        shown = [ours.get(word, word) for word in page_commands()[name]]
        own = ["--runs", str(self.runs)] if shown[0] == "harness.sweep" else [f"runs_dir={self.runs}"]
        own += [*self.small, *SMALL] if name in ("submit", "harness") else []
        return subprocess.run(
            [sys.executable, "-m", *shown, *own, *words],
            capture_output=True, text=True, cwd=self.folder, timeout=280, check=False,
        )  # fmt: skip

    def tasks(self) -> Tasks:
        return Tasks(self.runs, self.name)

    def records(self) -> list[RunRecord]:
        return [record.read(RunRecord, path) for path in record.find_runs(self.runs)]

    def until(self, what, seconds=300):
        """Wait for something to be true of the tasks. Two busy cores start four processes of a run in minutes."""
        deadline = time.monotonic() + seconds
        while not (found := what(self.tasks())):
            assert time.monotonic() < deadline, self.command("status").stdout
            time.sleep(0.3)
        return found


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, shared_overrides):
    def made(name: str, cells: str) -> Sweep:
        folder = tmp_path_factory.mktemp(name)
        (folder / "conf" / "sweep").mkdir(parents=True)
        text = f"name: {name}\nquestion: Does it run there?\nvaries: [method, data, train.max_steps]\ncells:\n{cells}"
        (folder / "conf" / "sweep" / f"{name}.yaml").write_text(text)
        ours = ("runs_dir=", "reports_dir=", "data.file=", "train.precision=")
        small = [word for word in shared_overrides() if not word.startswith(ours)]
        small += [f"reports_dir={folder}/reports", f"hydra.searchpath=[{folder}/conf]"]
        return Sweep(name, folder, small)

    return made


def test_an_array_in_which_one_cell_fails(sweep, letters_file, tmp_path):
    changed = tmp_path / "changed.jsonl"
    shutil.copy(letters_file, changed)
    cells = f"  - method: [lora]\n    seed: [0, 1]\n    data.file: {letters_file}\n"
    asked = sweep("asked", cells + f"  - method: [full]\n    data.file: {changed}\n")
    words = ["train.precision=fp32", "hydra.launcher.array_parallelism=2"]
    done = asked.command("submit", *words)
    assert done.returncode == 0, done.stderr
    assert "4 runs submitted to SLURM as " in done.stderr
    assert "they go on without this command" in done.stderr
    asked.until(lambda tasks: sum(not task.queued.waits for _, task in tasks.live()) == 2)
    status = asked.command("status").stdout
    assert "  runs   4: 2 running, 2 waiting" in status
    assert re.search(r"running .*: SLURM job \d+_0 on \S+, until \d{4}-", status)
    assert re.search(r"2 waiting: SLURM: \w+", status)

    with changed.open("a") as file:  # what was checked is not what the last job finds
        file.write('{"prompt": "Say z:", "completion": " zzzz"}\n')

    collected = asked.command("collect", "--wait")
    assert collected.returncode == 1, collected.stderr
    assert (asked.folder / "reports" / "asked" / "report.md").exists()
    failed = {one.method: one.current.reason for one in asked.records() if one.status == "failed"}
    assert list(failed) == ["full"]
    assert "on this node it would be another run than the one that was submitted: data.content=" in failed["full"]
    assert "  runs   4: 3 ok, 1 failed" in collected.stdout
    assert f": {failed['full']}" in collected.stdout


def test_several_short_cells_share_a_job(sweep, letters_file):
    shared = sweep("shared", f"  - method: [lora]\n    seed: [0, 1, 2]\n    data.file: {letters_file}\n")
    done = shared.command("submit", "train.precision=fp32", "hydra.launcher.cells_per_job=2")
    assert done.returncode == 0, done.stderr
    jobs = {task.job for task in shared.tasks().of.values()}
    assert len(jobs) == 2, "four runs, two for each job"
    assert shared.command("collect", "--wait").returncode == 0
    assert [one.status for one in shared.records()] == ["ok"] * 4
    assert [len(one.attempts) for one in shared.records()] == [1] * 4
    refused = shared.command("submit", "train.precision=fp32", "hydra.launcher.cells_per_job=0")
    assert (refused.returncode, "cells_per_job" in refused.stderr) == (2, True)


def test_workers_in_an_array_finish_a_sweep_by_the_pages_lines(sweep, letters_file):
    page = (ROOT / "sweeps" / "QUEUES.md").read_text()
    section = page.partition("## SLURM")[2].partition("## ")[0]
    folder, batch, status = re.findall(r"^(?:mkdir|sbatch|harness) .*$", section, re.MULTILINE)
    asked = sweep("queued", f"  - method: [lora]\n    seed: [0, 1, 2, 3]\n    data.file: {letters_file}\n")
    command = f"{sys.executable} -m harness"
    words = shlex.join([*asked.small, "train.precision=fp32", f"runs_dir={asked.runs}"])
    batch = batch.replace("harness sweep next lora_rank --all", f"{command} sweep next queued --all {words}")
    batch = batch.replace("--array=1-4", "--array=1-4 --partition=main --cpus-per-task=1 --mem=1G --wait")
    for line in (folder, batch):
        done = subprocess.run(line, shell=True, cwd=asked.folder, capture_output=True, text=True, timeout=280)
        logs = "".join(path.read_text() for path in sorted(asked.folder.glob("logs/*")))
        assert done.returncode == 0, done.stderr + logs
    found = asked.records()
    assert [one.status for one in found] == ["ok"] * 5
    assert [len(one.attempts) for one in found] == [1] * 5
    assert (asked.folder / "reports" / "queued" / "report.md").is_file()
    ours = [*status.replace("harness", command, 1).replace("lora_rank", "queued").split(), "--runs", str(asked.runs)]
    shown = subprocess.run(ours, cwd=asked.folder, capture_output=True, text=True, timeout=60)
    assert "runs   5: 5 ok" in shown.stdout
    ours[4:5] = ["next"]
    nothing = subprocess.run(ours, cwd=asked.folder, capture_output=True, text=True, timeout=60)
    assert (nothing.returncode, "no run is left; 5 of 5 ended well" in nothing.stdout) == (3, True), nothing.stderr


def steps_begun(one: Sweep, recipe: str = "*", seconds: float = 2.5) -> bool:
    """Whether a process of this sweep's runs, or of those of a recipe, has computed for longer than loading takes."""
    for log in one.runs.glob(f"{recipe}/seed-*/log.txt"):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if Path(f"/proc/{process.pid}/fd/1").readlink() == log and process.cpu_times().user > seconds:
                    return True
    return False


def test_a_preempted_run_goes_on_and_ends_as_if_nothing_had_been(sweep, letters_file, compose):
    words = ["train.precision=fp32", *LONG, "train.max_steps=2000"]
    preempted = sweep("preempted", f"  - method: [full]\n    data.file: {letters_file}\n")
    assert preempted.command("submit", *words).returncode == 0
    preempted.until(lambda tasks: steps_begun(preempted))
    [(run_of, _)] = [found for found in preempted.tasks().live() if found[1].job.endswith("_1")]
    subprocess.run(["sbatch", "-p", "high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"], check=True)
    preempted.until(lambda tasks: tasks.of[run_of].queued.waits)
    [told] = [one for one in preempted.records() if one.method == "full"]
    assert told.current.reason.startswith("preempted, requeued (1 of 3) in phase train at ")
    assert "1 waiting: SLURM: " in preempted.command("status").stdout

    undisturbed = [f"runs_dir={preempted.folder}/undisturbed", f"data.file={letters_file}", "method=full"]
    small = [word for word in preempted.small if not word.startswith("hydra.")]
    alone = run.run(inputs.resolve(config.build(compose(*small, *words, *undisturbed))), lambda event: None)
    assert preempted.command("collect", "--wait").returncode == 0
    [result] = [one for one in preempted.records() if one.method == "full"]
    assert [attempt.status for attempt in result.attempts] == ["failed", "ok"]
    assert result.recipe_id == alone.recipe_id
    assert result.training.losses == alone.training.losses


def processes_of(job: str) -> list[psutil.Process]:
    """The processes in which submitit works on a job: one on each of its nodes, in their order."""
    array, _, task = job.partition("_")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = process.environ()
            of_job = (mine.get("SLURM_ARRAY_JOB_ID"), mine.get("SLURM_ARRAY_TASK_ID")) == (array, task)
            if of_job and process.name() != "srun" and "harness.sweep.cluster.node" in process.cmdline():
                found.append(process)
    return sorted(found, key=lambda process: process.environ()["SLURM_NODEID"])


def full_of(one: Sweep) -> dict[int, tuple]:
    """Seed -> (run, job) of the runs that never end."""
    recipes = {task.job: run_of for run_of, task in one.tasks().of.items()}
    return {run_of[1]: (run_of, job) for job, run_of in recipes.items() if not job.endswith("_0")}  # _0 is the base


ENDLESS = ["train.precision=fp32", *LONG, "train.max_steps=1000000", "hydra.launcher.max_requeues=0"]


def test_what_is_out_of_time_says_so_and_is_not_requeued_for_ever(sweep, letters_file):
    brief = sweep("brief", f"  - method: [full]\n    data.file: {letters_file}\n")
    done = brief.command("submit", *ENDLESS, "hydra.launcher.time_minutes=1", "hydra.launcher.signal_seconds=25")
    assert done.returncode == 0, done.stderr
    assert brief.command("collect", "--wait").returncode == 1
    [result] = [one for one in brief.records() if one.method == "full"]
    # SLURM looks at its clock once a minute: the job may be told before the first step
    assert re.match(r"out of time, after 0 requeues, (before loading|in phase )", result.current.reason)
    assert len(result.attempts) == 1


def test_what_is_killed_or_canceled_is_on_record_and_submitted_again(sweep, letters_file):
    endless = sweep("endless", f"  - method: [full]\n    seed: [0, 1]\n    data.file: {letters_file}\n")
    assert endless.command("submit", *ENDLESS).returncode == 0
    (killed, job), (going, _) = full_of(endless)[0], full_of(endless)[1]
    endless.until(
        lambda tasks: not tasks.of[killed].queued.waits and list(endless.runs.glob(f"{killed[0]}/seed-0/log.txt"))
    )
    [process] = processes_of(job)
    process.kill()
    endless.until(lambda tasks: tasks.of[killed].queued is None)
    status = endless.command("status").stdout
    assert re.search(r"failed \w+/seed-0 .*: SLURM job \d+_1: killed by signal 9 ", status), status

    again = endless.command("submit", *ENDLESS)
    assert again.returncode == 0, again.stderr
    assert "1 runs submitted to SLURM as" in again.stderr
    assert "1 are in its queue already" in again.stderr
    endless.until(lambda tasks: steps_begun(endless) and not tasks.of[going].queued.waits)
    canceled = endless.command("cancel")
    assert canceled.returncode == 0, canceled.stderr
    assert "2 runs canceled" in canceled.stdout
    assert not list(endless.tasks().live())
    reasons = {one.seed: one.current.reason for one in endless.records() if one.method == "full"}
    assert sorted(reasons) == [0, 1]
    for reason in reasons.values():
        assert re.match(r"ended by SLURM (before loading|in phase )|SLURM job \S+: canceled ", reason)


def test_a_run_trains_on_two_nodes_and_says_which_one_it_has_lost(sweep, letters_file, compose):
    lines = f"    data.file: {letters_file}\n    train.max_steps: "
    spread = sweep("spread", f"  - method: [lora]\n{lines}4\n  - method: [full]\n{lines}1000000\n")
    words = ["train.precision=fp32", *LONG, "train.micro_batch_size=2", "launch.num_processes=2"]
    submitted = spread.command("submit", *words, "launch.num_nodes=2", "hydra.launcher.partition=both")
    assert submitted.returncode == 0, submitted.stderr
    assert re.search(r"3 runs submitted to SLURM as \d+, \d+", submitted.stderr), "what is not trained has one node"
    ((endless, job),) = [(run_of, task.job) for run_of, task in spread.tasks().live() if task.job.endswith("_1")]
    spread.until(lambda tasks: steps_begun(spread, endless[0]))
    assert spread.tasks().of[endless].queued.nodes == "node[1-2]"
    _, further = processes_of(job)
    further.kill()
    spread.until(lambda tasks: [one for one in spread.records() if one.method == "full"])
    spread.until(lambda tasks: len(processes_of(job)) == 2 and further not in processes_of(job))  # requeued
    assert spread.command("cancel").returncode == 0

    records = {one.method: one for one in spread.records()}
    assert {name: one.status for name, one in records.items()} == {"base": "ok", "lora": "ok", "full": "failed"}
    lost = r"NodeLostError: rank 1 on node node2: lost, the node does not answer \(in phase (load|train)"
    assert re.match(lost, records["full"].attempts[0].reason), records["full"].attempts
    found = records["lora"].current
    assert (found.provenance["num_processes"], found.provenance["num_nodes"]) == (2, 2)
    small = [word for word in spread.small if not word.startswith("hydra.")]
    here = [f"runs_dir={spread.folder}/here", f"data.file={letters_file}", "method=lora", "train.max_steps=4"]
    alone = run.run(inputs.resolve(config.build(compose(*small, *words, *here))), lambda event: None)
    assert alone.recipe_id == records["lora"].recipe_id
    assert found.training.losses == alone.training.losses
    assert found.training.real_tokens == alone.training.real_tokens
    assert found.summed_peak_memory_bytes > found.peak_memory_bytes


def test_the_main_command_submits_waits_and_reports(sweep, letters_file):
    waited = sweep("waited", f"  - method: [lora]\n    data.file: {letters_file}\n")
    done = waited.command("harness", "train.precision=fp32")
    assert done.returncode == 0, done.stderr
    assert "2 runs submitted to SLURM as " in done.stderr
    assert re.search(r"2/2 .* \(SLURM job \d+_\d\): ok", done.stderr)
    assert "report: " in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], r"train.precision=auto: this machine cannot know what those compute in hardware"),
        (
            ["hydra.launcher.partition=nosuch"],
            r"SLURM would not take such a job \(--partition=nosuch .*\): .*partition",
        ),
        (
            ["hydra.launcher.options.reservation=nosuch"],
            r"SLURM would not take such a job \(.*--reservation=nosuch.*\): .*reservation",
        ),
        (["hydra.launcher.gpus=99"], r"SLURM would not take such a job \(.*--gres=gpu:99 .*\): \S+"),
        (["hydra.launcher.time_minutes=1"], r"signal_seconds=120: must be less than\s+hydra.launcher.time_minutes=1"),
        (["hydra.launcher.cpu=2"], r"hydra.launcher.cpu\b"),
    ],
)
def test_what_slurm_or_the_nodes_could_not_do_is_refused(sweep, letters_file, words, expected):
    asked = sweep("refused", f"  - method: [lora]\n    data.file: {letters_file}\n")
    precision = "auto" if not words else "fp32"
    done = asked.command("submit", *words, f"train.precision={precision}")
    assert done.returncode == 2, done.stderr
    assert re.search(expected, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_shows_every_command():
    assert set(page_commands()) == {"submit", "harness", "status", "collect", "cancel"}
