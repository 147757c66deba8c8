"""Real processes: what comes back from them, and what becomes of those that do not come back."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from harness.measure import hardware
from harness.records.events import PhaseStarted, Progress
from harness.run import isolate, server

HERE = Path(__file__).parent


class InterruptsAsItGoes:
    """Ctrl-C while an object is destroyed: Python prints the interrupt and goes on."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two instructions, which have to be in here
            pass


# --- what the processes run; found by name, as the harness's own work is ---


def answer(number, emit):
    return {"number": number + 1, "process": os.getpid()}


def count(number, emit):
    for i in range(number):
        emit(Progress(i, number))
    return number


def refuse(message, emit):
    raise ValueError(message)


def break_down(emit):
    emit(Progress(1, 2))
    raise RuntimeError("first line\n  second line")


def run_out_of_memory(message, emit):
    raise MemoryError if message is None else RuntimeError(message)


def kill_itself(number, emit):
    emit(PhaseStarted("train"))
    os.kill(os.getpid(), number)
    time.sleep(30)


def leave(code, emit):
    sys.exit(code)


def vanish(code, emit):
    os._exit(code)


def begin_and_go_on(emit):
    emit(PhaseStarted("train"))
    for _ in range(200):
        time.sleep(0.1)


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


def print_and_leave(text, code, emit):
    os.write(2, text.encode())
    os._exit(code)


def raise_after_a_rank_was_killed(emit):
    from harness.train.launcher import RankError

    raise RankError("rank 1: killed by SIGKILL", "machine", signal.SIGKILL)


def raise_after_a_loader_was_killed(emit):
    """As torch's loader does where its signal handler raises within its wait."""
    try:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    except RuntimeError as error:
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from error


def raise_after_a_loader_left(emit):
    raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")


def raise_for_a_full_disk(emit):
    raise OSError(errno.ENOSPC, "No space left on device")


def exceed_its_limit(way, emit):
    """Ask for 16 GiB under the limit that `ulimit -v` and some schedulers set."""
    import mmap
    import resource

    import torch

    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    ways = {
        "python": bytearray,
        "torch": lambda size: torch.empty(size, dtype=torch.uint8),
        "kernel": lambda size: mmap.mmap(-1, size),
    }
    ways[way](16 * 2**30)


def stop_itself(emit):
    emit({"process": os.getpid()})
    os.kill(os.getpid(), signal.SIGSTOP)


def ignore_and_compute(emit):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    emit({"process": os.getpid()})
    while True:
        pass


def write_when_told_to_end(path, emit):
    signal.signal(signal.SIGTERM, lambda number, frame: path.touch())
    emit({"process": os.getpid()})
    for _ in range(50):
        time.sleep(0.1)


def return_and_stay(emit):
    threading.Thread(target=time.sleep, args=(600,)).start()
    return os.getpid()


def kill_the_server(emit):
    emit({"process": os.getpid()})
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def environment(names, emit):
    return [os.environ.get(name) for name in names]


def order_of_imports(emit):
    import first_of_all

    return first_of_all.BEFORE


def use_the_card(emit):
    import torch

    return float(torch.ones(2, device="cuda").sum()), torch.cuda.device_count(), os.environ["CUDA_DEVICE_ORDER"]


# --- the tests ---


def is_alive(pid: int) -> bool:
    """Whether a process is there, and more than an entry that nobody has collected."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))

    def called(function, *arguments, on_event=None, terms=isolate.USUAL):
        log = tmp_path / "deep" / "log.txt"
        return isolate.call(f"test_isolate:{function}", *arguments, log=log, on_event=on_event, terms=terms)

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
    assert [event.done for event in events] == list(range(500))
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
    assert (ended.kind, ended.reason, ended.killed_by) == ("killed", f"killed by {number.name}", number)
    assert events == [PhaseStarted("train")]


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


def test_a_process_whose_run_is_anothers_writes_no_checkpoint(call, tmp_path):
    """It would remove the checkpoint of the process that took the run over."""

    def lose(event):
        raise isolate.EndAtOnceError

    with pytest.raises(isolate.EndAtOnceError):
        call("write_when_told_to_end", tmp_path / "checkpoint", on_event=lose)
    assert not (tmp_path / "checkpoint").exists()


def test_processes_may_run_side_by_side(call):
    ends = []
    threads = [threading.Thread(target=lambda n=n: ends.append(call("answer", n).value["number"])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "code", "kind", "cause"),
    [
        ("Error out of memory at line 380 in file /src/csrc/ops.cu\n", 1, "oom", "device_memory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'\n", 134, "oom", "host_memory"),
        ("Error an illegal memory access was encountered at line 7 in file /src/csrc/ops.cu\n", 1, "killed", "machine"),
        ("", 1, "killed", "machine"),
    ],
)
def test_memory_that_a_library_prints_and_leaves_for_is_told_from_the_end_of_the_log(call, text, code, kind, cause):
    call("print_and_leave", "CUDA out of memory, of a process before\n", 0)
    ended = call("print_and_leave", text, code)
    assert (ended.kind, ended.cause, ended.killed_by) == (kind, cause, None)
    assert ended.reason.endswith(text.strip() if kind == "oom" else f"(exit code {code})")


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("kill_itself", (9,)), ("raise_after_a_rank_was_killed", ()), ("raise_after_a_loader_was_killed", ())],
    ids=["itself", "a rank", "a loader"],
)
def test_a_kill_is_for_lack_of_memory_where_the_kernel_counts_it(call, monkeypatch, function, arguments):
    counts = iter([7, 8])
    monkeypatch.setattr(isolate, "out_of_memory_kills", lambda: next(counts))
    ended = call(function, *arguments)
    assert (ended.kind, ended.cause, ended.reason) == (
        "oom", "host_memory", "killed by the kernel: out of memory",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "cause"),
    [
        ("break_down", (), "raised", "work"),
        ("raise_for_a_full_disk", (), "raised", "machine"),
        ("raise_after_a_loader_left", (), "raised", "machine"),
        ("kill_itself", (signal.SIGTERM,), "killed", "machine"),
        ("vanish", (3,), "killed", "machine"),
    ],
)
def test_an_end_of_its_own_stays_one_beside_a_kill_elsewhere(call, monkeypatch, function, arguments, kind, cause):
    """The kernel counts for the whole group or machine, and a run that was out of memory is not made again."""
    counts = iter([7, 8])
    monkeypatch.setattr(isolate, "out_of_memory_kills", lambda: next(counts))
    ended = call(function, *arguments)
    assert (ended.kind, ended.cause, next(counts, None)) == (kind, cause, 8)


@pytest.mark.parametrize("way", ["python", "torch", "kernel"])
def test_a_limit_of_the_process_is_memory_that_ran_out(call, way):
    ended = call("exceed_its_limit", way)
    assert (ended.kind, ended.cause) == ("oom", "host_memory"), ended.reason


@pytest.mark.parametrize("function", ["stop_itself", "ignore_and_compute"])
def test_a_process_that_does_not_react_is_killed(call, monkeypatch, function):
    monkeypatch.setattr(isolate, "_SILENT_SECONDS", 1.0)
    monkeypatch.setattr(isolate, "_LAST_SECONDS", 3.0)
    seen = []

    def interrupt(event):
        seen.append(event["process"])
        time.sleep(0.5)
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        call(function, on_event=interrupt)
    assert time.monotonic() - begin < 30
    assert not Path(f"/proc/{seen[0]}").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_swallows_in_a_destructor_ends_the_work(call):
    """The process goes on for twenty seconds if it is not told."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    interrupted = []

    def on_event(event):
        interrupted.append(time.monotonic())
        InterruptsAsItGoes()

    with pytest.raises(KeyboardInterrupt):
        call("begin_and_go_on", on_event=on_event)
    assert len(interrupted) == 1
    assert time.monotonic() - interrupted[0] < 15


def test_a_process_that_has_returned_and_stays_is_killed(call, monkeypatch):
    monkeypatch.setattr(isolate, "_EXIT_SECONDS", 1.0)
    ended = call("return_and_stay")
    assert ended.kind == "returned"
    assert not Path(f"/proc/{ended.value}").exists()


def test_a_server_that_is_killed_is_replaced(call):
    call("answer", 1)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    assert call("answer", 41).value["number"] == 42


def test_a_server_that_is_killed_at_work_is_named_and_work_that_can_be_repeated_is(call):
    seen = []
    ended = call("kill_the_server", on_event=lambda event: seen.append(event["process"]))
    assert (ended.kind, ended.cause) == ("killed", "machine")
    assert ended.reason == "the server that it was forked from was killed by SIGKILL"
    assert call("kill_the_server", on_event=lambda event: seen.append(event["process"]), terms=isolate.REPEATABLE)
    assert len(set(seen)) == 3
    deadline = time.monotonic() + 10
    while any(map(is_alive, seen)):
        assert time.monotonic() < deadline, "a process outlived its server"


def test_terms_go_before_the_share(call):
    names = ("CUDA_VISIBLE_DEVICES", "HARNESS_TEST")
    isolate.share.set(isolate.Share({"CUDA_VISIBLE_DEVICES": "3", "HARNESS_TEST": "share"}, 1))
    try:
        assert call("environment", names).value == ["3", "share"]
        assert call("environment", names, terms=isolate.WITHOUT_GPU).value == ["", "share"]
        assert isolate.environment(isolate.WITHOUT_GPU)["CUDA_VISIBLE_DEVICES"] == ""
    finally:
        isolate.share.set(None)
    assert "HARNESS_TEST" not in os.environ


def test_a_module_that_wants_to_be_first_is(call, tmp_path, monkeypatch):
    heavy = "('torch', 'transformers', 'trl', 'peft')"
    (tmp_path / "first_of_all.py").write_text(
        f"import sys\nBEFORE = [name for name in {heavy} if name in sys.modules]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert call("order_of_imports", terms=isolate.Terms(imports_first=("first_of_all",))).value == []


@pytest.mark.gpu
def test_a_forked_process_computes_on_the_card(call):
    assert call("use_the_card", terms=isolate.Terms(environment=hardware.showing(1))).value == (2.0, 1, "PCI_BUS_ID")
    assert isolate._forks_can_use_cuda


def test_the_server_has_not_touched_cuda(call):
    assert call("about_cuda").value == (False, True, "PCI_BUS_ID")


FRESH = """
import sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
from harness.measure import hardware
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
from harness.measure import hardware
from harness.run import isolate
if __name__ == "__main__":
    print(isolate.call("harness.run.preflight:check", [], log=Path({log!r})).reason)
"""


def test_a_broken_installation_is_a_reason(tmp_path):
    (tmp_path / "trl.py").write_text("raise RuntimeError('half of it is missing')")
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(here=str(HERE), log=str(tmp_path / "log.txt")))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("RuntimeError: half of it is missing\n", "")


DYING = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from harness.run import isolate
if __name__ == "__main__":
    print(isolate.call("test_isolate:answer", 1, log=Path({log!r})).reason)
"""


def test_a_server_that_dies_while_it_imports_is_one_line_after_one_retry(tmp_path):
    starts = tmp_path / "starts"
    (tmp_path / "trl.py").write_text(
        f"import os, signal\nopen({str(starts)!r}, 'a').write('x')\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "dying.py"
    script.write_text(DYING.format(here=str(HERE), log=str(tmp_path / "log.txt")))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment)
    first = "the server that processes are forked from was killed by SIGKILL while it started one, twice: "
    assert done.stdout.startswith(first)
    assert (done.stdout.count("\n"), done.stderr, starts.read_text()) == (1, "", "xx")


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
