"""Make text that others wrote harmless where it is shown: in a terminal, in Markdown and in a spreadsheet.

Such text is any name, message, prompt or answer that comes from a record, a data set or a model. It may be read
and may do nothing else. Standard library only.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from harness.records import redact

NO_BREAK = "\N{NO-BREAK SPACE}"
_JOINER = "&#8288;"  # U+2060, invisible: it keeps what stands around it from being read as an address
# with the wide, small, raised and lowered forms of these signs, all that Unicode's NFKC turns into them (OWASP, CSV
# injection)
_FORMULA = "=+-@\u207a\u207c\u208a\u208c\ufb29\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20"
_NEW_CELL = re.compile(rf"((?:^|[\n;\t])\s*)([{re.escape(_FORMULA)}])")
_NUMBER = re.compile(r"[+-]?(\d[\d,]*\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


def printable(text: str, keep: str = "") -> str:
    """Return the text with a space in place of each control character, escape sequence and bidirectional mark.

    A no-break space and the characters in `keep` stay.
    """
    return "".join(sign if sign.isprintable() or sign == NO_BREAK or sign in keep else " " for sign in text)


def one_line(text: object) -> str:
    """Return printable text, as an error's, on one line with single spaces; a no-break space stays."""
    return re.sub(" +", " ", printable(str(text))).strip(" ")


def shortened(text: str, length: int = 80) -> str:
    """Return one line of at most `length` characters."""
    line = one_line(text)
    return line if len(line) <= length else f"{line[: length - 3]}..."


def echo(text: str = "", file: IO[str] | None = None) -> None:
    """Print lines without secrets and with nothing that a terminal would obey. Commands print through it alone."""
    print(redact.text(printable(text, keep="\n\t")), file=file or sys.stdout)


def escaped(text: str) -> str:
    """Return the text as one line of Markdown that shows it and does nothing else: no markup, no link, no formula."""
    line = one_line(text)
    if line == "-":
        return line  # an empty cell of our tables; alone in a paragraph it is an empty list
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line)
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line)
    line = re.sub(r"([\\`*\[\]|~!$])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # inside a word an underscore stands for itself
    line = re.sub(r"^(\d*)(#|>|[-+.)](?=\s|$))", r"\1\\\2", line)
    line = re.sub(r"^(=+|-+)$", r"\\\1", line)  # would make the line before it a heading, or a rule
    line = line.replace("://", "&#58;//")
    line = re.sub(r"(?i)(www)\.", r"\1&#46;", line)
    return re.sub(r"@(?=\S)", f"@{_JOINER}", line)  # an e-mail address, or a person's name


def inline_code(text: str) -> str:
    """Return the text as a code span of Markdown, also in a table, that it cannot leave."""
    line = one_line(text)
    if not line:
        return ""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", r"\|")


def code(text: str, language: str = "text") -> str:
    """Return the text as a fenced block of Markdown that it cannot leave."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(printable(line) for line in text.splitlines())
    return f"{fence}{language}\n{lines}\n{fence}"


def cell(value: Any) -> Any:
    """Return a value as a spreadsheet may hold it: text that would be a formula begins with an apostrophe.

    A line or a part after `;` or a tab begins a new cell where a program splits at other signs than ours.
    """
    if not isinstance(value, str):
        return value
    text = printable(value.replace("\r\n", "\n"), keep="\n\t")
    return text if _NUMBER.fullmatch(text) else _NEW_CELL.sub(r"\1'\2", text)


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> str:
    """Return comma-separated values with a header, in which no text is a formula. None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([cell(name) for name in header])
    for row in rows:
        values = [row[name] for name in header] if isinstance(row, Mapping) else row
        writer.writerow([cell(value) for value in values])
    return text.getvalue()
