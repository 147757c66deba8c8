"""The command `harness`: a comparison, or one of the subcommands. `python -m harness` is the same.

harness -m method=lora,dora      run a comparison (settings: harness --help)
harness report runs/             any subcommand; python -m harness.report is the same
"""

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module

from harness.records.untrusted import echo

COMMANDS = ("adapter", "data", "evaluate", "judge", "plan", "report", "review", "sweep")
_BELOW = {"judge": "evaluate.judge"}  # packages of commands that are not at the top


def module_of(name: str) -> str:
    """Return the module of a subcommand."""
    return f"harness.{_BELOW.get(name, name)}.__main__"


def main() -> None:
    """Run the subcommand named first, or else the comparison that the settings describe."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        run_command(lambda: import_module(module_of(name)).main(sys.argv[2:]))
    if name.isalpha():
        run_command(lambda: _refuse(name))
    from harness.sweep import application

    run_command(application.main)


def _refuse(word: str) -> int:
    """Print that a word is neither a command nor a setting, and return the exit code."""
    close = get_close_matches(word, COMMANDS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    echo(f"error: {word}: not of the form setting=value, and no command ({', '.join(COMMANDS)}){hint}", sys.stderr)
    return 2


def run_command(command: Callable[[], int | None]) -> None:
    """Exit with the code that `command` returns. It goes on without its terminal where SIGHUP does not end it.

    If the reader closes the pipe early (`harness --help | head`), the command ends without a message and with the
    code that a shell gives for SIGPIPE.
    """
    from harness.train.signals import outlive_terminal

    outlive_terminal()
    try:
        try:
            code = command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the exit flushes into the pipe again
        code = 141
    raise SystemExit(code)


if __name__ == "__main__":
    main()
