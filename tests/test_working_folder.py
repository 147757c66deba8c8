"""Folders of a command: scripts in the one it is started in, and the length of the path for temporary files."""

import subprocess
import sys

import pytest

TRAPS = (
    "evaluate", "datasets", "random", "json", "argparse", "peft", "torch", "transformers", "tokenize", "numpy", "code",
)  # fmt: skip


@pytest.fixture
def trapped(tmp_path):
    """A folder with scripts that are called like libraries, and a module of the user's own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f'raise SystemExit("{name}.py of the user was run")\n')
    (folder / "my_method.py").write_text("NAME = 'mine'\n")
    return folder


def test_a_command_runs_no_script_that_is_called_like_a_library(harness, trapped, tiny_overrides):
    done = harness("data", "check", *tiny_overrides, "eval.tasks=[arc_easy]", cwd=trapped)
    assert done.code == 0, done.err
    assert "was run" not in done.out + done.err
    assert "items of arc_easy in training rows" in " ".join(done.out.split())


def test_a_module_of_ones_own_is_still_found_there(trapped):
    line = "import harness.records.record, json, my_method; print(my_method.NAME)"
    done = subprocess.run([sys.executable, "-c", line], cwd=trapped, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "mine"), done.stderr


def test_a_long_path_for_temporary_files_is_none_for_sockets(harness, tiny_overrides, tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    done = harness("data", "check", *tiny_overrides, TMPDIR=str(folder))
    assert done.code == 0, done.err
