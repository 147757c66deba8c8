"""What a person sees while runs are made: one live line on a terminal, one line per run in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harness.record import RunRecord


class Board:
    """Shows the run under way, `k` of `n`; on anything but a terminal only how each run ended.

    The same board serves all runs of a process, so that it can count them.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.total, self._started = 0, 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label, self._phase, self._begun = "", "", 0.0

    def expect(self, total: int) -> None:
        """So many runs come now; they are counted from one."""
        self.total, self._started = total, 0

    def begin(self, label: str) -> None:
        """A run, or another piece of work that takes a while, starts."""
        self._started += 1
        self.start_bar(f"{self._started}/{max(self.total, self._started)} {label}")

    def start_bar(self, label: str) -> None:
        """Show a bar that is not counted as a run."""
        self._label, self._phase, self._begun = label, "", time.monotonic()
        if self.console.is_terminal:
            columns = (
                TextColumn("[bold]{task.fields[label]}[/] {task.fields[phase]:<10}", markup=True),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=None, label=label, phase="starting", detail="")
            self._bar.start()

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the work under way: a phase, a task, or `done` of `total` with what is known beside."""
        if "say" in event:
            self.say(event["say"])
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
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        if line:
            self.console.print(
                f"{self._label}: {line} ({time.monotonic() - self._begun:.0f} s)", markup=False, soft_wrap=True
            )
        sys.stderr.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)


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
