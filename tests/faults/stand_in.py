"""What stands in for loading, training and evaluating: no torch, milliseconds, and the same files in the same order.

Everything it makes follows from the recipe and the seed. Its weights say which attempt made them, so that a test can
see whether a record and the weights beside it belong together.
"""

import fcntl
import os
import random
import time
from pathlib import Path

from harness.records import items, record
from harness.records.events import Measured, PhaseStarted, StepLogged
from harness.records.record import DataCounts, EvaluationRecord, Fingerprint, Metric, Training
from harness.run import run_folder

STEPS = 4
MODEL = "model.bin.txt"
OVERLAPS = "overlaps.txt"  # beside the runs: written when two make one run at once


def execute(experiment, todo, emit):
    """What `harness.execute.execute` does, as far as the store sees it."""
    with (experiment.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel gives it back, however this process ends
        except OSError:
            (Path(experiment.runs_dir).parent / OVERLAPS).write_text(str(experiment.folder))
        _execute(experiment, todo, emit)


def _execute(experiment, todo, emit):
    drawn = random.Random(f"{experiment.recipe_id} {experiment.seed}")
    losses = tuple(drawn.random() for _ in range(STEPS))
    counts = DataCounts(
        train_rows=8, validation_rows=2, test_rows=0, removed_in_test=0, removed_duplicates=0, removed_too_long=0,
        content_sha256="0" * 64,
    )  # fmt: skip
    emit(PhaseStarted("load"))
    emit(Measured(data=counts))
    if todo.train or not experiment.method.trains:
        emit(Measured(fingerprint=fingerprint(None)))
    if todo.train:
        emit(PhaseStarted("train"))
        for step, loss in enumerate(losses, start=1):
            time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0.004")) / STEPS)
            emit(StepLogged(step, STEPS, loss=loss, gradient_norm=1.0, learning_rate=0.1, tokens_per_second=None))
        emit(Measured(training=training(losses), phases={}, peak_memory_bytes=1))
        saved = run_folder.keep_weights(experiment.folder, todo.weights_from, lambda to: write(to, todo, losses))
        emit(Measured(fingerprint=fingerprint(saved), weights_from=todo.weights_from))
    for evaluation in todo.evaluations:
        emit(PhaseStarted("validate"))
        score(experiment, todo, evaluation)
    emit(Measured(phases={}, peak_memory_bytes=1))


def write(folder, todo, losses):
    """Two files, so that there is a moment between them."""
    (folder / MODEL).write_text(f"{losses}")
    (folder / "attempt.txt").write_text(todo.weights_from)


def score(experiment, todo, evaluation):
    """The items, then the record."""
    path = record.evaluation_path(experiment.folder, evaluation.eval_id)
    drawn = random.Random(f"{experiment.recipe_id} {experiment.seed} {evaluation.eval_id}")
    outcomes = [drawn.random() for _ in range(5)]
    items.write({"item_id": list("abcde"), "metric/nll": outcomes}, path.with_suffix(".parquet"))
    result = EvaluationRecord(
        schema=record.SCHEMA,
        recipe_id=experiment.recipe_id,
        seed=experiment.run_seed,
        eval_id=evaluation.eval_id,
        evaluation={"kind": evaluation.kind, "task": evaluation.task, "role": evaluation.role},
        metrics={"loss": Metric(value=sum(outcomes), stderr=None, higher_is_better=False)},
        num_items=5,
        num_tokens=5,
        num_fewshot=None,
        seconds=0.0,
        weights_from=todo.weights_from,
        provenance={},
    )
    record.write(result, path)


def fingerprint(saved):
    """One tensor."""
    return Fingerprint(
        trained={"w": ((2, 2), "float32")},
        trainable_parameters=4,
        expected_trainable_parameters=4,
        total_parameters=8,
        saved_bytes=saved,
    )


def training(losses):
    """Every step alike."""
    return Training(
        step_seconds=(0.001,) * STEPS,
        real_tokens=(4,) * STEPS,
        padded_tokens=(4,) * STEPS,
        trained_tokens=(4,) * STEPS,
        losses=losses,
        gradient_norms=(1.0,) * STEPS,
        learning_rates=(0.1,) * STEPS,
        validation=(),
        warmup_steps_dropped=0,
        tokens_per_second=None,
        train_seconds=0.004,
    )
