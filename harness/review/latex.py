"""Cells of the tables in a LaTeX source: fonts, colors, rules and footnotes are taken off, the text stays."""

from __future__ import annotations

import re

BOLD = "*"  # stands before a number in bold
_ENVIRONMENT = re.compile(r"\\(begin|end)\{(?:tabular[xy*]?|xltabular|longtable|tblr|NiceTabular[X*]?)\}")
_END_OF_LINE = r"\\\\\*?(?:\[[^]]*\])?"
_OPTION = r"(?:\[[^]]*\]|\([^)]*\))*"
_BRACED = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_ONE_CELL = re.compile(r"\\(?:makecell|shortstack|thead|specialcell)\*?(?:\[[^]]*\])?(?=\{)")
_NOT_TEXT = (  # commands that are no part of a cell: without arguments, with one, two and three
    re.compile(
        r"\\(?:(?:top|mid|bottom)rule|(?:h|hdash|thickh)line|addlinespace|end(?:first|last)?(?:head|foot)|footnotemark)"
        rf"(?![a-zA-Z]){_OPTION}"
    ),
    re.compile(
        r"\\(?:cmidrule|cline|cdashline|Xhline|(?:row|cell|column|arrayrule|text)?color|colorbox|label|caption|"
        rf"[hv]space|[hv]?phantom|cite[a-zA-Z]*|footnote|tnote|textsuperscript)\*?{_OPTION}{_BRACED}"
    ),
    re.compile(rf"\\(?:multirow{_OPTION}{_BRACED}{_OPTION}(?:{_BRACED}|\*)|rule{_OPTION}{_BRACED}{_BRACED}){_OPTION}"),
    re.compile(rf"\\specialrule{_BRACED}{_BRACED}{_BRACED}"),
)
_POWER = re.compile(r"10\s*\^\s*\{?\s*(-?\d+)\s*\}?")
_SPREAD = re.compile(r"[_^]\s*\{?\s*\\pm|(?<!\\)_\s*\{?\s*(?=\d*\.\d)")  # an error that is set lower or higher
_MARK = re.compile(r"\^\s*\{?(?:\\(?:d?dagger|ast|star|S|P)(?![a-zA-Z])|[*,\s])+\}?")
_SUPERSCRIPT = re.compile(rf"(?<!10)\^\s*(?:{_BRACED}|\\[a-zA-Z]+|\S)")
_SIGNS = (
    (r"(?<!\\)\$|\\[,!]", ""), (r"\\[;:/ ]|~", " "), (r"\{,\}", ","), ("-{2,3}", "-"), ("\u2212", "-"),
    (r"\\pm(?![a-zA-Z])", "\u00b1"), (r"\\(?:times|cdot)(?![a-zA-Z])", "\u00d7"), (r"\\percent(?![a-zA-Z])", "%"),
    (r"\\uparrow(?![a-zA-Z])", "\u2191"), (r"\\downarrow(?![a-zA-Z])", "\u2193"),
    (r"\\(alpha|eta|Delta)(?![a-zA-Z])", r"\1"), (r"\\([#_&%$])", r"\1"),
)  # fmt: skip


def tables(content: str) -> list[list[list[str]]]:
    """Return the lines of cells of each table, with `*` before numbers in bold."""
    plain = re.sub(r"(?<!\\)((?:\\\\)*)%.*", r"\1", content)
    return [_lines(body) for body in _bodies(plain)]


def _bodies(content: str) -> list[str]:
    """Return what stands in each environment of a table. One inside of a cell becomes a single line."""
    bodies: list[str] = []
    opened: list[list[str]] = [[]]
    place = 0
    for match in _ENVIRONMENT.finditer(content):
        opened[-1].append(content[place : match.start()])
        place = match.end()
        if match[1] == "begin":
            opened.append([])
        elif len(opened) > 1:
            body = _behind_arguments("".join(opened.pop()))
            if len(opened) > 1:
                opened[-1].append(re.sub(_END_OF_LINE, " ", body))
            else:
                bodies.append(body)
    return bodies


def _lines(body: str) -> list[list[str]]:
    text = _in_one_line(body.replace(r"\tabularnewline", r"\\"))
    for commands in _NOT_TEXT:
        text = commands.sub("", text)
    lines = [re.split(r"(?<!\\)&", line) for line in re.split(_END_OF_LINE, text) if line.strip()]
    return [[_plain(part) for cell in line for part in _spanned(cell)] for line in lines]


def _in_one_line(text: str) -> str:
    """Return the text with each cell of several lines in one."""
    while match := _ONE_CELL.search(text):
        end = match.end() + _closing(text[match.end() :])
        inside = re.sub(_END_OF_LINE, " ", text[match.end() + 1 : end])
        text = text[: match.start()] + inside + text[end + 1 :]
    return text


def _closing(text: str) -> int:
    """Return the place of the bracket that closes the first letter; the length where none does."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "{[") - (letter in "}]")
        if depth == 0:
            return place
    return len(text)


def _behind_arguments(text: str) -> str:
    """Return the text behind the arguments of an environment, whose braces may be nested: {@{}lcc@{}}."""
    text = text.lstrip()
    while text[:1] in ("{", "["):
        text = text[_closing(text) + 1 :].lstrip()
    return text


def _spanned(cell: str) -> list[str]:
    """Return a cell that spans several columns as one of the same content for each."""
    most_columns = 100
    match = re.match(rf"\s*\\multicolumn\s*\{{\s*(\d+)\s*\}}\s*{_BRACED}(.*)", cell, re.DOTALL)
    return [match[2]] * min(int(match[1]), most_columns) if match else [cell]


def _plain(cell: str) -> str:
    """Return the text of a cell."""
    is_bold = bool(re.search(r"\\(?:textbf|mathbf|bf|bfseries|bm|boldsymbol)(?![a-zA-Z])", cell))
    text = _MARK.sub("", _POWER.sub(r"10^\1", _SPREAD.sub(r" \\pm ", cell)))
    for pattern, plain in _SIGNS:
        text = re.sub(pattern, plain, text)
    number = _taken_off(_SUPERSCRIPT.sub("", text))
    if re.match(r"[-+]?\.?\d", number):
        return f"{BOLD}{number}" if is_bold else number
    return _taken_off(text)


def _taken_off(text: str) -> str:
    """Return the text without commands, whose arguments stay, and braces."""
    while (shorter := re.sub(r"\\[a-zA-Z]+\*?(?:\[[^]]*\])?\{([^{}]*)\}", r"\1", text)) != text:
        text = shorter
    return " ".join(re.sub(r"\\[a-zA-Z]+|[{}]", "", text).split())
