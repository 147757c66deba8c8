"""A report that is there already is not made again; one of other records, other options or changed files is."""

import dataclasses
import json
import shutil

import pytest

from harness.records import record
from harness.report import write
from harness.report.data.load import load
from harness.report.writers import folder, manifest
from tests.report.conftest import BASE, LOOKS, LORA, add_evaluation, add_run


@pytest.fixture
def made(monkeypatch):
    """How often files were written."""
    calls = []
    whole = folder.write
    monkeypatch.setattr(folder, "write", lambda *given: calls.append(given) or whole(*given))
    return calls


@pytest.fixture
def small(runs):
    for kind in (BASE, LORA):
        add_evaluation(add_run(runs, kind), kind, LOOKS[0])
    return runs


def test_the_same_records_are_not_drawn_again_wherever_they_lie(small, made, tmp_path):
    page = write(small, None, tmp_path / "out")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in page.parent.rglob("*") if path.is_file()}
    listed = json.loads((page.parent / manifest.NAME).read_text())["files"]
    assert sorted([*listed, manifest.NAME]) == sorted(path.relative_to(page.parent).as_posix() for path in before)
    assert write(small, None, tmp_path / "out") == page
    moved = shutil.copytree(small, tmp_path / "elsewhere" / "runs")
    assert write(moved, None, tmp_path / "out") == page
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert len(made) == 1


def test_a_sweep_that_is_asked_again_is_not_drawn_again(small, made, tmp_path):
    """Its record says by then that every run was there already; the terminal shows that, and no file of the report."""
    found = [record.read(record.RunRecord, path) for path in record.find_runs(small)]
    cells = tuple(
        record.Cell(overrides=(f"method={r.method}",), method=r.method, recipe_id=r.recipe_id, seed=0, eval_ids=())
        for r in found
    )
    sweep = record.SweepRecord(schema=record.SCHEMA, name="asked", question=None, command="python", cells=cells)
    again = dataclasses.replace(sweep, already_done=tuple(f"{cell.recipe_id}/seed-0" for cell in cells))
    for one in (sweep, again):
        record.write(one, small / "sweeps" / "asked" / "sweep.json")
        write(small, "asked", tmp_path / "out")
    assert all(row.already_done for row in load([small], "asked").rows)
    assert len(made) == 1


def test_what_changed_is_made_again(small, made, tmp_path, monkeypatch):
    page = write(small, None, tmp_path / "out")
    good = page.read_bytes()
    page.write_text("edited by hand")
    assert write(small, None, tmp_path / "out").read_bytes() == good
    next(page.parent.glob("figures/*.png")).unlink()
    write(small, None, tmp_path / "out")
    assert len(made) == 3
    (page.parent / manifest.NAME).write_text("[]")
    write(small, None, tmp_path / "out")
    items = next(small.glob("*/seed-0/evaluations/*.parquet"))
    intact = items.read_bytes()
    items.write_bytes(b"PAR1")
    assert b"Could not be read" in write(small, None, tmp_path / "out").read_bytes()
    items.write_bytes(intact)
    write(small, None, tmp_path / "out", allow=["data"])
    add_run(small, LORA, 1)  # not evaluated, so that it is a row of its own with another seed
    write(small, None, tmp_path / "out", allow=["seed"])
    assert len(made) == 7
    monkeypatch.setattr(manifest, "_code", lambda: [b"another version"])
    write(small, None, tmp_path / "out", allow=["seed"])
    assert len(made) == 8


@pytest.mark.parametrize("file", ["names.yaml", "references.bib", "checklists.yaml", "method/lora.yaml"])
def test_a_report_is_made_again_where_a_name_a_work_or_a_question_has_changed(small, made, tmp_path, monkeypatch, file):
    """The names that a report prints are read from conf/, which anybody may extend."""
    conf = shutil.copytree(manifest.conf_dir(), tmp_path / "conf")
    monkeypatch.setattr(manifest, "conf_dir", lambda: conf)
    write(small, None, tmp_path / "out")
    write(small, None, tmp_path / "out")
    assert len(made) == 1
    with (conf / file).open("a") as own:
        own.write("\n# changed\n")
    write(small, None, tmp_path / "out")
    assert len(made) == 2
