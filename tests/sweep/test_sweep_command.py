"""`python -m harness.sweep`: what it says of a sweep's records, and with which command it goes on."""

import dataclasses
import json
import os
import sys
import time

import pytest

from harness.records import record
from harness.records.record import Cell, Choice, EvaluationRecord, Metric, RunRecord, SweepRecord, Tuning
from harness.run import lock
from harness.sweep import __main__ as command
from harness.sweep.cluster import submissions
from harness.sweep.cluster.submissions import Submission
from harness.sweep.status import find

ARGUMENTS = ("sweep=asked", "train=smoke", "lr_scale=1,3", "seed=0")


def cell(recipe, contestant="method=lora", scale="1", stage="tune", seed=0):
    words = ("sweep=asked", "train=smoke", contestant, f"lr_scale={scale}", "eval.test=never", f"seed={seed}")
    return Cell(
        overrides=words, method="lora", recipe_id=recipe, seed=seed, eval_ids=("v",), stage=stage,
        contestant=contestant,
    )  # fmt: skip


def add(runs, one, loss=None, status="ok", reason="", evaluated=True):
    """A run as it is left behind."""
    started = "2026-01-01T00:00:00"
    attempt = record.Attempt(
        started_at=started, status=status, reason=reason, phases={}, data=None, fingerprint=None, training=None,
        peak_memory_bytes=None, weights_from=started if status == "ok" else None, provenance={},
    )  # fmt: skip
    run = RunRecord(
        schema=record.SCHEMA, recipe_id=one.recipe_id, seed=one.seed, method="lora", recipe={"train": {"lr": 1e-4}},
        config={}, attempts=(attempt,),
    )  # fmt: skip
    folder = runs / one.recipe_id / f"seed-{one.seed}"
    record.write(run, folder / "record.json")
    if status == "ok" and evaluated:
        validation = EvaluationRecord(
            schema=record.SCHEMA, recipe_id=one.recipe_id, seed=one.seed, eval_id="v",
            evaluation={"kind": "heldout", "role": "validation"}, num_items=4, num_tokens=9, num_fewshot=None,
            metrics={"loss": Metric(value=loss, stderr=0.1, higher_is_better=False)}, seconds=1.0,
            weights_from=started, provenance={},
        )  # fmt: skip
        record.write(validation, record.evaluation_path(folder, "v"))
    return folder


def add_sweep(runs, cells, choices=(), **changed):
    tuning = Tuning(
        rule="lowest_validation_loss", settings=("lr_scale",), seeds=(0,), final_seeds=(0,), trials=2,
        choices=None if choices is None else tuple(Choice(contestant=c, recipe_id=r, reason="") for c, r in choices),
    )  # fmt: skip
    asked = SweepRecord(
        schema=record.SCHEMA, name="asked", question="Why?", command="python -m harness", cells=tuple(cells),
        arguments=ARGUMENTS, tuning=tuning,
    )  # fmt: skip
    record.write(dataclasses.replace(asked, **changed), runs / "sweeps" / "asked" / "sweep.json")


@pytest.fixture
def started(monkeypatch):
    """The commands that this one would have become, which end with 7."""
    found = []

    def become(program, words):
        assert program == words[0] == sys.executable
        found.append(words)
        raise SystemExit(7)

    monkeypatch.setattr(command.os, "execv", become)
    return found


def code(*words):
    """What the command ends with."""
    try:
        return command.main(words)
    except SystemExit as stop:
        return stop.code


def test_an_interrupted_run_is_not_called_failed(tmp_path, capsys):
    stopped = cell("stopped")
    path = add(tmp_path, stopped, status="failed", reason="preempted at step 3") / "record.json"
    run = record.read(RunRecord, path)
    record.write(dataclasses.replace(run, attempts=(dataclasses.replace(run.attempts[0], stopped="training"),)), path)
    add_sweep(tmp_path, [stopped])
    assert command.main(["status", "asked", "--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  tune   1: 1 interrupted"
    assert "    interrupted stopped/seed-0 (method=lora lr_scale=1 eval.test=never): preempted at step 3" in lines


def test_status_counts_by_stage_and_gives_reasons(tmp_path, capsys):
    cells = [cell(name) for name in ("good", "hot", "broken", "none", "busy", "half")]
    add(tmp_path, cells[0], 1.0)
    add(tmp_path, cells[1], status="diverged", reason="the loss is no number")
    add(tmp_path, cells[2], status="failed", reason="a bug")
    add(tmp_path, cells[5], evaluated=False)
    add_sweep(tmp_path, [*cells, cell("good", stage="final"), cell("good", stage="final", seed=1)], choices=None)
    with lock.hold(tmp_path / "busy" / "seed-0"):
        assert command.main(["status", "asked", "--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "asked: Why?"
    assert lines[1] == "  tune   6: 1 ok, 1 running, 1 waiting, 1 lacks evaluations, 1 failed, 1 diverged"
    assert "    diverged hot/seed-0 (method=lora lr_scale=1 eval.test=never): the loss is no number" in lines
    assert "    failed broken/seed-0 (method=lora lr_scale=1 eval.test=never): a bug" in lines
    assert any(line.startswith("    running busy/seed-0") for line in lines)
    assert "  final  2: 1 ok, 1 waiting" in lines
    assert lines[-2] == "  final  to be chosen when the trials have been made"
    assert lines[-1].startswith("  expected end 2")
    assert command.main(["status", "asked", "--runs", str(tmp_path), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["sweep"], status["question"]) == ("asked", "Why?")
    assert status["counts"] == {"ok": 2, "waiting": 3, "lacks evaluations": 1, "failed": 1, "diverged": 1}
    [diverged] = [run for run in status["runs"] if run["state"] == "diverged"]
    assert (diverged["recipe_id"], diverged["seed"], diverged["stage"]) == ("hot", 0, "tune")
    assert (diverged["reason"], diverged["ended_well"]) == ("the loss is no number", True)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [("failed", []), ("failed,oom", ["rerun=[oom]"]), ("diverged,oom", ["rerun=[diverged,oom]"])],
)
def test_rerun_asks_the_same_again(tmp_path, started, statuses, expected):
    add_sweep(tmp_path, [cell("a")])
    assert code("rerun", "asked", "--status", statuses, "--runs", str(tmp_path)) == 7
    [words] = started
    assert words[1:] == ["-m", "harness", "-m", *ARGUMENTS, f"runs_dir={tmp_path}", *expected]


def test_an_interrupt_is_one_line(tmp_path, capsys, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    add_sweep(tmp_path, [cell("a")])
    monkeypatch.setattr(command.control, "collect", pressed)
    assert command.main(["collect", "asked", "--wait", "--runs", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted: what is on the cluster goes on\n"


def test_rerun_asks_where_the_question_lies_as_files_there_may_run_code(tmp_path, started, capsys):
    where = "hydra.searchpath=[/my files]"
    add_sweep(tmp_path, [cell("a")], command=f"python -m harness -m sweep=asked '{where}'")
    assert code("rerun", "asked", "--runs", str(tmp_path)) == 2
    assert where in capsys.readouterr().err and not started
    assert code("rerun", "asked", "--runs", str(tmp_path), where) == 7
    assert started[0].count(where) == 1


def test_extend_tries_one_value_beyond_every_edge_for_every_contestant(tmp_path, started, capsys):
    cells = [cell(f"{c}{s}", f"method={c}", s) for c in ("lora", "full", "ia3") for s in ("0.3", "1", "3")]
    losses = {"lora3": 1.0, "full0.3": 1.0, "ia31": 1.0}  # the best of each: highest, lowest, inside
    for one in cells:
        add(tmp_path, one, losses.get(one.recipe_id, 2.0))
    choices = [("method=lora", "lora3"), ("method=full", "full0.3"), ("method=ia3", "ia31")]
    add_sweep(tmp_path, cells, choices)
    assert code("extend", "asked", "--runs", str(tmp_path)) == 7
    assert started[0][-1] == "lr_scale=0.1,0.3,1,3,10"
    assert "lr_scale=1,3" not in started[0]
    assert "every contestant is tried with lr_scale=0.1,0.3,1,3,10" in capsys.readouterr().out


def test_extend_leaves_alone_what_is_inside_its_grid(tmp_path, started, capsys):
    cells = [cell(f"lora{s}", scale=s) for s in ("0.3", "1", "3")]
    for one in cells:
        add(tmp_path, one, 1.0 if one.recipe_id == "lora1" else 2.0)
    add_sweep(tmp_path, cells, [("method=lora", "lora1")])
    assert command.main(["extend", "asked", "--runs", str(tmp_path)]) == 0
    assert "nothing to extend" in capsys.readouterr().out
    assert not started


def test_a_holder_that_is_silent_is_doubted(tmp_path):
    one = cell("a")
    add_sweep(tmp_path, [one])
    with lock.hold(tmp_path / "a" / "seed-0"):
        state, holder = find(tmp_path, "asked").status(one)
        assert (state, "no sign of life" in holder) == ("running", False)
        [file] = (tmp_path / "a" / "seed-0").glob("claim-*.json")
        os.utime(file, (time.time() - 7205, time.time() - 7205))
        assert find(tmp_path, "asked").status(one)[1].startswith(f"{holder}, no sign of life for 2:00:0")


SECRET = ("sweep=asked", "data.path=https://<removed>@host/", "seed=0")


@pytest.mark.parametrize("name", ["rerun", "submit"])
def test_what_a_record_does_not_keep_is_not_asked_again(tmp_path, started, capsys, name):
    """With what stands in its place it would be another recipe."""
    add_sweep(tmp_path, [cell("a")], arguments=SECRET)
    assert command.main([name, "asked", "--runs", str(tmp_path)]) == 2
    assert "sweep asked: data.path held a secret, which its record does not keep" in capsys.readouterr().err
    assert not started
    given = "data.path=https://me:password@host/"
    assert code(name, "asked", "--runs", str(tmp_path), given) == 7
    assert given in started[0]
    assert not any("<removed>" in word for word in started[0])


def test_neither_is_what_a_launcher_was_told(tmp_path, started, capsys):
    add_sweep(tmp_path, [cell("a")])
    words = ("hydra.launcher.setup=['export HUB_TOKEN=abcdefghij']",)
    job = Submission(schema=record.SCHEMA, job="7", submitted_at="2026", runs=(("a", 0),), at_once=1, words=words)
    submissions.keep(job, tmp_path, "asked")
    assert command.main(["submit", "asked", "--runs", str(tmp_path)]) == 2
    assert "hydra.launcher.setup held a secret" in capsys.readouterr().err
    assert code("submit", "asked", "--runs", str(tmp_path), "hydra.launcher.setup=[ls]") == 7
    assert "hydra.launcher.setup=[ls]" in started[0]


REFUSED = {
    "no such sweep": ("status nosuch", {}, "no sweep 'nosuch' below"),
    "no stages": ("extend asked", {"tuning": None}, "it has no stages, so nothing was tuned"),
    "not finished": ("extend asked", {"choices": None}, "its trials have not all been made"),
    "of an older version": ("rerun asked", {"arguments": None}, "does not say how it was asked for"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_with_one_line(tmp_path, started, capsys, case):
    words, changed, expected = REFUSED[case]
    choices = changed.get("choices", ())
    add_sweep(tmp_path, [cell("a")], choices, **{k: v for k, v in changed.items() if k != "choices"})
    assert command.main([*words.split(), "--runs", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not started


def test_a_folder_without_sweeps_is_told_how_one_is_started(tmp_path, capsys):
    assert command.main(["status", "asked", "--runs", str(tmp_path)]) == 2
    assert "there is none yet; `harness -m sweep=NAME` starts one" in capsys.readouterr().err


def test_a_setting_that_only_some_have_is_not_extended(tmp_path, capsys):
    cells = [cell("a", scale="1"), cell("b", scale="3")]
    other = dataclasses.replace(cell("c", "method=full"), overrides=("method=full", "seed=0"), contestant="method=full")
    for one, loss in zip([*cells, other], (2.0, 1.0, 1.0), strict=True):
        add(tmp_path, one, loss)
    add_sweep(tmp_path, [*cells, other], [("method=lora", "b"), ("method=full", "c")])
    assert command.main(["extend", "asked", "--runs", str(tmp_path)]) == 2
    assert "lr_scale is not tuned for method=full" in capsys.readouterr().err


def test_a_damaged_record_counts_as_none_and_is_named(tmp_path):
    one = cell("a")
    add(tmp_path, one, 1.0)
    add_sweep(tmp_path, [one])
    stored = find(tmp_path, "asked")
    assert stored.status(one) == ("ok", "")
    path = tmp_path / "a" / "seed-0" / "record.json"
    path.write_text("{")
    state, reason = stored.status(one)
    assert (state, reason.startswith(f"{path}: not a record")) == ("waiting", True)
    path.write_text('{"schema": 99}')
    assert stored.status(one) == ("failed", f"{path}: record schema 99, this version reads 2")
    path.unlink()
    assert stored.status(one) == ("waiting", "")


def test_a_look_at_many_runs_takes_no_longer_than_reading_them(tmp_path, capsys):
    """Ten thousand in five seconds; here it is five hundred, in seconds of the processor."""
    cells = [cell(f"r{number}", stage=None) for number in range(500)]
    for one in cells:
        add(tmp_path, one, 1.0)
    add_sweep(tmp_path, cells, tuning=None)
    command.main(["status", "asked", "--runs", str(tmp_path)])  # what is built once is not counted
    began = time.process_time()
    assert command.main(["status", "asked", "--runs", str(tmp_path)]) == 0
    assert time.process_time() - began < 500 * 5 / 10_000
    assert "  runs   500: 500 ok" in capsys.readouterr().out
