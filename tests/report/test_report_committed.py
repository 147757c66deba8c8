"""The reports of studies in `reports/`: which files of them are committed, and how large they may be."""

import csv
import json
import re
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


def test_the_findings_of_the_readme_are_those_of_the_report():
    """Every estimate, interval and outcome of its table, and every number of its text."""
    section = (ROOT / "README.md").read_text().partition("## What it found\n")[2].partition("\n## ")[0]
    folder = ROOT / "reports" / "learning_rate_matters"
    with (folder / "tables" / "claims.csv").open(encoding="utf-8") as file:
        claims = list(csv.DictReader(file))
    *pairs, ratio = claims
    shown = [f"{claim['estimate']} ({claim['interval']}) | {claim['outcome']}" for claim in pairs]
    names = [claim["claim"] for claim in pairs]
    assert names[:5] == names[5:]
    assert len(claims) == 11
    rows = [f"| {name} | {first} | {second} |" for name, first, second in zip(names, shown, shown[5:], strict=False)]
    assert [line for line in section.splitlines() if " within 1 point of " in line] == rows
    assert ratio["outcome"] == "undecided"
    assert f"estimated {float(ratio['estimate']):.1f}, and three tuning seeds do not bound it" in section
    report = (folder / "report.md").read_text()
    [lowest] = re.findall(r"^- The lowest validation loss .*$", report, re.MULTILINE)
    assert lowest.endswith(
        "LoRA (OLoRA) at 5e-6, 1.5e-5 and 5e-5; LoRA (PiSSA) at 1.5e-4; DoRA at 5e-4 and 5e-3; LoRA at 1.5e-3."
    )
    [apart] = re.findall(r"^- The best and the worst method differ by .*$", report, re.MULTILINE)
    spans = sorted(map(float, re.findall(r"(\d+\.\d+) at ", apart)))
    assert f"by {spans[0]:.2f} to {spans[-1]:.1f} nats" in " ".join(section.split())
    assert f"within {re.search(r'by (0[.]0[0-9]+) where', apart).group(1)} nats" in " ".join(section.split())
    with (folder / "tables" / "main.csv").open(encoding="utf-8") as file:
        scores = {row["method"]: f"{100 * float(row['arc_easy/acc']):.1f}" for row in csv.DictReader(file)}
    base = scores.pop("base")
    assert f"({min(scores.values())} to {max(scores.values())} %; base model {base} %)" in section
    with (folder / "tables" / "pairs.csv").open(encoding="utf-8") as file:
        adjusted = [row[1 : place + 1] for place, row in enumerate(list(csv.reader(file))[1:]) if row[0] in scores]
    assert min(float(p) for row in adjusted for p in row) > 0.05
    assert sum(map(len, adjusted)) == 15
