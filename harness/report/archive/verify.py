"""Verification of a report: every file and every number of it, made again from its archive."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from harness.report.archive import METADATA, NAME, VERSIONS, container, crate, differences, members
from harness.report.archive.container import Members
from harness.report.archive.members import Options
from harness.report.data.items import ScoredEvaluation
from harness.report.data.rows import Loaded, Row

_DESCRIBING = (METADATA, VERSIONS)
_MEANS = ("acc", "acc_norm", "exact_match")  # metrics that are the mean of their items
_ROUNDING = 1e-6


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
            wrong += differences.between(folder, made)
            count, values = len(differences.files(made)), differences.numbers(made)
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
    stated = crate.stated(content)
    actual = {name: sha256(data).hexdigest() for name, data in content.items() if name != METADATA}
    changed = [name for name in sorted(actual.keys() & stated.keys()) if actual[name] != stated[name]]
    yield from (f"{name}: changed since it was packed (SHA-256)" for name in changed)
    yield from (f"{name}: missing" for name in sorted(stated.keys() - actual.keys()))
    yield from (f"{name}: extra; not in {METADATA}" for name in sorted(actual.keys() - stated.keys()))
    own = {name: data for name, data in content.items() if name not in _DESCRIBING}
    again = crate.described(own, options)
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
    yield from (f"{NAME}: {line}" for row in (*loaded.rows, *loaded.trials) for line in _contradictions(row))
    try:
        write_comparison(Comparison(loaded), made)
    except (IncomparableError, ValueError) as error:
        yield f"{NAME}: no report can be made of it: {error}"


def loaded_from(content: Members, options: Options, place: Path) -> Loaded:
    """Unpack an archive below a folder and return its records, with the options of the report.

    Raises:
        ValueError: the sweep is not in it.
    """
    roots = container.unpack(content, place)
    return with_options(roots, options)


def with_options(runs: list[Path], options: Options) -> Loaded:
    """Return the records of runs folders, with the options of the report."""
    from harness.report.analysis.axes import priced
    from harness.report.data.load import load

    loaded = replace(priced(load(runs, options.sweep), options.price), allowed=options.allow)
    return replace(loaded, margin=options.margin or loaded.margin)


def _contradictions(row: Row) -> Iterator[str]:
    """Yield a line for each score that is not the mean of its items."""
    for scored in row.scored:
        for name, given, stated in _means(scored):
            if abs(given - stated) > _ROUNDING * max(1.0, abs(stated)):
                yield (
                    f"{scored.shown}: {scored.task} {name} of {row.label or row.method} seed {row.seed}: the record "
                    f"states {stated:.6g}, its items give {given:.6g}"
                )


def _means(scored: ScoredEvaluation) -> Iterator[tuple[str, float, float]]:
    """Yield (metric, mean of the items, value in the record); a group of tasks may weigh its tasks otherwise."""
    items, stated = scored.items, scored.record.metrics
    if items is None or items.tasks is not None:
        return
    for name in _MEANS:
        if name in items.outcomes and name in stated:
            yield name, float(items.outcomes[name].mean()), stated[name].value
    if scored.heldout and "nll" in items.outcomes and items.num_tokens is not None and "loss" in stated:
        yield "loss", float(items.outcomes["nll"].sum() / items.num_tokens.sum()), stated["loss"].value
