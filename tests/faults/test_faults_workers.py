"""Workers of one sweep: each run is made once, whoever is killed, and a failure is nobody's to repeat."""

import json
import os
import time
from datetime import datetime
from pathlib import Path

import pytest
from stand_in import OVERLAPS

from harness.records import record
from harness.records.record import RunRecord
from harness.run import lock

SECONDS = 0.5  # of a run, so that several are under way at once


@pytest.fixture(scope="module")
def slow_driver(driver):
    """The process that forks workers; its runs take a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAND_IN_SECONDS", str(SECONDS))
        started = type(driver)()
    yield started
    started.close()


def records_of(plan):
    return [record.read(RunRecord, path) for path in record.find_runs(plan.parent / "runs")]


def test_four_workers_make_twelve_runs_once_each(slow_driver, plan):
    asked = plan(12)
    ended = slow_driver.play(asked, None, None, None, None, share=True)
    assert [code for code, *_ in ended] == [0, 0, 0, 0]
    found = records_of(asked)
    assert [len(one.attempts) for one in found] == [1] * 12
    assert {one.status for one in found} == {"ok"}
    assert not (asked.parent / OVERLAPS).exists()
    begun = [datetime.fromisoformat(one.current.started_at).timestamp() for one in found]
    span = max(at + one.current.seconds for at, one in zip(begun, found, strict=True)) - min(begun)
    assert sum(one.current.seconds for one in found) > 1.5 * span, "several were under way at once"


@pytest.mark.parametrize("moments", [(0.7, 1.1), (1.0, 1.6), (1.3, 1.4)])
def test_two_of_four_workers_are_killed_and_each_run_is_made_once(slow_driver, plan, moments):
    asked = plan(12)
    kills = [{"seconds": moment, "worker": False} for moment in moments]
    ended = slow_driver.play(asked, *kills, None, None, share=True)
    assert [code for code, *_ in ended] == [-9, -9, 0, 0]
    found = records_of(asked)
    assert [len(one.attempts) for one in found] == [1] * 12  # a killed attempt leaves no record
    assert {one.status for one in found} == {"ok"}
    assert not (asked.parent / OVERLAPS).exists()


def test_a_run_that_failed_is_left_alone(slow_driver, plan):
    asked = plan(3)
    assert slow_driver.play(asked, None, share=True)[0][0] == 0
    broken = records_of(asked)[0]
    folder: Path = asked.parent / "runs" / broken.recipe_id / f"seed-{broken.seed}"
    (folder / "harness-checksums.txt").unlink()
    content = json.loads((folder / "record.json").read_text())
    content["attempts"][-1] |= {"status": "failed", "reason": "for a test", "stopped": "no"}
    (folder / "record.json").write_text(json.dumps(content))
    assert [code for code, *_ in slow_driver.play(asked, None, None, share=True)] == [1, 1]
    assert len(record.read(RunRecord, folder / "record.json").attempts) == 1


def test_who_observes_a_silent_holder_on_another_machine_takes_over(tmp_path):
    lock._create(tmp_path, 1, lock.Owner("token", "elsewhere", "boot", 1, "1"))
    observer = lock.Observer(tmp_path, patience=0.2)
    assert not observer.is_free()
    os.utime(tmp_path / "claim-000001.json")
    assert not observer.is_free()
    deadline = time.monotonic() + 5
    while not observer.is_free():
        assert time.monotonic() < deadline
    with lock.hold(tmp_path, lambda owner: pytest.fail(f"waits for {owner}"), observer=observer) as held:
        assert not held.lost
