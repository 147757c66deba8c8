"""A parent that is killed takes its server and their processes with it, whichever signals it ignored."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import multiprocessing, os, signal, sys, time
sys.path.insert(0, sys.argv[2])
for number in filter(None, sys.argv[3].split(",")):
    signal.signal(int(number), signal.SIG_IGN)
from harness.run import interrupts, isolate, server
from pathlib import Path
context, moment = sys.argv[5:]
if context != "forkserver":
    server.context = lambda fresh: multiprocessing.get_context(context)
if moment == "early":  # the parent is killed before the kernel is asked to end this process with it
    bind, parent = isolate.end_with_parent, os.getpid()
    def late():
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            time.sleep(0.01)
        bind()
    isolate.end_with_parent = late
with interrupts.signals_held_back():
    isolate.call(sys.argv[4], sys.argv[1], log=Path(sys.argv[1] + ".log"), on_event=print)
"""
WORK = """
import os, signal, time
from pathlib import Path
from harness.train.signals import Preemption

def die_and_leave_a_child(path, emit):
    child = os.fork()
    if child == 0:
        time.sleep(120)
        os._exit(0)
    Path(path).write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)

def stay(path, emit):
    Path(path).write_text(str(os.getpid()))
    time.sleep(120)

def finish_a_step(path, emit):
    preemption = Preemption()
    with preemption.watched(), preemption.deferred():
        Path(path).write_text(str(os.getpid()))
        while not preemption.requested:
            time.sleep(0.05)
        Path(path).write_text("told to end")
        time.sleep(120)
"""


def until(path, is_there):
    deadline = time.monotonic() + 120
    while not (path.exists() and is_there(path.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return path.read_text()


def start(folder, function, ignored=(), context="forkserver"):
    """Start a parent, and return it and the process that it waits for."""
    parent = launch(folder, function, ignored, context)
    return parent, psutil.Process(int(until(folder / "pid", str.isdigit)))


def launch(folder, function, ignored=(), context="forkserver", moment="late"):
    (folder / "orphans_work.py").write_text(WORK)
    words = [str(folder / "pid"), str(folder), ",".join(str(int(number)) for number in ignored)]
    command = [sys.executable, "-c", PARENT, *words, f"orphans_work:{function}", context, moment]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def kill_and_count(parent, *processes):
    """Kill the parent, and return how many of the processes are gone after it."""
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    gone, alive = psutil.wait_procs(processes, timeout=20)
    for process in alive:
        process.kill()
    return len(gone)


@pytest.mark.parametrize(
    "ignored", [(), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)], ids=lambda one: str(len(one))
)
def test_a_killed_parent_takes_its_server_and_their_processes_with_it(tmp_path, ignored):
    parent, working = start(tmp_path, "stay", ignored)
    server = working.parent()
    assert server.ppid() == parent.pid
    assert kill_and_count(parent, working, server) == 2


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_killed_parent_takes_a_process_with_it_that_no_server_forked(tmp_path, context):
    """A fork inherits the handlers of its parent, which holds signals back while it records."""
    parent, working = start(tmp_path, "stay", context=context)
    assert working.ppid() == parent.pid
    assert kill_and_count(parent, working) == 1


@pytest.mark.parametrize("context", ["forkserver", "fork", "spawn"])
def test_a_child_that_a_killed_process_leaves_behind_holds_up_nothing(tmp_path, context):
    """It holds copies of the pipes that tell of the end, except of the one that the server keeps."""
    parent, child = start(tmp_path, "die_and_leave_a_child", context=context)
    try:
        assert parent.wait(timeout=30) == 0
        assert child.is_running()
    finally:
        parent.kill()
        child.kill()


def test_a_process_whose_parent_is_killed_as_it_starts_does_no_work(tmp_path):
    parent = launch(tmp_path, "stay", context="fork", moment="early")
    assert parent.wait(timeout=120) == -signal.SIGKILL
    time.sleep(3)
    assert not (tmp_path / "pid").exists()


def test_a_killed_parent_takes_a_process_with_it_that_was_told_to_end_before(tmp_path):
    """The run is another command's by then, and the process was about to write a checkpoint."""
    parent, working = start(tmp_path, "finish_a_step")
    working.send_signal(signal.SIGTERM)
    until(tmp_path / "pid", lambda text: text == "told to end")
    assert kill_and_count(parent, working) == 1
