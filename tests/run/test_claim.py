"""Claims under several processes: one holder at a time, the dead are succeeded, the living are waited for."""

import dataclasses
import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.run import lock

CONTEXT = multiprocessing.get_context("spawn")
HOLD = """
import sys, time
from pathlib import Path
from harness.run import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holding(folder: Path) -> subprocess.Popen:
    """A process that holds the claim of a folder until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def claims(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_claim_is_held_and_given_back(tmp_path):
    with lock.hold(tmp_path / "run") as held:
        assert not held.lost
        assert lock.holder(tmp_path / "run").pid == os.getpid()
        assert not lock.is_gone(lock.holder(tmp_path / "run"))
    assert lock.holder(tmp_path / "run") is None


def test_files_do_not_pile_up(tmp_path):
    for _ in range(5):
        with lock.hold(tmp_path):
            pass
    assert claims(tmp_path) == ["claim-000009.json", "claim-000010.json"]


def test_a_killed_holder_is_succeeded_at_once(tmp_path):
    process = holding(tmp_path)
    end(process)
    assert lock.is_gone(lock.holder(tmp_path))
    start = time.monotonic()
    with lock.hold(tmp_path):
        assert time.monotonic() - start < 5


def test_a_dead_holder_that_nobody_has_reaped_is_gone(tmp_path):
    process = holding(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not lock.is_gone(lock.holder(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lock.is_gone(lock.holder(tmp_path))
    process.communicate()


def test_a_living_holder_is_waited_for_and_named(tmp_path):
    process = holding(tmp_path)
    told = []

    def waiting(other):
        told.append(other.pid)
        end(process)

    with lock.hold(tmp_path, waiting):
        assert told == [process.pid]


def from_elsewhere(folder: Path) -> Path:
    """A claim of another machine, of which only its heartbeat can be seen."""
    other = lock.Owner(token="0", host="elsewhere", boot="x", pid=1, started="1")
    path = folder / "claim-000001.json"
    path.write_text(json.dumps(vars(other)))
    return path


def test_a_claim_without_a_heartbeat_is_taken_over(tmp_path):
    from_elsewhere(tmp_path)
    start = time.monotonic()
    with lock.hold(tmp_path, patience=0.4):
        assert time.monotonic() - start >= 0.4


def test_a_heartbeat_keeps_a_claim_whatever_its_clock_says(tmp_path):
    path = from_elsewhere(tmp_path)
    process = CONTEXT.Process(target=take, args=(tmp_path, 0.6))
    process.start()
    for beat in range(40):
        jump = (-1) ** beat * 1e6  # seconds: the clock of the other machine jumps back and forth
        os.utime(path, (time.time() + jump + beat, time.time() + jump + beat))
        time.sleep(0.05)
    assert process.is_alive()
    process.join(10)
    assert process.exitcode == 0


def take(folder: Path, patience: float) -> None:
    with lock.hold(folder, patience=patience):
        pass


def test_a_link_that_a_file_server_made_and_denies_is_ones_own(tmp_path, monkeypatch):
    """NFS sends a request again whose answer was lost; the process would wait for itself until its patience ends."""
    link = os.link

    def answered_twice(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", answered_twice)
    with lock.hold(tmp_path, fail_to_wait):
        assert claims(tmp_path) == ["claim-000001.json"]
    assert lock.holder(tmp_path) is None


def fail_to_wait(other: lock.Owner) -> None:
    raise AssertionError(f"waits for {other}")


def test_a_damaged_claim_lives_no_longer_than_its_heartbeat(tmp_path):
    (tmp_path / "claim-000007.json").write_text("{")
    with lock.hold(tmp_path, patience=0.2):
        assert claims(tmp_path)[-1] == "claim-000008.json"


def test_a_holder_of_the_same_name_that_cannot_be_seen_is_not_taken_for_gone():
    """In another container of this machine, with its network and so its name, or on a copy of it."""
    here = lock._myself()
    assert not lock.is_gone(here)
    assert lock.is_gone(dataclasses.replace(here, started="1"))
    assert not lock.is_gone(dataclasses.replace(here, boot=f"{here.boot}0"))
    assert not lock.is_gone(dataclasses.replace(here, boot=f"{here.boot}0", pid=2**22 + 1))


HIDDEN = """
import dataclasses, os, subprocess, sys, time
from harness.run import lock
subprocess.run(["mount", "-o", "remount,hidepid=2", "/proc"], check=True)
here = lock._myself()
ended = subprocess.Popen(["true"])
ended.wait()
if os.fork() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    seen = os.path.exists(f"/proc/{here.pid}")
    claims = (here, dataclasses.replace(here, pid=ended.pid), dataclasses.replace(here, pid=2**40))
    print(seen, *map(lock.is_gone, claims), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="hides processes of a namespace of its own, as root")
def test_a_holder_of_another_user_that_the_system_hides_is_not_taken_for_gone():
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", sys.executable, "-c", HIDDEN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.split() == ["False", "False", "True", "True"], done.stderr


def test_a_holder_that_was_taken_over_learns_of_it(tmp_path):
    with lock.hold(tmp_path) as held:
        other = lock.Owner(token="1", host="elsewhere", boot="x", pid=1, started="1")
        assert lock._create(tmp_path, 2, other) is not None
        assert held.lost
    assert lock.holder(tmp_path).host == "elsewhere", "what is another's is not given back"


def test_a_folder_that_cannot_be_listed_for_a_moment_ends_no_run(tmp_path, monkeypatch):
    from harness.records.events import PhaseStarted  # not in the processes of the other tests, which import this file
    from harness.run.outcome import AttemptLog

    def stall(folder):
        raise OSError(errno.EIO, "Input/output error")

    events = []
    with lock.hold(tmp_path) as held:
        log = AttemptLog(events.append, held)
        monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", -1.0)  # a look at each event
        monkeypatch.setattr(lock, "_newest", stall)
        log(PhaseStarted("train"))
    assert events == [PhaseStarted("train")]


def contend(folder: Path, times: int) -> None:
    """Hold the claim several times; a marker that may be created only once shows whether anyone else held it too."""
    for _ in range(times):
        with lock.hold(folder / "run"):
            handle = os.open(folder / "marker", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.close(handle)
            time.sleep(0.001)
            (folder / "marker").unlink()
            with (folder / "log").open("a") as file:
                file.write("x")


def test_never_two_at_once(tmp_path):
    processes = [CONTEXT.Process(target=contend, args=(tmp_path, 12)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "x" * 48


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_is_named_with_what_to_do(tmp_path, monkeypatch, number):
    """As vfat, exFAT and many of FUSE answer; the plain error names two files that nobody knows."""

    def refuse(source, target):
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "link", refuse)
    says = f"{tmp_path}: no hard link can be made there ({os.strerror(number)})"
    with pytest.raises(OSError, match=re.escape(says) + ".*another file system with runs_dir="), lock.hold(tmp_path):
        pytest.fail("it is held by nobody")
    assert list(tmp_path.iterdir()) == []
