"""Progress of runs: live lines on a terminal; in a log a line every few minutes and one at the end of each run."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterable
from typing import Any

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from harness.records import redact
from harness.records.events import Event, Message, PhaseStarted, Progress, StepLogged, TaskStarted
from harness.records.record import RunRecord
from harness.records.untrusted import one_line, printable

LOG_SECONDS = 180.0  # between two lines of a run in a log
_SPEED, _BAR, _LONG_BAR = 70, 100, 120  # columns of a terminal from which on the speed and the bars are shown
_HANGING = re.compile(r"\s*\S+(?: \S+)?\s{2,}|\s*(?:- )?")  # a label in a column of its own, or the indentation


class _Console(Console):
    """Console whose reader may be gone, as in `harness -m ... 2>&1 | head`."""

    def on_broken_pipe(self) -> None:
        """End the command as a pipe's end does, with the code that a shell gives for SIGPIPE; print no more."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())  # else the exit flushes into the pipe again
        os.close(nowhere)
        raise SystemExit(128 + signal.SIGPIPE)


class Board:
    """Display of the runs in progress, `k` of `n`, with the time that the whole sweep has taken and may still take.

    One board serves all runs of a process, so that it can count them. Each piece of work has its own line. A caller
    with one piece of work at a time may send its events to the board itself.
    """

    def __init__(self) -> None:
        self.console = _Console(stderr=True, highlight=False)
        self.total, self._started, self._ended = 0, 0, 0
        self._began = time.monotonic()
        self._took: dict[bool, list[float]] = {}  # seconds of finished runs, of those that train and of the others
        self._bar: bars.Progress | None = None
        self._lines: list[Line] = []
        self._lock = threading.RLock()

    def expect(self, total: int) -> None:
        """Start counting `total` runs from one, and their time from now."""
        self.total, self._started, self._ended, self._took = total, 0, 0, {}
        self._began = time.monotonic()

    def begin(self, label: str, trains: bool = True) -> Line:
        """Add a line for a run or another long piece of work, and count it."""
        with self._lock:
            self._started += 1
            line = self.start_bar(f"{self._started}/{max(self.total, self._started)} {label}")
            line.trains = trains
            return line

    def start_bar(self, label: str) -> Line:
        """Show a bar that is not counted as a run."""
        with self._lock:
            line = Line(self, label)
            self._lines.append(line)
            if self.console.is_terminal and self._bar is None:
                self._bar = _Display(self)
                self._bar.start()
            line.show(self._bar)
            return line

    def __call__(self, event: Event) -> None:
        """Pass an event to the newest line."""
        if self._lines:
            self._lines[-1](event)
        elif isinstance(event, Message):
            self.say(event.text)

    def end(self, line: str = "") -> None:
        """End the newest line."""
        if self._lines:
            self._lines[-1].end(line)

    def taken_down(self, line: Line) -> None:
        """Remove a line that has ended, and the bar with the last one."""
        with self._lock:
            self._lines.remove(line)
            if line.trains is not None:
                self._ended += 1
                self._took.setdefault(line.trains, []).append(line.seconds)
            if self._bar is not None and not self._lines:
                self._bar.stop()
                self._bar = None

    def sweep(self) -> str:
        """Return the progress of all runs: run 12/105, 1 h 20 min elapsed, about 9 h left; "" for a single run."""
        if self.total < 2:
            return ""
        text = f"run {min(self._started, self.total)}/{self.total}, {span(time.monotonic() - self._began)} elapsed"
        left = self._seconds_left()
        return text if left is None else f"{text}, about {span(left)} left"

    def say(self, text: str) -> None:
        """Print lines that stay. On a terminal they are wrapped at words, below the text of their first line."""
        text = redact.text(printable(text, keep="\n"))
        if self.console.is_terminal:
            text = "\n".join(_wrapped(line, self.console.width) for line in text.split("\n"))
        self.console.print(text, markup=False, soft_wrap=True)

    def _seconds_left(self) -> float | None:
        """Return the expected seconds of the runs that are left; None until one that trains has ended.

        The untrained base model says nothing about the time of the others.
        """
        took = self._took.get(True)
        active = [line for line in self._lines if line.trains is not None]
        if not took or self._ended >= self.total:
            return None
        mean = sum(took) / len(took)
        waiting = self.total - self._ended - len(active)
        return (mean * waiting + sum(max(0.0, mean - line.seconds) for line in active)) / max(1, len(active))


class Line:
    """One running piece of work on the board. `trains` is None for work that is not counted as a run."""

    def __init__(self, shown_on: Board, label: str) -> None:
        self._board, self._label = shown_on, one_line(label)
        self._bar: bars.Progress | None = None
        self._task: TaskID | None = None
        self._phase, self._phase_began, self._has_ended = "", time.monotonic(), False
        self._began = self._logged = time.monotonic()
        self.trains: bool | None = None

    @property
    def seconds(self) -> float:
        """Return the seconds since the work began."""
        return time.monotonic() - self._began

    def show(self, bar: bars.Progress | None) -> None:
        """Take a row of the bar, if there is one."""
        if bar is not None:
            self._bar = bar
            self._task = bar.add_task("", total=None, label=self._label, phase="starting", detail="")

    def __call__(self, event: Event) -> None:
        """Show one event of the work: a message, the name of a phase or task, or its progress."""
        match event:
            case Message(text):
                self._board.say(text)
            case PhaseStarted(name) | TaskStarted(name):
                self._phase, self._phase_began = name, time.monotonic()
                if self._bar is not None and self._task is not None:
                    # a reset forgets every field that it is not given
                    self._bar.reset(self._task, total=None, label=self._label, phase=name, detail="")
            case Progress(done, total):
                if self._bar is None or self._task is None:
                    self._log(event)
                    return
                detail = " ".join(_details(event, speed=self._board.console.width >= _SPEED))
                self._bar.update(self._task, total=total, completed=done, detail=detail)

    def end(self, line: str = "") -> None:
        """End the work. `line` describes its result and stays on the screen."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._bar = self._task = None
        self._board.taken_down(self)
        if line:
            self._board.say(f"{self._label}: {line} ({self.seconds:.0f} s)")
        sys.stderr.flush()

    def _log(self, event: Progress) -> None:
        """Print a line of progress where the last one is minutes old, for logs and those who follow them."""
        now = time.monotonic()
        if now - self._logged < LOG_SECONDS:
            return
        self._logged = now
        done, total = event.done, event.total
        unit = "step " if isinstance(event, StepLogged) else ""
        parts = [f"{self._phase or 'starting'} {unit}{', '.join(_details(event))}"]
        if total and done:
            parts.append(f"about {span((now - self._phase_began) * (total - done) / done)} left in this phase")
        self._board.say("; ".join(filter(None, (f"{self._label}: {', '.join(parts)}", self._board.sweep()))))


class _Display(bars.Progress):
    """Live lines of the runs, and the progress of the sweep below them."""

    def __init__(self, board: Board) -> None:
        self._board, width = board, board.console.width
        label = Column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
        bar = [BarColumn(bar_width=24 if width >= _LONG_BAR else 10)] if width >= _BAR else []
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("[bold]{task.fields[label]}", table_column=label),
            TextColumn("{task.fields[phase]}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=16)),
            *bar,
            TextColumn("{task.fields[detail]}", markup=False),
            _Left(),
        )
        super().__init__(*columns, console=board.console, transient=True, expand=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the table of runs and the line of the sweep."""
        yield from super().get_renderables()
        if line := self._board.sweep():
            yield Text(line, style="dim", no_wrap=True, overflow="ellipsis")


class _Left(ProgressColumn):
    """The expected time of the present phase."""

    def render(self, task: Any) -> Text:
        """Return it in words; "" while it is unknown."""
        left = task.time_remaining
        return Text("" if left is None or task.finished else f"{span(left)} left", no_wrap=True)


board = Board()


def span(seconds: float) -> str:
    """Return a time in words of two units at most: 45 s, 12 min, 1 h 20 min, 9 h, 3 d 4 h."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 300:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    if hours < 48:
        return f"{hours} h"
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")


def ending(result: RunRecord) -> str:
    """Return the result of a run in a few words."""
    attempt = result.current
    if attempt.status != "ok":
        return f"{'interrupted' if attempt.interrupted else attempt.status}: {attempt.reason}"
    training = result.training
    if training is None or not training.losses:
        return "ok"
    rate = f", {training.tokens_per_second:.0f} tokens/s" if training.tokens_per_second else ""
    return f"ok, training loss {training.losses[-1]:.3f}{rate}"


def _details(event: Progress, speed: bool = True) -> list[str]:
    """Return the progress of a phase in words; of training also the loss and, if `speed`, the tokens per second."""
    parts = [f"{event.done:,}" if event.total is None else f"{event.done}/{event.total}"]
    if isinstance(event, StepLogged):
        parts.append(f"loss {event.loss:.3f}")
        if speed and event.tokens_per_second:
            parts.append(f"{event.tokens_per_second:.0f} tokens/s")
    return parts


def _wrapped(line: str, width: int) -> str:
    """Return a line wrapped at words; further lines hang below its text. A word longer than a line stays whole."""
    label = _HANGING.match(line)
    hang = label.end() if label else 0
    hang = hang if 0 < hang <= width // 2 else 2
    return textwrap.fill(
        line, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True, replace_whitespace=False, expand_tabs=False,
    )  # fmt: skip
