"""A sweep from beginning to end: cells, checks, runs, report. Each step is one function below.

Nothing is started before every cell has been checked: what can be known beforehand is said beforehand.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import config, isolate, provenance, record, run, sources
from harness.cells import Cell, base_of, expand
from harness.experiment import Experiment, canonical, digest, evaluations
from harness.progress import board, ending
from harness.question import Question, recipe_keys, varied
from harness.record import SweepRecord
from harness.tracking import Tracker

Compose = Callable[[Iterable[str]], Any]
_ENOUGH_BYTES = 200 * 2**20  # a LoRA run of the default model writes 20 MB


@dataclass(frozen=True)
class Planned:
    """A cell and what it composes to."""

    cell: Cell
    experiment: Experiment

    @property
    def identity(self) -> tuple[str, int, tuple[str, ...]]:
        """Two cells with one identity ask for the same thing."""
        wanted = tuple(evaluation.eval_id for evaluation in evaluations(self.experiment))
        return self.experiment.recipe_id, self.experiment.run_seed, wanted


_tracker: Tracker | None = None


def execute(master: Any, arguments: list[str], compose: Compose, launch: Callable[[list[Cell]], Any]) -> int:
    """Run a sweep.

    Args:
        master: the configuration as composed without what is swept.
        arguments: the command line's overrides.
        compose: a cell's overrides -> its configuration.
        launch: hands cells to Hydra's launcher and waits for them.

    Returns:
        The exit code: 0 when every run is ok or skipped, else 1.

    Raises:
        ValueError: something that was asked for is wrong; nothing has been started.
    """
    asked = config.sweep_of(master)
    plan = compose_all(expand(asked.cells if asked else (), arguments), compose)
    experiment = plan[0].experiment
    runs_dir = Path(experiment.runs_dir)
    check_writable(runs_dir, Path(experiment.reports_dir))
    plan = resolve(plan)
    pending = [planned for planned in plan if not run.done(planned.experiment)]
    pending = check(pending, runs_dir)
    name = write_question(asked, arguments, plan, pending)
    announce(plan, pending)
    if pending:
        work(pending, experiment, name, launch)
    make_report(experiment, name)
    return 0 if all(_status(planned) in ("ok", "skipped") for planned in plan) else 1


def compose_all(cells: list[Cell], compose: Compose) -> list[Planned]:
    """Compose and check every cell, with the untouched models they are compared with first.

    Raises:
        ValueError: names each cell that does not compose, and why.
    """
    with_bases = list(dict.fromkeys([*(base_of(cell) for cell in cells), *cells]))
    planned, wrong = [], []
    for cell in with_bases:
        try:
            planned.append(Planned(cell, config.build(compose(cell))))
        except Exception as error:  # Hydra's, OmegaConf's or ours: all of them are the input's fault here
            if cell in cells:
                wrong.append(f"{' '.join(cell)}: {config.explain(error, cell, compose)}")
    if wrong:
        raise ValueError("\n  ".join(["nothing was started, since not every cell is valid:", *dict.fromkeys(wrong)]))
    return planned


def check_writable(*folders: Path) -> None:
    """Find out before the first run whether results can be written.

    Raises:
        ValueError: a folder cannot be made or written, or the disk is full.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0" * 65536)
        except OSError as error:
            raise ValueError(
                f"cannot write to {folder} ({error.strerror}): free or unlock it, or choose another folder with "
                "runs_dir=... and reports_dir=..."
            ) from error
        free = shutil.disk_usage(folder).free
        if free < _ENOUGH_BYTES:
            raise ValueError(
                f"only {free / 2**20:.0f} MiB are free in {folder}, runs need at least "
                f"{_ENOUGH_BYTES / 2**20:.0f} MiB: free some, or choose another folder with runs_dir=... and "
                "reports_dir=..."
            )


def resolve(plan: list[Planned]) -> list[Planned]:
    """Fetch what the cells need, identify it by content, and drop the cells that ask for the same thing."""
    resolved: dict[Any, Planned] = {}
    board.start_bar("preparing")
    try:
        for planned in plan:
            experiment = sources.resolve(planned.experiment, board.say)
            sources.fetch(experiment, board.say)
            kept = Planned(planned.cell, experiment)
            resolved.setdefault(kept.identity, kept)
    finally:
        board.end()
    return list(resolved.values())


def check(pending: list[Planned], runs_dir: Path) -> list[Planned]:
    """Try what needs the libraries but no weights, in a process of its own; set aside what cannot run here.

    Raises:
        ValueError: names each cell whose target, task or data file is wrong.
        SystemExit: with code 1, the check itself broke: the installation is damaged, or memory ran out.
    """
    if not pending:
        return []
    device = sources.device()
    reasons = [planned.experiment.method.unsupported(device) for planned in pending]
    runnable = [planned for planned, reason in zip(pending, reasons, strict=True) if not reason]
    board.start_bar("checking")
    log = runs_dir / "check.log"
    try:
        ended = isolate.call("harness.check:check", [p.experiment for p in runnable], log=log, on_event=board)
    finally:
        board.end()
    if ended.kind != "returned":
        raise SystemExit(f"error: nothing was started, the check before the runs broke: {ended.reason}; see {log}")
    wrong = [f"{' '.join(runnable[i].cell)}: {message}" for i, verdict, message in ended.value if verdict == "wrong"]
    if wrong:
        raise ValueError("\n  ".join(["nothing was started, since not every cell is valid:", *wrong]))
    found = {i: message for i, _, message in ended.value}
    unsupported = [(planned, reason) for planned, reason in zip(pending, reasons, strict=True) if reason]
    for planned, reason in [*unsupported, *((runnable[i], message) for i, message in found.items())]:
        run.skip(planned.experiment, reason)
    return [planned for i, planned in enumerate(runnable) if i not in found]


def write_question(asked: Question | None, arguments: list[str], plan: list[Planned], pending: list[Planned]) -> str:
    """Write down what was asked, before the first run; returns the sweep's name, a hash if it was given none."""
    name = asked.name if asked else digest(canonical([planned.identity for planned in plan]))
    started = {planned.identity for planned in pending}
    swept = varied(expand((), arguments))  # what the command line gives alternatives for is meant to vary
    question = SweepRecord(
        schema=record.SCHEMA,
        name=name,
        question=asked.question if asked else None,
        command=provenance.command(),
        cells=tuple(
            record.Cell(
                overrides=planned.cell,
                method=planned.experiment.method.name,
                recipe_id=planned.identity[0],
                seed=planned.identity[1],
                eval_ids=planned.identity[2],
            )
            for planned in plan
        ),
        already_done=tuple(f"{p.identity[0]}/seed-{p.identity[1]}" for p in plan if p.identity not in started),
        arguments=tuple(arguments),
        primary=asked.primary if asked else None,
        varies=recipe_keys([*(asked.varies if asked else ()), *swept]),
    )
    record.write(question, Path(plan[0].experiment.runs_dir) / "sweeps" / name / "sweep.json")
    return name


def announce(plan: list[Planned], pending: list[Planned]) -> None:
    """Say what will be done, at which sizes: every distinct one, should the cells differ in them."""
    done = len(plan) - len(pending)
    board.say(f"{len(plan)} runs" + (f", {done} already done" if done else ""))
    trained = [planned.experiment for planned in plan if planned.experiment.method.trains]
    for line in dict.fromkeys(map(_training_size, trained)):
        board.say(f"  training    {line}")
    for line in dict.fromkeys(_evaluation_size(planned.experiment) for planned in plan):
        board.say(f"  evaluation  {line}")


def _training_size(experiment: Experiment) -> str:
    spec = experiment.train
    length = f"{spec.max_steps} steps" if spec.max_steps else f"{spec.epochs:g} epochs"
    return (
        f"{experiment.model.name} on {experiment.data.name}: {length} of {spec.global_batch_size} rows, "
        f"{spec.precision} on {sources.device()}, loss on {spec.loss_on}"
    )


def _evaluation_size(experiment: Experiment) -> str:
    """`answer loss on validation (200 rows), test (200); arc_easy (200 items), hellaswag (100, retention)`."""
    looks = evaluations(experiment)
    parts = [f"{e.role} ({e.limit or 'all'} rows)" for e in looks if e.kind == "heldout"]
    tasks = [
        f"{e.task} ({e.limit or 'all'} items{', retention' if e.role == 'retention' else ''})"
        for e in looks
        if e.kind == "lm_eval"
    ]
    return f"answer loss on {', '.join(parts)}" + (f"; {', '.join(tasks)}" if tasks else "")


def work(pending: list[Planned], experiment: Experiment, name: str, launch: Callable[[list[Cell]], Any]) -> None:
    """Launch the cells, with the mirror open as long as they run."""
    global _tracker
    board.total = len(pending)
    _tracker = Tracker(experiment.tracking, Path(experiment.runs_dir), name)
    try:
        results = launch([planned.cell for planned in pending])
    finally:
        _tracker.close()
        _tracker = None
    for planned, result in zip(pending, results, strict=True):
        _tell_failure(planned.cell, result)


def _tell_failure(cell: Cell, result: Any) -> None:
    """Say why a run has no record: the launcher keeps to itself what a job raised, so that the others go on."""
    try:
        result.return_value  # noqa: B018 - raises what the job raised
    except Exception as error:  # whatever it is, it has cost one run and not the sweep
        board.say(f"error: {' '.join(cell)}: {type(error).__name__}: {config.readable(error)}")


def run_cell(experiment: Experiment) -> str:
    """Make one run, in whatever process a launcher calls this; returns its status."""
    experiment = sources.resolve(experiment, board.say)
    tracker = _tracker or Tracker(experiment.tracking, Path(experiment.runs_dir), None)
    board.begin(_label(experiment))

    def watch(event: dict[str, Any]) -> None:
        board(event)
        tracker.event(event)

    tracker.begin(experiment)
    try:
        result = run.run(experiment, watch)
    except BaseException:
        board.end("interrupted")
        raise
    board.end(ending(result))
    tracker.end(experiment, result)
    if tracker is not _tracker:
        tracker.close()
    return result.status


def make_report(experiment: Experiment, name: str) -> None:
    """Make the report in a process of its own: figures need libraries that this process does without."""
    command = [sys.executable, "-m", "harness.report", experiment.runs_dir, "--sweep", name, "--terminal"]
    command += ["--reports-dir", experiment.reports_dir]
    tracking = experiment.tracking
    if tracking.name == "wandb":
        command += ["--wandb", tracking.mode, "--wandb-project", tracking.project]
        command += ["--wandb-entity", tracking.entity] if tracking.entity else []
    subprocess.run(command, check=False)


def _status(planned: Planned) -> str | None:
    known = run.read(planned.experiment)
    return known.status if known else None


def _label(experiment: Experiment) -> str:
    return (
        f"{experiment.method.name} seed {experiment.run_seed}" if experiment.method.trains else experiment.method.name
    )
