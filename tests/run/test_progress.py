import contextlib
import dataclasses
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import time

import pytest
from rich.console import Console

from harness.records.events import Measured, PhaseStarted, Progress, StepLogged, TaskStarted
from harness.run import progress, run
from harness.run.progress import Board, ending
from tests.records.test_record import BLANK, TRAINING, attempt, run_record

STEP = StepLogged(2, 3, loss=1.2345, gradient_norm=1.0, learning_rate=0.1, tokens_per_second=99.6)


def board(terminal: bool, width: int = 120) -> tuple[Board, io.StringIO]:
    screen = io.StringIO()
    made = Board()
    made.console = Console(file=screen, force_terminal=terminal, width=width, highlight=False)
    return made, screen


def work(made: Board, label: str = "lora seed 0", line: str = "ok") -> None:
    made.begin(label)
    for event in (
        PhaseStarted("load"),
        PhaseStarted("train"),
        STEP,
        PhaseStarted("evaluate"),
        TaskStarted("arc_easy"),
        Measured(),
    ):
        made(event)
    made.end(line)


def test_a_log_gets_one_line_per_run_and_nothing_else():
    made, screen = board(terminal=False)
    made.total = 2
    work(made)
    work(made, "dora seed 1", "failed: killed by SIGKILL (in phase train at 2 of 3)")
    assert [re.sub(r"\(\d+ s\)", "(n s)", line) for line in screen.getvalue().splitlines()] == [
        "1/2 lora seed 0: ok (n s)",
        "2/2 dora seed 1: failed: killed by SIGKILL (in phase train at 2 of 3) (n s)",
    ]
    assert "\x1b" not in screen.getvalue()


def test_work_that_is_no_run_is_not_counted_and_leaves_no_line():
    made, screen = board(terminal=False)
    made.total = 1
    made.start_bar("checking")
    made(Progress(0, 5))
    made.end()
    assert screen.getvalue() == ""
    work(made)
    assert screen.getvalue().startswith("1/1 ")


def test_a_number_of_runs_that_was_not_said_is_counted_up():
    made, screen = board(terminal=False)
    work(made)
    work(made)
    assert [line.split(" ")[0] for line in screen.getvalue().splitlines()] == ["1/1", "2/2"]


def test_a_terminal_shows_name_phase_loss_and_speed():
    made, screen = board(terminal=True)
    made.total = 3
    made.begin("lora seed 0")
    made(PhaseStarted("train"))
    made(STEP)
    made._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    for part in ("1/3 lora seed 0", "train", "2/3", "loss 1.234", "100 tokens/s", "run 1/3, 0 s elapsed"):
        assert part in shown
    made(TaskStarted("arc_easy"))
    made(Progress(1, 8))
    made._bar.refresh()
    assert "arc_easy" in screen.getvalue()
    made.end("ok")
    assert screen.getvalue().rstrip().endswith("s)")
    assert made._bar is None


def test_an_event_before_or_after_the_work_is_no_error():
    made, _ = board(terminal=True)
    made(STEP)
    work(made)
    made(STEP)
    made.end()


@pytest.mark.parametrize("text", ["[bold]not markup[/]", "a [red] b", "[/]"])
def test_text_is_shown_as_it_is(text):
    made, screen = board(terminal=False)
    made.say(text)
    made.begin(text)
    made.end(text)
    assert screen.getvalue().count(text) == 3


def test_how_a_run_went():
    good = attempt(training=dataclasses.replace(TRAINING, losses=(2.0, 1.5), tokens_per_second=123.4))
    assert ending(run_record(good)) == "ok, training loss 1.500, 123 tokens/s"
    short = attempt(training=dataclasses.replace(TRAINING, losses=(2.0,), tokens_per_second=None))
    assert ending(run_record(short)) == "ok, training loss 2.000"
    assert ending(run_record(attempt(training=None))) == "ok"
    assert ending(run_record(BLANK)) == "failed: "
    assert ending(run_record(attempt(status="oom", reason="out of memory"))) == "oom: out of memory"


class Clock:
    """Time that tests move on by hand."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_log_gets_a_line_every_few_minutes(monkeypatch):
    clock = Clock(monkeypatch)
    made, screen = board(terminal=False)
    made.expect(3)
    made.begin("base", trains=False)
    clock.now += 20
    made.end("ok")
    for seed in (0, 1):
        made.begin(f"lora seed {seed}")
        made(PhaseStarted("train"))
        for step in range(1, 11):
            clock.now += 60
            made(dataclasses.replace(STEP, done=step, total=10))
        made.end("ok")
    lines = screen.getvalue().splitlines()
    assert lines[0] == "1/3 base: ok (20 s)"
    assert lines[1] == (
        "2/3 lora seed 0: train step 3/10, loss 1.234, 100 tokens/s, about 7 min left in this phase; "
        "run 2/3, 3 min elapsed"
    )
    assert [line.split(":")[0] for line in lines] == ["1/3 base", *["2/3 lora seed 0"] * 4, *["3/3 lora seed 1"] * 4]
    assert lines[5].endswith("run 3/3, 13 min elapsed, about 7 min left")


def test_the_time_left_is_that_of_the_runs_that_train(monkeypatch):
    """The base model takes seconds and says nothing about a training; runs at once share what is left."""
    clock = Clock(monkeypatch)
    made, _ = board(terminal=False)
    made.expect(105)
    made.begin("base", trains=False)
    clock.now += 10
    made.end("ok")
    assert made.sweep() == "run 1/105, 10 s elapsed"
    first, second = made.begin("lora seed 0"), made.begin("lora seed 1")
    clock.now += 600
    first.end("ok")
    assert made.sweep() == "run 3/105, 10 min elapsed, about 17 h left"
    made.begin("lora seed 2")
    assert made.sweep() == "run 4/105, 10 min elapsed, about 8 h left"
    second.end("ok")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3540, "59 min"), (3600, "1 h"), (4800, "1 h 20 min"),
        (32_400, "9 h"), (169_000, "47 h"), (172_801, "2 d"), (273_600, "3 d 4 h"),
    ],
)  # fmt: skip
def test_times_are_written_for_people(seconds, text):
    assert progress.span(seconds) == text


SENTENCES = (
    "data        science_qa: 1,232 training, 120 validation, 150 test rows; left out: 34 duplicates, 3 too long",
    "  choose      for each contestant the lowest validation loss, averaged over the seeds of the tuning stage",
    "lora: out of memory with micro batches of 8; trying micro batches of 4, with gradient checkpointing on",
    "report      /a/very/long/folder/that/is/longer/than/any/of/these/terminals/could/ever/show/report.md",
)


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("text", SENTENCES)
def test_words_are_wrapped_and_hang_below_the_text(text, width):
    made, screen = board(terminal=True, width=width)
    made.say(text)
    lines = screen.getvalue().splitlines()
    assert [word for line in lines for word in line.split()] == text.split()
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)
    label = re.match(r"\s*\S+\s{2,}", text)
    hang = label.end() if label else 2
    assert all(line.startswith(" " * hang) and line[hang] != " " for line in lines[1:])
    made, screen = board(terminal=False)
    made.say(text)
    assert screen.getvalue() == f"{text}\n"


SHOW = """
import time
from harness.records.events import PhaseStarted, StepLogged
from harness.run.progress import Board
made = Board()
made.say("overlap     3 of 2,376 items of arc_easy in the training rows: kept in both, so these scores may be too high")
made.expect(105)
made.begin("lora seed 0").end("ok, training loss 1.234, 534 tokens/s")
line = made.begin("dora method.r=16 lr_scale=0.3 seed 2")
line(PhaseStarted("train"))
for step in (40, 80, 120):
    line(StepLogged(step, 171, loss=1.2345, gradient_norm=1.0, learning_rate=0.1, tokens_per_second=534.4))
    time.sleep(0.3)
"""


def on_a_terminal(script: str, columns: int) -> list[str]:
    """The lines that a real terminal of this width is sent, without its control sequences."""
    child, handle = pty.fork()
    if child == 0:
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "CI")}
        time.sleep(0.2)  # the parent sets the size first
        os.execve(sys.executable, [sys.executable, "-c", script], {**environment, "TERM": "xterm-256color"})
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    sent = b""
    with contextlib.suppress(OSError):  # how Linux ends the terminal of a process that is over
        while part := os.read(handle, 65536):
            sent += part
    os.close(handle)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, sent.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent.decode())
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.parametrize(("columns", "bar", "speed"), [(60, False, False), (80, False, True), (140, True, True)])
def test_a_real_terminal_shows_whole_words_and_the_progress_of_the_sweep(columns, bar, speed):
    lines = on_a_terminal(SHOW, columns)
    assert max(map(len, lines)) <= columns
    said = " ".join(" ".join(lines).split())
    assert "kept in both, so these scores may be too high" in said
    assert re.search(r"1/105 lora seed 0: ok, training loss 1.234, 534 tokens/s \(\d+ s\)", said)
    assert any(line.startswith("run 2/105, ") and " elapsed, about " in line for line in lines)
    last = next(line for line in reversed(lines) if line.startswith("2/105 dora"))
    assert "120/171 loss 1.234" in last
    assert last.rstrip().endswith("s left")
    assert ("\u2501" in last, "534 tokens/s" in last) == (bar, speed)


def test_output_that_nobody_reads_ends_the_command_as_a_pipe_does(monkeypatch):
    """As in `harness -m ... 2>&1 | head`; standard output stays what it is."""
    reader, writer = os.pipe()
    os.close(reader)
    before = os.fstat(1)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        made = Board()
        with pytest.raises(SystemExit) as stop:
            made.say("first line")
        made.say("second line")
    assert stop.value.code == 141
    assert os.fstat(1) == before
    assert run._how(stop.value) == "interrupted", "nobody has preempted it"
