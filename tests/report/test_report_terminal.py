"""The comparison in a real terminal: the widest layout that fits, whole words, whole numbers, nothing over the edge."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

WIDTHS = (60, 80, 100, 140, 200)
SCRIPT = (
    "import sys; from harness.report import load; from harness.report.writers.terminal import show; "
    "show(load(sys.argv[1], 'tuned'))"
)


def screen(runs, width: int) -> list[str]:
    """Lines of a terminal of this width, without escape sequences."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(runs)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side has closed
                break
            if not part:
                break
            written += part
        assert process.wait(timeout=120) == 0, written.decode()[-2000:]
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r", "").split("\n")


@pytest.fixture(scope="module")
def screens(tuned_report):
    return {width: screen(tuned_report.parent / "runs", width) for width in WIDTHS}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_fits_and_every_row_stands_on_one_line(screens, width):
    lines = screens[width]
    assert max(map(len, lines)) <= width
    for name in ("Base model", "LoRA", "DoRA\N{DOUBLE DAGGER}", "(IA)\u00b3\N{DOUBLE DAGGER}", "VeRA"):
        rows = [line for line in lines if re.match(rf"{re.escape(name)}[\u1d43\u1d47]? ", line)]
        assert rows, name
    score = re.compile(r"LoRA +\d\d\.\d")
    assert any(score.match(line) for line in lines)


def test_more_columns_appear_as_the_terminal_grows(screens):
    heads = {width: " ".join(lines[:4]) for width, lines in screens.items()}
    seen = {
        width: [name for name in ("ARC-e", "Avg.", "Memory", "Params", "Time", "OBQA", "PIQA", "HSwag") if name in text]
        for width, text in heads.items()
    }
    assert seen[60][:3] == ["ARC-e", "Avg.", "Memory"]
    counts = [len(seen[width]) for width in WIDTHS]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert len(seen[200]) == 8
    errors = {width: any("\N{PLUS-MINUS SIGN}" in line for line in lines) for width, lines in screens.items()}
    assert not errors[60] and not errors[80] and errors[200]


@pytest.mark.parametrize("width", WIDTHS)
def test_sentences_break_between_words_and_hang(screens, width):
    text = " ".join(" ".join(screens[width]).replace("\N{NO-BREAK SPACE}", " ").split())
    assert "scored highest on ARC-Easy: " in text
    assert "items and 5 to 6 seeds per method detect a difference of" in text
    bullets = [i for i, line in enumerate(screens[width]) if line.startswith("- ")]
    assert bullets
    following = screens[width][bullets[0] + 1]
    assert following.startswith(("  ", "- "))
