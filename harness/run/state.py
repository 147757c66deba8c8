"""State of a run on disk, and the work that the run lacks."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from harness.config.experiment import Experiment, Todo, canonical, evaluations
from harness.records import record
from harness.records.record import InferenceRecord, RunRecord
from harness.run import run_folder

_FINAL = ("oom", "diverged")  # results without weights, which are not made again


@dataclass(frozen=True)
class RunState:
    """Content of a run's folder, as `inspect` has read it.

    Attributes:
        record: the run's record; None if there is none or it is damaged.
        has_weights: whether the weights of the record's last attempt are there, each file as long as it was written.
        evaluations: ids of the requested evaluations that are complete and belong to these weights.
        inference: cost of inference with these or other weights; None if it is not requested or not measured.
    """

    record: RunRecord | None
    has_weights: bool = False
    evaluations: frozenset[str] = frozenset()
    inference: InferenceRecord | None = None

    @property
    def weights_from(self) -> str | None:
        """Return the start of the attempt that made the weights; None if there are none."""
        return self.record.current.weights_from if self.record else None


def inspect(experiment: Experiment) -> RunState:
    """Read the state of a run.

    Raises:
        ValueError: another version of this program wrote a file, or it cannot be read; names the file.
    """
    run_record, inference = read(experiment), _inference(experiment)
    if run_record is None:
        return RunState(None, inference=inference)
    folder, attempt = experiment.folder, run_record.current.weights_from
    ids = (evaluation.eval_id for evaluation in evaluations(experiment))
    made = frozenset(eval_id for eval_id in ids if run_folder.has_evaluation(folder, eval_id, attempt))
    return RunState(run_record, run_folder.has_weights(folder, attempt), made, inference)


def work_left(experiment: Experiment, state: RunState) -> Todo | None:
    """Return the work that a run lacks; None if it has its result and every requested evaluation.

    An attempt may have no more to do than to end well, where the last one failed after its evaluations.
    """
    run_record, trains, wanted = state.record, experiment.method.trains, evaluations(experiment)
    measures = _measures_inference(experiment)
    if experiment.force or run_record is None:
        inference = measures and (trains or experiment.force or lacks_inference(experiment, state))
        return Todo(train=trains, evaluations=wanted, weights_from=None, inference=inference)
    if run_record.status in _FINAL and run_record.status not in experiment.rerun:
        return None
    left = (
        wanted
        if _read_no_data(run_record)
        else tuple(evaluation for evaluation in wanted if evaluation.eval_id not in state.evaluations)
    )
    inference = measures and lacks_inference(experiment, state)
    is_complete = run_record.status == "ok" and not left and not inference
    has_weights = state.has_weights or not trains
    if is_complete and (has_weights or keeps_no_weights(run_record)):
        return None
    if not has_weights:
        return Todo(train=True, evaluations=wanted, weights_from=None, inference=measures)
    return Todo(train=False, evaluations=left, weights_from=state.weights_from, inference=inference)


def done(experiment: Experiment) -> bool:
    """Return True if the run has a result and every requested evaluation; False with `force`. Raises as `inspect`."""
    return work_left(experiment, inspect(experiment)) is None


def read(experiment: Experiment) -> RunRecord | None:
    """Return the run's record; None if there is none or it is damaged.

    The process that makes the run sets a damaged record aside.

    Raises:
        ValueError: another version of this program wrote it, or it cannot be read; names the file.
    """
    try:
        return run_folder.read(RunRecord, experiment.folder / "record.json", experiment.folder)
    except (FileNotFoundError, record.DamagedError):
        return None


def readable(experiment: Experiment) -> RunRecord | None:
    """Return the run's record; None also if it cannot be read, which is an error of that run alone."""
    try:
        return read(experiment)
    except ValueError:
        return None


def keeps_no_weights(run: RunRecord) -> bool:
    """Return True if the run is configured to keep no weights."""
    return run.config.get("keep") == "none"


def _read_no_data(run: RunRecord) -> bool:
    """Return True if every attempt at evaluating the untrained model ended before it reported its data."""
    untrained = run.recipe.get("train") is None
    return untrained and run.status == "failed" and all(attempt.data is None for attempt in run.attempts)


def _measures_inference(experiment: Experiment) -> bool:
    """Return True if the cost of inference is requested; a tuning trial does not measure it."""
    return experiment.inference.enabled and experiment.eval.test == "always"


def lacks_inference(experiment: Experiment, state: RunState) -> bool:
    """Return True if the cost of inference has not been measured with these weights and settings."""
    measured = state.inference
    settings = json.loads(canonical(dataclasses.asdict(experiment.inference)))
    return measured is None or (measured.weights_from, canonical(measured.settings)) != (
        state.weights_from,
        canonical(settings),
    )


def _inference(experiment: Experiment) -> InferenceRecord | None:
    if not _measures_inference(experiment):
        return None
    try:
        return run_folder.read(InferenceRecord, experiment.folder / "inference.json", experiment.folder)
    except (FileNotFoundError, ValueError):
        return None
