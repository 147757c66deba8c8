r"""Paragraphs to paste into a paper, with citations by the keys of references.bib: as LaTeX and as Markdown.

LaTeX cites with `\citep`, which becomes `\cite` in a class without natbib; Markdown as pandoc does, `[@key]`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from harness.records.untrusted import escaped
from harness.report.writers.tex import breakable
from harness.sources.packages import conf_dir


@dataclass(frozen=True)
class Cite:
    """A citation of works by their keys; of none it vanishes."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A reference to a float by its label, and how Markdown names it."""

    label: str
    text: str


Part = str | Cite | Reference


@dataclass(frozen=True)
class Paragraph:
    """A paragraph with its run-in heading. A text begins with its own space or punctuation."""

    title: str
    parts: tuple[Part, ...]


def to_latex(title: str, label: str, paragraphs: Sequence[Paragraph]) -> str:
    r"""Return a section to be pasted or `\input`."""
    body = [
        rf"\paragraph{{{breakable(paragraph.title)}.}} {''.join(map(_latex, paragraph.parts)).strip()}"
        for paragraph in paragraphs
    ]
    head = ["% Made from records by harness.report.", r"\providecommand{\citep}{\cite}"]
    return "\n".join(head) + "\n\n" + "\n\n".join([rf"\section{{{title}}}\label{{{label}}}", *body]) + "\n"


def to_markdown(title: str, paragraphs: Sequence[Paragraph]) -> str:
    """Return the section as Markdown."""
    body = [
        f"**{escaped(paragraph.title)}.** {''.join(map(_markdown, paragraph.parts)).strip()}"
        for paragraph in paragraphs
    ]
    return "\n\n".join([f"# {title}", *body]) + "\n"


def plain(paragraph: Paragraph) -> str:
    """Return a paragraph without its heading and its citations."""
    texts = (
        part if isinstance(part, str) else f" {part.text}" for part in paragraph.parts if not isinstance(part, Cite)
    )
    return "".join(texts).strip()


def cited(paragraphs: Iterable[Paragraph]) -> list[str]:
    """Return the keys that the paragraphs cite, each once."""
    keys = (key for paragraph in paragraphs for part in paragraph.parts if isinstance(part, Cite) for key in part.keys)
    return list(dict.fromkeys(keys))


def bibliography(keys: Iterable[str]) -> str:
    """Return the entries of these works in alphabetical order; a key without an entry is named in a comment."""
    works = _works()
    wanted = sorted(dict.fromkeys(keys))
    missing = [f"% There is no entry for {key}: add it." for key in wanted if key not in works]
    return "\n\n".join([*missing, *(works[key] for key in wanted if key in works)]) + "\n"


@cache
def _works() -> dict[str, str]:
    """Return the entries of conf/references.bib by their keys."""
    text = (conf_dir() / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([^,\s]+),.*?^\}$", text, re.MULTILINE | re.DOTALL)
    bodies = re.findall(r"^@\w+\{[^,\s]+,.*?^\}$", text, re.MULTILINE | re.DOTALL)
    return dict(zip(entries, bodies, strict=True))


def _latex(part: Part) -> str:
    if isinstance(part, Cite):
        return rf"~\citep{{{','.join(part.keys)}}}" if part.keys else ""
    if isinstance(part, Reference):
        return rf" Table~\ref{{{part.label}}}"
    return f"{' ' * part.startswith(' ')}{breakable(part)}{' ' * part.endswith(' ')}"


def _markdown(part: Part) -> str:
    if isinstance(part, Cite):
        return f" [{'; '.join(f'@{key}' for key in part.keys)}]" if part.keys else ""
    if isinstance(part, Reference):
        return f" {part.text}"
    return escaped(f"x{part}x")[1:-1]  # what stands at the beginning of a part begins no line
