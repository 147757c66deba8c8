"""`python -m tests.bench._stamped FILE WORD...`: the harness with the words, and when what happened, in FILE.

Each line of the file is a JSON list: seconds of the system's clock, what it was, and the event.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from harness.records.events import Event, PhaseStarted, StepLogged


def main() -> None:
    """What `python -m harness` does, with a note of every event."""
    file = Path(sys.argv.pop(1)).open("a", buffering=1)  # noqa: SIM115  # open until the process ends

    def note(what: str, event: Any) -> None:
        file.write(json.dumps([time.time(), what, event]) + "\n")

    note("started", None)
    from harness import __main__ as command
    from harness.run import progress

    heard = progress.Line.__call__

    def hear(line: Any, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            note("event", {"phase": event.name})
        if isinstance(event, StepLogged):
            note("event", {"step": event.done})
        heard(line, event)

    progress.Line.__call__ = hear  # type: ignore[method-assign]
    command.main()


if __name__ == "__main__":
    main()
