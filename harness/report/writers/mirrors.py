"""A comparison mirrored to Weights & Biases and to TensorBoard. The records on disk stay the truth."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.records.event_files import EventFile
from harness.records.record import write_text
from harness.records.untrusted import escaped
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.verdicts import families
from harness.report.data.rows import Loaded, Row, differing
from harness.report.html import overview
from harness.report.pages.tables import cost
from harness.report.writers import manifest
from harness.report.writers.flat import IDENTITY, Value, flat, of_one_type
from harness.report.writers.markdown import table_text

_LONGEST_TAG, _LONGEST_GROUP = 64, 128  # characters that W&B accepts
_NOT_METRICS = ("seed", "status", "reason", "recipe_id")


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Destination of a mirror. Offline needs neither a network nor an account. Every file goes below `folder`/wandb."""

    mode: Literal["offline", "online"]
    folder: Path
    project: str = "harness"
    entity: str | None = None
    group: str | None = None


def log_comparison(comparison: Comparison, name: str, report: Path, mirror: Mirror) -> str:
    """Log the tables, the figures and the report's folder, and return the id of the run: `sweep-<name>`.

    Nothing is logged where this very report was logged before, as `wandb/logged.json` below the mirror's folder tells.

    Args:
        comparison: the rows; a number stays a number, an unknown value is None.
        name: of the sweep, or of the report where there is none.
        report: the report's folder, logged as an artifact, and its figures as pictures too.
        mirror: where to.

    Raises:
        Exception: whatever wandb raises; the caller decides whether a mirror matters.
    """
    identity, note = f"sweep-{_plain(name)}", _note(report, mirror)
    if note is not None and _logged(mirror).get(identity) == note:
        return identity
    import wandb

    with _kept_below(mirror.folder):
        run = wandb.init(
            project=mirror.project,
            entity=mirror.entity,
            group=mirror.group and mirror.group[:_LONGEST_GROUP],
            id=identity,
            name=name,
            dir=str(mirror.folder),
            mode=mirror.mode,
            resume="allow" if mirror.mode == "online" else None,
            job_type="comparison",
            config=_configuration(comparison.loaded, name),
            tags=[name[:_LONGEST_TAG]],
            settings=wandb.Settings(silent=True, console="off", reinit="create_new", x_disable_stats=True),
        )
        figures = {
            f"figures/{figure.stem}": wandb.Image(str(figure)) for figure in sorted(report.glob("figures/*.png"))
        }
        tables = {
            name: wandb.Table(columns=[*lines[0]], data=_typed(lines), log_mode="MUTABLE")
            for name, lines in _tables(comparison).items()
            if lines
        }
        run.log({**tables, **figures})
        run.summary["answer"] = " ".join(comparison.answer.lines)
        artifact = wandb.Artifact(f"report-{_plain(name)}", type="report")
        artifact.add_dir(str(report))
        run.log_artifact(artifact)
        run.finish()
    if note is not None:
        write_text(json.dumps({**_logged(mirror), identity: note}, indent=1, sort_keys=True) + "\n", _notes(mirror))
    return identity


def _configuration(loaded: Loaded, name: str) -> dict[str, Any]:
    """Return what the comparison is of, and the code that made its runs."""
    sweep, lines = loaded.sweep, flat(loaded.rows)
    made_by = [row.current.provenance for row in loaded.rows if row.current]
    return {
        "sweep": name,
        "question": sweep.question if sweep else None,
        **{key: sorted({str(line[key]) for line in lines if line[key]}) for key in ("method", "model", "data")},
        **{key: sorted({str(facts[key]) for facts in made_by if facts.get(key)}) for key in ("harness", "commit")},
    }


def _notes(mirror: Mirror) -> Path:
    return mirror.folder / "wandb" / "logged.json"


def _note(report: Path, mirror: Mirror) -> dict[str, Any] | None:
    """Return the note of the logged inputs and their destination; None where the folder does not name its inputs."""
    made_from = manifest.stated(report).get("inputs")
    where = {"mode": mirror.mode, "project": mirror.project, "entity": mirror.entity, "group": mirror.group}
    return None if made_from is None else {"inputs": made_from, **where}


def _logged(mirror: Mirror) -> dict[str, Any]:
    """Read the notes of earlier logs; {} where they cannot be read."""
    try:
        notes = json.loads(_notes(mirror).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _tables(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Return a row per run, per method, and per comparison of the answer."""
    tested = [table for result in comparison.claims for table in families(result)]
    labels = dict.fromkeys(table.label for table in tested)
    return {
        "comparison": flat(comparison.loaded.rows),
        "methods": overview.table(comparison).records(),
        **{label: [line for table in tested if table.label == label for line in table.records()] for label in labels},
    }


def _typed(lines: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return the rows of a table whose columns have one type each, without which W&B refuses it."""
    columns = [of_one_type([line[name] for line in lines]) for name in lines[0]]
    return [[*row] for row in zip(*columns, strict=True)]


def _plain(name: str) -> str:
    """Return the name without characters that an id or an artifact's name may not hold."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:100]


@contextmanager
def _kept_below(folder: Path) -> Iterator[None]:
    """Keep wandb's files below the folder and its messages off the screen, for as long as it runs."""
    below = folder.resolve() / "wandb"  # where wandb itself puts the runs of a folder
    below.mkdir(parents=True, exist_ok=True)
    places = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR")
    values = {"WANDB_SILENT": "true", "WANDB_DIR": str(folder.resolve()), **dict.fromkeys(places, str(below))}
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def write_event_files(comparison: Comparison, name: str, report: Path, folder: Path) -> Path:
    """Write the event files below `folder`/sweep-<name>, in place of older ones, and return that folder.

    Args:
        comparison: the rows.
        name: of the sweep, or of the report where there is none.
        report: the report's folder, whose figures are shown.
        folder: where the runs of TensorBoard lie.
    """
    plain = "".join(character if character.isalnum() or character in "-_." else "-" for character in name)
    place = folder / f"sweep-{plain[:100]}"
    for old in place.rglob("events.out.tfevents.*"):
        old.unlink()
    loaded, groups = comparison.loaded, comparison.ordered
    page = EventFile(place)
    page.text("answer", escaped(" ".join(comparison.answer.lines)))
    for table in (comparison.main_table, cost(groups)):
        page.text(table.title.lower(), table_text(table))
    for path in sorted(report.glob("figures/*.png")):
        page.picture(f"figures/{path.stem}", path.read_bytes())
    page.close()
    settings = (*IDENTITY, *differing(loaded.rows))
    for index, (row, line) in enumerate(zip(loaded.rows, flat(loaded.rows), strict=True)):
        own = {key: line[key] for key in settings if line[key] is not None}
        numbers = {key: value for key, value in line.items() if key not in (*settings, *_NOT_METRICS)}
        _write_row(row, own, numbers, place / "rows" / f"{index:03}-{row.method}-{row.recipe_id}-s{row.seed}")
    return place


def _write_row(row: Row, settings: Mapping[str, Value], numbers: Mapping[str, Value], folder: Path) -> None:
    """Write a line of the table of hyperparameters: settings to group and plot by, and the numbers of the run."""
    file = EventFile(folder)
    file.hyperparameters({**settings, "seed": row.seed, "status": row.status or "missing"}, row.status)
    file.numbers({key: value for key, value in numbers.items() if isinstance(value, (int, float))})
    file.close()
