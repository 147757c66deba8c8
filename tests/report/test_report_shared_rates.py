"""The learning rates that all methods of a tuned sweep share: the best method at each, and who is named how."""

import dataclasses
from dataclasses import replace

import pytest

from harness.report.analysis.comparison import Comparison
from harness.report.data import tuning
from harness.report.data.labels import labeled
from harness.report.data.load import load
from harness.report.document import Missing, Number
from harness.report.pages import hyperparameters, shared_rates
from harness.report.pages.report import page
from tests.report.conftest import LORA, add_run
from tests.report.test_report_tuning import build

RATES = ["9e-5", "3e-4", "9e-4"]
WINNERS = {"9e-5": "(IA)\u00b3", "3e-4": "LoRA", "9e-4": "DoRA"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Four contestants at the same three rates: ia3 is best at the lowest, lora in the middle, dora at the highest."""
    return load([build(tmp_path_factory.mktemp("shared") / "runs")], "tuned")


def shown(loaded):
    comparison = Comparison(loaded)
    return shared_rates.table(comparison, comparison.tuning), shared_rates.lines(comparison, comparison.tuning)


def test_the_best_of_each_shared_rate_is_marked_and_named(loaded):
    table, lines = shown(loaded)
    assert table is not None
    assert [column.title for column in table.columns] == ["Method", *RATES]
    losses = {trial.rate: {} for trial in Comparison(loaded).tuning[0].trials}
    for contestant in Comparison(loaded).tuning:
        for trial in contestant.trials:
            losses[trial.rate][contestant.title] = trial.loss
    for (rate, of_rate), column in zip(sorted(losses.items()), table.columns[1:], strict=True):
        cells = dict(zip((row[0].text for row in table.rows), table.cells(column.key), strict=True))
        known = {title: loss for title, loss in of_rate.items() if loss is not None}
        assert {title: cell.value for title, cell in cells.items() if isinstance(cell, Number)} == known
        [best] = [title for title, cell in cells.items() if isinstance(cell, Number) and cell.emphasis == "best"]
        assert best == min(known, key=known.get) == WINNERS[column.title], rate
        assert all(isinstance(cells[title], Missing) for title in of_rate.keys() - known.keys())
    best = "; ".join(f"{title} at {rate}" for rate, title in WINNERS.items())
    assert lines[0] == f"The lowest validation loss at a shared learning rate is that of {best}."
    tried = {title: [of[title] for of in losses.values() if of[title] is not None] for title in WINNERS.values()}
    own = [min(known) for known in tried.values()]
    assert f"and by {max(own) - min(own):.3f} where each has its own best rate" in lines[1]


def test_the_table_stands_in_the_section_on_tuning_and_what_it_says_among_the_results(loaded):
    text = page(Comparison(loaded))
    section = text.partition("<summary>Tuning</summary>")[2].partition("</details>")[0]
    assert "| Method | 9e-5 | 3e-4 | 9e-4 |" in section
    results = text.partition("## Results")[2].partition("\n## ")[0]
    assert "The lowest validation loss at a shared learning rate is that of " in results
    assert text.count("at a shared learning rate") == 1


def test_a_method_with_two_learning_rates_says_which_one_is_shared(loaded):
    assert shared_rates.remarks(Comparison(loaded).tuning) == []
    trials = tuple(
        replace(row, record=replace(row.record, recipe={**row.record.recipe, "method": {"ratio": 16.0}}))
        if row.method == "dora" and row.record else row for row in loaded.trials
    )  # fmt: skip
    [remark] = shared_rates.remarks(Comparison(replace(loaded, trials=trials)).tuning)
    assert remark == "DoRA: the rate is that of A, and that of B is 16 times as high"


def test_a_rate_that_the_question_states_is_not_called_published(loaded):
    around = "every method's grid lies around the learning rate that was published for it"
    assert f"{around}." in hyperparameters.tuning_lines(loaded)[0]
    stated = [replace(row, overrides=(*row.overrides, "method.lr=3e-4")) for row in loaded.trials]
    some = replace(loaded, trials=(*stated[:3], *loaded.trials[3:]))
    assert f"{around}, or that the question states (method.lr)." in hyperparameters.tuning_lines(some)[0]
    every = hyperparameters.tuning_lines(replace(loaded, trials=tuple(stated)))[0]
    assert "every method's grid lies around 3e-4, which the question states." in every


def test_other_tuned_settings_and_missing_trials_have_no_shared_rate(loaded):
    sweep = loaded.sweep
    for settings in (("method.r",), ("lr_scale", "method.r")):
        other = replace(sweep, tuning=replace(sweep.tuning, settings=settings))
        assert shown(replace(loaded, sweep=other)) == (None, [])
    [first, *_] = loaded.trials
    without = tuple(replace(row, record=None, scored=()) if row is first else row for row in loaded.trials)
    assert shown(replace(loaded, trials=without)) == (None, [])


def test_methods_with_rates_of_their_own_share_none(loaded):
    def moved(row):
        recipe = {**row.record.recipe, "train": {**row.record.recipe["train"], "lr": 0.7}}
        return replace(row, record=replace(row.record, recipe=recipe))

    [first, *others] = loaded.trials
    assert shown(replace(loaded, trials=(moved(first), *others))) == (None, [])


def test_what_a_sweep_chose_names_no_row(tmp_path):
    asked = [("default", False, 5e-4), ("pissa", False, 1.5e-4), ("default", True, 1.5e-4)]
    for init, scaled, rate in asked:
        settings = {"r": 16, "init_lora_weights": init, "use_rslora": scaled}
        add_run(tmp_path / "runs", dataclasses.replace(LORA, settings=settings, lr=rate))
    rows = load([tmp_path / "runs"]).rows
    assert all("lr=" in row.name for row in rows)
    for setting in ("lr_scale", "method.lr", "train.lr"):
        assert sorted(row.name for row in labeled(rows, tuned=(setting,))) == [
            "LoRA", "LoRA (PiSSA)", "LoRA (rsLoRA)",
        ]  # fmt: skip


def test_a_contestant_is_named_by_what_tells_it_from_others_of_its_method():
    names = {
        "lora use_rslora=false init_lora_weights=default": "LoRA",
        "lora use_rslora=true init_lora_weights=default": "LoRA (rsLoRA)",
        "lora use_rslora=false init_lora_weights=pissa": "LoRA (PiSSA)",
        "lora use_rslora=true init_lora_weights=olora": "LoRA (OLoRA, rsLoRA)",
        "dora use_rslora=false init_lora_weights=default": "DoRA",
        "full train.max_steps=9 r=8": "Full fine-tuning (r=8, steps=9)",
        "full train.max_steps=9 r=16": "Full fine-tuning (r=16, steps=9)",
        "full train.max_steps=5 r=16": "Full fine-tuning (r=16, steps=5)",
    }
    assert tuning._titles({name: name.split()[0] for name in names}) == names


def test_a_contestant_without_the_settings_of_others_and_one_with_spaces_have_a_name():
    names = {
        "r=8": "LoRA (r=8)",
        "+data.prompt=Answer in words, please r=16": "LoRA (r=16, prompt=Answer in words, please)",
        "the rest": "LoRA (the rest)",
    }
    assert tuning._titles(dict.fromkeys(names, "lora")) == names
    assert tuning._titles({"the defaults": "lora"}) == {"the defaults": "LoRA"}
