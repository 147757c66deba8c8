"""`python -m tests.bench._stamped FILE WORD...`: the harness with the words, and when what happened, in FILE.

Each line of the file is a JSON list: seconds of the system's clock, what it was, and the event. The last two lines tell
the peaks of resident memory of this process and of the server that runs are forked from, in bytes.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing.forkserver
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """What `python -m harness` does, with a note of every event."""
    file = Path(sys.argv.pop(1)).open("a", buffering=1)  # noqa: SIM115  # open until the process ends

    def note(what: str, event: Any) -> None:
        file.write(json.dumps([time.time(), what, event]) + "\n")

    note("started", None)
    from harness import __main__ as command
    from harness import progress

    heard = progress.Line.__call__

    def hear(line: Any, event: dict[str, Any]) -> None:
        if "phase" in event:
            note("event", {"phase": event["phase"]})
        if "learning_rate" in event:  # what else counts its progress has none
            note("event", {"step": event["done"]})
        heard(line, event)

    progress.Line.__call__ = hear  # type: ignore[method-assign]
    atexit.register(lambda: note("server", peak_bytes(multiprocessing.forkserver._forkserver._forkserver_pid)))
    atexit.register(lambda: note("parent", peak_bytes("self")))
    command.main()


def peak_bytes(process: object) -> int | None:
    """The highest resident memory that a process has had; None if there is none such."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
