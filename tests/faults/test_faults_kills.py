"""Two hundred kills at seeded moments, and what the store says in the end: what an undisturbed sweep says."""

import json
import os
import pickle
import random
import shutil
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from stand_in import OVERLAPS

from tests.faults.faults_kept import Kept, content, leftovers, records, runs_of

KILLED = -9
REAL_KILLS = int(os.environ.get("HARNESS_KILLS", "10"))  # `python -m tests.bench kills` makes 300
REAL_SEED = int(os.environ.get("HARNESS_KILLS_SEED", "11"))  # of the moments: another one for each piece of many kills


@pytest.fixture(scope="module")
def undisturbed(driver, plan):
    """What a sweep says that nobody disturbs, and how many files it touches in how many seconds."""
    path = plan()
    [(code, operations, seconds)] = driver.play(path)
    assert code == 0
    assert len(records(runs_of(path))) == 5
    assert {len(one.attempts) for one in records(runs_of(path)).values()} == {1}
    assert not leftovers(runs_of(path))
    return content(runs_of(path)), operations, seconds


def moments(seed, count, operations, seconds):
    """Half of the kills when a file is about to be touched for the n-th time, half by the clock."""
    drawn = random.Random(seed)
    for i in range(count):
        if i % 2:
            yield {"seconds": drawn.uniform(0, seconds), "worker": drawn.random() < 0.5}
        else:
            yield {"operation": drawn.randint(1, operations), "everyone": drawn.random() < 0.5}


def finish(driver, plan, kept, expected):
    """Go on until the sweep is through, and hold it against the undisturbed one."""
    for _ in range(3):
        [(code, _, _)] = driver.play(plan)
        if code == 0:
            break
    assert code == 0
    kept.check()
    kept.whole()
    assert list(differing(content(runs_of(plan)), expected)) == []
    assert not (runs_of(plan).parent / OVERLAPS).exists()


def differing(found, expected, where=""):
    """Where two nested values are not the same, and what stands there."""
    if isinstance(found, dict) and isinstance(expected, dict):
        found, expected = (sorted(one.items(), key=str) for one in (found, expected))
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple) and len(found) == len(expected):
        for place, pair in enumerate(zip(found, expected, strict=True)):
            yield from differing(*pair, f"{where}/{place}")
    elif found != expected:
        yield where, str(found)[:200], str(expected)[:200]


def test_differences_are_named():
    assert list(differing({"a": (1, {"b": [1, 2]})}, {"a": (1, {"b": [1, 3]})})) == [("/0/1/1/0/1/1", "2", "3")]
    assert list(differing({"a": 1}, {"a": 1, "b": 2})) == [("", "[('a', 1)]", "[('a', 1), ('b', 2)]")]
    assert list(differing({"a": b"x"}, {"a": b"x"})) == []


def hits(ended, runs, before):
    """How many kills came to something: the sweep is gone, or its record tells of a worker that is."""
    return sum(code == KILLED for code, _, _ in ended) + killed_attempts(runs) - before


def killed_attempts(runs):
    return sum("SIGKILL" in attempt.reason for one in records(runs).values() for attempt in one.attempts)


def disturb(driver, plan, kept, kills):
    """Play a sweep once for each of the kills; how many of them hit."""
    count = 0
    for kill in kills:
        before = killed_attempts(runs_of(plan))
        count += hits(driver.play(plan, kill), runs_of(plan), before)
        kept.check()
    return count


def test_a_hundred_and_twenty_kills_of_new_sweeps(driver, plan, undisturbed):
    expected, operations, seconds = undisturbed
    kills, killed, sweeps = moments(7, 1000, operations // 2, seconds / 2), 0, 0
    while killed < 120:
        path = plan()
        kept, sweeps = Kept(runs_of(path)), sweeps + 1
        killed += disturb(driver, path, kept, islice(kills, 14))
        finish(driver, path, kept, expected)
        assert not leftovers(runs_of(path))
    assert sweeps >= 9


def test_a_kill_before_any_file_operation_leaves_nothing_behind(driver, plan):
    """Of a sweep and its run at once: such a run may be complete, and is then not visited again."""
    path = plan(2)
    [(code, operations, _)] = driver.play(path)
    assert code == 0
    expected, hit = content(runs_of(path)), 0
    for operation in range(1, operations + 1):
        path = plan(2)
        kept = Kept(runs_of(path))
        hit += disturb(driver, path, kept, [{"operation": operation, "everyone": True}])
        finish(driver, path, kept, expected)
        assert not leftovers(runs_of(path)), f"after a kill before operation {operation}"
        shutil.rmtree(runs_of(path))
    assert hit == operations > 60


def test_forty_kills_of_runs_that_are_made_again(driver, plan, undisturbed):
    """What is there is a result already: until the new one is whole, nobody may take one for the other."""
    expected, operations, seconds = undisturbed
    kills, killed = moments(8, 1000, operations // 3, seconds / 3), 0
    while killed < 40:
        path = plan()
        kept = Kept(runs_of(path))
        driver.play(path)
        kept.check()
        forced = again(path)
        for kill in islice(kills, 8):
            killed += disturb(driver, forced, kept, [kill])
            finish(driver, path, kept, expected)
        driver.play(forced)
        finish(driver, path, kept, expected)
        assert not leftovers(runs_of(path))


def again(plan):
    """The same plan with force=true."""
    forced = [replace(one, experiment=replace(one.experiment, force=True)) for one in pickle.loads(plan.read_bytes())]
    path = plan.with_name("forced.pickle")
    path.write_bytes(pickle.dumps(forced))
    return path


def test_forty_kills_of_several_sweeps_over_one_store(driver, plan, undisturbed):
    expected, operations, seconds = undisturbed
    kills, killed, rounds = moments(9, 1000, operations // 2, seconds), 0, 0
    while killed < 40:
        path = plan()
        kept, rounds = Kept(runs_of(path)), rounds + 1
        for _ in range(3):
            before = killed_attempts(runs_of(path))
            killed += hits(driver.play(path, next(kills), next(kills), None), runs_of(path), before)
            kept.check()
        finish(driver, path, kept, expected)
        tries = [one.attempts for one in records(runs_of(path)).values()]
        assert all(sum(attempt.status == "ok" for attempt in attempts) == 1 for attempts in tries), "made twice"


def test_a_sweep_goes_on_by_itself_after_its_runs_are_killed(driver, plan, undisturbed):
    """Before and after the weights are there: what is whole already is not made again."""
    expected, _, _ = undisturbed
    never = {"operation": 10**9, "worker": True}
    [(_, operations, _)] = driver.play(plan(max_retries=1), never)
    drawn = random.Random(10)
    for operation in sorted(drawn.sample(range(1, operations + 1), 10)):
        path = plan(max_retries=1)
        [(code, _, _)] = driver.play(path, {"operation": operation, "worker": True})
        assert code == 0
        assert killed_attempts(runs_of(path)) == 1, "each play kills one process that trains"
        kept = Kept(runs_of(path))
        kept.check()
        kept.whole()
        assert {key: without_retries(one) for key, one in content(runs_of(path)).items()} == {
            key: without_retries(one) for key, one in expected.items()
        }


def without_retries(one):
    if isinstance(one, tuple):
        recipe, config, *rest = one
        return recipe, {key: value for key, value in config.items() if key != "max_retries"}, *rest
    return one


def test_kills_of_real_training(real_driver, plan):
    """To the bit: losses, gradients, scores of every row and weights."""
    quiet = plan(3)
    [(code, operations, seconds)] = real_driver.play(quiet)
    assert code == 0
    expected = content(runs_of(quiet))
    assert sum("adapter_model.safetensors" in one[-1] for one in expected.values() if isinstance(one, tuple)) == 2
    kills, killed, sweeps = moments(REAL_SEED, 20 * REAL_KILLS, operations // 3, seconds / 3), 0, 0
    begun = time.monotonic()
    while killed < REAL_KILLS:
        path = plan(3)
        kept, sweeps = Kept(runs_of(path)), sweeps + 1
        killed += disturb(real_driver, path, kept, islice(kills, 5))
        finish(real_driver, path, kept, expected)
        assert not leftovers(runs_of(path))
        shutil.rmtree(runs_of(path))
        figures = {"kills": killed, "sweeps": sweeps, "seconds": time.monotonic() - begun}
        if "HARNESS_KILLS_OUT" in os.environ:
            Path(os.environ["HARNESS_KILLS_OUT"]).write_text(json.dumps(figures))
