"""Sweeps that are killed: started once, it forks a sweep for each line that it reads, and says how each ended.

Called with `real` its runs load, train and evaluate; else the stand-in does.

A line is JSON: `plan`, a pickle of what is planned, and `kills`, one for each sweep that runs at once. A kill is null,
{"operation": n, "everyone": bool} (whoever is about to touch a file for the n-th time is killed; the sweep as well if
everyone is; with "worker" those of the processes that train alone are counted) or {"seconds": s, "worker": bool} (the
sweep, or the process that trains). `patience`, in seconds, is for a
claim without a heartbeat; `blind` takes from root the right to read what has no permission for it; with `share` the
sweeps are workers, which share out the runs. It answers with
[signal or exit code, file operations, seconds] of each.
"""

import ctypes
import importlib
import json
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from harness.records import items
from harness.run import lock, provenance, run, server, state
from harness.sweep import local, planned_runs, sweep, sweep_records, worker

TOUCHES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.utime", "open", "shutil.rmtree"}


def go_on(plan, share=False):
    """What the command does once every cell has been composed and checked."""
    pending = planned_runs.undone(plan)
    name = sweep_records.write_question(sweep_records.Written(None, (), plan, {one.identity[:2] for one in pending}))
    if share:
        all_came = sweep.work(pending, name, lambda those, name: worker.launch(those, name, worker.WorkerSpec(), []))
    else:
        all_came = sweep.work(pending, name, lambda those, _: [run_one(one.experiment) for one in those])
    found = [state.readable(one.experiment) for one in plan]
    return 0 if all_came and all(one is not None and one.status == "ok" for one in found) else 1


def run_one(experiment):
    try:
        return local.Made(sweep.run_cell(experiment))
    except Exception as error:
        return local.Made(error=error)


class Counter:
    """Counts the file operations of a sweep and of its workers, and kills whoever is about to do the n-th."""

    def __init__(self, runs, kill):
        self._shared = mmap.mmap(-1, 8)
        self._count = ctypes.c_long.from_buffer(self._shared)
        self._runs, self._kill, self._sweep = str(runs), kill or {}, 0
        self._is_for_workers = self._kill.get("worker") and "operation" in self._kill

    def install(self):
        self._sweep = os.getpid()
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if event not in TOUCHES or (event == "open" and not str(arguments[0]).startswith(self._runs)):
            return
        if self._is_for_workers and os.getpid() == self._sweep:
            return
        self._count.value += 1
        if self._count.value == self._kill.get("operation"):
            if self._kill.get("everyone"):
                os.kill(self._sweep, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def value(self):
        return self._count.value


def blind():
    """Leave this process no right to read files against their mode (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, held) == 0
    held[0] &= ~0b110  # effective
    assert libc.capset(header, held) == 0, os.strerror(ctypes.get_errno())


def start(plan, counter, asked):
    """Fork a sweep."""
    child = os.fork()
    if child:
        return child
    lock.PATIENCE_SECONDS = asked.get("patience", lock.PATIENCE_SECONDS)
    if asked.get("blind"):
        blind()
    said = os.open(Path(plan[0].experiment.runs_dir).parent / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    counter.install()
    code = 99
    try:
        code = go_on(plan, asked.get("share", False))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def hit(process, kill, begun):
    """Kill the sweep, or its worker, when its time has come; False until then."""
    if not kill or "seconds" not in kill or time.monotonic() - begun < kill["seconds"]:
        return False
    victims = [process]
    if kill["worker"]:
        victims = [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    return bool(victims)  # a sweep between two workers: the next one


def play(plan, asked):
    """Run sweeps at once until each has ended."""
    begun, kills = time.monotonic(), asked["kills"]
    counters = [Counter(plan[0].experiment.runs_dir, kill) for kill in kills]
    running = {start(plan, counter, asked): i for i, counter in enumerate(counters)}
    waiting = {process: kills[i] for process, i in running.items()}
    ended = [None] * len(kills)
    while running:
        for process in list(running):
            gone, status = os.waitpid(process, os.WNOHANG)
            if gone:
                i = running.pop(process)
                ended[i] = [os.waitstatus_to_exitcode(status), counters[i].value, time.monotonic() - begun]
            elif hit(process, waiting[process], begun):
                waiting[process] = None
        time.sleep(0.0005)
    return ended


def main():
    if sys.argv[1:] == ["real"]:
        import harness.run.preload  # noqa: F401
    else:
        importlib.import_module("stand_in")  # once, so that no run imports anything
        run.WORK = "stand_in:execute"
    forking = multiprocessing.get_context("fork")
    server.context = lambda fresh: forking  # this process has nothing in it that a run could inherit
    provenance.facts()  # known from here on, as it is from the second run of a sweep on
    with tempfile.TemporaryDirectory() as folder:
        items.write({"item_id": ["a"]}, Path(folder) / "items.parquet")  # imports what a worker needs before any fork
    plans = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["plan"] not in plans:
            plans[asked["plan"]] = pickle.loads(Path(asked["plan"]).read_bytes())
        print(json.dumps(play(plans[asked["plan"]], asked)), flush=True)


if __name__ == "__main__":
    main()
