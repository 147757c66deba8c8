"""Commands of `python -m harness.report` besides writing reports: each is a function of its words in a module here.

It returns what is printed, as a text or as lines, or an exit code where it has printed all itself. Exit codes: 0 done,
1 done and something is wrong, 2 the input was wrong, 3 the rows cannot be compared.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from harness.records.untrusted import echo

COMMANDS = {  # name -> (its module, what it is for)
    "answer": ("answers", "the answer of a report in three lines, or as JSON"),
    "recommend": ("answers", "which method to use, for limits in memory and time and a tolerance in quality"),
    "power": ("power", "what a number of items and seeds could show, before the runs"),
    "aa": ("answers", "an A/A test: how often seeds of one method, named as two, are called different"),
    "look": ("answers", "whether every comparison, or every claim, of a sweep has a verdict"),
    "export": ("publish", "runs with their scores in the schema of Every Eval Ever"),
    "import-lm-eval": ("imports", "a comparison of models by the logs that lm_eval --log_samples wrote"),
    "pack": ("publish", "a report with records.zip, from which everybody can make it again"),
    "verify": ("publish", "a report, made again from its records.zip and compared"),
    "import-peft": ("imports", "PEFT's published result files as external records"),
}


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command, print its result or the one line that says what is wrong, and return the exit code."""
    command = getattr(import_module(f"{__name__}.{COMMANDS[name][0]}"), name.replace("-", "_"))
    try:
        result = command(arguments)
    except (ValueError, OSError) as error:
        warn(error)
        return 3 if hasattr(error, "guard") else 2
    if isinstance(result, int):
        return result
    echo(result if isinstance(result, str) else "\n".join(result))
    return 0


def warn(text: object) -> None:
    """Print a line to stderr under the name of the program."""
    echo(f"harness.report: {text}", file=sys.stderr)


def keys(text: str) -> tuple[str, ...]:
    """Return the keys of an option that lists them: a,b."""
    return tuple(key for key in text.split(",") if key)
