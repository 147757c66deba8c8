"""`sweeps/COMMANDS.md` is what the commands say of themselves. `GOLDEN=write` writes it again."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from harness.__main__ import COMMANDS, module_of
from harness.records.help_text import filled
from harness.report.commands import COMMANDS as REPORT_COMMANDS

PAGE = Path(__file__).parents[1] / "sweeps" / "COMMANDS.md"
HEAD = """# Commands

`harness` without a subcommand runs a comparison; `harness --help` lists its settings. Everything below is `harness
COMMAND --help`; `python -m harness.COMMAND` is the same. Exit codes: 0 done, 1 something failed (`review`: a
fault; `report look`: something undecided), 2 the input was wrong and nothing was started, 3 the rows cannot be compared
(`report`) or no run is left to take (`sweep next`), 130, 140 and 143 ended by an interrupt, SIGUSR2 or SIGTERM (the
same command goes on).
"""


@pytest.fixture
def help_of(monkeypatch, capsys):
    """What a command prints when it is asked for help, 100 columns wide."""
    monkeypatch.setenv("COLUMNS", "100")

    def printed(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            import_module(module_of(words[0])).main([*words[1:], "--help"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    return printed


def commands(help_of):
    """Every command and subcommand with its help."""
    for name in COMMANDS:
        text = help_of(name)
        yield name, text
        listed = re.findall(r"^    ([a-z]+)(?: {2,}|$)", text, re.MULTILINE)
        for below in REPORT_COMMANDS if name == "report" else listed:
            yield f"{name} {below}", help_of(name, below)


def test_no_help_is_wider_than_a_terminal_of_80_columns(help_of, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    helps = {"": application_help(), **dict(commands(help_of))}
    wide = {name: line for name, text in helps.items() for line in text.splitlines() if len(line) > 80}
    assert len(helps) >= 26
    assert wide == {}


def application_help() -> str:
    done = subprocess.run([sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, check=True)
    assert "\nmethod: adalora, " in done.stdout
    return done.stdout


TEXT = """\
A paragraph of several words,
which goes on.

  harness plan one=1 two=2 three=3 four=4
  some names that stand in a list of
  term          what it is, in words
                that go on
  a command=1 that=2 is=3 long=4  what it is for, in some words
    an indented line
Another one.
"""


def test_paragraphs_lists_and_commands_are_wrapped_as_what_they_are():
    assert filled(TEXT, 100) == [
        "A paragraph of several words, which goes on.",
        "",
        "  harness plan one=1 two=2 three=3 four=4",
        "  some names that stand in a list of",
        "  term          what it is, in words that go on",
        "  a command=1 that=2 is=3 long=4  what it is for, in some words",
        "    an indented line",
        "Another one.",
    ]
    assert filled(TEXT, 48)[2:6] == [
        "  harness plan one=1 two=2 three=3 four=4",
        "  some names that stand in a list of",
        "  term          what it is, in words that go on",
        "  a command=1 that=2 is=3 long=4",
    ]
    assert filled(TEXT, 30)[5:7] == ["  some names that stand in a", "      list of"]
    assert filled(TEXT, 36) == [
        "A paragraph of several words, which",
        "goes on.",
        "",
        "  harness plan one=1 two=2 three=3 \\",
        "      four=4",
        "  some names that stand in a list of",
        "  term",
        "      what it is, in words that go",
        "      on",
        "  a command=1 that=2 is=3 long=4",
        "      what it is for, in some words",
        "    an indented line",
        "Another one.",
    ]
    words = [word for word in TEXT.split() if word != "\\"]
    for width in range(12, 120):
        lines = filled(TEXT, width)
        assert [word for line in lines for word in line.split() if word != "\\"] == words
        assert all(len(line) <= width or len(line.removesuffix(" \\").split()) == 1 for line in lines)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse writes options in another form from Python 3.13 on")
def test_the_page_is_what_the_commands_say(help_of):
    found = dict(commands(help_of))
    parts = [f"## harness {name}\n\n```\n{text.strip()}\n```\n" for name, text in found.items()]
    page = "\n".join([HEAD, *parts])
    if os.environ.get("GOLDEN") == "write":
        PAGE.write_text(page)
    assert len(found) >= 25
    assert page == PAGE.read_text()
