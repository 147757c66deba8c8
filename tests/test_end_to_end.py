"""Every method through the real command, from composition to a report; and what a seed decides."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from harness.config import config
from harness.records import record
from harness.records.record import RunRecord
from harness.report import names
from harness.run import inputs, run
from tests.config.test_config import METHOD_NAMES

COLUMNS = {
    "method", "seed", "status", "reason", "recipe_id", "trainable_parameters", "total_parameters", "peak_memory_bytes",
    "tokens_per_second", "train_seconds", "validation_loss", "test_loss",
}  # fmt: skip
PLACES = ("runs_dir=", "reports_dir=")


def run_command(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=600)


def chat_row(number: int) -> str:
    """In the words of the tiny model's chat template, since a method may wait for them."""
    letter = chr(97 + number % 26)
    row = {"prompt": f"<user>Say {letter}{number}</s><assistant>", "completion": f" {letter * 4}"}
    return json.dumps(row) + "\n"


@pytest.fixture(scope="module")
def everything(shared_overrides, tmp_path_factory):
    """All methods in one sweep, called in an empty folder, with the places where results go left as they are."""
    folder = tmp_path_factory.mktemp("empty")
    given = (*PLACES, "data.file=")
    words = [word for word in shared_overrides() if not word.startswith(given)]
    rows, tests = folder.parent / "rows.jsonl", folder.parent / "test.jsonl"
    rows.write_text("".join(map(chat_row, range(64))))
    tests.write_text("".join(map(chat_row, range(100, 104))))
    words += [f"data.file={rows}", f"data.test_file={tests}"]
    done = run_command("harness", "-m", *words, f"method={','.join(METHOD_NAMES)}", cwd=folder)
    return folder, words, done


def records(folder: Path) -> dict[str, RunRecord]:
    found = [record.read(RunRecord, path) for path in record.find_runs(folder / "runs")]
    assert len({one.method for one in found}) == len(found)
    return {one.method: one for one in found}


def displayed(folder: Path) -> list[str]:
    """The names that a reader sees, one per method."""
    found = [names.method(name, one).display for name, one in records(folder).items()]
    assert len(set(found)) == len(METHOD_NAMES)
    return found


def test_every_method_ends_well(everything):
    folder, _, done = everything
    found = records(folder)
    assert sorted(found) == METHOD_NAMES
    assert {name: one.current.reason for name, one in found.items() if one.status not in ("ok", "skipped")} == {}
    skipped = {name: one.current.reason for name, one in found.items() if one.status == "skipped"}
    assert len(found) - len(skipped) >= 22
    assert sorted(skipped) == ["bitfit", "unsloth"]
    assert "no biases" in skipped["bitfit"]
    assert "CUDA" in skipped["unsloth"]
    assert done.returncode == 0, done.stderr


def test_every_count_is_the_closed_form(everything):
    for name, one in records(everything[0]).items():
        if one.status == "ok":
            fingerprint = one.measured.fingerprint
            assert fingerprint.trainable_parameters == fingerprint.expected_trainable_parameters, name


def test_the_screen_shows_one_line_per_run_and_the_table(everything):
    _, _, done = everything
    ran = [line for line in done.stderr.splitlines() if " ok" in line and "/" in line.split(" ")[0]]
    assert len(ran) == sum(one.status == "ok" for one in records(everything[0]).values())
    for noise in ("Traceback", "Warning", "warn", "it/s", "kernels-community", "\x1b"):
        assert noise not in done.stderr
    assert re.search(r"^runs +24, 2 skipped\b", done.stderr, re.MULTILINE), "not having run is no result to reuse"
    assert "reused" not in done.stdout
    shown = [line.lstrip() for line in done.stdout.splitlines()]
    for name in displayed(everything[0]):
        assert any(line.startswith(name) for line in shown), name


def test_nothing_else_appears_in_the_working_directory(everything):
    folder = everything[0]
    assert {path.name for path in folder.iterdir()} == {"runs", "reports"}
    assert {path.name for path in (folder / "runs").iterdir() if len(path.name) != 8} <= {
        "check.log",
        "data",
        "sweeps",
        "hydra",
    }


def test_a_report_is_rendered(everything):
    [page] = everything[0].glob("reports/*/report.md")
    text = page.read_text()
    for name in displayed(everything[0]):
        assert name in text
    assert list(page.parent.glob("figures/*.png"))
    assert "report: " in everything[2].stdout


def test_the_flat_table_has_one_row_per_run_and_the_published_columns(everything):
    done = run_command("harness.report", "runs", "--csv", "-", cwd=everything[0])
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert sorted(row["method"] for row in rows) == METHOD_NAMES
    assert set(rows[0]) >= COLUMNS
    for row in rows:
        if row["status"] == "ok":
            assert float(row["validation_loss"]) > 0
            assert float(row["test_loss"]) > 0
            assert int(row["total_parameters"]) > 0
        if row["status"] == "ok" and row["method"] != "base":
            assert int(row["trainable_parameters"]) > 0
            assert float(row["train_seconds"]) > 0
            assert int(row["peak_memory_bytes"]) > 0


def test_the_same_command_runs_nothing_twice(everything):
    folder, words, _ = everything
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/seed-*/**/*") if path.is_file()}
    done = run_command("harness", "-m", *words, "method=base,lora,full", cwd=folder)
    assert done.returncode == 0
    assert "runs        3, 3 already done" in done.stderr
    assert "All runs were finished before." in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.startswith("1/")]
    after = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/seed-*/**/*") if path.is_file()}
    assert after == before


def test_a_seed_repeats_bit_for_bit_and_another_differs(compose, shared_overrides, tmp_path):
    def make(seed: int, folder: str):
        words = [*shared_overrides(), f"runs_dir={tmp_path / folder}", f"seed={seed}", "train.max_steps=6"]
        experiment = inputs.resolve(config.build(compose(*words, "method=lora")))
        result = run.run(experiment, lambda event: None)
        assert result.status == "ok"
        weights = load_file(experiment.weights_folder / "adapter_model.safetensors")
        return result.training.losses, {name: value.tobytes() for name, value in weights.items()}

    first, again, other = make(0, "first"), make(0, "again"), make(1, "first")
    assert first == again
    assert first[0] != other[0]
    assert set(first[1]) == set(other[1])
    assert all(first[1][name] != other[1][name] for name in first[1])
    shutil.rmtree(tmp_path / "again")
