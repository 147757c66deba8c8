"""A terminal that goes away ends a run as a scheduler's signal does, unless the run was started to outlive it."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest

SCRIPT = """
import sys, time
from harness.train.signals import PreemptedError, Preemption

preemption = Preemption()
try:
    with preemption.watched():
        print("ready", flush=True)
        deadline = time.monotonic() + float(sys.argv[2])
        while time.monotonic() < deadline:
            time.sleep(0.01)
    found = "through"
except PreemptedError as error:
    print("this goes nowhere", flush=True)  # to a terminal that is gone
    print("and so does this", file=sys.stderr, flush=True)
    found = f"told {preemption.requested}"
open(sys.argv[1], "w").write(found)
"""


@pytest.mark.parametrize(("ignored", "expected"), [(False, "told True"), (True, "through")])
def test_a_terminal_that_is_gone_ends_the_work_and_its_output_unless_ignored(tmp_path, ignored, expected):
    master, slave = pty.openpty()
    out = tmp_path / "found.txt"

    def in_terminal():
        os.setsid()

        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [sys.executable, "-c", SCRIPT, str(out), "1.5" if ignored else "60"]
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    process = subprocess.Popen(command, **streams, preexec_fn=in_terminal)
    os.close(slave)
    shown = b""
    while not shown.endswith(b"\n"):  # it comes in parts: a terminal closed between them fails the write
        shown += os.read(master, 100)
    assert shown.strip() == b"ready"
    os.close(master)
    assert process.wait(timeout=50) == 0
    assert out.read_text() == expected
