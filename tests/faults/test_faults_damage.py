"""Whatever stands in the place of a file is named and set aside, the run is made again, and no other run notices."""

import errno
import os
import shutil
import socket
from pathlib import Path

import pytest

from harness.records import disk
from tests.faults.faults_kept import Kept, content, records, runs_of


def written(make):
    """A damage to the bytes of a file."""
    return lambda path: path.write_bytes(make(path.read_bytes()))


def flipped(whole):
    """One bit in the middle of a number or a word: what is left may read as if nothing were wrong."""
    if not whole:
        return b"\x01"
    place = next((i for i in range(len(whole) // 2, len(whole)) if whole[i : i + 1].isalnum()), len(whole) // 2)
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def instead(make):
    """Something else in the place of a file or folder."""

    def damage(path):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return damage


def listening(path):
    """A socket, bound by a short relative name: the whole path is too long for the kernel."""
    here = os.open(path.parent, os.O_RDONLY)
    before = Path.cwd()
    try:
        os.fchdir(here)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)
        os.close(here)


def full_folder(path):
    path.mkdir()
    (path / "inside.txt").write_text("not empty")


BYTES = {
    "empty": written(lambda _: b""),
    "truncated": written(lambda whole: whole[: len(whole) // 2]),
    "flipped": written(flipped),
    "binary": written(lambda _: b"\x00\xff{" * 40),
}
KINDS = {
    "folder": instead(full_folder),
    "pipe": instead(os.mkfifo),
    "socket": instead(listening),
    "link to itself": instead(lambda path: path.symlink_to(path.name)),
    "link to nothing": instead(lambda path: path.symlink_to("nowhere")),
}
GONE = {"missing": instead(lambda path: None)}
FILE_IN_PLACE = {"file": instead(lambda path: path.write_text("no folder"))}
OF_FILES = {**BYTES, **KINDS, **GONE}
OF_FOLDERS = {**FILE_IN_PLACE, **{name: make for name, make in KINDS.items() if name != "folder"}, **GONE}
FILES = (
    "record.json", "evaluations/*.json", "evaluations/*.parquet", "claim-*.json", "weights_from.txt", "log.txt",
    "weights/model.bin.txt", "weights/attempt.txt", disk.NAME, "../../sweeps/*/sweep.json",
)  # fmt: skip
FOLDERS = ("evaluations", "weights", ".", "..")  # in the run's folder, itself, and its recipe's
ALL = [
    *((name, damage, OF_FILES[damage]) for name in FILES for damage in OF_FILES),
    *((name, damage, OF_FOLDERS[damage]) for name in FOLDERS for damage in OF_FOLDERS),
]
# made again or never read, without a word
SILENT = ("claim-*.json", "weights_from.txt", "log.txt", disk.NAME, "../../sweeps/*/sweep.json")


def test_every_kind_is_tried_in_every_place():
    assert (len(OF_FILES), len(FILES), len(OF_FOLDERS), len(FOLDERS)) == (10, 10, 6, 4)
    assert len(ALL) == 10 * 10 + 6 * 4 == 124


@pytest.fixture(scope="module")
def whole(driver, plan):
    """A finished sweep, and what it says."""
    path = plan(3)
    assert driver.play(path)[0][0] == 0
    return path, content(runs_of(path))


@pytest.fixture
def store(whole, tmp_path):
    """The sweep's store, put back afterwards: plans name the folder of their runs."""
    path, _ = whole
    runs, kept = runs_of(path), tmp_path / "kept"
    shutil.copytree(runs, kept, symlinks=True)
    yield path
    shutil.rmtree(runs)
    kept.rename(runs)


def victim_of(path, name):
    """The run that is damaged, and the file or folder in it."""
    runs = runs_of(path)
    run = next(folder for folder, one in records(runs).items() if (one.method, one.seed) == ("lora", 0))
    return run, max(
        run.glob(name)
    ) if "*" in name else run if name == "." else run.parent if name == ".." else run / name


@pytest.mark.parametrize(("name", "kind", "damage"), ALL, ids=[f"{name}-{kind}" for name, kind, _ in ALL])
def test_it_is_named_and_set_aside_and_the_run_is_whole_again(driver, whole, store, name, kind, damage):
    _, expected = whole
    run, victim = victim_of(store, name)
    beside = records(runs_of(store)).items()
    others = {folder: one for folder, one in beside if folder != run and victim not in folder.parents}
    said = runs_of(store).parent / "said.txt"
    said.write_text("")
    damage(victim)
    if (name.partition("/")[0], kind) == ("weights", "flipped"):  # read when they are used, as for an evaluation
        max(run.glob("evaluations/*.json")).unlink()
    [(code, _, _)] = driver.play(store, patience=0.5)
    assert code == 0, said.read_text()
    assert content(runs_of(store)) == expected
    kept = Kept(runs_of(store))
    kept.check()
    kept.whole()
    after = records(runs_of(store))
    assert {folder: after[folder] for folder in others} == others, "no other run was touched"
    if kind != "missing" and name not in SILENT:
        assert "set aside as" in said.read_text()
        assert str(victim.parent if name.startswith("weights/") else victim) in said.read_text()


@pytest.mark.parametrize("name", ["record.json", "evaluations/*.json", "weights_from.txt"])
def test_a_file_that_may_not_be_read_ends_its_run_alone_and_is_left_as_it_is(driver, whole, store, name):
    _, expected = whole
    _, victim = victim_of(store, name)
    before = victim.read_bytes()
    victim.chmod(0)
    _, other = victim_of(store, "record.json")
    other = next(folder for folder in records(runs_of(store)) if folder != other.parent)
    (other / "record.json").unlink()
    [(code, _, _)] = driver.play(store, blind=True, patience=0.5)
    assert code == 1
    said = (runs_of(store).parent / "said.txt").read_text()
    assert f"{victim}: cannot be read (Permission denied); make it readable or move it away" in said
    assert victim.read_bytes() == before
    assert (other / "record.json").is_file(), "the other run was made"
    victim.chmod(0o644)
    assert driver.play(store, patience=0.5)[0][0] == 0
    assert content(runs_of(store)) == expected


def test_a_flipped_file_has_the_size_that_was_written(whole):
    """So that nothing but its checksum tells."""
    _, victim = victim_of(whole[0], "weights/model.bin.txt")
    content = victim.read_bytes()
    assert len(flipped(content)) == len(content)
    assert flipped(content) != content


def test_a_disk_that_is_full_in_the_middle_of_a_checksum_is_an_error(tmp_path, monkeypatch):
    """The file that is put in place without its line would be taken for damaged."""
    disk.begin(tmp_path)
    write, room = os.write, [10]

    def fill(handle, content):
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content[: room.pop()])

    with monkeypatch.context() as full:
        full.setattr(os, "write", fill)
        with pytest.raises(OSError, match="No space left on device"):
            disk.note(tmp_path, [("a.json", disk.sum_of_bytes(b"1"))])
    disk.note(tmp_path, [("a.json", disk.sum_of_bytes(b"2"))])
    assert disk.sums(tmp_path) == {"a.json": {disk.sum_of_bytes(b"2")}}


def test_checksums_list_every_content_that_was_written(tmp_path):
    disk.begin(tmp_path)
    disk.note(tmp_path, [("a.json", disk.sum_of_bytes(b"1"))])
    with (tmp_path / disk.NAME).open("a") as file:
        file.write("00ab")  # a kill in the middle of a line
    disk.note(tmp_path, [("a.json", disk.sum_of_bytes(b"2")), ("b c.json", disk.sum_of_bytes(b""))])
    listed = disk.sums(tmp_path)
    assert listed["a.json"] == {disk.sum_of_bytes(b"1"), disk.sum_of_bytes(b"2")}
    assert set(listed) == {"a.json", "b c.json"}
    for given in (b"1", b"2"):
        (tmp_path / "a.json").write_bytes(given)
        disk.check(tmp_path / "a.json", "a.json", listed)
    (tmp_path / "a.json").write_bytes(b"3")
    disk.check_size(tmp_path / "a.json", "a.json", listed)
    with pytest.raises(disk.DamagedError, match=r"a\.json: damaged, its content is not the one that was written"):
        disk.check(tmp_path / "a.json", "a.json", listed)
