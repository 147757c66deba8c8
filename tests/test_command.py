"""The command `harness`: each subcommand is reached, and a reader that leaves early is no error."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.__main__ import COMMANDS, module_of

ROOT = Path(__file__).parents[1]


def test_every_package_with_a_command_is_a_subcommand():
    assert {path.parent.name for path in (ROOT / "harness").rglob("*/__main__.py")} == set(COMMANDS)
    assert len(COMMANDS) == 8
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"harness": "harness.__main__:main"}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("way", ["subcommand", "module"])
def test_help_names_the_subcommand(name, way):
    words = ["harness", name] if way == "subcommand" else [module_of(name)]
    done = subprocess.run(
        [sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: harness {name}")


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"], ["report", "--help"]], ids=" ".join)
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(words, buffered):
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "harness", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode in (0, 141), "argparse ignores a closed pipe by itself"
    assert errors == ""


def test_wrong_input_of_a_subcommand_keeps_its_exit_code(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "harness", "report", "nowhere"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "nowhere" in done.stderr
