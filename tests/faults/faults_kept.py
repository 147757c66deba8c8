"""What a store of the fault tests says, and the promises that it is held to after every kill."""

import contextlib
import dataclasses
import pickle
from pathlib import Path

from pyarrow import parquet

from harness.records import record
from harness.records.record import EvaluationRecord, RunRecord, SweepRecord
from harness.run import run_folder

OF_THE_MOMENT = (
    "started_at", "phases", "provenance", "seconds", "weights_from", "peak_memory_bytes",
    "ended_in",  # an attempt that finds everything made and no record ends after loading
    "resumed_at_step",  # a run whose sweep is killed is told to end, and may have time for a checkpoint
)  # fmt: skip
OF_THE_CLOCK = ("step_seconds", "train_seconds", "tokens_per_second", "flops_per_second", "mfu", "device_peak")
KEPT = ("model.bin.txt", "adapter_model.safetensors", "model.safetensors")


def runs_of(plan):
    """The runs folder of a plan."""
    return Path(pickle.loads(plan.read_bytes())[0].experiment.runs_dir)


def records(runs):
    """Every record below a runs folder: one that cannot be read fails the test."""
    return {path.parent: record.read(RunRecord, path) for path in record.find_runs(runs)}


def content(runs):
    """What a store says, without what is of the moment: how many attempts a run took, times, provenance."""
    found = {}
    for folder, one in records(runs).items():
        current = {k: v for k, v in dataclasses.asdict(one.measured).items() if k not in OF_THE_MOMENT}
        current["training"] = {k: v for k, v in (current["training"] or {}).items() if k not in OF_THE_CLOCK}
        looks = {path.name: _look(path) for path in sorted(folder.glob("evaluations/*.json"))}
        weights = {path.name: path.read_bytes() for path in folder.glob("weights/*") if path.name in KEPT}
        config_ = {k: v for k, v in one.config.items() if k not in ("runs_dir", "reports_dir", "force")}
        found[str(folder.relative_to(runs))] = (one.recipe, config_, current, looks, weights)
    for path in runs.glob("sweeps/*/sweep.json"):
        asked = dataclasses.asdict(record.read(SweepRecord, path))
        found[path.parent.name] = {k: v for k, v in asked.items() if k not in ("already_done", "command")}
    return found


def _look(path):
    look = dataclasses.asdict(record.read(EvaluationRecord, path))
    asked = {k: v for k, v in look.items() if k not in OF_THE_MOMENT}
    return asked, parquet.read_table(path.with_suffix(".parquet")).to_pydict()


def leftovers(runs):
    """Files of runs left half done, or found damaged; a claim that was about to be linked goes with the next claim."""
    found = [path for path in runs.glob("*/seed-*/**/*") if path.name.startswith(".") or ".damaged" in path.name]
    return [path for path in found if not path.name.startswith(".claim-")]


class Kept:
    """Holds a store to its promises after every kill."""

    def __init__(self, runs):
        self._runs, self._attempts = runs, {}

    def check(self):
        """Every record is whole and keeps its attempts; the weights that it speaks of are those that lie there."""
        for folder, one in records(self._runs).items():
            before = self._attempts.get(folder, ())
            assert one.attempts[: len(before)] == before, "an attempt was lost"
            self._attempts[folder] = one.attempts
            for path in folder.glob("evaluations/*.json"):
                _look(path)
            made = one.current.weights_from
            names = {path.name for path in folder.glob("weights/*")}
            assert not names or names >= {"model.bin.txt", "attempt.txt"} or names & set(KEPT[1:])
            if run_folder.has_weights(folder, made) and "attempt.txt" in names:
                assert (folder / "weights" / "attempt.txt").read_text() == made

    def whole(self):
        """At the end, the weights and scores of every run are those of its current attempt."""
        for folder, one in records(self._runs).items():
            made = one.current.weights_from
            with contextlib.suppress(FileNotFoundError):
                assert (folder / "weights" / "attempt.txt").read_text() == made
            looks = [record.read(EvaluationRecord, path) for path in folder.glob("evaluations/*.json")]
            assert {look.weights_from for look in looks} == {made}
