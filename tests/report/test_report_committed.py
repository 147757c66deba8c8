"""The reports of studies in `reports/`: which files of them are committed, and how large they may be."""

import json
import subprocess
from pathlib import Path

import pytest

from harness.report.archive import LIMITS, NAME, container, oversized
from harness.report.archive.verify import verify

ROOT = Path(__file__).parents[2]
STUDIES = ("folklore", "learning_rate_matters")
COMMITTED = ("learning_rate_matters",)  # of the studies, those that have been run
FILES = ("report.md", "index.html", "setup.md", "numbers.tex", "tables/main.tex", "figures/gain.svg", NAME)


def ignored(path: str) -> bool:
    done = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT, check=False)
    assert done.returncode in (0, 1)
    return done.returncode == 0


@pytest.mark.parametrize("name", STUDIES)
def test_every_file_of_a_study_is_committed(name):
    assert [file for file in FILES if ignored(f"reports/{name}/{file}")] == []


def test_reports_of_ones_own_are_not():
    assert ignored("reports/mine/report.md")
    assert ignored(f"reports/mine/{NAME}")
    assert ignored("reports/demo/index.html")


def test_a_page_of_three_mebibytes_and_an_archive_of_ten_are_the_limit(tmp_path):
    assert LIMITS == {"index.html": 3 * 2**20, NAME: 10 * 2**20}
    for name, limit in LIMITS.items():
        (tmp_path / name).write_bytes(bytes(limit))
    assert oversized(tmp_path) == []
    for name, limit in LIMITS.items():
        (tmp_path / name).write_bytes(bytes(limit + 1))
    lines = oversized(tmp_path)
    assert [line.partition(":")[0] for line in lines] == [str(tmp_path / name) for name in LIMITS]


def test_the_committed_archives_are_within_the_limits():
    folders = sorted(path.parent for path in ROOT.glob(f"reports/*/{NAME}") if not ignored(str(path.relative_to(ROOT))))
    assert [folder.name for folder in folders] == sorted(COMMITTED)
    assert [line for folder in folders for line in oversized(folder)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_report_is_the_one_that_its_records_give(name):
    """With the code as it is now: a change of the report's code makes the committed reports anew."""
    verdict = verify(ROOT / "reports" / name)
    if verdict.wrong and verdict.libraries:
        pytest.skip(f"written with other versions: {'; '.join(verdict.libraries)}")
    assert verdict.wrong == ()
    assert verdict.records > 100


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_report_is_that_of_the_committed_registration(name):
    held = json.loads(container.read(ROOT / "reports" / name / NAME)[f"runs/sweeps/{name}/registration.json"])
    assert held == json.loads((ROOT / "sweeps" / f"{name}.registration.json").read_text())
    page = (ROOT / "reports" / name / "report.md").read_text()
    assert f"sha256 {held['digest']}" in page
    assert "begun before the registration" not in page
