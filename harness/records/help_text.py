"""Help of the commands at the width of the terminal: paragraphs, examples, and lists in two columns."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator

_ENTRY = re.compile(r"( +)(\S(?:.*?\S)?)  +(\S.*)")  # indented: a term or a command, and behind two spaces what it is
_FEWEST = 32  # columns in which an explanation still stands beside its term
_COMMANDS = ("harness ", "python ", "lm_eval ")
_DEEPER = 4  # columns by which a continued line is indented


class HelpFormatter(argparse.HelpFormatter):
    """Formatter for a description or epilog with lines of its own.

    Lines without an indent are paragraphs, those with one are examples and lists. An explanation that is continued in
    the source stands below its beginning there.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # what argparse's own formatters override
        return "\n".join(f"{indent}{line}".rstrip() for line in filled(text, width - len(indent)))


def filled(text: str, width: int, hanging: int = 0) -> list[str]:
    """Return the lines of a text, none wider than `width` but for words that are.

    Paragraphs are continued with an indent of `hanging` columns.
    """
    return [line for block in _blocks(text) for line in _block(block, width, hanging)]


def _blocks(text: str) -> Iterator[str]:
    """Yield paragraphs and entries, each on one line, and an empty text for an empty line."""
    block, column = "", 0  # of the explanation
    for line in text.rstrip("\n").split("\n"):
        indent = len(line) - len(line.lstrip())
        continues = block and line and (indent == column if column else not indent)
        if continues:
            block += f" {line.strip()}"
            continue
        if block:
            yield block
        entry = _ENTRY.fullmatch(line)
        block, column = line, entry.start(3) if entry else indent and -1
        if not line:
            yield ""
    if block:
        yield block


def _block(block: str, width: int, hanging: int = 0) -> list[str]:
    if len(block) <= width:
        return [block]
    entry = _ENTRY.fullmatch(block)
    if entry is None:
        indent = block[: len(block) - len(block.lstrip())]
        deeper = indent + " " * _DEEPER if indent else " " * hanging
        if not block.strip().startswith(_COMMANDS):
            return _wrapped(block.strip(), width, indent, deeper)
        *lines, last = _wrapped(block.strip(), width - 2, indent, deeper)
        return [*(f"{line} \\" for line in lines), last]  # as a shell takes it
    indent, term, explanation = entry.groups()
    column = entry.start(3)
    if width - column >= _FEWEST:
        first, *others = _wrapped(explanation, width - column)
        return [block[:column] + first, *(" " * column + line for line in others)]
    deeper = indent + " " * _DEEPER
    return [*_block(indent + term, width), *_wrapped(explanation, width, deeper, deeper)]


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
