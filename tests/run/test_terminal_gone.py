"""A command that was started to outlive its terminal ends as with a terminal; its output goes nowhere."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from harness.records import record
from harness.records.record import RunRecord

ROOT = Path(__file__).parents[2]


def started(words, controls: bool, **environment) -> tuple[subprocess.Popen, int]:
    """A command in a terminal of its own, and the terminal's other end.

    With `controls` it is the controlling terminal, whose end the kernel announces by SIGHUP, and SIGHUP is ignored;
    without, as under setsid, nothing is announced.
    """
    master, slave = pty.openpty()

    def in_terminal():
        os.setsid()
        if controls:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    command = [sys.executable, "-m", "harness", *words]
    process = subprocess.Popen(
        command, **streams, cwd=ROOT, env={**os.environ, "TERM": "xterm", **environment}, preexec_fn=in_terminal
    )
    os.close(slave)
    return process, master


def hang_up_at(master: int, sign: bytes) -> bytes:
    """Close the terminal once `sign` was shown; return what was shown."""
    shown = b""
    while sign not in shown:
        shown += os.read(master, 4096)
    os.close(master)
    return shown


@pytest.mark.parametrize(
    ("controls", "words", "sign"),
    [
        (True, (), b"1/2"),  # as after disown, with one run at a time
        (False, ("hydra/launcher=local", "hydra.launcher.n_jobs=2"), b"1/2"),
        (True, (), b"\x1b"),  # as early as the first bar, before any run
    ],
    ids=["ignored", "setsid-local", "early"],
)
def test_a_sweep_outlives_its_terminal(tiny_overrides, tmp_path, harness, controls, words, sign):
    sweep = ["-m", *tiny_overrides, "method=base,lora", "train.max_steps=12", *words]
    process, master = started(sweep, controls)
    try:
        hang_up_at(master, sign)
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
    runs = [record.read(RunRecord, path) for path in record.find_runs(tmp_path / "runs")]
    assert sorted((run.method, run.status, len(run.attempts)) for run in runs) == [("base", "ok", 1), ("lora", "ok", 1)]
    assert [len(run.training.step_seconds) for run in runs if run.training] == [12]
    [page] = (tmp_path / "reports").glob("*/report.md")
    again = tmp_path / "again"
    assert harness("report", str(tmp_path / "runs"), "--sweep", page.parent.name, "--reports-dir", str(again)).code == 0
    assert files_of(page.parent) == files_of(again / page.parent.name)
    assert page.read_text() == (again / page.parent.name / "report.md").read_text()


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("words", [("plan", "method=lora"), ("sweep", "--help"), ("report", "nowhere")], ids=" ".join)
def test_a_command_whose_terminal_was_gone_before_it_began_ends_as_with_a_terminal(words):
    with_terminal, master = started(words, controls=False)
    reader = threading.Thread(target=_read, args=(master,), daemon=True)
    reader.start()
    expected = with_terminal.wait(timeout=100)
    gone_master, slave = pty.openpty()
    os.close(gone_master)
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], stdout=slave, stderr=slave, cwd=ROOT, timeout=100, check=False
    )
    os.close(slave)
    assert done.returncode == expected


def _read(master: int) -> None:
    try:
        while os.read(master, 4096):
            pass
    except OSError:
        os.close(master)
