"""`sweeps/COMMANDS.md` is what the commands say of themselves. `GOLDEN=write` writes it again."""

import os
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from harness.__main__ import COMMANDS, module_of
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


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse writes options in another form from Python 3.13 on")
def test_the_page_is_what_the_commands_say(help_of):
    found = dict(commands(help_of))
    parts = [f"## harness {name}\n\n```\n{text.strip()}\n```\n" for name, text in found.items()]
    page = "\n".join([HEAD, *parts])
    if os.environ.get("GOLDEN") == "write":
        PAGE.write_text(page)
    assert len(found) >= 25
    assert page == PAGE.read_text()
