"""A parent that is killed takes its server and their processes with it, whichever signals it ignored."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
for number in filter(None, sys.argv[3].split(",")):
    signal.signal(int(number), signal.SIG_IGN)
from harness.run import isolate
from pathlib import Path
isolate.call("orphans_work:stay", sys.argv[1], log=Path(sys.argv[1] + ".log"), on_event=print)
"""
WORK = """
import os, time
from pathlib import Path

def stay(path, emit):
    Path(path).write_text(str(os.getpid()))
    time.sleep(120)
"""


@pytest.mark.parametrize(
    "ignored", [(), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)], ids=lambda one: str(len(one))
)
def test_a_killed_parent_takes_its_server_and_their_processes_with_it(tmp_path, ignored):
    (tmp_path / "orphans_work.py").write_text(WORK)
    told = tmp_path / "pid"
    words = [sys.executable, "-c", PARENT, str(told), str(tmp_path), ",".join(str(int(number)) for number in ignored)]
    parent = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    working = psutil.Process(int(told.read_text()))
    server = working.parent()
    assert server.ppid() == parent.pid
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    gone, alive = psutil.wait_procs([working, server], timeout=20)
    for process in alive:
        process.kill()
    assert (len(gone), alive) == (2, [])
