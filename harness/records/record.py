"""Records of runs as JSON: schema, writing and reading. Needs the standard library and pydantic only.

`runs/<recipe_id>/seed-<n>/record.json` holds a `RunRecord`, `evaluations/<eval_id>.json` beside it an
`EvaluationRecord` whose items lie in `<eval_id>.parquet`, `update.json` an `UpdateRecord`, `inference.json` an
`InferenceRecord`, and `runs/sweeps/<name>/sweep.json` a `SweepRecord`.

Units are in the names. An unmeasured value is None, never a sentinel.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import ValidationError

from harness.records import attempts, base, disk, files, redact
from harness.records.attempts import Attempt as Attempt
from harness.records.attempts import DataCounts as DataCounts
from harness.records.attempts import Status as Status
from harness.records.base import Strict
from harness.records.disk import DamagedError as DamagedError
from harness.records.files import FileName
from harness.records.measurements import Conditions as Conditions
from harness.records.measurements import Conversion as Conversion
from harness.records.measurements import ConvertedRecord as ConvertedRecord
from harness.records.measurements import DevicePeak as DevicePeak
from harness.records.measurements import Fingerprint as Fingerprint
from harness.records.measurements import FurtherAdapters as FurtherAdapters
from harness.records.measurements import InferenceRecord as InferenceRecord
from harness.records.measurements import Phase as Phase
from harness.records.measurements import Served as Served
from harness.records.measurements import Speed as Speed
from harness.records.measurements import StepProfile as StepProfile
from harness.records.measurements import Training as Training
from harness.records.measurements import UpdateRecord as UpdateRecord
from harness.records.measurements import WeightLoss as WeightLoss
from harness.records.measurements import WeightUpdate as WeightUpdate

SCHEMA = 2
Stage = Literal["tune", "final"]
PHASES = ("load", "train", "validate", "evaluate", "generate", "inference")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunRecord(Strict):
    """A run: its recipe, its seed and every attempt at it.

    `measured` and the properties below it are the result; an attempt holds only what happened in it.
    """

    schema: int
    recipe_id: FileName
    seed: int
    method: FileName
    recipe: dict[str, Any]
    config: dict[str, Any]  # the whole resolved experiment of the last attempt
    attempts: tuple[Attempt, ...]
    # source of weights that were trained elsewhere, whose training is unknown; None: they were made here, or untrained
    origin: str | None = None

    @property
    def current(self) -> Attempt:
        """Return the last attempt, which decides the status."""
        return self.attempts[-1]

    @property
    def status(self) -> Status:
        """Return the status of the attempt that counts."""
        return self.current.status

    @property
    def trained_by(self) -> Attempt | None:
        """Return the attempt that made the weights on disk; None if there are none."""
        return attempts.trained_by(self.attempts)

    @cached_property
    def measured(self) -> Attempt:
        """Return the current attempt with the measurements of the attempt that trained, where another one did."""
        return attempts.combined(self.attempts, trains=self.recipe.get("train") is not None)

    @property
    def training(self) -> Training | None:
        """Return the measurements of the training; None if nothing was trained."""
        return self.measured.training

    @property
    def peak_memory_bytes(self) -> int | None:
        """Return the highest peak of loading and training, over the attempts that the training took."""
        return self.measured.peak_memory_bytes


@dataclass(frozen=True, kw_only=True)
class Metric(Strict):
    """A score with its standard error over items."""

    value: float
    stderr: float | None
    higher_is_better: bool
    chance: float | None = None  # score of guessing; None: unknown or not defined


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(Strict):
    """One task's scores for one run. `evaluation` is the identity: `experiment.Evaluation` as a dictionary."""

    schema: int
    recipe_id: FileName
    seed: int
    eval_id: FileName
    evaluation: dict[str, Any]
    metrics: dict[str, Metric]
    num_items: int
    num_tokens: int | None  # answer tokens of a held-out set
    num_fewshot: int | None  # as used; the identity may leave it to the task
    seconds: float | None  # None: an evaluation from elsewhere that does not say
    weights_from: str | None  # start of the attempt whose weights were looked at; None for untrained weights
    provenance: dict[str, Any]
    num_unparsable: int | None = None  # answers that could not be read, counted as wrong; None: nothing is parsed


@dataclass(frozen=True, kw_only=True)
class ExternalRecord(Strict):
    """A row that others published. `facts` are what ought to be equal, with their own names, flattened."""

    schema: int
    origin: str
    name: FileName
    method: str
    status: str  # in their words
    seeds: int
    facts: dict[str, Any]
    scores: dict[str, Metric]
    trainable_parameters: int | None
    total_parameters: int | None
    peak_memory_bytes: int | None
    train_seconds: float | None
    saved_bytes: int | None
    published_at: str
    num_items: int | None = None  # of the scores that are shares of right answers; None: not published


@dataclass(frozen=True, kw_only=True)
class Cell(Strict):
    """One requested run of a sweep, and the requested evaluations."""

    overrides: tuple[str, ...]
    method: str
    recipe_id: FileName
    seed: int
    eval_ids: tuple[FileName, ...]
    stage: Stage | None = None  # None: the sweep has no stages
    contestant: str | None = None  # as typed; the recipe is a trial of it (tune) or was chosen for it (final)


@dataclass(frozen=True, kw_only=True)
class Choice(Strict):
    """The recipe that the rule chose among a contestant's trials; None when no trial ended well."""

    contestant: str
    recipe_id: str | None
    reason: str  # why this one, or why none


@dataclass(frozen=True, kw_only=True)
class Looks(Strict):
    """Final seeds that were added one by one: the comparisons were tested after `first` seeds and after each further.

    How many were taken is the number of final seeds.
    """

    first: int
    most: int
    methods: int  # contestants with seeds, for whom the levels of the looks were computed


@dataclass(frozen=True, kw_only=True)
class Tuning(Strict):
    """Tuning of a sweep with stages. `choices` can be recomputed from the records of the cells of stage "tune"."""

    rule: str
    settings: tuple[str, ...]  # tuned settings; trials of one contestant differ in nothing else
    seeds: tuple[int, ...]
    final_seeds: tuple[int, ...]
    trials: int  # recipes tried for each contestant that trains
    choices: tuple[Choice, ...] | None  # None: the trials have not all been made
    looks: Looks | None = None  # None: the number of final seeds was fixed beforehand
    earlier: tuple[tuple[Choice, ...], ...] = ()  # choices before the sweep was extended, oldest first


@dataclass(frozen=True, kw_only=True)
class ClaimRecord(Strict):
    """A claim in the grammar of `harness.records.claim_grammar`, and where it comes from."""

    claim: str
    source: str | None
    note: str | None


@dataclass(frozen=True, kw_only=True)
class SweepRecord(Strict):
    """The question that was asked, written before the first run starts, and again with what the first stage chose."""

    schema: int
    name: FileName
    question: str | None
    command: str
    cells: tuple[Cell, ...]
    already_done: tuple[str, ...] = field(default=())  # "<recipe_id>/seed-<n>" of the cells that were not run again
    arguments: tuple[str, ...] | None = None  # the command line's overrides
    primary: str | None = None  # the column of the flat table that answers the question
    margin: float | None = None  # the largest difference in it that counts as none
    varies: tuple[str, ...] | None = None  # keys of a recipe that were meant to differ, each for all below it
    tuning: Tuning | None = None  # None: the sweep has no stages
    asked_with: dict[str, Any] | None = None  # program and versions of the last call
    claims: tuple[ClaimRecord, ...] = ()


def write(value: Any, path: Path) -> Path:
    """Write a record as JSON: a temporary file, then a rename, so that no reader ever sees half of one.

    No secret of the environment or of a command line reaches it.
    """
    return write_text(text_of(value), path)


def text_of(value: Any) -> str:
    """Return a record as JSON, without the secrets of the environment and of a command line."""
    return json.dumps(redact.anything(asdict(value)), indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_text(text: str, path: Path, mode: int = 0o666) -> Path:
    """Write UTF-8 text atomically, making the folder if need be. `mode` is reduced by the umask."""
    return write_bytes(text.encode(), path, mode)


def write_bytes(content: bytes, path: Path, mode: int = 0o666) -> Path:
    """Write a file atomically, making the folder if need be. `mode` is reduced by the umask."""
    try:
        with files.atomic(path, mode) as temporary:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            disk.note_file(path, temporary)
    except OSError as error:  # of a write, which does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


def read(kind: type[T], path: Path) -> T:
    """Read a record of the given kind.

    Raises:
        DamagedError: no file, not JSON, or a missing or ill-typed field; names the file.
        UnreadableError: the system does not let this process read it; names the file.
        ValueError: another version of this program wrote it, which knows other fields; names the file.
        FileNotFoundError: there is no such record.
    """
    return parse(kind, path, disk.read(path))


def parse(kind: type[T], path: Path, content: bytes) -> T:
    """Return the record that a file holds. Raises as `read` does."""
    text = content.decode("utf-8", errors="replace")
    try:
        value: Any = base.adapter(cast(Any, kind)).validate_json(text, strict=True)
    except ValidationError as error:
        raise _refused(path, text, error) from error
    if value.schema != SCHEMA:
        raise ValueError(_other_schema(path, value.schema))
    return cast(T, value)


def _refused(path: Path, text: str, error: ValidationError) -> ValueError:
    """Return the error for a text that is no record: its JSON, its schema, or the first field that is wrong."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as damage:
        return DamagedError(f"{path}: not a record, the JSON breaks off or is damaged ({damage})")
    version = data.get("schema") if isinstance(data, dict) else type(data).__name__
    if type(version) is not int:
        return DamagedError(_other_schema(path, version))
    if version != SCHEMA:
        return ValueError(_other_schema(path, version))
    errors = error.errors()
    newer = next(
        (entry for entry in errors if entry["type"] in ("extra_forbidden", "unexpected_keyword_argument")), None
    )
    first = newer or errors[0]
    name = ".".join(str(part) if str(part).isprintable() else repr(part) for part in first["loc"])
    message = f"{path}: {name}: {first['msg']}"
    return ValueError(f"{message}; another version of this program wrote it") if newer else DamagedError(message)


def _other_schema(path: Path, version: object) -> str:
    return f"{path}: record schema {version!r}, this version reads {SCHEMA}"


def find_runs(runs: Path) -> Iterator[Path]:
    """Return the `record.json` files below a runs folder, in a fixed order."""
    return (folder / "record.json" for folder in run_folders(runs) if disk.kind(folder / "record.json") != "missing")


def run_folders(runs: Path) -> list[Path]:
    """Return the folders of runs below a runs folder, in a fixed order, without those that were set aside."""
    folders = (path for path in runs.glob("*/seed-*") if path.is_dir())
    return sorted(path for path in folders if not any(".damaged" in part for part in path.parts[-2:]))


def evaluation_path(run_folder: Path, eval_id: str) -> Path:
    """Return the path of one evaluation's scores; its items are beside it with the suffix .parquet."""
    return run_folder / "evaluations" / f"{eval_id}.json"
