"""Real processes: what comes back from them, and what becomes of those that do not come back."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.run import isolate, server

HERE = Path(__file__).parent

# --- what the processes run; found by name, as the harness's own work is ---


def answer(number, emit):
    return {"number": number + 1, "process": os.getpid()}


def count(number, emit):
    for i in range(number):
        emit({"done": i, "total": number})
    return number


def refuse(message, emit):
    raise ValueError(message)


def break_down(emit):
    emit({"done": 1, "total": 2})
    raise RuntimeError("first line\n  second line")


def run_out_of_memory(message, emit):
    raise MemoryError if message is None else RuntimeError(message)


def kill_itself(number, emit):
    emit({"phase": "train"})
    os.kill(os.getpid(), number)
    time.sleep(30)


def leave(code, emit):
    sys.exit(code)


def vanish(code, emit):
    os._exit(code)


def talk(emit):
    print("said by print")
    print("said to stderr", file=sys.stderr)
    os.system("echo said by a child")
    os.write(1, b"said past python\n")


def large(size, emit):
    emit({"large": "e" * size})
    return b"v" * size


def cannot_travel(emit):
    return lambda: None


def about_cuda(emit):
    import torch

    touched = torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork()
    return touched, "torch" in sys.modules, os.environ.get("CUDA_DEVICE_ORDER")


def openmp(emit):
    from harness.run import provenance

    return provenance.device()


def start_time(emit):
    return time.time()


def sleep(seconds, emit):
    emit({"process": os.getpid()})
    time.sleep(seconds)


# --- the tests ---


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))

    def called(function, *arguments, on_event=None):
        return isolate.call(
            f"test_isolate:{function}", *arguments, log=tmp_path / "deep" / "log.txt", on_event=on_event
        )

    called.log = tmp_path / "deep" / "log.txt"
    return called


def test_a_value_comes_back_from_another_process(call):
    ended = call("answer", 41)
    assert (ended.kind, ended.reason) == ("returned", "")
    assert ended.value["number"] == 42
    assert ended.value["process"] != os.getpid()
    assert call("answer", 0).value["process"] != ended.value["process"]


def test_events_arrive_in_order(call):
    events = []
    assert call("count", 500, on_event=events.append).value == 500
    assert [event["done"] for event in events] == list(range(500))
    assert call("count", 5).kind == "returned"  # nobody listens


def test_a_refusal_is_its_message(call):
    ended = call("refuse", "target=x: no such\n   module")
    assert (ended.kind, ended.error_type, ended.reason) == ("raised", "ValueError", "target=x: no such module")


def test_an_error_is_one_line_and_its_traceback_is_in_the_log(call):
    ended = call("break_down")
    assert (ended.kind, ended.reason) == ("raised", "RuntimeError: first line second line")
    assert "Traceback" in call.log.read_text()
    assert "in break_down" in call.log.read_text()


@pytest.mark.parametrize(
    "message", [None, "CUDA out of memory. Tried to allocate 2 GiB", "[enforce fail] can't allocate memory"]
)
def test_running_out_of_memory_is_told_apart(call, message):
    assert call("run_out_of_memory", message).kind == "oom"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_process_leaves_its_signal(call, number):
    events = []
    ended = call("kill_itself", int(number), on_event=events.append)
    assert (ended.kind, ended.reason) == ("killed", f"killed by {number.name}")
    assert events == [{"phase": "train"}]


def test_leaving_is_not_losing(call):
    assert call("leave", 3).reason == "SystemExit: 3"
    assert call("leave", None).kind == "raised"
    ended = call("vanish", 7)
    assert ended.kind == "killed"
    assert "exit code 7" in ended.reason


def test_what_is_said_goes_to_the_end_of_the_log(call, capfd):
    call("talk")
    call("talk")
    out, err = capfd.readouterr()
    assert out + err == ""
    said = call.log.read_text()
    for words in ("said by print", "said to stderr", "said by a child", "said past python"):
        assert said.count(words) == 2


def test_large_events_and_values_arrive_whole(call):
    events = []
    ended = call("large", 20_000_000, on_event=events.append)
    assert len(ended.value) == len(events[0]["large"]) == 20_000_000


def test_a_value_that_cannot_travel_is_an_end_with_a_reason(call):
    ended = call("cannot_travel")
    assert ended.kind != "returned"
    assert ended.reason


def test_a_function_that_is_not_there_is_named(call, tmp_path):
    ended = isolate.call("test_isolate:nothing", log=tmp_path / "log.txt")
    assert (ended.kind, ended.error_type) == ("raised", "AttributeError")
    assert "nothing" in ended.reason


def test_a_log_that_cannot_be_written_costs_nothing_else(call, tmp_path):
    (tmp_path / "log.txt").mkdir()
    assert isolate.call("test_isolate:answer", 1, log=tmp_path / "log.txt").value["number"] == 2


def test_a_listener_that_fails_ends_the_process(call):
    seen = []

    def fail(event):
        seen.append(event["process"])
        raise RuntimeError("the listener is broken")

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="listener"):
        call("sleep", 60, on_event=fail)
    assert time.monotonic() - start < 30
    assert not Path(f"/proc/{seen[0]}").exists()


def test_processes_may_run_side_by_side(call):
    ends = []
    threads = [threading.Thread(target=lambda n=n: ends.append(call("answer", n).value["number"])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == [1, 2, 3, 4]


def test_the_server_has_not_touched_cuda(call):
    assert call("about_cuda").value == (False, True, "PCI_BUS_ID")


FRESH = """
import sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
from harness.run import isolate
if __name__ == "__main__":
    seconds = []
    for _ in range(3):
        start = time.time()
        ended = isolate.call("test_isolate:start_time", log=Path({log!r}))
        seconds.append(ended.value - start)
    print(seconds[0], min(seconds[1:]), "torch" in sys.modules, "transformers" in sys.modules)
"""


BROKEN = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from harness.run import isolate
if __name__ == "__main__":
    print(isolate.call("harness.run.check:check", [], log=Path({log!r})).reason)
"""


def test_a_broken_installation_is_a_reason(tmp_path):
    (tmp_path / "trl.py").write_text("raise RuntimeError('half of it is missing')")
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(here=str(HERE), log=str(tmp_path / "log.txt")))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("RuntimeError: half of it is missing\n", "")


def test_the_first_start_pays_for_all_and_the_parent_imports_nothing(tmp_path):
    script = tmp_path / "fresh.py"
    script.write_text(FRESH.format(here=str(HERE), log=str(tmp_path / "log.txt")))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    first, later, *imported = done.stdout.split()
    assert float(later) < float(first) / 5
    assert imported == ["False", "False"]


def test_threads_wait_for_a_short_time_unless_the_user_says_how():
    assert server.waiting({}) == {"GOMP_SPINCOUNT": server._SPINS}
    assert server.waiting({"OMP_WAIT_POLICY": "active"}) == {}
    assert server.waiting({"GOMP_SPINCOUNT": "7"}) == {}


def test_a_runs_process_waits_as_its_provenance_says(call):
    device = call("openmp").value
    assert device["openmp"]["GOMP_SPINCOUNT"] == os.environ["GOMP_SPINCOUNT"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:128"}, {"PYTORCH_ALLOC_CONF": "max_split_size_mb:128"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
    ],
)
def test_segments_of_a_gpus_memory_grow_unless_the_user_has_said_otherwise(monkeypatch, settings, expected):
    from harness.run import server

    for name in server.ALLOCATOR_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    server.context(fresh=True)
    assert {name: value for name, value in os.environ.items() if name in server.ALLOCATOR_SETTINGS} == expected
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
