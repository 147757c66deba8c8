"""Entries of the cache: whatever is done to them, they are named, set aside and made again."""

import os
import shutil
from functools import partial

import pytest

from harness.records import disk
from harness.sources import cache

NAMES = ("a.bin", "deep/b.txt", "empty.txt")


def fill(made, folder):
    made.append(folder)
    (folder / "deep").mkdir()
    (folder / "a.bin").write_bytes(bytes(range(256)))
    (folder / "deep" / "b.txt").write_text("b" * 100)
    (folder / "empty.txt").write_text("")


def flip(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def replaced(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "missing": lambda path: path.unlink(),
    "folder": replaced(lambda path: path.mkdir()),
    "pipe": replaced(os.mkfifo),
    "link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "link to nothing": replaced(lambda path: path.symlink_to("nowhere")),
    "flipped": flip,
}
CASES = [(damage, name) for damage in DAMAGES for name in NAMES if (damage, name) not in
         (("truncated", "empty.txt"), ("flipped", "empty.txt"))]  # fmt: skip


@pytest.fixture
def said(monkeypatch):
    lines = []
    token = cache.announce.set(lines.append)
    monkeypatch.setattr(cache, "_verified", set())
    yield lines
    cache.announce.reset(token)


def test_every_damage_is_tried_on_every_file():
    assert len(CASES) == len(DAMAGES) * len(NAMES) - 2 == 22


@pytest.mark.parametrize(("damage", "name"), CASES)
def test_a_damaged_folder_is_named_set_aside_and_made_again(tmp_path, said, damage, name):
    made, folder = [], tmp_path / "entry"
    write = partial(fill, made)
    assert cache.cached_folder(folder, write) == cache.cached_folder(folder, write, by_content=True) == folder
    assert len(made) == 1
    cache._verified.clear()  # as in the next process
    DAMAGES[damage](folder / name)
    if damage == "flipped":
        cache.cached_folder(folder, write)
        assert len(made) == 1, "sizes alone do not tell"
    cache.cached_folder(folder, write, by_content=True)
    assert len(made) == 2
    assert (folder / "a.bin").read_bytes() == bytes(range(256))
    assert len(said) == 1
    assert str(folder / name) in said[0]
    assert "it is set aside as entry.damaged and made again" in said[0]
    assert (tmp_path / "entry.damaged").is_dir()


@pytest.mark.parametrize("kind", ["file", "pipe", "link to itself"])
def test_what_stands_in_the_place_of_a_folder_is_set_aside(tmp_path, said, kind):
    folder = tmp_path / "entry"
    {"file": folder.touch, "pipe": lambda: os.mkfifo(folder), "link to itself": lambda: folder.symlink_to("entry")}[
        kind
    ]()
    cache.cached_folder(folder, partial(fill, []))
    assert (folder / "a.bin").is_file()
    assert said == [f"{folder}: no folder; it is set aside as entry.damaged and made again"]


TEXTS = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "flipped": flip,
    "binary": lambda path: path.write_bytes(b"\x00\xff{" * 40),
    "without a checksum": lambda path: path.write_text('{"a": 1}'),
    **{name: DAMAGES[name] for name in ("folder", "pipe", "link to itself", "link to nothing")},
}


@pytest.mark.parametrize("damage", TEXTS)
def test_a_damaged_text_is_not_there(tmp_path, said, damage):
    path = tmp_path / "index.txt"
    assert cache.read_text(path) is None
    cache.write_text('{"a": "\u00e4"}', path)
    assert cache.read_text(path) == '{"a": "\u00e4"}'
    TEXTS[damage](path)
    assert cache.read_text(path) is None
    assert len(said) == 1
    assert "it is set aside as index.txt.damaged and made again" in said[0]
    cache.write_text("again", path)
    assert cache.read_text(path) == "again"


def test_a_folder_of_a_version_without_checksums_is_taken_as_it_is(tmp_path, said):
    made, folder = [], tmp_path / "entry"
    cache.cached_folder(folder, partial(fill, made))
    (folder / disk.NAME).unlink()
    flip(folder / "a.bin")
    cache.cached_folder(folder, partial(fill, made), by_content=True)
    assert len(made) == 1
    assert not said


def test_a_copy_of_an_entry_is_whole(tmp_path, said):
    made = []
    cache.cached_folder(tmp_path / "entry", partial(fill, made))
    shutil.copytree(tmp_path / "entry", tmp_path / "other")
    cache.cached_folder(tmp_path / "other", partial(fill, made), by_content=True)
    assert len(made) == 1
    assert not said
