"""What a person sees while runs are made: live lines on a terminal, one line per run in a log."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harness.records.record import RunRecord


class Board:
    """Shows the runs under way, `k` of `n`; on anything but a terminal only how each run ended.

    The same board serves all runs of a process, so that it can count them. Each piece of work has a line of its own;
    what has only one at a time may speak to the board itself.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.total, self._started = 0, 0
        self._bar: Progress | None = None
        self._lines: list[Line] = []
        self._lock = threading.RLock()

    def expect(self, total: int) -> None:
        """So many runs come now; they are counted from one."""
        self.total, self._started = total, 0

    def begin(self, label: str) -> Line:
        """A run, or another piece of work that takes a while, starts."""
        with self._lock:
            self._started += 1
            return self.start_bar(f"{self._started}/{max(self.total, self._started)} {label}")

    def start_bar(self, label: str) -> Line:
        """Show a bar that is not counted as a run."""
        with self._lock:
            line = Line(self, label)
            if self.console.is_terminal and self._bar is None:
                columns = (
                    TextColumn("[bold]{task.fields[label]}[/] {task.fields[phase]:<10}", markup=True),
                    BarColumn(bar_width=24),
                    TextColumn("{task.fields[detail]}"),
                    TimeRemainingColumn(),
                )
                self._bar = Progress(*columns, console=self.console, transient=True)
                self._bar.start()
            line.show(self._bar)
            self._lines.append(line)
            return line

    def __call__(self, event: dict[str, Any]) -> None:
        """An event of the newest line."""
        if self._lines:
            self._lines[-1](event)
        elif "say" in event:
            self.say(event["say"])

    def end(self, line: str = "") -> None:
        """The work of the newest line is over."""
        if self._lines:
            self._lines[-1].end(line)

    def taken_down(self, line: Line) -> None:
        """A line's work is over; with the last one the bar goes."""
        with self._lock:
            self._lines.remove(line)
            if self._bar is not None and not self._lines:
                self._bar.stop()
                self._bar = None

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)


class Line:
    """One piece of work under way, as the board shows it."""

    def __init__(self, shown_on: Board, label: str) -> None:
        self._board, self._label = shown_on, label
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase, self._begun, self._ended = "", time.monotonic(), False

    def show(self, bar: Progress | None) -> None:
        """Take a row of the bar, if there is one."""
        if bar is not None:
            self._bar = bar
            self._task = bar.add_task("", total=None, label=self._label, phase="starting", detail="")

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the work: a phase, a task, or `done` of `total` with what is known beside."""
        if "say" in event:
            self._board.say(event["say"])
        if self._bar is None or self._task is None:
            return
        if "phase" in event or "task" in event:
            self._phase = event.get("task") or event["phase"]
            # a reset forgets every field that it is not given
            self._bar.reset(self._task, total=None, label=self._label, phase=self._phase, detail="")
        if "total" in event:
            self._bar.update(self._task, total=event["total"], completed=event["done"], detail=_detail(event))

    def end(self, line: str = "") -> None:
        """The work is over; `line` says how it went and stays on the screen."""
        if self._ended:
            return
        self._ended = True
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._bar = self._task = None
        self._board.taken_down(self)
        if line:
            self._board.say(f"{self._label}: {line} ({time.monotonic() - self._begun:.0f} s)")
        sys.stderr.flush()


board = Board()


def ending(result: RunRecord) -> str:
    """How a run went, in a few words."""
    attempt = result.current
    if attempt.status != "ok":
        return f"{attempt.status}: {attempt.reason}"
    training = attempt.training
    if training is None or not training.losses:
        return "ok"
    rate = f", {training.tokens_per_second:.0f} tokens/s" if training.tokens_per_second else ""
    return f"ok, training loss {training.losses[-1]:.3f}{rate}"


def _detail(event: dict[str, Any]) -> str:
    text = f"{event['done']:,}" if event["total"] is None else f"{event['done']}/{event['total']}"
    if event.get("loss") is not None:
        text += f" loss {event['loss']:.3f}"
    if event.get("tokens_per_second"):
        text += f" {event['tokens_per_second']:.0f} tok/s"
    return text
