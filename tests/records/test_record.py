import dataclasses
import json
import threading

import pytest

from harness.records import record
from harness.records.record import Attempt, EvaluationRecord, Metric, Phase, RunRecord, Training

PHASE = Phase(seconds=1.5, peak_memory_bytes=10, peak_reserved_bytes=None, resident_bytes=20)
TRAINING = Training(
    step_seconds=(0.5, 0.25), real_tokens=(10, 12), padded_tokens=(16, 16), trained_tokens=(4, 5), losses=(2.5, None),
    gradient_norms=(1.0, 0.1), learning_rates=(1e-4, 0.0), validation=((1, 2.25),), warmup_steps_dropped=2,
    tokens_per_second=None, train_seconds=0.75,
)  # fmt: skip
FINGERPRINT = record.Fingerprint(
    trained={"a.weight": ((2, 3), "float32")}, trainable_parameters=6, expected_trainable_parameters=6,
    total_parameters=100, saved_bytes=24,
)  # fmt: skip
COUNTS = record.DataCounts(
    train_rows=9, validation_rows=1, test_rows=0, removed_in_test=0, removed_duplicates=0, removed_too_long=0,
    content_sha256="00",
)  # fmt: skip


def attempt(**changes) -> Attempt:
    return Attempt(
        **{
            "started_at": "2026-01-01T00:00:00.000+00:00", "status": "ok", "reason": "", "phases": {"train": PHASE},
            "data": COUNTS, "fingerprint": FINGERPRINT, "training": TRAINING, "peak_memory_bytes": 7,
            "weights_from": "2026-01-01T00:00:00.000+00:00", "provenance": {"commit": None, "versions": {"torch": "2"}},
            **changes,
        }
    )  # fmt: skip


def run_record(*attempts: Attempt) -> RunRecord:
    return RunRecord(
        schema=record.SCHEMA, recipe_id="0123abcd", seed=3, method="lora", recipe={"train": {"lr": 1e-4}},
        config={"seed": 3}, attempts=attempts or (attempt(),),
    )  # fmt: skip


EVALUATION = EvaluationRecord(
    schema=record.SCHEMA, recipe_id="0123abcd", seed=3, eval_id="ffff0000", evaluation={"task": "arc_easy"},
    metrics={"acc": Metric(value=0.5, stderr=None, higher_is_better=True)}, num_items=8, num_tokens=None, num_fewshot=0,
    seconds=1.0, weights_from=None, provenance={},
)  # fmt: skip
SWEEP = record.SweepRecord(
    schema=record.SCHEMA, name="smoke", question="?", command="python -m harness",
    cells=(record.Cell(overrides=("a=1",), method="lora", recipe_id="0123abcd", seed=0, eval_ids=("x",)),),
    already_done=("0123abcd/seed-0",),
)  # fmt: skip
BLANK = attempt(status="failed", data=None, fingerprint=None, training=None, peak_memory_bytes=None, weights_from=None)


@pytest.mark.parametrize("value", [run_record(), run_record(BLANK, attempt()), EVALUATION, SWEEP])
def test_what_is_written_is_read(tmp_path, value):
    path = record.write(value, tmp_path / "a" / "b" / "record.json")
    assert record.read(type(value), path) == value
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_last_attempt_counts():
    assert run_record(BLANK, attempt()).status == "ok"
    assert run_record(attempt(), BLANK).current is BLANK


def test_equal_records_give_equal_bytes(tmp_path):
    one, two = (record.write(run_record(), tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one == two
    assert one.isascii()


def test_writers_at_the_same_time_leave_one_whole_record_and_nothing_else(tmp_path):
    path = tmp_path / "record.json"
    values = [run_record(*[attempt(reason="x" * 5000)] * n) for n in range(1, 9)]
    seen = []

    def write(value):
        for _ in range(10):
            record.write(value, path)
            seen.append(record.read(RunRecord, path))

    threads = [threading.Thread(target=write, args=[value]) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 80
    assert all(found in values for found in seen)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_and_the_old_record_stays(tmp_path, number):
    path = record.write(run_record(), tmp_path / "record.json")
    bad = run_record(attempt(training=dataclasses.replace(TRAINING, losses=(number,))))
    with pytest.raises(ValueError, match="JSON"):
        record.write(bad, path)
    assert record.read(RunRecord, path) == run_record()
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        record.write(run_record(), tmp_path / "record.json")
    assert list(tmp_path.iterdir()) == []


def damaged(change):
    data = json.loads(json.dumps(dataclasses.asdict(run_record())))
    change(data)
    return json.dumps(data)


DAMAGED = {
    "nothing": ("", "breaks off or is damaged"),
    "half": (damaged(lambda d: None)[:200], "breaks off or is damaged"),
    "bytes": ("\x00\x01", "breaks off or is damaged"),
    "list": ("[]", "record schema 'list'"),
    "null": ("null", "record schema 'NoneType'"),
    "no schema": (damaged(lambda d: d.pop("schema")), "record schema None"),
    "newer": (
        damaged(lambda d: d.update(schema=record.SCHEMA + 1)),
        f"record schema {record.SCHEMA + 1}, this version",
    ),
    "missing": (damaged(lambda d: d.pop("method")), "method: Field required"),
    "unknown": (damaged(lambda d: d.update(color=1)), "color: "),
    "type": (damaged(lambda d: d.update(seed="3")), "seed: Input should be a valid integer"),
    "deep type": (
        damaged(lambda d: d["attempts"][0]["training"].update(losses=["a"])),
        r"attempts\.0\.training\.losses\.0",
    ),
    "deep unknown": (damaged(lambda d: d["attempts"][0].update(x=1)), r"attempts\.0\.x"),
    "status": (damaged(lambda d: d["attempts"][0].update(status="fine")), r"attempts\.0\.status"),
    "boolean": (damaged(lambda d: d.update(seed=True)), "seed: "),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_record_is_refused_by_name(tmp_path, kind):
    text, message = DAMAGED[kind]
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        record.read(RunRecord, path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_record_that_is_not_there_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        record.read(RunRecord, tmp_path / "record.json")


def test_runs_are_found_in_a_fixed_order(tmp_path):
    for name in ("b/seed-1", "a/seed-10", "a/seed-2", "b/weights"):
        record.write(run_record(), tmp_path / name / "record.json")
    found = [path.parent.relative_to(tmp_path).as_posix() for path in record.find_runs(tmp_path)]
    assert found == ["a/seed-10", "a/seed-2", "b/seed-1"]
