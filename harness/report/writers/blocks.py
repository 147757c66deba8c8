"""A page as headings, paragraphs, lists and tables of plain text, written as Markdown or as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.records.untrusted import code, escaped
from harness.report.display import table
from harness.report.pages.summary import Table
from harness.report.writers import latex


@dataclass(frozen=True)
class Bullets:
    """A list of lines."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """Lines of a shell command."""

    text: str


Block = str | Bullets | Command | Table


@dataclass(frozen=True)
class Section:
    """A heading with its content."""

    title: str
    blocks: tuple[Block, ...]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The page as Markdown."""
    parts = [f"# {escaped(title)}"]
    for section in sections:
        parts += [f"## {escaped(section.title)}", *(_markdown(block) for block in section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_latex(sections: Sequence[Section]) -> str:
    r"""The sections as LaTeX, to be `\input` after `\appendix`."""
    parts = [
        f"% made from records by harness.report; the preamble needs {latex.PREAMBLE} and \\usepackage{{longtable}}"
    ]
    for section in sections:
        parts += [rf"\section{{{latex.escape(section.title)}}}", *(_latex(block) for block in section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Bullets):
        return "\n".join(f"- {escaped(line)}" for line in block.lines)
    if isinstance(block, Command):
        return code(block.text) if block.text else ""
    if isinstance(block, Table):
        header = [escaped(cell) for cell in block.header]
        return table(header, [[escaped(cell) for cell in line] for line in block.lines], text=header[1:])
    return escaped(block)


def _latex(block: Block) -> str:
    if isinstance(block, Bullets):
        items = "\n".join(rf"\item {latex.breakable(line)}" for line in block.lines)
        return f"\\begin{{itemize}}\\sloppy\n{items}\n\\end{{itemize}}" if block.lines else ""
    if isinstance(block, Command):
        lines = r"\\".join(latex.breakable(line) for line in block.text.splitlines() if line.strip())
        return rf"{{\raggedright\ttfamily {lines}\par}}" if lines else ""
    if isinstance(block, Table):
        return latex.longtable(block) if block.lines else ""
    return latex.breakable(block)
