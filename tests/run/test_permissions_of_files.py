"""Files have the permissions of the user's umask: a group shares a store, and a private one stays private."""

import os
import stat
import subprocess
import sys

import pytest

from harness.records import files, record


@pytest.mark.parametrize("umask", [0o002, 0o077], ids=oct)
def test_everything_of_a_run_and_its_report_follows_the_umask(tiny_overrides, tmp_path, umask):
    cache = tmp_path / "cache"
    words = ["-m", *tiny_overrides, "method=lora,bitfit", "train.max_steps=2", "keep=checkpoint"]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], capture_output=True, text=True, cwd=tmp_path, check=False,
        umask=umask, env={**os.environ, "HARNESS_CACHE": str(cache)}, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {path: path.stat().st_mode for top in ("runs", "reports", "cache") for path in (tmp_path / top).rglob("*")}
    names = {path.name for path in found}
    assert {"record.json", "adapter_model.safetensors", "weights", "README.md", "index.html", "report.svg"} - names <= {
        "report.svg"
    }
    assert any(path.suffix == ".parquet" for path in found) and any(path.parent.name == "tokens" for path in found)
    assert any("checkpoint" in str(path.relative_to(tmp_path)) for path in found)
    wrong = {
        str(path.relative_to(tmp_path)): oct(stat.S_IMODE(mode))
        for path, mode in found.items()
        if stat.S_IMODE(mode) & 0o777 != (0o777 if stat.S_ISDIR(mode) else 0o666) & ~umask
    }
    assert wrong == {}


def test_a_file_with_a_secret_is_its_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        path = record.write_text("token", tmp_path / "rendezvous.json", files.PRIVATE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
