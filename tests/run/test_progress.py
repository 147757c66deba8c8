import dataclasses
import io
import re

import pytest
from rich.console import Console
from test_record import BLANK, TRAINING, attempt, run_record

from harness.run.progress import Board, ending

STEP = {"done": 2, "total": 3, "loss": 1.2345, "gradient_norm": 1.0, "learning_rate": 0.1, "tokens_per_second": 99.6}


def board(terminal: bool, width: int = 120) -> tuple[Board, io.StringIO]:
    screen = io.StringIO()
    made = Board()
    made.console = Console(file=screen, force_terminal=terminal, width=width, highlight=False)
    return made, screen


def work(made: Board, label: str = "lora seed 0", line: str = "ok") -> None:
    made.begin(label)
    for event in (
        {"phase": "load"},
        {"phase": "train"},
        STEP,
        {"phase": "evaluate"},
        {"task": "arc_easy"},
        {"facts": {}},
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
    made({"done": 0, "total": 5})
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
    made({"phase": "train"})
    made(STEP)
    made._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    for part in ("1/3 lora seed 0", "train", "2/3", "loss 1.234", "100 tok/s"):
        assert part in shown
    made({"task": "arc_easy"})
    made({"done": 1, "total": 8})
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
