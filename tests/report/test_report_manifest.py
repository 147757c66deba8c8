"""A report that is there already is not made again; one of other records, other options or changed files is."""

import json
import shutil

import pytest
from conftest import BASE, LOOKS, LORA, add_evaluation, add_run

from harness.report import folder, manifest, write


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
    items.write_bytes(b"PAR1")
    assert b"Could not be read" in write(small, None, tmp_path / "out").read_bytes()
    write(small, None, tmp_path / "out", allow=["data"])
    add_run(small, LORA, 1)
    write(small, None, tmp_path / "out")
    assert len(made) == 7
    monkeypatch.setattr(manifest, "_code", lambda: [b"another version"])
    write(small, None, tmp_path / "out")
    assert len(made) == 8
