"""Progress display of runs: live lines on a terminal, one line per run in a log."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harness.records.record import RunRecord
from harness.records.untrusted import one_line, printable


class Board:
    """Display of the runs in progress, `k` of `n`. Without a terminal it shows only how each run ended.

    One board serves all runs of a process, so that it can count them. Each piece of work has its own line. A caller
    with one piece of work at a time may send its events to the board itself.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.total, self._started = 0, 0
        self._bar: Progress | None = None
        self._lines: list[Line] = []
        self._lock = threading.RLock()

    def expect(self, total: int) -> None:
        """Start counting `total` runs from one."""
        self.total, self._started = total, 0

    def begin(self, label: str) -> Line:
        """Add a line for a run or another long piece of work, and count it."""
        with self._lock:
            self._started += 1
            return self.start_bar(f"{self._started}/{max(self.total, self._started)} {label}")

    def start_bar(self, label: str) -> Line:
        """Show a bar that is not counted as a run."""
        with self._lock:
            line = Line(self, label)
            if self.console.is_terminal and self._bar is None:
                columns = (
                    TextColumn("{task.fields[label]}", style="bold", markup=False),
                    TextColumn("{task.fields[phase]:<10}", markup=False),
                    BarColumn(bar_width=24),
                    TextColumn("{task.fields[detail]}", markup=False),
                    TimeRemainingColumn(),
                )
                self._bar = Progress(*columns, console=self.console, transient=True)
                self._bar.start()
            line.show(self._bar)
            self._lines.append(line)
            return line

    def __call__(self, event: dict[str, Any]) -> None:
        """Pass an event to the newest line."""
        if self._lines:
            self._lines[-1](event)
        elif "say" in event:
            self.say(event["say"])

    def end(self, line: str = "") -> None:
        """End the newest line."""
        if self._lines:
            self._lines[-1].end(line)

    def taken_down(self, line: Line) -> None:
        """Remove a line that has ended, and the bar with the last one."""
        with self._lock:
            self._lines.remove(line)
            if self._bar is not None and not self._lines:
                self._bar.stop()
                self._bar = None

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(printable(text, keep="\n"), markup=False, soft_wrap=True)


class Line:
    """One running piece of work on the board."""

    def __init__(self, shown_on: Board, label: str) -> None:
        self._board, self._label = shown_on, one_line(label)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase, self._begun, self._ended = "", time.monotonic(), False

    def show(self, bar: Progress | None) -> None:
        """Take a row of the bar, if there is one."""
        if bar is not None:
            self._bar = bar
            self._task = bar.add_task("", total=None, label=self._label, phase="starting", detail="")

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event of the work: a phase, a task, or `done` of `total` with loss and speed if known."""
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
        """End the work. `line` describes its result and stays on the screen."""
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
    """Return the result of a run in a few words."""
    attempt = result.current
    if attempt.status != "ok":
        return f"{'interrupted' if attempt.interrupted else attempt.status}: {attempt.reason}"
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
