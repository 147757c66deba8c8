"""A disk that is full, and a folder that may not be written: what is there stays whole, and the next start goes on."""

import subprocess

import pytest
from faults_kept import Kept, content, records, runs_of


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, and what changes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("-o", "size=256k"):
        pytest.skip("mounting needs root")
    yield folder, lambda options: mount("-o", f"remount,{options}")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_and_a_read_only_one_spoil_nothing(driver, plan, disk):
    folder, remount = disk
    expected = plan()
    assert driver.play(expected)[0][0] == 0
    path = plan(runs_dir=str(folder / "runs"))
    kept = Kept(runs_of(path))
    (folder / "filler").write_bytes(b"0" * (140 << 10))  # so that the disk is full in the middle of the sweep
    assert driver.play(path)[0][0] != 0
    kept.check()
    before = len(records(runs_of(path)))
    assert before < 5
    assert remount("size=256k,ro")
    assert driver.play(path)[0][0] != 0
    kept.check()
    assert len(records(runs_of(path))) == before
    assert remount("size=8m,rw")
    assert driver.play(path)[0][0] == 0
    kept.check()
    kept.whole()
    assert content(runs_of(path)) == content(runs_of(expected))
