"""The section on tuning, from fixed records: budgets, choices, edges, failures, cost, and what a budget buys."""

import dataclasses
import itertools
import math
from pathlib import Path
from statistics import mean

import pytest

from harness import report
from harness.records import record
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.data.tuning import contestants, expected_best, to_csv
from harness.report.figures import curves
from harness.report.pages.report import page as page_text
from tests.report.conftest import HOSTILE, LORA, add_evaluation, add_run, evaluation

VALIDATION, TEST = evaluation("validation"), evaluation("test")
SCALES = ("0.3", "1", "3")


def kind(name, scale, skill):
    return dataclasses.replace(LORA, name=name, lr=3e-4 * float(scale), skill=skill)


# contestant -> the skill of each of its trials, which lowers its losses; None: it diverged
SKILLS = {"lora": (0.2, 0.5, 0.3), "dora": (0.2, 0.3, 0.6), "ia3": (0.4, None, 0.1), "vera": (None, None, None)}


def build(
    runs: Path, final: bool = True, reason: str = "the loss is no number", seeds: tuple[int, ...] = (0, 1)
) -> Path:
    """Four contestants of three trials: best inside, best at the end, one failure, nothing but failures."""
    cells, choices = [], []
    for name, skills in SKILLS.items():
        ids = []
        for scale, skill in zip(SCALES, skills, strict=True):
            one = kind(name, scale, skill or 0.0)
            folder = add_run(runs, one, status="ok" if skill else "diverged", reason="" if skill else reason)
            if skill:
                add_evaluation(folder, one, VALIDATION)
            ids.append(folder.parent.name)
            words = (f"method={name}", f"lr_scale={scale}", "eval.test=never", "seed=0")
            cells.append(cell(words, name, folder, 0, "tune", (VALIDATION,)))
        best = max((s, i) for i, s in enumerate(skill or 0.0 for skill in skills))
        choices.append(
            record.Choice(contestant=f"method={name}", recipe_id=ids[best[1]] if best[0] else None, reason="so")
        )
        for seed in seeds if final and best[0] else ():
            one = kind(name, SCALES[best[1]], best[0])
            folder = add_run(runs, one, seed)
            for look in (VALIDATION, TEST):
                add_evaluation(folder, one, look, seed)
            words = (f"method={name}", f"lr_scale={SCALES[best[1]]}", "eval.test=always", f"seed={seed}")
            cells.append(cell(words, name, folder, seed, "final", (VALIDATION, TEST)))
    tuning = record.Tuning(
        rule="lowest_validation_loss", settings=("lr_scale",), seeds=(0,), final_seeds=seeds, trials=3,
        choices=tuple(choices) if final else None,
    )  # fmt: skip
    sweep = record.SweepRecord(
        schema=record.SCHEMA, name="tuned", question="Which?", command="python -m harness", cells=tuple(cells),
        arguments=("sweep=tuned",), varies=("method", "train.lr"), tuning=tuning,
    )  # fmt: skip
    record.write(sweep, runs / "sweeps" / "tuned" / "sweep.json")
    return runs


def cell(words, name, folder, seed, stage, looks):
    return record.Cell(
        overrides=words, method=name, recipe_id=folder.parent.name, seed=seed, stage=stage,
        contestant=f"method={name}", eval_ids=tuple(look.eval_id for look in looks),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tuned") / "runs")


@pytest.fixture(scope="module")
def found(tuned):
    loaded = load([tuned], "tuned")
    return {one.name: one for one in contestants(loaded.sweep, loaded.trials)}


@pytest.fixture(scope="module")
def page(tuned):
    return report.write(tuned, "tuned", tuned.parent / "report").read_text()


def page_of(runs: Path) -> str:
    """The page without figures, which take their time."""
    return page_text(Comparison(load([runs], "tuned")))


def test_every_trial_counts_and_the_rule_finds_what_the_sweep_chose(found):
    assert [len(one.trials) for one in found.values()] == [3, 3, 3, 3]
    for one in found.values():
        assert one.choice.recipe_id == one.recorded.recipe_id
    assert found["method=lora"].chosen.settings == {"lr_scale": "1"}
    assert found["method=vera"].chosen is None


def test_only_the_chosen_runs_are_rows_and_the_test_is_theirs_alone(tuned):
    loaded = load([tuned], "tuned")
    rows = [(row.method, row.seed, row.status) for row in loaded.rows]
    assert rows == [
        ("lora", 0, "ok"), ("lora", 1, "ok"), ("dora", 0, "ok"), ("dora", 1, "ok"), ("ia3", 0, "ok"), ("ia3", 1, "ok"),
        ("vera", 0, "diverged"),
    ]  # fmt: skip
    assert len(loaded.trials) == 12
    assert {scored.role for row in loaded.trials for scored in row.scored} == {"validation"}
    assert loaded.unreadable == ()


def test_a_choice_at_an_end_of_its_grid_is_marked_wherever_the_row_is_named(page):
    results, _, section = page.partition("<summary>Tuning</summary>")
    assert "DoRA may be undertuned: lr_scale=3 is the highest value tried" in section
    assert "(IA)\u00b3 may be undertuned: lr_scale=0.3 is the lowest value tried" in section
    assert "| DoRA\N{DOUBLE DAGGER} |" in results
    assert "| (IA)\u00b3\N{DOUBLE DAGGER} |" in results
    assert "LoRA\N{DOUBLE DAGGER}" not in page
    assert "LoRA may be undertuned" not in page


def test_the_section_shows_the_protocol_and_what_failed(page):
    section = page.partition("<summary>Tuning</summary>")[2].partition("</details>")[0]
    assert "Each method was tuned with 3 trials over the learning rate (seed 0), selected by" in page
    assert "- (IA)\u00b3 lr_scale=1: diverged: the loss is no number (counted)" in section
    assert "- VeRA: nothing could be chosen, none of 3 trials completed, 3 diverged" in section
    assert "| 3 | 3 | \N{EN DASH} | 0 |" in section


def test_the_appendix_says_how_was_tuned(tuned, page):
    text = (tuned.parent / "report" / "appendix.md").read_text()
    assert "nothing was tuned" not in text
    assert "| Method | Searched | Selected | Trials | Failed |" in text
    setup = (tuned.parent / "report" / "setup.md").read_text()
    assert "Each method was tuned with 3 trials over the learning rate" in setup
    assert "The test sets were used only for the final runs" in setup


def test_tuning_costs_what_its_trials_took(found, page):
    # a run of the fixed records loads in 3 s and trains in 3 s; one that diverged has no phases
    assert [one.device_seconds for one in found.values()] == [18.0, 18.0, 12.0, 0.0]
    assert "Tuning took 0.013 device hours" in page


def test_trials_that_are_still_missing_are_said(tmp_path):
    runs = build(tmp_path / "runs", final=False)
    [first] = [path for path in runs.glob("*/seed-0") if '"dora"' in (path / "record.json").read_text()][:1]
    (first / "record.json").unlink()
    text = page_of(runs)
    assert "- DoRA: 1 of 3 trials have not been made" in text
    [line] = [line for line in text.splitlines() if line.startswith("| DoRA") and " | 3 | " in line]
    rates = [float(rate) for rate in line.split("|")[2].split(",")]
    assert len(rates) == 2 and max(rates) < 0.01, "learning rates, and no factor of one"
    assert "| Base model |" not in text
    done = sum('"status": "ok"' in path.read_text() for path in runs.glob("*/seed-0/record.json"))
    assert f"**No final run completed: so far there are {done} completed trials of the tuning.**" in text and done == 7


def test_a_trial_made_again_that_changes_the_choice_is_said(tmp_path):
    runs = build(tmp_path / "runs")
    worse = kind("lora", "1", 0.5)
    folder = add_run(runs, worse, status="diverged", reason="again")
    assert folder.is_dir()
    text = page_of(runs)
    assert "LoRA: the results are of" in text
    assert "run the sweep again" in text


def test_hostile_reasons_are_shown_and_do_nothing(tmp_path):
    runs = build(tmp_path / "runs", reason=HOSTILE)
    section = page_of(runs).partition("<summary>Tuning</summary>")[2].partition("</details>")[0]
    assert "<script" not in section
    assert "\n# heading" not in section
    assert "\x1b" not in section
    assert "alert" in section


def test_the_expected_best_is_the_mean_over_every_draw(found):
    for name in ("method=lora", "method=dora"):
        trials = found[name].trials
        losses = [trial.loss for trial in trials]
        for best in expected_best(trials):
            draws = [min(draw) for draw in itertools.combinations(losses, best.budget)]
            assert best.expected == pytest.approx(mean(draws))
            ordered = sorted(draws)
            assert best.low == ordered[math.ceil(0.1 * len(draws)) - 1]
            assert best.high == ordered[math.ceil(0.9 * len(draws)) - 1]


def test_a_failed_trial_is_a_draw_that_finds_nothing(found):
    curve = expected_best(found["method=ia3"].trials)
    assert [best.budget for best in curve] == [1, 2, 3]
    assert curve[0].expected is None  # it may be the failed one
    assert curve[0].low is not None
    known = sorted(trial.loss for trial in found["method=ia3"].trials if trial.loss is not None)
    assert curve[1].expected == pytest.approx((2 * known[0] + known[1]) / 3)
    assert curve[2].expected == known[0]
    assert all(best.expected is None for best in expected_best(found["method=vera"].trials))


def test_equal_records_give_equal_bytes(tuned, found, page, tmp_path):
    written = tuned.parent / "report"
    assert page_of(tuned).partition("## Results")[0] == page.partition("## Results")[0]
    assert to_csv([*found.values()]) == (written / "tuning.csv").read_text()
    figure = curves.tuning_budget([*found.values()])
    figure.save(tmp_path)
    for name in figure.files:
        assert (tmp_path / name).read_bytes() == (written / "figures" / name).read_bytes()
