"""Record of a sweep, which is written before the first run, and its registration, which is frozen before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.config import compose, config
from harness.config.compose import Composer
from harness.config.experiment import canonical, digest, evaluations
from harness.config.overrides import expand
from harness.config.sweep_file import SweepFile, UntilDecided, varied
from harness.records import claim_grammar, disk, programs, record, redact, registration
from harness.records.base import parsed
from harness.records.identity import recipe_keys
from harness.records.record import SCHEMA, Choice, ClaimRecord, SweepRecord, Tuning
from harness.records.registration import EXCLUSIONS, Registration
from harness.run import lock, provenance
from harness.run.progress import board
from harness.sweep import stages
from harness.sweep.planned_runs import PlannedRun, Wanted, bases_of, compose_all, resolve

_PROGRAM = ("harness", "commit", "uncommitted_changes", "program", "versions")


@dataclass(frozen=True)
class Written:
    """Content of a sweep's record. `started` are the unfinished runs, as (recipe_id, seed)."""

    sweep_file: SweepFile | None
    arguments: tuple[str, ...]
    plan: Sequence[PlannedRun]
    started: set[tuple[str, int]]
    tuning: Tuning | None = None


def write_look(written: Written) -> bool:
    """Write the record before the runs of a look, unless it holds further seeds; return whether it was written.

    Workers of one sweep write it one after another, so that none takes back seeds that another has added.
    """
    assert written.sweep_file is not None and written.tuning is not None, "a look is of a sweep with stages"
    folder = _folder(written.plan, written.sweep_file.name)
    with lock.hold(folder / "taken" / "record") if written.tuning.looks else contextlib.nullcontext():
        if has_further_seeds(written.plan, written.sweep_file.name, written.tuning):
            return False
        write_question(written)
        return True


def has_further_seeds(plan: Sequence[PlannedRun], name: str, tuning: Tuning) -> bool:
    """Return whether the sweep's record has more final seeds than `tuning`, of the same rule and chosen recipes.

    A look after those of `tuning` has then decided nothing, in an earlier call or in another worker.
    """
    before = _tuning_before(_folder(plan, name) / "sweep.json")
    if before is None or None in (before.looks, tuning.looks, tuning.choices):
        return False
    taken = len(tuning.final_seeds)
    return (
        len(before.final_seeds) > taken
        and before.final_seeds[:taken] == tuning.final_seeds
        and before.looks == tuning.looks
        and _recipes(_last_choices(before)) == _recipes(tuning.choices)
    )


def has_looks_at(plan: Sequence[PlannedRun], name: str) -> bool:
    """Return whether the record has looks at final seeds of recipes that were chosen among exactly these trials.

    To write it with the trials alone would take the final runs from the report, and from another worker's look.
    """
    before = _recorded(_folder(plan, name) / "sweep.json")
    if before is None:
        return False
    tuning = before.tuning
    trials = {(cell.recipe_id, cell.seed) for cell in before.cells if cell.stage == "tune"}
    has_looks = tuning is not None and tuning.looks is not None and tuning.choices is not None
    return has_looks and trials == {planned.identity[:2] for planned in plan}


def _folder(plan: Sequence[PlannedRun], name: str) -> Path:
    return Path(plan[0].experiment.runs_dir) / "sweeps" / name


def _recorded(path: Path) -> SweepRecord | None:
    """Return the sweep's record as it stands; None without one, or for one of another version."""
    try:
        return record.read(SweepRecord, path)
    except (OSError, ValueError):
        return None


def _tuning_before(path: Path) -> Tuning | None:
    before = _recorded(path)
    return before.tuning if before is not None else None


def _last_choices(tuning: Tuning) -> tuple[Choice, ...]:
    return tuning.choices or (tuning.earlier[-1] if tuning.earlier else ())


def _recipes(choices: Iterable[Choice] | None) -> set[str | None]:
    return {choice.recipe_id for choice in choices or ()}


def write_question(written: Written) -> str:
    """Write the record and return the sweep's name; a sweep without a name gets a hash of its cells."""
    sweep_file, plan = written.sweep_file, written.plan
    name = sweep_file.name if sweep_file else digest(canonical([planned.identity for planned in plan]))
    path = _folder(plan, name) / "sweep.json"
    swept = varied(expand((), written.arguments))  # settings with several values on the command line vary on purpose
    runs = dict.fromkeys(planned.identity[:2] for planned in plan)
    question = SweepRecord(
        schema=record.SCHEMA,
        name=name,
        question=sweep_file.question if sweep_file else None,
        command=provenance.command(),
        cells=tuple(planned.written() for planned in plan),
        already_done=tuple(f"{recipe}/seed-{seed}" for recipe, seed in runs if (recipe, seed) not in written.started),
        arguments=written.arguments,
        primary=sweep_file.primary if sweep_file else None,
        margin=sweep_file.margin if sweep_file else None,
        varies=recipe_keys(
            [*(sweep_file.varies if sweep_file else ()), *(sweep_file.tuned if sweep_file else ()), *swept]
        ),
        tuning=_with_earlier(path, written),
        asked_with={key: provenance.facts()[key] for key in _PROGRAM},
        claims=claim_records(sweep_file) if sweep_file else (),
    )
    runs_dir = Path(plan[0].experiment.runs_dir)
    for file in (path, registration.path(runs_dir, question.name)):
        for line in disk.make_way(file, runs_dir):
            board.say(line)
    disk.begin(path.parent)
    registration.adopt(name, runs_dir)
    record.write(question, path)
    return name


def claim_records(sweep_file: SweepFile) -> tuple[ClaimRecord, ...]:
    """Return the claims of a question in the form of its record."""
    return tuple(ClaimRecord(claim=entry.claim, source=entry.source, note=entry.note) for entry in sweep_file.claims)


def _with_earlier(path: Path, written: Written) -> Tuning | None:
    """Return the tuning with the earlier choices of the same sweep that differ from the present ones.

    Earlier choices count only if one of their recipes is among the present trials. Otherwise that sweep of the same
    name asked another question. The seeds of their looks stand until recipes are chosen again.
    """
    tuning = written.tuning
    before = _tuning_before(path)
    if tuning is None or before is None:
        return tuning
    tried = {planned.identity[0] for planned in written.plan}
    chosen = [*before.earlier, *([before.choices] if before.choices else ())]
    revised = [choices for choices in chosen if tried & _recipes(choices)]
    if revised and tuning.choices is None and before.looks is not None:
        tuning = replace(tuning, final_seeds=before.final_seeds, looks=before.looks)
    if revised and tuning.choices is not None and _recipes(revised[-1]) == _recipes(tuning.choices):
        revised.pop()
    return replace(tuning, earlier=tuple(revised))


LEVEL = 0.05


def register(name: str, words: Sequence[str], runs_dir: Path) -> list[str]:
    """Write the registration of a sweep and return the lines to print.

    Raises:
        ValueError: there is no such sweep, a cell does not compose, runs of it exist already, or it is registered with
            different content.
    """
    arguments = (f"sweep={name}", *(word for word in words if not word.startswith("hydra.")))
    with compose.composing([word for word in words if word.startswith("hydra.")]) as composed:
        question = config.sweep_of(composed((f"sweep={name}",)))
        assert question is not None, "a sweep was named"
        plan = resolve(_planned(question, arguments, Composer(composed)))
    made = _registration(question, arguments, plan)
    file = registration.path(runs_dir, question.name)
    earlier = registration.read(file) or registration.of(question.name)
    if earlier is not None and _content(earlier) == _content(made):
        if not file.is_file():
            record.write(earlier, file)
        is_changed = programs.changes(earlier.made_with, made.made_with)
        since = "; the program has changed since, as a report will say" if is_changed else ""
        return [f"{file}: registered at {earlier.registered_at} already, sha256 {earlier.digest}{since}"]
    _refuse_late(earlier, plan, runs_dir, file)
    written = [record.write(made, file)]
    if (Path("sweeps") / f"{name}.yaml").is_file():
        written.append(record.write(made, registration.beside(question.name)))
    claims = f"{len(made.claims)} claim{'' if len(made.claims) == 1 else 's'}"
    lines = [*_unmeasured(question, plan), *(f"registered: {place}" for place in written)]
    return [*lines, f"{claims}, {len(made.cells)} runs known beforehand, sha256 {made.digest}: commit or publish it"]


def _content(made: Registration) -> Registration:
    """Return what was registered, without when, where and by which program."""
    cells = tuple(
        replace(cell, overrides=()) for cell in made.cells
    )  # with the runs folder; the ids are of the recipes
    return replace(made, schema=SCHEMA, registered_at="", digest="", arguments=(), code="", made_with={}, cells=cells)


def _unmeasured(sweep_file: SweepFile, plan: Sequence[PlannedRun]) -> Iterator[str]:
    """Yield a warning for each claim, and for the primary column, of a task that no run is evaluated on."""
    if not any(planned.experiment.eval.test == "always" for planned in plan):  # not even a base model
        return
    tasks = {evaluation.task for planned in plan for evaluation in evaluations(planned.experiment)}
    columns = [(f'claim "{entry.claim}"', claim_grammar.parse(entry.claim).metric) for entry in sweep_file.claims]
    for what, column in (("primary", sweep_file.primary), *columns):
        task, separator, _ = (column or "").partition("/")
        if separator and task not in tasks:
            yield f"warning: {what}: no run is evaluated on {task} (eval.tasks), so that nothing will decide it"


def _planned(sweep_file: SweepFile, arguments: Sequence[str], composer: Composer) -> list[PlannedRun]:
    wanted = stages.first_cells(sweep_file, arguments)
    if sweep_file.stages is None:
        return compose_all(wanted, composer, bases_of(wanted))
    test = stages.test_word(arguments)
    bases = bases_of([Wanted(stages.repeated(request.cell, test), "final") for request in wanted])
    plan = compose_all(wanted, composer, bases)
    stages.check_budget(sweep_file, plan)
    return plan


def _registration(sweep_file: SweepFile, arguments: tuple[str, ...], plan: Sequence[PlannedRun]) -> Registration:
    staged = sweep_file.stages
    rule = stages.until_decided(sweep_file, arguments) if staged else None
    final = [stages.seed_number(word) for word in stages.seed_words(sweep_file, arguments)] if staged else []
    made = Registration(
        schema=SCHEMA,
        name=sweep_file.name,
        registered_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        digest="",
        question=sweep_file.question,
        primary=sweep_file.primary,
        claims=claim_records(sweep_file),
        margin=sweep_file.margin,
        level=LEVEL,
        families=("claims", "baseline", "best", "all") if sweep_file.claims else ("baseline", "best", "all"),
        rule=staged.tune.rule if staged else None,
        tuned=sweep_file.tuned,
        tuning_seeds=staged.tune.seeds if staged else (),
        final_seeds=tuple(final),
        looks=(rule.first, rule.most) if isinstance(rule, UntilDecided) else None,
        exclusions=EXCLUSIONS,
        arguments=arguments,
        cells=tuple(planned.written() for planned in plan),
        contents=_contents(plan),
        code=provenance.training_code(),
        made_with={key: provenance.facts()[key] for key in _PROGRAM},
    )
    made = parsed(Registration, redact.anything(asdict(made)))  # as it is written: the digest is of what can be read
    return replace(made, digest=registration.digest_of(made))


def _contents(plan: Sequence[PlannedRun]) -> dict[str, str | None]:
    contents: dict[str, str | None] = {}
    for planned in plan:
        experiment = planned.experiment
        contents[f"model {experiment.model.name}"] = experiment.model.content
        contents[f"data {experiment.data.name}"] = experiment.data.content
    return dict(sorted(contents.items()))


def _refuse_late(earlier: Registration | None, plan: Sequence[PlannedRun], runs_dir: Path, file: Path) -> None:
    """Refuse a registration after the first run, which would present known results as predicted.

    Raises:
        ValueError: the sweep is registered with different content, or has runs already.
    """
    if earlier is not None:
        raise ValueError(
            f"{file}: registered at {earlier.registered_at} with another content (sha256 {earlier.digest}); a changed "
            "question is a new one: give it another name"
        )
    made = [cell for planned in plan if (cell := planned.written()).method != "base" and _has_run(runs_dir, cell)]
    if made:
        first = made[0]
        raise ValueError(
            f"{len(made)} runs of this sweep are there already, such as {runs_dir}/{first.recipe_id}/"
            f"seed-{first.seed}: a registration comes before the first run. Give the question other seeds, or another "
            "runs folder (--runs)"
        )


def _has_run(runs_dir: Path, cell: record.Cell) -> bool:
    return (runs_dir / cell.recipe_id / f"seed-{cell.seed}" / "record.json").is_file()
