"""Commands of `python -m harness.report` besides writing reports: each is a function of its words in a module here.

It returns what is printed, as a text or as lines, or an exit code where it has printed all itself. Exit codes: 0 done,
1 done and something is wrong, 2 the input was wrong, 3 the rows cannot be compared.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from harness.records.untrusted import echo

COMMANDS = {  # name -> (its module, what it is for)
    "answer": ("answers", "print the answer of a report in three lines, or as JSON"),
    "recommend": ("answers", "recommend a method within limits of memory, time and quality"),
    "power": ("power", "power analysis: what a number of items, seeds and methods can detect"),
    "aa": ("answers", "A/A test: how often seeds of one method are called different"),
    "look": ("answers", "check whether every comparison or claim of a sweep has a verdict"),
    "export": ("publish", "export runs with their scores as Every Eval Ever documents"),
    "import-lm-eval": ("imports", "compare models from the logs of lm_eval --log_samples"),
    "pack": ("publish", "write a report with records.zip, from which it can be reproduced"),
    "verify": ("publish", "reproduce a report from its records.zip and list every difference"),
    "import-peft": ("imports", "import the published results of PEFT's method comparison"),
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


def above_zero(text: str) -> float:
    """Return the number of an option that is an amount: a margin, a price, an effect.

    Raises:
        ArgumentTypeError: it is no number, or not above zero.
    """
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return value


def not_negative(text: str) -> float:
    """Return the number of an option that may be zero: a tolerance, a deviation.

    Raises:
        ArgumentTypeError: it is no number, or below zero.
    """
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, zero or more")
    return value


def count(text: str) -> int:
    """Return the number of an option that counts things: items, seeds, methods.

    Raises:
        ArgumentTypeError: it is no whole number, or below one.
    """
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, one or more")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
