"""Differences between the files of a report and those made again: the byte, or the number with its line and column."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from harness.records.untrusted import shortened
from harness.report.archive import NAME
from harness.report.writers import manifest

NUMBER = re.compile(r"(?<![\w.])[-+\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TEXT = (".md", ".tex", ".csv", ".bib", ".cff", ".html", ".svg")
_NOT_COMPARED = (NAME, manifest.NAME)
_MOST = 3  # differences that are listed of one file


def files(folder: Path) -> dict[str, Path]:
    """Return the files of a report by their names, without the archive and the list of digests."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if name not in _NOT_COMPARED}


def numbers(folder: Path) -> int:
    """Return how many numbers the text files of a report hold; pictures and the page's own scripts do not count."""
    texts = (path for name, path in files(folder).items() if name.endswith(_TEXT[:-2]))
    return sum(len(NUMBER.findall(path.read_text(encoding="utf-8"))) for path in texts)


def between(given: Path, made: Path) -> Iterator[str]:
    """Yield a line for each difference between a report's folder and the report that its records give."""
    theirs, ours = files(given), files(made)
    yield from (f"{name}: missing; the records give such a file" for name in ours if name not in theirs)
    yield from (f"{name}: extra; no file of this report" for name in theirs if name not in ours)
    for name in ours:
        if name in theirs:
            yield from _of_file(name, theirs[name], ours[name])
    if manifest.stated(given) != manifest.stated(made):
        yield f"{manifest.NAME}: its digests are not those of the files that the records give"


def _of_file(name: str, given: Path, made: Path) -> Iterator[str]:
    if given.is_symlink() or not given.is_file():
        yield f"{name}: a link or something else than a file"
        return
    first, second = given.read_bytes(), made.read_bytes()
    if first == second:
        return
    lines = [*_of_lines(name, first, second)] if name.endswith(_TEXT) else []
    yield from (f"{name}: {line}" for line in lines[:_MOST] or [_of_bytes(first, second)])
    if len(lines) > _MOST:
        yield f"{name}: and {len(lines) - _MOST} more lines"


def _of_bytes(given: bytes, made: bytes) -> str:
    same = next((place for place, pair in enumerate(zip(given, made, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(given), len(made)) if same is None else same
    return f"byte {place + 1:,} differs; {len(given):,} bytes, and the records give {len(made):,}"


def _of_lines(name: str, given: bytes, made: bytes) -> Iterator[str]:
    first, second = (text.decode("utf-8", errors="replace").split("\n") for text in (given, made))
    header = next(csv.reader(io.StringIO(second[0])), []) if name.endswith(".csv") else []
    if len(first) == len(second):
        pairs = [(place, place + 1, place, place + 1) for place in range(len(first)) if first[place] != second[place]]
    else:
        matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
        pairs = [(a, b, c, d) for kind, a, b, c, d in matcher.get_opcodes() if kind != "equal"]
    for begin, end, start, stop in pairs:
        for offset, (old, new) in enumerate(zip_longest(first[begin:end], second[start:stop])):
            yield f"line {begin + offset + 1}{_change(old, new, header)}"


def _change(given: str | None, made: str | None, header: list[str]) -> str:
    """Return how a line differs: by its numbers where nothing else does."""
    if given is None or made is None:
        return f": {'missing' if given is None else 'extra'}: {shortened((made if given is None else given) or '')!r}"
    if header:
        return _cells(given, made, header)
    theirs, ours = NUMBER.findall(given), NUMBER.findall(made)
    if len(theirs) == len(ours) and NUMBER.sub("", given) == NUMBER.sub("", made):
        changed = [pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]]
        return ": " + ", ".join(f"{old} stands there, the records give {new}" for old, new in changed[:_MOST])
    place = next((i for i, pair in enumerate(zip(given, made, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, place - 20)
    return f": {shortened(given[start : place + 40])!r} stands there, the records give " + repr(
        shortened(made[start : place + 40])
    )


def _cells(given: str, made: str, header: list[str]) -> str:
    """Return the cells of a line of a CSV file that differ, each with its column."""
    theirs, ours = (next(csv.reader(io.StringIO(line)), []) for line in (given, made))
    changed = [
        f"{column}: {shortened(old or '')} stands there, the records give {shortened(new or '')}"
        for column, old, new in zip_longest(header, theirs, ours, fillvalue="")
        if old != new
    ]
    return f", column {'; '.join(changed[:_MOST])}" if changed else ": other quotes or spaces"
