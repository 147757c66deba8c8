"""`harness report pack` and `verify`: the archive beside a report, and whatever was changed since it was packed."""

import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import pyarrow
import pytest
from conftest import build
from pyarrow import parquet

from harness.report.archive import METADATA, NAME, OPTIONS, VERSIONS, container, members
from harness.report.archive import verify as verification
from harness.report.commands import run
from harness.report.document import Column, Number

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """The folder of a report with its archive; to be read only."""
    folder = tmp_path_factory.mktemp("packed")
    build(folder / "runs")
    assert run("pack", ["methods", "--runs", str(folder / "runs"), "--out", str(folder / "report")]) == 0
    return folder / "report"


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    return shutil.copytree(packed, tmp_path / "report")


def test_what_was_packed_is_verified_wherever_it_lies(copy, capsys):
    assert run("verify", [str(copy)]) == 0
    out = capsys.readouterr().out
    assert "all equal" in out
    assert int(out.split(" files and ")[0].rpartition(" ")[2]) == len(verification.report_files(copy))
    assert int(out.split(" numbers made")[0].rpartition(" ")[2].replace(",", "")) > 1000


def test_equal_records_give_equal_bytes(packed, tmp_path):
    build(tmp_path / "elsewhere")
    content = members.collect([tmp_path / "elsewhere"], "methods")
    first = container.read(packed / NAME)
    described = members.described({**content, OPTIONS: first[OPTIONS]}, members.options_of(first, packed))
    assert container.write(described, tmp_path / "again.zip").read_bytes() == (packed / NAME).read_bytes()


def test_the_archive_describes_itself(packed):
    content = container.read(packed / NAME)
    graph = {entry["@id"]: entry for entry in json.loads(content[METADATA])["@graph"]}
    assert graph[METADATA]["about"] == {"@id": "./"}
    assert graph[METADATA]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert {part["@id"] for part in graph["./"]["hasPart"]} == content.keys() - {METADATA}
    assert graph["./"]["datePublished"] == max(
        json.loads(data)["attempts"][-1]["started_at"] for name, data in content.items() if name.endswith("record.json")
    )
    assert b"torch==2.8.0\n" in content[VERSIONS]
    assert len(content) > 50


def first_digit(text: str) -> str:
    """The text with the last digit of its last number changed."""
    place = max(i for i, sign in enumerate(text) if sign.isdecimal())
    return text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


def test_every_change_of_a_file_is_named(copy, capsys):
    main = copy / "tables" / "main.tex"
    row = next(line for line in main.read_text().splitlines() if line.startswith("LoRA"))
    main.write_text(main.read_text().replace(row, first_digit(row)))
    page = (copy / "report.md").read_text().splitlines()
    place = next(i for i, line in enumerate(page) if line.startswith("| LoRA"))
    page[place] = first_digit(page[place])
    (copy / "report.md").write_text("\n".join(page) + "\n")
    lines = (copy / "records.csv").read_text().splitlines()
    column = lines[0].split(",").index("test_loss")
    cells = lines[2].split(",")
    cells[column] = "1.25"
    (copy / "records.csv").write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:]]) + "\n")
    numbers = (copy / "numbers.tex").read_text()
    (copy / "numbers.tex").write_text(first_digit(numbers))
    figure = bytearray((copy / "figures" / "gain.png").read_bytes())
    figure[100] ^= 1
    (copy / "figures" / "gain.png").write_bytes(figure)
    (copy / "figures" / "gain.pdf").write_bytes((copy / "figures" / "gain.pdf").read_bytes() + b"\n")
    drawn = copy / "figures" / "gain.svg"
    drawn.write_text(drawn.read_text().replace("<svg", "<svg x='1'", 1))
    (copy / "records.parquet").write_bytes(b"PAR1")
    (copy / "setup.md").unlink()
    (copy / "index.html").unlink()
    (copy / "notes.md").write_text("ours")
    (copy / "appendix.md").unlink()
    (copy / "appendix.md").symlink_to("report.md")

    assert run("verify", [str(copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert run("verify", [str(copy), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verified"] is False
    assert [line for line in lines if not line.startswith(("not verified", "The report was"))] == document[
        "differences"
    ]
    named = {line.partition(":")[0]: line for line in reversed(lines)}
    assert "stands there, the records give" in named["tables/main.tex"]
    assert f"line {place + 1}:" in named["report.md"]
    assert "line 3, column test_loss: 1.25 stands there, the records give" in named["records.csv"]
    assert "stands there, the records give" in named["numbers.tex"]
    assert "byte 101 differs" in named["figures/gain.png"]
    assert "differs" in named["figures/gain.pdf"]
    assert "line" in named["figures/gain.svg"]
    assert "byte 5 differs" in named["records.parquet"]
    assert named["setup.md"].startswith("setup.md: missing")
    assert named["index.html"].startswith("index.html: missing")
    assert named["notes.md"].startswith("notes.md: extra")
    assert "link" in named["appendix.md"]
    assert lines[-1].endswith("12 differences")


def repack(folder: Path, change, described: bool = False) -> None:
    """Change the members of a report's archive; `described`: whoever did it made the metadata anew as well."""
    content = container.read(folder / NAME)
    change(content)
    if described:
        options = members.options_of(content, folder)
        own = {name: data for name, data in content.items() if name not in (METADATA, VERSIONS)}
        content = members.described(own, options)
    container.write(content, folder / NAME)


def one_of(content: dict[str, bytes], method: str, end: str) -> str:
    """The first member with this end of the runs of a method that ended well."""
    for name, data in sorted(content.items()):
        if name.endswith("/record.json"):
            record = json.loads(data)
            if record["method"] == method and record["attempts"][-1]["status"] == "ok":
                return next(
                    n for n in sorted(content) if n.startswith(name.removesuffix("record.json")) and n.endswith(end)
                )
    raise AssertionError(method)


def wrong_item(content: dict[str, bytes]) -> str:
    """Turn one answer of a task around."""
    for name in sorted(n for n in content if n.endswith(".parquet")):
        table = parquet.read_table(pyarrow.BufferReader(content[name]))
        if "metric/acc" in table.column_names:
            values = table["metric/acc"].to_pylist()
            changed = table.set_column(
                table.column_names.index("metric/acc"), "metric/acc", [[1.0 - values[0], *values[1:]]]
            )
            out = pyarrow.BufferOutputStream()
            parquet.write_table(changed, out)
            content[name] = out.getvalue().to_pybytes()
            return name
    raise AssertionError("no task")


def wrong_record(content: dict[str, bytes]) -> str:
    name = one_of(content, "dora", "/record.json")
    record = json.loads(content[name])
    record["attempts"][-1]["peak_memory_bytes"] += 2**28
    content[name] = json.dumps(record).encode()
    return name


def wrong_score(content: dict[str, bytes]) -> str:
    name = next(n for n in sorted(content) if "/evaluations/" in n and b'"acc"' in content[n] and n.endswith(".json"))
    score = json.loads(content[name])
    score["metrics"]["acc"]["value"] += 0.01
    content[name] = json.dumps(score).encode()
    return name


def wrong_sweep(content: dict[str, bytes]) -> str:
    name = "runs/sweeps/methods/sweep.json"
    content[name] = content[name].replace(b"Which method", b"What method")
    return name


def lost(content: dict[str, bytes]) -> str:
    name = one_of(content, "ia3", ".parquet")
    del content[name]
    return name


def added(content: dict[str, bytes]) -> str:
    name = "runs/external/theirs.json"
    content[name] = b"{}"
    return name


CHANGES = (wrong_item, wrong_record, wrong_score, wrong_sweep, lost, added)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_of_a_member_is_named(copy, monkeypatch, change):
    """Without the report, which the next test makes again."""

    names = []
    repack(copy, lambda content: names.append(change(content)))
    content = container.read(copy / NAME)
    lines = [*verification._changed_members(content, members.options_of(content, copy))]
    assert len(CHANGES) == 6
    assert [line for line in lines if line.startswith(f"{names[0]}: ")] == lines
    assert len(lines) == 1


def test_a_changed_item_and_a_changed_record_are_named_although_the_metadata_were_made_anew(copy, capsys):
    names = []
    repack(copy, lambda content: names.extend((wrong_item(content), wrong_record(content))), described=True)
    assert run("verify", [str(copy)]) == 1
    out = capsys.readouterr().out
    place = names[0].removeprefix("runs/")
    assert f"{NAME}: {place}: " in out
    assert "acc of" in out
    assert "its items give" in out
    assert "tables/cost.tex: line" in out
    assert "records.csv: line" in out


def graded(content: dict[str, bytes]) -> str:
    """Give an evaluation a graded outcome whose items do not have the mean that its record states."""
    name = next(
        n
        for n in sorted(content)
        if n.endswith(".parquet") and "metric/acc" in parquet.read_schema(pyarrow.BufferReader(content[n])).names
    )
    table = parquet.read_table(pyarrow.BufferReader(content[name]))
    out = pyarrow.BufferOutputStream()
    parquet.write_table(table.append_column("metric/p_right", [[0.5] * table.num_rows]), out)
    content[name] = out.getvalue().to_pybytes()
    score = json.loads(content[name.replace(".parquet", ".json")])
    score["metrics"]["p_right"] = {**score["metrics"]["acc"], "value": 0.75}
    content[name.replace(".parquet", ".json")] = json.dumps(score).encode()
    return name


def test_a_graded_outcome_that_its_items_do_not_give_is_named(copy, capsys):
    names = []
    repack(copy, lambda content: names.append(graded(content)), described=True)
    assert run("verify", [str(copy)]) == 1
    named = [line for line in capsys.readouterr().out.splitlines() if "p_right of" in line]
    assert len(named) == 1
    assert named[0].startswith(f"{NAME}: {names[0].removeprefix('runs/')}: ")
    assert named[0].endswith("the record states 0.75, its items give 0.5")


def zipped(path: Path, entries, compression=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o120777 << 16
    entry.create_system = 3
    return entry


RUN = "runs/0123abcd/seed-0"
REFUSED = {
    "above": [("../evil.json", "{}")],
    "far above": [("runs/../../evil.json", "{}")],
    "absolute": [("/etc/cron.d/evil", "{}")],
    "backslashes": [("runs\\..\\evil.json", "{}")],
    "drive": [("C:/evil.json", "{}")],
    "above a run": [(f"{RUN}/evaluations/../../../../evil.json", "{}")],
    "pickle": [(f"{RUN}/weights.pkl", b"\x80\x04.")],
    "weights": [(f"{RUN}/weights/adapter_model.bin", b"\x80\x04.")],
    "pickle as a record": [(f"{RUN}/record.json", b"\x80\x04\x95.")],
    "pickle as items": [(f"{RUN}/evaluations/a.parquet", b"\x80\x04\x95.")],
    "rubbish as items": [(f"{RUN}/evaluations/a.parquet", b"PAR1" + b"x" * 40 + b"PAR1")],
    "program": [("runs/conftest.py", "import os")],
    "link": [(link(f"{RUN}/record.json"), "/etc/passwd")],
    "twice": [(f"{RUN}/record.json", "{}"), (f"{RUN}/Record.json".replace("R", "r"), "{}")],
    "deep": [(f"{RUN}/record.json", "[" * 200_000)],
    "bomb": [(f"{RUN}/record.json", b" " * (container.MOST_FILE_BYTES + 1))],
    "list": [(f"{RUN}/record.json", "[]")],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_an_archive_of_a_stranger_does_no_harm(kind, tmp_path, capsys):
    report = tmp_path / "deep" / "report"
    report.mkdir(parents=True)
    zipped(report / NAME, REFUSED[kind])
    before = sorted(tmp_path.rglob("*"))
    assert run("verify", [str(report)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "member" in message
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_states_a_wrong_size_is_refused(tmp_path, capsys):
    """The stated size of a member is that of 100 bytes; ten megabytes come out."""
    text = zipped(tmp_path / NAME, [(f"{RUN}/record.json", b" " * 10_000_000)]).read_bytes()
    assert text.count((10_000_000).to_bytes(4, "little")) == 2
    (tmp_path / NAME).write_bytes(text.replace((10_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    assert run("verify", [str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_of_records_is_one_line(content, tmp_path, capsys):
    (tmp_path / NAME).write_bytes(content)
    assert run("verify", [str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_many_members_of_fair_size_are_a_bomb_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(container, "MOST_BYTES", 1000)
    zipped(tmp_path / NAME, [(f"{RUN[:-1]}{seed}/record.json", " " * 400) for seed in range(3)])
    assert run("verify", [str(tmp_path)]) == 2
    assert "1,200 bytes unpacked; at most 1,000" in capsys.readouterr().err


def test_a_folder_without_an_archive_says_how_one_is_made(tmp_path, capsys):
    assert run("verify", [str(tmp_path)]) == 2
    assert "harness report pack" in capsys.readouterr().err


def test_a_damaged_record_is_not_packed(tmp_path, capsys):
    runs = build(tmp_path / "runs")
    broken = next(iter(sorted(runs.glob("*/seed-0/record.json"))))
    broken.write_bytes(b"\x80\x04\x95.")
    assert run("pack", ["methods", "--runs", str(runs), "--out", str(tmp_path / "report")]) == 2
    assert str(broken) in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_an_unknown_sweep_is_named_with_those_there_are(tmp_path, capsys):
    build(tmp_path / "runs")
    assert run("pack", ["nosuch", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 2
    assert "there is methods" in capsys.readouterr().err


def test_every_number_of_the_tables_is_a_macro_bound_to_its_records(packed):
    from harness.report import figures, load
    from harness.report.pages import report
    from harness.report.writers import folder

    comparison = load(packed.parent / "runs", "methods")
    drawn = figures.of(comparison)
    behind = report.details(comparison, drawn[1:], update=False)
    tables = folder.named_tables((*report.body(comparison, drawn), *behind))
    cells = [cell for table in tables.values() for row in table.rows for cell in row if isinstance(cell, Number)]
    count = sum(1 + (cell.shown_error is not None) + 2 * (cell.interval is not None) for cell in cells)
    text = (packed / "numbers.tex").read_text()
    assert text.isascii()
    assert text.count(r"\newcommand") == count > 100
    assert len({line.split("{")[1] for line in text.splitlines() if line.startswith(r"\newcommand")}) == count
    lines = text.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("% main, ia3, arc_easy/acc: "))
    run, _, field = lines[place].rpartition(": ")[2].partition("/evaluations/")
    file, metric = field.split(" metrics.")
    found = json.loads((packed.parent / "runs" / run / "evaluations" / file).read_text())
    value = found["metrics"][metric.removesuffix(".value")]["value"]
    assert lines[place + 1] == rf"\newcommand{{\resultMainIaThreeArcEasyAcc}}{{{100 * value:.1f}}}"


def test_a_macro_reads_the_same_in_text_and_in_mathematics():
    """A bare $-$ would end the formula in which a paper writes the number."""
    from harness.report.writers import numbers

    points = Column("gain", "Gain", "points", 100.0, 1)
    gain = dict(numbers._parts(Number(-0.123, 0.01, signed=True, interval=(-0.15, 0.02)), points))
    assert gain == {
        "": r"\ensuremath{-}12.3", "Error": "1.0", "Low": r"\ensuremath{-}15.0", "High": r"\ensuremath{+}2.0",
    }  # fmt: skip
    p_value = dict(numbers._parts(Number(1e-6), Column("p", "p", p_values=True)))
    assert p_value == {"": r"\ensuremath{<}~0.001"}
    assert dict(numbers._parts(Number(4_884_480), Column("n", "n", digits=0))) == {"": "4{,}884{,}480"}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_the_macros_are_latex(packed, tmp_path):
    import subprocess

    shutil.copy(packed / "numbers.tex", tmp_path)
    numbers = re.findall(r"\\newcommand\{(\\\w+)\}", (tmp_path / "numbers.tex").read_text())
    assert len(numbers) > 100
    used = "\n".join(rf"{one} and ${one} \pm {one}$" for one in numbers)  # a paper writes them in either way
    text = rf"\documentclass{{article}}\begin{{document}}\input{{numbers}}\small {used}\end{{document}}"
    (tmp_path / "paper.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-800:]
    assert io.BytesIO((tmp_path / "paper.pdf").read_bytes()).read(4) == b"%PDF"
