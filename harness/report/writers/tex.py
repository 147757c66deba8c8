r"""Foreign text as LaTeX that shows it and does nothing else: pure ASCII, which sets in OT1 and T1 alike."""

import re
import unicodedata
from textwrap import wrap

from harness.records.untrusted import printable

UNBROKEN = 22  # characters of a word that stay together
_LISTING = 44  # characters of a line of a listing: those of a column of 3 inches in the scriptsize of 11 pt
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedblright{}", "`": r"\`{}", "[": "{[}", "]": "{]}", "*": "{*}",
    "\N{NO-BREAK SPACE}": "~", "\N{EN DASH}": "--", "\N{EM DASH}": "---", "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": "`", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``", "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\u00df": r"\ss{}", "\u00f8": r"\o{}", "\u00d8": r"\O{}", "\u00e6": r"\ae{}", "\u00c6": r"\AE{}",
    "\u0153": r"\oe{}", "\u0152": r"\OE{}", "\u0142": r"\l{}", "\u0141": r"\L{}", "\u0131": r"\i{}",
}  # fmt: skip
_MATHEMATICS = {
    "\N{PLUS-MINUS SIGN}": r"\pm", "\N{MINUS SIGN}": "-", "\N{MULTIPLICATION SIGN}": r"\times",
    "\N{DAGGER}": r"\dagger", "\N{DOUBLE DAGGER}": r"\ddagger", "\N{INFINITY}": r"\infty",
    "\N{LESS-THAN OR EQUAL TO}": r"\le", "\N{GREATER-THAN OR EQUAL TO}": r"\ge", "\N{DEGREE SIGN}": r"^{\circ}",
    "\N{UPWARDS ARROW}": r"\uparrow", "\N{DOWNWARDS ARROW}": r"\downarrow", "\N{MICRO SIGN}": r"\mu",
    "\N{RIGHTWARDS ARROW}": r"\rightarrow", "\N{GREEK SMALL LETTER ALPHA}": r"\alpha",
    "\N{GREEK SMALL LETTER BETA}": r"\beta", "\N{GREEK CAPITAL LETTER DELTA}": r"\Delta",
    "\N{SUPERSCRIPT ONE}": "^1", "\N{SUPERSCRIPT TWO}": "^2", "\N{SUPERSCRIPT THREE}": "^3",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


def escape(text: str) -> str:
    """Return foreign text as one line of LaTeX; letters that need a package are shown by their code points."""
    return "".join(_character(character) for character in _line(text).replace("--", "-\0-")).replace("\0", "{}")


def breakable(text: str) -> str:
    """Return `escape`, with line breaks allowed in long words, after a comma, an underscore, a slash or anywhere."""
    return " ".join(_breakable(word) for word in _line(text).split(" "))


def listing(text: str) -> str:
    """Return text as a verbatim listing, long lines broken; other scripts by their code points."""
    lines = [part for line in text.splitlines() for part in (wrap(line, _LISTING, drop_whitespace=False) or [""])]
    plain = "\n".join(printable(line).encode("ascii", "backslashreplace").decode() for line in lines)
    inside = re.sub(r"\\end\s*\{verbatim", r"\\end {verbatim", plain)  # the listing cannot be left
    return f"{{\\scriptsize\n\\begin{{verbatim}}\n{inside}\n\\end{{verbatim}}}}"


def _line(text: str) -> str:
    return " ".join(re.split(r"[ \t\r\n\f\v]+", printable(text))).strip()


def _breakable(word: str) -> str:
    if len(word) <= UNBROKEN:
        return escape(word)
    pieces = [piece for part in re.findall(r"[^,_/]*[,_/]|[^,_/]+", word) for piece in wrap(part, UNBROKEN)]
    return r"\allowbreak{}".join(map(escape, pieces))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character in _MATHEMATICS:
        return f"${_MATHEMATICS[character]}$"
    if character.isascii():
        return character
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
        return rf"\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return rf"\texttt{{U+{ord(character):04X}}}"
