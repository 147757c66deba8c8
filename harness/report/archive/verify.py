"""Verification of a report: every file and every number of it, made again from its archive and compared.

The cheapest run of the archive can be trained once more as well, by the public command, and compared with its record.
"""

import csv
import difflib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from statistics import fmean

from harness.records.evaluation import GRADED
from harness.records.record import RunRecord, Training, read
from harness.records.untrusted import shortened
from harness.report.archive import METADATA, NAME, VERSIONS, container, members
from harness.report.archive.container import Members
from harness.report.archive.members import Options
from harness.report.data.items import contradictions
from harness.report.data.rows import Loaded, Row
from harness.report.writers import manifest

_DESCRIBING = (METADATA, VERSIONS)
_MEANS = ("acc", "acc_norm", "exact_match", *GRADED)  # metrics that are the mean of their items
NUMBER = re.compile(r"(?<![\w.])[-+\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TEXT = (".md", ".tex", ".csv", ".bib", ".cff", ".html", ".svg")
_NOT_COMPARED = (NAME, manifest.NAME)
_MOST = 3  # differences that are listed of one file
TOLERANCE = 0.02  # relative, of losses on another processor or with other libraries; chosen, not measured
# Where these are equal, losses repeat to the bit
_MACHINE = ("device_name", "cpu_bfloat16_units", "threads", "num_processes", "python", "versions")
_WORD = re.compile(r"\+{0,2}([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
# Settings under which code that came with an archive would run, and their values without that
_PERMISSIONS = {"model.trust_remote_code": "false", "eval.unsafe_code": "false", "eval.include_path": "null"}
# Settings that are this command's own, and the question, which would run all of the sweep's cells
_OWN = {"sweep", "runs_dir", "reports_dir", "tracking", "eval.test", "force", "keep"}


@dataclass(frozen=True)
class Verdict:
    """Result of a verification.

    Attributes:
        wrong: a line for each difference; none: the report is the one that the records give.
        files: files of the report that were made again.
        numbers: numbers in them.
        records: records in the archive.
        libraries: libraries whose version is another one than that which wrote the report.
    """

    wrong: tuple[str, ...]
    files: int
    numbers: int
    records: int
    libraries: tuple[str, ...]


def verify(folder: Path) -> Verdict:
    """Make the report again from `records.zip` in its folder, and compare all of it.

    Raises:
        ValueError: there is no archive in the folder, or it is refused.
    """
    archive = folder / NAME
    if not archive.is_file():
        raise ValueError(f"{archive}: not there; `harness report pack` makes it")
    content = container.read(archive)
    options = members.options_of(content, archive)
    with tempfile.TemporaryDirectory(prefix="harness-verify-") as place:
        made = Path(place) / "report"
        wrong = [f"{NAME}: {line}" for line in _changed_members(content, options)]
        wrong += _remade(content, options, Path(place), made)
        if made.is_dir():
            wrong += differences(folder, made)
            count, values = len(report_files(made)), count_numbers(made)
        else:
            count, values = 0, 0
    here = members.installed()
    other = tuple(
        f"{name} {value or 'unknown'}, here {here.get(name) or 'not installed'}"
        for name, value in sorted(options.made_with.items())
        if here.get(name) != value
    )
    records = sum(name.endswith(".json") for name in content)
    return Verdict(tuple(wrong), count, values, records, other)


def _changed_members(content: Members, options: Options) -> Iterator[str]:
    """Yield a line for each member that is not the one that was packed."""
    stated = members.stated(content)
    actual = {name: sha256(data).hexdigest() for name, data in content.items() if name != METADATA}
    changed = [name for name in sorted(actual.keys() & stated.keys()) if actual[name] != stated[name]]
    yield from (f"{name}: changed since it was packed (SHA-256)" for name in changed)
    yield from (f"{name}: missing" for name in sorted(stated.keys() - actual.keys()))
    yield from (f"{name}: extra; not in {METADATA}" for name in sorted(actual.keys() - stated.keys()))
    own = {name: data for name, data in content.items() if name not in _DESCRIBING}
    again = members.described(own, options)
    if changed or stated.keys() != actual.keys():
        return
    yield from (f"{name}: not what the records give" for name in _DESCRIBING if again[name] != content.get(name))


def _remade(content: Members, options: Options, place: Path, made: Path) -> Iterator[str]:
    """Write the report into `made`, and yield a line for each record that contradicts itself or cannot be read."""
    from harness.report import write_comparison
    from harness.report.analysis.comparable import IncomparableError
    from harness.report.analysis.comparison import Comparison

    try:
        loaded = loaded_from(content, options, place)
    except ValueError as error:
        yield f"{NAME}: no report can be made of it: {error}"
        return
    for row in (*loaded.rows, *loaded.trials):
        for scored in row.scored:
            yield from (
                f"{NAME}: {scored.shown}: {scored.task} {metric} of {row.label or row.method} seed {row.seed}: the "
                f"record states {stated:.6g}, its items give {given:.6g}"
                for metric, stated, given in contradictions(scored)
                if metric in _MEANS or scored.heldout
            )
    try:
        write_comparison(Comparison(loaded), made)
    except (IncomparableError, ValueError) as error:
        yield f"{NAME}: no report can be made of it: {error}"


def loaded_from(content: Members, options: Options, place: Path) -> Loaded:
    """Unpack an archive below a folder and return its records, with the options of the report.

    Raises:
        ValueError: the sweep is not in it.
    """
    from harness.report.analysis.axes import priced
    from harness.report.data.load import load

    loaded = load(container.unpack(content, place), options.sweep)
    return replace(priced(loaded, options.price), allowed=options.allow, margin=options.margin or loaded.margin)


def report_files(folder: Path) -> dict[str, Path]:
    """Return the files of a report by their names, without the archive and the list of digests."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if name not in _NOT_COMPARED}


def count_numbers(folder: Path) -> int:
    """Return how many numbers the text files of a report hold; pictures and the page's own scripts do not count."""
    texts = (path for name, path in report_files(folder).items() if name.endswith(_TEXT[:-2]))
    return sum(len(NUMBER.findall(path.read_text(encoding="utf-8"))) for path in texts)


def differences(given: Path, made: Path) -> Iterator[str]:
    """Yield a line for each difference between a report's folder and the report that its records give."""
    theirs, ours = report_files(given), report_files(made)
    yield from (f"{name}: missing; the records give such a file" for name in ours if name not in theirs)
    yield from (f"{name}: extra; no file of this report" for name in theirs if name not in ours)
    for name in ours:
        if name in theirs:
            yield from _of_file(name, theirs[name], ours[name])
    if manifest.stated(given).get("files") != manifest.stated(made).get("files"):
        yield f"{manifest.NAME}: its digests are not those of the files that the records give"


def _of_file(name: str, given: Path, made: Path) -> Iterator[str]:
    if given.is_symlink() or not given.is_file():
        yield f"{name}: a link or something else than a file"
        return
    first, second = given.read_bytes(), made.read_bytes()
    if first == second:
        return
    lines = [*_of_lines(name, first, second)] if name.endswith(_TEXT) else []
    yield from (f"{name}: {line}" for line in lines[:_MOST] or [_byte(first, second)])
    if len(lines) > _MOST:
        yield f"{name}: and {len(lines) - _MOST} more lines"


def _byte(given: bytes, made: bytes) -> str:
    """Return the place of the first byte that differs, and both lengths."""
    place = next((i for i, (a, b) in enumerate(zip(given, made, strict=False)) if a != b), min(len(given), len(made)))
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


def cheapest(loaded: Loaded) -> Row:
    """Return the run with the fewest seconds of training.

    Raises:
        ValueError: no run was trained.
    """
    trained = [
        (row.training.train_seconds, row.recipe_id, row.seed, row)
        for row in (*loaded.rows, *loaded.trials)
        if row.cell and row.status == "ok" and row.training and row.training.train_seconds
    ]
    if not trained:
        raise ValueError("--retrain: the archive holds no run that was trained")
    return min(trained, key=lambda entry: entry[:3])[-1]


def retrain_words(row: Row, folder: Path) -> list[str]:
    """Return the command's overrides that train a run again below a folder, without its evaluations on test data.

    Raises:
        ValueError: its data or model were a file of the author's, whose place was removed, or a word may run code.
    """
    assert row.cell is not None, "only runs of a sweep are trained again"
    own = [word for word in row.cell.overrides if word.lstrip("+~").partition("=")[0] not in _OWN]
    if hidden := [word for word in own if word.partition("=")[2].startswith("path-")]:
        raise ValueError(f"--retrain: {hidden[0]}: a file of the author's, which is not in the archive")
    if unsafe := [word for word in own if _may_run_code(word)]:
        raise ValueError(f"--retrain: {unsafe[0]}: may run code that came with the archive, which is not done")
    settings = ["tracking=none", "eval.test=never", "keep=none"]
    return [*own, *settings, f"runs_dir={folder / 'runs'}", f"reports_dir={folder / 'reports'}"]


def retrain_environment(row: Row) -> dict[str, str]:
    """Return the environment in which a run is trained again: with as many threads, which decide the last bits.

    Trials share the cores, so that their numbers of threads are not that of a run that comes alone.
    """
    threads = row.made_with.get("threads")
    if row.made_with.get("device") != "cpu" or not isinstance(threads, int) or "OMP_NUM_THREADS" in os.environ:
        return dict(os.environ)
    return {**os.environ, "OMP_NUM_THREADS": str(min(threads, len(os.sched_getaffinity(0))))}


def _may_run_code(word: str) -> bool:
    """Return whether a word of somebody else's record is an option, of Hydra's own settings, or a permission."""
    match = _WORD.fullmatch(word)
    if match is None:
        return True
    setting, value = match[1], match[2].strip("'\"").lower()
    of_hydra = setting.partition(".")[0] == "hydra" or "_target_" in word
    return of_hydra or value != _PERMISSIONS.get(setting, value)


def retrained(row: Row, folder: Path) -> RunRecord:
    """Train a run again and return its new record.

    Raises:
        ValueError: the command fails, or makes another recipe than the archive's.
    """
    command = [sys.executable, "-m", "harness", *retrain_words(row, folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=retrain_environment(row))
    place = folder / "runs" / row.recipe_id / f"seed-{row.seed}" / "record.json"
    if place.is_file():
        return read(RunRecord, place)
    if done.returncode:
        lines = [line for line in (*done.stdout.splitlines(), *done.stderr.splitlines()) if line.strip()]
        raise ValueError(f"--retrain: the run ended with {done.returncode}: {shortened(' '.join(lines[-3:]), 400)}")
    made = sorted(path.parent.name for path in (folder / "runs").glob("*/seed-*"))
    raise ValueError(
        f"--retrain: the recipe is {row.recipe_id} in the archive and {', '.join(made) or 'none'} here: the model, the "
        "data or a default of this program is another one"
    )


def retrained_differences(recorded: RunRecord, made: RunRecord) -> tuple[list[str], str]:
    """Return (a line for each difference, how the losses were compared)."""
    old, new = recorded.current, made.current
    if new.training is None or old.training is None:
        return [f"it ended as {new.status} here ({new.reason}), and as {old.status} in the record"], "not compared"
    others = [key.replace("_", " ") for key in _MACHINE if old.provenance.get(key) != new.provenance.get(key)]
    losses = [*zip(old.training.losses, new.training.losses, strict=False)]
    if len(old.training.losses) != len(new.training.losses):
        return [f"{len(new.training.losses)} steps here, {len(old.training.losses)} in the record"], "by number"
    if not others:
        how = f"{len(losses)} losses to the bit: processor and libraries are those of the record"
        first = next((step for step, pair in enumerate(losses, 1) if pair[0] != pair[1]), None)
        if first is None:
            return [], how
        return [f"loss of step {first}: {losses[first - 1][1]} here, {losses[first - 1][0]} in the record"], how
    how = f"losses within {TOLERANCE:.0%}, since {', '.join(others)} differ from the record's"
    sides = zip(
        ("first loss", "mean loss", "validation loss"), _losses(old.training), _losses(new.training), strict=True
    )
    beyond = [
        f"{name}: {after:.6g} here, {before:.6g} in the record"
        for name, before, after in sides
        if before is not None and after is not None and abs(after - before) > TOLERANCE * abs(before)
    ]
    return beyond, how


def _losses(training: Training) -> tuple[float | None, float, float | None]:
    """Return the first loss, the mean and the last one on validation rows."""
    present = [loss for loss in training.losses if loss is not None]
    return training.losses[0], fmean(present), training.validation[-1][1] if training.validation else None
