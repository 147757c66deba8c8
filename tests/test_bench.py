"""The frame of the benchmarks, with parts of its own; the parts themselves are no tests."""

import dataclasses
import functools
import json
import sys
import types
from datetime import UTC, datetime

import pytest

from harness.records import record
from harness.run import provenance
from tests.bench import Row, overhead
from tests.bench import __main__ as bench


@pytest.fixture
def with_parts(monkeypatch):
    """Make parts out of functions."""

    def made(**functions):
        monkeypatch.setattr(bench, "parts", lambda: sorted(functions))
        for name, rows in functions.items():
            module = types.ModuleType(f"tests.bench.{name}")
            module.rows = rows
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return made


def broken():
    raise RuntimeError("no such thing\nsecond line")


GOOD = Row(name="ratio", measured=1.01, bar=1.02, unit="x", note="pairs")
BAD = Row(name="speed-up", measured=0.9, bar=1.0, unit="x", at_most=False)


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (GOOD, True),
        (BAD, False),
        (Row(name="n", measured=None, bar=1.0, unit="x"), None),
        (Row(name="n", measured=3.0, bar=None, unit="x"), None),
    ],
)
def test_a_bar_is_met_or_not_or_there_is_none(row, met):
    assert row.met is met


@pytest.mark.parametrize(
    ("number", "low", "high", "coverage"), [(2, 1, 2, 0.5), (4, 1, 4, 0.875), (6, 1, 6, 0.96875), (9, 2, 8, 0.9609375)]
)
def test_an_interval_of_a_median_says_what_it_covers(number, low, high, coverage):
    """By the sign test: with fewer than six values no interval covers 95 %."""
    assert overhead.interval([float(value) for value in range(number, 0, -1)]) == (low, high, coverage)


def test_parts_are_measured_and_printed_and_nothing_is_written(with_parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with_parts(one=lambda: [GOOD], two=lambda: [BAD])
    assert bench.main(["one"]) == 0
    assert "two" not in capsys.readouterr().out
    assert bench.main([]) == 1
    out = capsys.readouterr().out
    assert "1.01 x" in out
    assert "at most 1.02" in out
    assert "no" in out.split()
    assert list(tmp_path.iterdir()) == []


def test_parts_are_kept_with_their_provenance_and_one_that_breaks_leaves_what_was_found_before(with_parts, tmp_path):
    with_parts(one=lambda: [GOOD], two=lambda: [BAD])
    bench.main(["--out", str(tmp_path)])
    with_parts(one=broken, two=lambda: [dataclasses.replace(BAD, measured=1.5)])
    bench.main(["--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: [(row["measured"], row["met"]) for row in part["rows"]] for name, part in results.items()} == {
        "one": [(1.01, True)],
        "two": [(1.5, True)],
    }
    page = (tmp_path / "README.md").read_text()
    assert "2 of 2 bars are met" in page
    assert "| speed-up | 1.5 x | at least 1 | yes |" in page
    facts = provenance.facts()
    assert f"commit {facts['commit'][:10]}" in page
    assert f"torch {facts['versions']['torch']}" in page


def test_a_part_that_breaks_is_a_row_and_the_others_go_on(with_parts, capsys):
    with_parts(bad=broken, good=lambda: [GOOD])
    assert bench.main([]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: no such thing" in out
    assert "ratio" in out


def test_a_part_that_is_not_there_is_refused(with_parts, capsys):
    with_parts(one=lambda: [GOOD])
    assert bench.main(["nosuch"]) == 2
    assert "there are one" in capsys.readouterr().err


def test_every_part_on_disk_has_rows_and_says_what_it_shows():
    import ast

    assert len(bench.parts()) == 16
    for name in bench.parts():
        tree = ast.parse((bench.FOLDER / f"{name}.py").read_text())
        assert "rows" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert ast.get_docstring(tree)


def test_training_ratios_are_medians_of_rounds_with_the_harness_on_top():
    from tests.bench import training

    rates = [(100, 50, 25, 200, 50), (90, 90, 30, 120, 80), (80, 100, 20, 10, 64)]
    sides = (*training.EQUAL, training.GROUPED, training.PLAIN)
    rounds = [
        {side: {"tokens_per_second": rate, "real_share": 0.5} for side, rate in zip(sides, one, strict=True)}
        for one in rates
    ]
    found = training._ratios("lora", "two steps", rounds)
    assert [row.measured for row in found] == [1.0, 4.0, 4.0, 1.25]
    assert [row.bar for row in found] == [0.98, 1.0, 1.5, 1.15]
    assert not any(row.at_most for row in found)
    assert all("two steps" in row.note for row in found)


def test_sides_on_a_gpu_stand_beside_trl_with_the_operations_of_a_plain_step():
    from tests.bench import gpu

    def side(rate, **more):
        return {"tokens_per_second": rate, "real_share": 0.5, "peak_bytes": 2**30, **more}

    usual = side(300.0, flops_per_position=1e9, device_flops_per_second=1e12, doubt="")
    found = {
        gpu.USUAL: usual,
        "liger": {"reason": "needs a CUDA device"},
        "compiled": side(450.0),
        gpu.TRL: side(200.0),
    }
    rows = gpu.ratios("1b lora", gpu.QUICK, found)
    assert [(row.measured, row.bar) for row in rows] == [(1.5, 1.0), (None, None), (2.25, None)]
    assert "compiled: 450 tokens/s, MFU 90.0%, peak 1.00 GiB; TRL's trainer: 200 tokens/s, MFU 40.0%" in rows[2].note
    assert "needs a CUDA device" in rows[1].note
    assert "MFU unknown" in gpu.ratios("1b lora", gpu.QUICK, {**found, gpu.USUAL: {**usual, "doubt": "busy"}})[0].note
    without = gpu.ratios("8b full", gpu.SIZES[1], {gpu.USUAL: usual, gpu.TRL: {"reason": "out of memory"}})
    assert [row.measured for row in without] == [None, None]
    assert all("TRL's trainer: out of memory" in row.note for row in without)


def test_the_time_between_runs_goes_from_a_record_to_a_first_step(tmp_path):
    from tests.bench import _records, start

    _records.write(tmp_path, recipes=1, seeds=2, items=0)  # the untouched model and two runs of 1.1 s a step
    paths = sorted(record.find_runs(tmp_path), key=lambda path: "base" not in path.read_text())
    assert len(paths) == 3
    for path, begin in zip(paths, ("12:00:00", "12:01:00", "12:02:05"), strict=True):
        content = json.loads(path.read_text())
        content["attempts"][0] |= {"started_at": f"2026-01-01T{begin}.000+00:00", "seconds": 60.0}
        path.write_text(json.dumps(content))
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    events = [(noon - 5, "started", None), (noon + 80, "event", {"step": 1}), (noon + 130, "event", {"step": 1})]
    assert start.first_steps(events, tmp_path) == pytest.approx((85 - 1.1, 10 - 1.1), abs=1e-3)


def test_scores_are_apart_by_their_largest_difference_in_standard_errors():
    from tests.bench import sweep

    found = {"lora": {"arc_easy": (0.5, 0.03), "hellaswag": (0.4, 0.0)}}
    expected = {"lora": {"arc_easy": (0.6, 0.04), "hellaswag": (0.4, 0.0)}}
    row = sweep._apart(found, expected)
    assert row.measured == pytest.approx(2.0)
    assert "arc_easy" in row.note
    with pytest.raises(KeyError):
        sweep._apart({}, expected)


def test_the_peak_of_a_process_that_is_below_another_is_seen_and_a_command_that_fails_is_told():
    from tests.bench import _watch

    big = "import time; content = bytearray(b'x') * 60_000_000; time.sleep(0.5)"
    found = _watch.watched(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {big!r}])"]
    )
    assert found.seconds > 0.5
    assert set(found.peaks) == {0, 1}
    assert found.peaks[1] > 60_000_000 > found.peaks[0]
    with pytest.raises(RuntimeError, match="ended with 3: no such thing"):
        _watch.watched([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"])


def test_the_plain_script_is_given_the_settings_that_the_harness_uses(monkeypatch, tmp_path):
    from harness.run import isolate
    from tests.bench import _plain

    monkeypatch.setattr(isolate, "call", lambda *_, **__: isolate.Ended("returned", "base"))
    size = _plain.Size(7, 5, 3)
    plain = _plain.Plain(tmp_path, size)
    for method in ("lora", "qlora", "dora", "prefix"):
        words, spec = plain.train(method), _plain.resolved(method, size).train
        assert {f"--method={method}", "--steps=7", f"--lr={spec.lr}", f"--precision={spec.precision}"} <= set(words)
        assert spec.global_batch_size == spec.micro_batch_size, "the script accumulates nothing"
        assert not spec.gradient_checkpointing
        assert ("qlora/base" in " ".join(plain.evaluate(method))) is (method == "qlora")
        settings = _plain.resolved(method, size).method
        if method == "prefix":
            assert (settings.num_virtual_tokens, settings.prefix_projection) == (20, False)
        else:
            assert (settings.r, settings.lora_alpha, settings.lora_dropout, settings.target) == (
                16,
                32,
                0,
                "all_linear",
            )


@pytest.mark.parametrize("grouped", [True, False])
def test_steps_of_a_gpu_are_timed_without_a_mask_and_without_the_probe(tmp_path, monkeypatch, grouped):
    """Batches of unlike rows, a multiple of 64 wide on a GPU's path: the same real tokens in more positions."""
    from harness.train.loop import Job
    from tests.bench import _trainers
    from tests.bench.gpu_check.lab import TINY, Lab

    lab = Lab(tmp_path, TINY)
    workload = _trainers.Workload(lab.experiment("method=lora", f"data.file={lab.mixed_data}"), 2)
    rates, real = [], []
    for cuda in (False, True):
        monkeypatch.setattr(_trainers, "Job", functools.partial(Job, cuda=cuda))
        found = _trainers.harness(workload, 0, grouped, profile=True)
        rates.append(found["tokens_per_second"])
        real.append(found["real_share"])
    assert all(rate > 0 for rate in rates)
    assert 0.1 < real[1] < real[0] <= 1
