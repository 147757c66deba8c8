"""The main job in miniature, on the real model and real rows, as a user starts it."""

import csv
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = ("-m", "harness", "-m", "method=lora,qlora,dora", "train=smoke", "eval=smoke", "eval.limit=4")
METHODS = ["base", "lora", "qlora", "dora"]
NAMES = ["Base model", "LoRA", "QLoRA", "DoRA"]
COLUMNS = [
    "method", "seed", "status", "reason", "recipe_id", "trainable_parameters", "total_parameters", "peak_memory_bytes",
    "tokens_per_second", "train_seconds", "validation_loss", "test_loss",
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    folder: Path
    code: int
    out: str
    seconds: float


def python(folder, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env={**environment, "COLUMNS": "200"}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=500)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its runs as well
        raise
    return Done(folder, process.returncode, out, time.perf_counter() - start)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    done = python(tmp_path_factory.mktemp("job"), *COMMAND)
    assert done.code == 0, done.out
    return done


@pytest.fixture(scope="module")
def table(first):
    done = python(first.folder, "-m", "harness.report", "runs/", "--csv", "-")
    assert done.code == 0, done.out
    return {row["method"]: row for row in csv.DictReader(io.StringIO(done.out))}


@pytest.fixture(scope="module")
def second(first, table):
    return python(first.folder, *COMMAND)


def table_rows(text):
    """The methods that begin a line of the terminal's table, which a column of numbers follows."""
    begun = re.findall(r"^ *(\S+(?: \S+)*?) {2,}\S.*\d", text, re.MULTILINE)
    return {name for name in begun if name in NAMES}


def test_every_method_is_ok_in_the_terminals_table(first):
    assert table_rows(first.out) == set(NAMES), first.out
    ended = re.findall(r"^ *\d/4 (\w+).*: ok\b", first.out, re.MULTILINE)
    assert ended == METHODS, first.out
    assert "Traceback" not in first.out
    assert "Warning" not in first.out


def test_the_report_has_every_method_and_a_figure(first):
    [report] = (first.folder / "reports").glob("*/report.md")
    text = report.read_text()
    assert all(f"| {name} |" in text for name in NAMES)
    figures = [path for path in report.parent.rglob("*.png") if path.stat().st_size > 1000]
    assert any(str(path.relative_to(report.parent)) in text for path in figures)


def test_nothing_else_appears_in_the_working_directory(first):
    assert sorted(path.name for path in first.folder.iterdir()) == ["reports", "runs"]


def test_tracking_left_its_offline_runs(first):
    runs = [path.name for path in (first.folder / "runs" / "wandb").rglob("offline-run-*") if path.is_dir()]
    assert len(runs) == 5, "one per run and one for the comparison"
    tables = [path.name.split("_")[0] for path in (first.folder / "runs" / "wandb").rglob("media/table/*.json")]
    # so few items decide nothing, and no pair is tested
    assert sorted(tables) == ["comparison", "methods"], "the comparison as it is read, and its methods as numbers"


def test_the_csv_has_one_row_per_run_and_the_columns_that_were_promised(table):
    assert sorted(table) == sorted(METHODS)
    columns = list(next(iter(table.values())))
    assert set(COLUMNS) <= set(columns)
    assert {"arc_easy/acc", "arc_easy/acc_norm", "openbookqa/acc_norm", "hellaswag/acc_norm"} <= set(columns)
    for row in table.values():
        assert (row["status"], row["reason"]) == ("ok", "")
        assert 0 < float(row["test_loss"]) < 20
        assert 0 < float(row["validation_loss"]) < 20
        if row["method"] != "base":  # which trains nothing, and whose weights are mapped from their file
            assert int(row["peak_memory_bytes"]) > 500_000_000
    trained = {method: int(row["trainable_parameters"]) for method, row in table.items()}
    assert trained == {"base": 0, "lora": 4_884_480, "qlora": 4_884_480, "dora": 5_040_000}
    assert all(int(row["total_parameters"]) == 134_515_008 + trained[method] for method, row in table.items())
    assert [method for method in METHODS if not table[method]["train_seconds"]] == ["base"]
    assert len({row["recipe_id"] for row in table.values()}) == 4
    assert int(table["qlora"]["peak_memory_bytes"]) != int(table["lora"]["peak_memory_bytes"])


def test_three_steps_change_the_loss_and_never_the_base(table):
    losses = {method: float(row["test_loss"]) for method, row in table.items()}
    assert len(set(losses.values())) == 4
    gained = losses["base"] - losses["dora"]
    assert 0 < gained < 1
    # from the same A and B = 0 the two take nearly the same steps; magnitudes, vectors among matrices, move the rest
    assert losses["lora"] == pytest.approx(losses["dora"], abs=gained / 4)


def test_the_same_command_again_runs_nothing(first, second):
    assert second.code == 0, second.out
    assert second.seconds < first.seconds / 2
    assert "already done" in second.out
    assert table_rows(second.out) == set(NAMES)
    for run in (first.folder / "runs").glob("*/seed-*/record.json"):
        assert run.read_text().count('"started_at"') == 1


def test_a_report_made_again_is_the_same_to_the_byte(first, second):
    [report] = (first.folder / "reports").glob("*/report.md")
    before = {path: path.read_bytes() for path in report.parent.rglob("*") if path.is_file()}
    shutil.rmtree(report.parent)
    name = report.parent.name
    done = python(first.folder, "-m", "harness.report", "runs/", "--sweep", name)
    assert done.code == 0, done.out
    after = {path: path.read_bytes() for path in report.parent.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert [path.name for path in before if before[path] != after[path]] == []


def test_a_report_of_everything_is_the_same_each_time(first, second):
    made = []
    for _ in range(2):
        done = python(first.folder, "-m", "harness.report", "runs/")
        assert done.code == 0, done.out
        made.append({path: path.read_bytes() for path in (first.folder / "reports").rglob("*") if path.is_file()})
    assert made[0] == made[1]
