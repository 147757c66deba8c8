"""What is read, in what order, under what name, and what is said about the rest."""

import dataclasses

import pytest

from harness.report.data.groups import grouped
from harness.report.data.load import load, sweep_names
from tests.report.conftest import (
    BASE,
    DORA,
    LOOKS,
    LORA,
    STARTED,
    TASK_ITEMS,
    add_evaluation,
    add_run,
    attempt,
    evaluation,
)


def test_a_sweep_is_its_cells_in_its_order_base_first(tree):
    rows = load([tree], "methods").rows
    assert [(row.label, row.seed, row.status) for row in rows] == [
        ("base", 0, "ok"),
        ("lora lr=3e-4", 0, "ok"),
        ("dora", 0, "ok"),
        ("lora lr=3e-4", 1, "ok"),
        ("ia3", 0, "ok"),
        ("full", 0, "oom"),
        ("lora lr=0.3", 0, "failed"),
        ("qlora", 0, "skipped"),
        ("vera", 0, None),
    ]
    assert [row.already_done for row in rows] == [True] + [False] * 8
    assert [scored.record.eval_id for scored in rows[0].scored] == [look.eval_id for look in LOOKS]
    assert rows[-1].reason.startswith("no record")
    assert sweep_names([tree]) == ["methods"]


def test_a_sweep_takes_only_the_evaluations_it_asked_for(tree, runs):
    import shutil

    shutil.copytree(tree, runs, dirs_exist_ok=True)
    folder = next(path.parent for path in runs.glob("*/seed-0/record.json") if '"dora"' in path.read_text())
    add_evaluation(folder, DORA, evaluation("arc_easy", num_fewshot=5))
    assert len(load([runs], "methods").rows) == 9
    assert [row.label for row in load([runs]).rows if row.method == "dora"] == [
        "dora (5-shot)",
        "dora (each task's own shots)",
    ]


def test_the_base_has_a_row_per_held_out_set_and_few_shot_setting(runs):
    folder = add_run(runs, BASE)
    for look in LOOKS:
        add_evaluation(folder, BASE, look)
    other = dataclasses.replace(evaluation("validation"), task="gsm8k/validation", rows="99999999")
    add_evaluation(folder, BASE, other)
    add_evaluation(folder, BASE, evaluation("arc_easy", num_fewshot=5))
    rows = load([runs]).rows
    assert [row.label for row in rows] == [
        "base (loss on gsm8k, 5-shot)",
        "base (loss on gsm8k, each task's own shots)",
        "base (loss on science_qa, 5-shot)",
        "base (loss on science_qa, each task's own shots)",
    ]
    assert [len(row.scored) for row in rows] == [2, 3, 3, 4]


def test_labels_name_as_little_as_tells_the_rows_apart(runs):
    for r in (8, 32, 16):
        settings = {"r": r, "lora_alpha": 2 * r, "target": "all_linear"}
        add_run(runs, dataclasses.replace(LORA, settings=settings, lr=1e-3 / r))
    assert [row.label for row in load([runs]).rows] == ["lora r=8", "lora r=16", "lora r=32"]
    add_run(runs, dataclasses.replace(LORA, settings=settings, lr=2e-4))
    assert [row.label for row in load([runs]).rows] == [
        "lora r=8 lr=1.25e-4",
        "lora r=16 lr=6.25e-5",
        "lora r=16 lr=2e-4",
        "lora r=32 lr=3.125e-5",
    ]


def test_several_folders_are_one_and_two_records_of_a_run_are_named(tree, runs):
    other = runs / "other"
    add_evaluation(add_run(other, LORA, 0, "failed", "elsewhere"), LORA, evaluation("arc_easy", num_fewshot=5))
    add_run(other, LORA, 2)
    loaded = load([tree, other])
    assert {row.seed for row in loaded.rows if row.label.startswith("lora lr=3e-4")} == {0, 1, 2}
    assert [problem for problem in loaded.unreadable if "another one of the same run" in problem]
    assert all(row.reason != "elsewhere" for row in loaded.rows)


def test_damage_is_named_and_the_rest_is_shown(runs):
    broken = add_run(runs, LORA) / "record.json"
    broken.write_text(broken.read_text()[:100])
    folder = add_run(runs, DORA)
    path = add_evaluation(folder, DORA, LOOKS[2])
    path.with_suffix(".parquet").write_bytes(b"PAR1 not really")
    path.with_name("deadbeef.json").write_text("{}")
    loaded = load([runs])
    assert [row.method for row in loaded.rows] == ["dora"]
    assert len(loaded.unreadable) == 2
    assert loaded.unreadable[0].startswith(f"{broken.relative_to(runs).as_posix()}: not a record") or (
        loaded.unreadable[1].startswith(f"{broken.relative_to(runs).as_posix()}: not a record")
    )
    assert str(runs) not in "".join(loaded.unreadable)
    assert loaded.rows[0].scored[0].problem.startswith(path.with_suffix(".parquet").relative_to(runs).as_posix())


def test_scores_of_older_weights_are_not_shown(runs):
    folder = add_run(runs, LORA, 0)
    add_evaluation(folder, LORA, LOOKS[0])
    assert len(load([runs]).rows[0].scored) == 1
    newer = dataclasses.replace(attempt(LORA, 0), started_at=STARTED.format(59), weights_from=STARTED.format(59))
    for status in ("ok", "oom"):
        result = dataclasses.replace(load([runs]).rows[0].record, attempts=(attempt(LORA, 0), newer))
        result = dataclasses.replace(result, attempts=(*result.attempts[:1], dataclasses.replace(newer, status=status)))
        from harness.records import record

        record.write(result, folder / "record.json")
        assert load([runs]).rows[0].scored == ()


def test_seeds_of_one_recipe_are_one_group_with_those_that_failed(runs):
    for seed, status in ((0, "ok"), (1, "ok"), (2, "oom")):
        folder = add_run(runs, LORA, seed, status, "" if status == "ok" else "too large")
        if status == "ok":
            add_evaluation(folder, LORA, LOOKS[0], seed)
    groups = grouped(load([runs]).rows)
    assert [(group.label, group.seeds, group.num_seeds) for group in groups] == [("lora", (0, 1), "2 of 3")]
    assert [(row.seed, row.status) for row in groups[0].failed] == [(2, "oom")]


def test_a_recipe_without_a_result_is_one_group_of_all_its_seeds(runs):
    for seed, status in ((0, "oom"), (1, "diverged")):
        add_run(runs, LORA, seed, status, "too large")
    [group] = grouped(load([runs]).rows)
    assert (group.ok, group.num_seeds, group.status) == (False, "0 of 2", "oom")
    assert [row.status for row in group.failed] == ["oom", "diverged"]


@pytest.mark.parametrize(
    ("sweep", "message"), [(None, "no readable records"), ("x", "no sweep 'x'.*there is none yet; `harness -m")]
)
def test_an_empty_folder_is_refused(runs, sweep, message):
    with pytest.raises(ValueError, match=message):
        load([runs], sweep)


def test_the_tree_counts_what_it_holds(tree):
    assert len(TASK_ITEMS) == len(LOOKS) == 4
    assert len(load([tree]).rows) == 8


def test_the_margin_is_that_of_the_question_unless_another_is_given(tree, runs):
    import shutil

    from harness.records import record
    from harness.report.data.rows import MARGIN

    shutil.copytree(tree, runs, dirs_exist_ok=True)
    assert load([runs], "methods").margin == MARGIN == 0.01
    path = runs / "sweeps" / "methods" / "sweep.json"
    record.write(dataclasses.replace(record.read(record.SweepRecord, path), margin=0.05), path)
    loaded = load([runs], "methods")
    assert loaded.margin == 0.05
