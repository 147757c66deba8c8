"""Confounds planted among the trials of a tuned sweep, and between them and the results: each is refused or named."""

import shutil
from pathlib import Path

import pytest

from harness.records import record
from harness.report.analysis.comparable import IncomparableError
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.pages import hyperparameters
from tests.report.conftest import add_evaluation, add_run
from tests.report.test_report_planted import put, rewrite, versions
from tests.report.test_report_tuning import SCALES, SKILLS, TEST, build, kind

REFUSED, NAMED = "refused", "named"


def trials_of(runs: Path, method: str) -> list[record.Cell]:
    sweep = record.read(record.SweepRecord, runs / "sweeps" / "tuned" / "sweep.json")
    return [cell for cell in sweep.cells if cell.stage == "tune" and cell.method == method]


def in_trials(change, method="dora", of=(0, 1, 2)):
    """Change the runs of a method's trials, where they lie."""

    def plant(runs: Path) -> None:
        for place in of:
            cell = trials_of(runs, method)[place]
            rewrite(runs / cell.recipe_id / f"seed-{cell.seed}" / "record.json", change)

    return plant


def in_looks(change, method="dora"):
    def plant(runs: Path) -> None:
        for cell in trials_of(runs, method):
            for path in (runs / cell.recipe_id / f"seed-{cell.seed}" / "evaluations").glob("*.json"):
                rewrite(path, change)

    return plant


def more_trials(runs: Path) -> None:
    """LoRA is given a fourth trial."""
    one = kind("lora", "10", 0.1)
    folder = add_run(runs, one)
    found = runs / "sweeps" / "tuned" / "sweep.json"

    def change(sweep: dict) -> None:
        cell = next(c for c in sweep["cells"] if c["stage"] == "tune" and c["method"] == "lora")
        words = ["method=lora", "lr_scale=10", "eval.test=never", "seed=0"]
        sweep["cells"].append({**cell, "overrides": words, "recipe_id": folder.parent.name})

    rewrite(found, change)


def more_seeds(runs: Path) -> None:
    """DoRA's trials are repeated with a second seed."""
    cells = trials_of(runs, "dora")
    for cell in cells:
        source = runs / cell.recipe_id / "seed-0"
        if not (source.parent / "seed-7").exists():
            shutil.copytree(source, source.parent / "seed-7")
            rewrite(source.parent / "seed-7" / "record.json", put("seed", value=7))
            for path in (source.parent / "seed-7" / "evaluations").glob("*.json"):
                rewrite(path, put("seed", value=7))

    def change(sweep: dict) -> None:
        of = [c for c in sweep["cells"] if c["stage"] == "tune" and c["method"] == "dora"]
        sweep["cells"] += [{**cell, "seed": 7} for cell in of]

    rewrite(runs / "sweeps" / "tuned" / "sweep.json", change)


def read_the_test(runs: Path) -> None:
    cell = trials_of(runs, "dora")[0]
    add_evaluation(runs / cell.recipe_id / "seed-0", kind("dora", SCALES[0], SKILLS["dora"][0]), TEST)


def chosen_before(runs: Path) -> None:
    def change(sweep: dict) -> None:
        before = [{**one, "recipe_id": trials_of(runs, "lora")[0].recipe_id} for one in sweep["tuning"]["choices"]]
        sweep["tuning"]["earlier"] = [before]

    rewrite(runs / "sweeps" / "tuned" / "sweep.json", change)


def another_choice(runs: Path) -> None:
    def change(sweep: dict) -> None:
        for one in sweep["tuning"]["choices"]:
            if one["contestant"] == "method=lora":
                one["recipe_id"] = trials_of(runs, "lora")[0].recipe_id

    rewrite(runs / "sweeps" / "tuned" / "sweep.json", change)


def final_on_another_machine(runs: Path) -> None:
    """All results, and none of the trials, were made with another library: each stage is equal in itself."""
    sweep = record.read(record.SweepRecord, runs / "sweeps" / "tuned" / "sweep.json")
    tried = {(cell.recipe_id, cell.seed) for cell in sweep.cells if cell.stage == "tune"}
    for cell in sweep.cells:
        if (cell.recipe_id, cell.seed) not in tried:
            folder = runs / cell.recipe_id / f"seed-{cell.seed}"
            for path in (folder / "record.json", *folder.glob("evaluations/*.json")):
                part = ("attempt",) if path.name == "record.json" else ()
                rewrite(path, put(*part, "provenance", "versions", value=versions(torch="2.9")))


def shorter(found: dict) -> None:
    training = found["attempts"][-1]["training"]
    training["losses"] = training["losses"][:30]


def fewer_tokens(found: dict) -> None:
    found["attempts"][-1]["training"]["real_tokens"] = [100] * 60


def as_failed(found: dict) -> None:
    found["attempts"][-1] |= {"status": "failed", "reason": "the disk is full"}


PLANTS = {
    "half the steps": (in_trials(shorter), REFUSED, "steps"),
    "half the steps in one trial": (in_trials(shorter, of=(1,)), REFUSED, "steps"),
    "other rows": (
        in_trials(put("attempt", "data", "content_sha256", value="6b" * 32)), REFUSED, "rows.content_sha256",
    ),
    "fewer rows": (in_trials(put("attempt", "data", "train_rows", value=9)), REFUSED, "rows.train_rows"),
    "fewer tokens": (in_trials(fewer_tokens), REFUSED, "tokens.real"),
    "other precision": (in_trials(put("recipe", "train", "precision", value="bf16")), REFUSED, "train.precision"),
    "a second tuned setting": (
        in_trials(put("recipe", "train", "warmup_steps", value=0.5), of=(2,)), REFUSED, "train.warmup_steps",
    ),
    "early stopping": (
        in_trials(put("recipe", "train", "early_stopping", value={"patience": 2})), REFUSED,
        "train.early_stopping.patience",
    ),
    "other data": (in_trials(put("recipe", "data", "content", value="66666666")), REFUSED, "data.content"),
    "other model": (in_trials(put("recipe", "model", "content", value="77777777")), REFUSED, "model.content"),
    "other transformers": (
        in_trials(put("attempt", "provenance", "versions", value=versions(transformers="5.18"))), REFUSED,
        "versions.transformers",
    ),
    "other device": (in_trials(put("attempt", "provenance", "device", value="cuda")), REFUSED, "device"),
    "other card": (
        in_trials(put("attempt", "provenance", "device_name", value="H200"), of=(0,)), REFUSED, "device_name",
    ),
    "other processes": (in_trials(put("attempt", "provenance", "num_processes", value=2)), REFUSED, "num_processes"),
    "a diverged trial with another program": (
        in_trials(put("attempt", "provenance", "harness", value="0.2.0"), method="vera"), REFUSED, "harness",
    ),
    "validated on fewer rows": (in_looks(put("evaluation", "limit", value=9)), REFUSED, "eval.limit"),
    "validated elsewhere": (in_looks(put("provenance", "device_name", value="H200")), REFUSED, "device_name"),
    "validated in another precision": (in_looks(put("evaluation", "precision", value="bf16")), REFUSED,
                                       "eval.precision"),
    "a trial more": (more_trials, REFUSED, "tuning.trials"),
    "more tuning seeds": (more_seeds, REFUSED, "tuning.seeds"),
    "a trial that failed": (in_trials(as_failed, of=(1,)), NAMED, "failed: the disk is full"),
    "a trial that read the test": (read_the_test, NAMED, "tuning runs were evaluated on the test sets"),
    "chosen before": (chosen_before, NAMED, "chosen 2 times"),
    "a choice that the records do not make": (another_choice, NAMED, "the records as they are now would choose"),
    "results with another library than the trials": (
        final_on_another_machine, NAMED, "not made alike: torch: 2.8.0 (trials), 2.9 (results)",
    ),
}  # fmt: skip
FEWEST = 15


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return build(tmp_path_factory.mktemp("clean") / "runs", seeds=(1, 2))


def found_in(runs: Path) -> dict[str, list[str]]:
    loaded = load([runs], "tuned")
    try:
        _ = Comparison(loaded).guard
        refused = []
    except IncomparableError as error:
        refused = [one.key for one in error.guard.refused]
    return {REFUSED: refused, NAMED: hyperparameters.tuning_lines(loaded)}


def test_a_clean_sweep_is_let_through_and_says_what_is_true(clean):
    found = found_in(clean)
    assert found[REFUSED] == []
    text = "\n".join(found[NAMED])
    assert "nothing is tested on it" in text and "tuning runs were evaluated" not in text
    assert "chosen for" not in text


def test_so_many_confounds_are_planted():
    assert len(PLANTS) >= FEWEST
    assert {fate for _, fate, _ in PLANTS.values()} == {REFUSED, NAMED}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_confound_is_refused_or_named(clean, tmp_path, name):
    plant, fate, words = PLANTS[name]
    runs = tmp_path / "runs"
    shutil.copytree(clean, runs)
    plant(runs)
    found = found_in(runs)
    assert words in found[REFUSED] if fate == REFUSED else any(words in line for line in found[NAMED]), found
