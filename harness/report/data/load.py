"""Records below one or several runs folders -> rows. Nothing is dropped in silence: what cannot be read is named."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from harness.records import data_check, disk, registration
from harness.records.data_check import DataCheck
from harness.records.record import (
    Cell,
    ConvertedRecord,
    EvaluationRecord,
    ExternalRecord,
    InferenceRecord,
    RunRecord,
    SweepRecord,
    UpdateRecord,
    read,
    run_folders,
)
from harness.records.registration import Registration
from harness.report.analysis import axes
from harness.report.data import tuning
from harness.report.data.items import ScoredEvaluation
from harness.report.data.labels import labeled
from harness.report.data.rows import MARGIN, Loaded, Row, setting
from harness.report.display import collected

T = TypeVar("T")
Beside = TypeVar("Beside", UpdateRecord, InferenceRecord, ConvertedRecord)


def load(runs: Sequence[Path], sweep: str | None = None) -> Loaded:
    """Read the rows of a sweep, in its order and base first, or of every run.

    Raises:
        ValueError: a folder is missing, there are no records, or no sweep of that name: lists those there are.
    """
    check_folders(runs)
    problems: list[str] = []
    if sweep is not None:
        return _sweep(runs, _read_sweep(runs, sweep), problems)
    keys = sorted({(folder.parent.name, folder.name) for root in runs for folder in run_folders(root)})
    rows = [row for recipe_id, seed in keys for row in _run_rows(runs, recipe_id, seed, problems)]
    if not rows:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise ValueError(f"no readable records below {_names(runs)}: run `python -m harness` first{listed}")
    return _loaded(labeled(rows, by_value=True), None, runs, problems)


def _loaded(rows: Sequence[Row], sweep: SweepRecord | None, runs: Sequence[Path], problems: list[str]) -> Loaded:
    paths = [(path, root) for root in runs for path in sorted(root.glob("external/*.json"))]
    external = [row for path, root in paths if (row := _read(ExternalRecord, path, root, problems))]
    checks = tuple(_checks(runs, rows, problems))
    return Loaded(
        rows=tuple(rows),
        sweep=sweep,
        unreadable=tuple(dict.fromkeys(problems)),
        external=tuple(external),
        checks=checks,
        margin=(sweep.margin if sweep else None) or MARGIN,
    )


def _checks(runs: Sequence[Path], rows: Sequence[Row], problems: list[str]) -> Iterator[DataCheck]:
    """The checks of the data that the rows were trained on, each once; a row of an older run has none."""
    used = [row.current.data.check for row in rows if row.current and row.current.data and row.current.data.check]
    for check_id in dict.fromkeys(used):
        paths = [(path, root) for root in runs if (path := data_check.path(root, check_id)).is_file()]
        check = next((check for path, root in paths if (check := _read(DataCheck, path, root, problems))), None)
        if check is not None:
            yield check


def _sweep(runs: Sequence[Path], record: SweepRecord, problems: list[str]) -> Loaded:
    """Read the rows of a sweep. With stages, they are the rows of the final stage, beside the trials."""
    cells: dict[object, Cell] = {}
    for cell in record.cells:  # untrained weights have no seed: one row for any number of requested seeds
        cells.setdefault((cell.recipe_id, cell.seed, cell.eval_ids, cell.stage == "tune" and cell.contestant), cell)
    rows = {key: _cell_row(runs, cell, record, problems) for key, cell in cells.items()}
    trials = [rows[key] for key, cell in cells.items() if cell.stage == "tune"]
    results = [rows[key] for key, cell in cells.items() if cell.stage != "tune"]
    fates = [*results, *tuning.fates(record, trials)]  # of contestants without a chosen recipe
    tuned = record.tuning.settings if record.tuning else ()
    marked = axes.with_trials(tuning.marked(labeled(fates, tuned=tuned), record, trials), trials)
    unasked = labeled(list(_unasked(runs, record)))
    registered = _registration(runs, record.name, problems)
    return replace(
        _loaded(marked, record, runs, problems),
        trials=tuple(labeled(trials)),
        unasked=tuple(unasked),
        registration=registered,
    )


def _registration(runs: Sequence[Path], name: str, problems: list[str]) -> Registration | None:
    """Read the first registration of the sweep; an edited one is ignored and listed as a problem."""
    for root in runs:
        file = registration.path(root, name)
        try:
            if (made := registration.read(file)) is not None:
                return made
        except (OSError, ValueError) as error:
            problems.append(str(error).splitlines()[0].replace(str(file), _below(file, root)))
    return None


def _unasked(runs: Sequence[Path], record: SweepRecord) -> Iterator[Row]:
    """Yield the runs of the sweep's recipes with seeds that it does not ask for; untrained weights have none."""
    wanted = {(cell.recipe_id, f"seed-{cell.seed}") for cell in record.cells}
    for recipe_id in dict.fromkeys(cell.recipe_id for cell in record.cells if cell.method != "base"):
        seeds = {path.name for root in runs for path in root.glob(f"{recipe_id}/seed-*") if path.is_dir()}
        for seed in sorted(seeds):
            if (recipe_id, seed) not in wanted and (row := _read_run(runs, recipe_id, seed, [])):
                yield row


def check_folders(runs: Sequence[Path]) -> None:
    """Raise ValueError for a runs folder that is not there."""
    if missing := [str(root) for root in runs if not root.is_dir()]:
        raise ValueError(f"no such runs folder: {', '.join(missing)}. Give the folder that holds <recipe_id>/seed-<n>/")


def only_sweep(runs: Sequence[Path], name: str | None) -> str | None:
    """Return the named sweep, else the only one that there is; None where there is none.

    Raises:
        ValueError: there are several, and none was named.
    """
    every = sweep_names(runs) if name is None else [name]
    if len(every) > 1:
        raise ValueError(f"there are {len(every)} sweeps: add --sweep, one of {', '.join(every)}")
    return every[0] if every else None


def sweep_names(runs: Sequence[Path]) -> list[str]:
    """The names of the sweeps below the runs folders."""
    return sorted({path.parent.name for root in runs for path in root.glob("sweeps/*/sweep.json")})


def _read_sweep(runs: Sequence[Path], name: str) -> SweepRecord:
    """Read the sweep's record, with the cells of every folder that holds a sweep of that name."""
    paths = [root / "sweeps" / name / "sweep.json" for root in runs]
    if name not in sweep_names(runs):
        there = ", ".join(sweep_names(runs)) or "none yet; `harness -m sweep=NAME` starts one of sweeps/"
        raise ValueError(f"no sweep {name!r} below {_names(runs)}: there is {there}")
    records = [read(SweepRecord, path) for path in paths if disk.kind(path) != "missing"]
    return replace(
        records[0],
        cells=tuple(cell for record in records for cell in record.cells),
        already_done=tuple(done for record in records for done in record.already_done),
    )


def _cell_row(runs: Sequence[Path], cell: Cell, sweep: SweepRecord, problems: list[str]) -> Row:
    """The row of one requested run, with exactly the evaluations that the sweep requests."""
    run = f"{cell.recipe_id}/seed-{cell.seed}"
    damaged: list[str] = []
    row = _read_run(runs, cell.recipe_id, f"seed-{cell.seed}", damaged)
    problems += damaged
    if row is None:
        reason = "the record cannot be read" if damaged else "no record: the run did not start or is not finished"
        row = Row(method=cell.method, recipe_id=cell.recipe_id, seed=cell.seed, record=None, problem=reason)
    scored_by_id = {scored.record.eval_id: scored for scored in row.scored}
    if row.status == "ok":
        problems += [
            f"{run}/evaluations/{i}.json: asked for, not there or not of the current weights"
            for i in cell.eval_ids
            if i not in scored_by_id
        ]
    wanted = tuple(scored_by_id[i] for i in cell.eval_ids if i in scored_by_id)
    return replace(row, scored=wanted, cell=cell, overrides=cell.overrides, already_done=run in sweep.already_done)


def _run_rows(runs: Sequence[Path], recipe_id: str, seed: str, problems: list[str]) -> Iterator[Row]:
    """One row per evaluation setting of a run; held-out losses, which have no few-shot setting, are in each."""
    row = _read_run(runs, recipe_id, seed, problems)
    if row is None:
        return
    tasks = _by_setting([s for s in row.scored if not s.heldout])
    heldout = _by_setting([s for s in row.scored if s.heldout])
    pairs = [(h, t) for h, t in product(heldout, tasks) if _same_numerics(h, t)] or list(product(heldout, tasks))
    for losses, scores in pairs:
        yield replace(row, scored=(*losses, *scores))


def _read_run(runs: Sequence[Path], recipe_id: str, seed: str, problems: list[str]) -> Row | None:
    """A run from the first folder that holds its record, with the current evaluations of every folder."""
    record: RunRecord | None = None
    by_id: dict[str, ScoredEvaluation] = {}
    for root in runs:
        folder = root / recipe_id / seed
        listed = disk.sums(folder)
        other = _read(RunRecord, folder / "record.json", root, problems) if folder.is_dir() else None
        if other:
            _note_changed(folder / "record.json", folder, root, listed, problems)
        if other and (other.recipe_id, f"seed-{other.seed}") != (recipe_id, seed):
            problems.append(f"{recipe_id}/{seed}/record.json: is the record of {other.recipe_id}/seed-{other.seed}")
        elif other and record and other != record:
            problems.append(f"{recipe_id}/{seed}/record.json: another one of the same run in {root}, left out")
        else:
            record = record or other
        for path in sorted(folder.glob("evaluations/*.json")):
            score = _read(EvaluationRecord, path, root, problems)
            if score and _misplaced(score, path):
                problems.append(f"{_below(path, root)}: {_misplaced(score, path)}")
            elif score and score.eval_id not in by_id:
                items = path.with_suffix(".parquet")
                _note_changed(path, folder, root, listed, problems)
                if _note_changed(items, folder, root, listed, problems):
                    continue
                by_id[score.eval_id] = ScoredEvaluation(score, items, _below(items, root))
    if record is None:
        return None
    fresh = [scored for scored in by_id.values() if _is_current(scored.record, record)]
    scored = tuple(sorted(fresh, key=lambda s: _position(s, record)))
    folders = [root / recipe_id / seed for root in runs]
    return Row(
        method=record.method,
        recipe_id=recipe_id,
        seed=record.seed,
        record=record,
        scored=scored,
        price=record.config.get("price_per_device_hour"),
        converted=_beside(ConvertedRecord, "converted.json", folders, record),
        update=_beside(UpdateRecord, "update.json", folders, record),
        inference=_beside(InferenceRecord, "inference.json", folders, record),
        replaced=replaced(folders),
        test_reads=test_reads(folders, [evaluation.record for evaluation in scored]),
    )


def _beside(kind: type[Beside], name: str, folders: Sequence[Path], record: RunRecord) -> Beside | None:
    """Read the record beside the run's that is of its current weights; an unreadable one counts as not measured."""
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            made = read(kind, folder / name)
            if made.weights_from == record.current.weights_from:
                return made
    return None


def _misplaced(score: EvaluationRecord, path: Path) -> str:
    """Return why an evaluation is not the one that its place says; "" where it is."""
    place = (path.parents[2].name, path.parents[1].name, path.stem)
    own = (score.recipe_id, f"seed-{score.seed}", score.eval_id)
    return "" if own == place else f"is the evaluation {own[2]} of {own[0]}/{own[1]}, left out"


def _is_current(score: EvaluationRecord, record: RunRecord) -> bool:
    """Return whether the evaluated weights are the current ones of the run."""
    current = record.current
    if current.interrupted and current.stopped != "training":
        return score.weights_from == current.weights_from
    if current.status != "ok" and score.weights_from is not None:
        return score.weights_from == current.started_at  # a failed attempt does not inherit the scores of an older one
    return score.weights_from == current.weights_from


def _position(scored: ScoredEvaluation, record: RunRecord) -> tuple[Any, ...]:
    """Held-out first, then the tasks in the order in which the run's configuration names them."""
    order = [*(record.config.get("eval") or {}).get("tasks", [])]
    place = order.index(scored.task) if scored.task in order else len(order)
    limit = scored.record.evaluation["limit"]
    return (not scored.heldout, scored.role != "validation", place, scored.task, limit is None, limit or 0)


def _by_setting(scored: list[ScoredEvaluation]) -> list[list[ScoredEvaluation]]:
    """Evaluations of one setting each; one empty list where there are none."""
    groups = collected((json.dumps(setting(evaluation), sort_keys=True), evaluation) for evaluation in scored)
    return [groups[key] for key in sorted(groups)] or [[]]


def _same_numerics(a: list[ScoredEvaluation], b: list[ScoredEvaluation]) -> bool:
    """Return whether both have the same numerical settings; a setting that one of them lacks is ignored."""
    if not a or not b:
        return True
    if a[0].weights != b[0].weights:
        return False
    keys = ("precision", "batch_size", "batch_tokens")
    pairs = [[side[0].record.evaluation.get(key) for side in (a, b)] for key in keys]
    return all(x == y or x is None or y is None for x, y in pairs)


def _read(kind: type[T], path: Path, root: Path, problems: list[str]) -> T | None:
    try:
        return read(kind, path)
    except FileNotFoundError:
        problems.append(f"{_below(path, root)}: not there, the run did not finish")
    except (OSError, ValueError) as error:
        problems.append(str(error).splitlines()[0].replace(str(path), _below(path, root)))
    return None


def _note_changed(path: Path, folder: Path, root: Path, listed: disk.Sums, problems: list[str]) -> bool:
    """Note a file whose content is not the one that was written; return True if it is so.

    A record that can still be read stays in the report, since its author may have edited it; a table of items does not.
    """
    try:
        disk.check(path, path.relative_to(folder).as_posix(), listed)
    except FileNotFoundError:
        return False  # named by who misses it
    except (OSError, ValueError) as error:
        problems.append(str(error).replace(str(path), _below(path, root)))
        return True
    return False


def _below(path: Path, root: Path) -> str:
    """Return the path below the runs folder, which is the same wherever that folder lies."""
    return path.relative_to(root).as_posix()


def _names(runs: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in runs)


def replaced(folders: Sequence[Path]) -> tuple[EvaluationRecord, ...]:
    """The evaluations of the weights before the current ones, as they lie in `earlier/<n>/` of a run's folders.

    What cannot be read is left out: no number of a report rests on it.
    """
    evaluations: list[EvaluationRecord] = []
    for folder in folders:
        numbers = [int(path.name) for path in folder.glob("earlier/*") if path.name.isdecimal()]
        if numbers:
            evaluations += _readable(folder / "earlier" / str(max(numbers)))
    return tuple(evaluations)


def test_reads(folders: Sequence[Path], current: Sequence[EvaluationRecord]) -> int:
    """Return how many weights of a run have been tested: the present ones, and those in `earlier/<n>/`.

    A target task is a test as well as the held-out test rows are.
    """
    reads = int(any(_reads_test(sweep) for sweep in current))
    for folder in folders:
        for path in folder.glob("earlier/*"):
            reads += any(_reads_test(earlier) for earlier in _readable(path))
    return reads


def _reads_test(evaluation: EvaluationRecord) -> bool:
    return evaluation.evaluation.get("role") in ("test", "target")


def _readable(folder: Path) -> Iterator[EvaluationRecord]:
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            yield read(EvaluationRecord, path)
