"""The wheel: it holds everything that a command needs, wherever it is called."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return folder


@pytest.fixture
def python(installed, tmp_path):
    """Python in another folder, where the installed copy comes before the checkout."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        command = [sys.executable, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    return run


def test_the_wheel_holds_code_configuration_and_questions_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"harness", "hydra_plugins"}
    for folder, suffix in (("harness", ".py"), ("conf", ".yaml"), ("sweeps", ".yaml"), ("hydra_plugins", ".py")):
        into = {"conf": "harness/conf", "sweeps": "harness/conf/sweep"}.get(folder, folder)
        found = [path.relative_to(ROOT / folder) for path in sorted((ROOT / folder).rglob(f"*{suffix}"))]
        assert found
        assert not [path for path in found if f"{into}/{path.as_posix()}" not in names]
    assert not [name for name in names if "__pycache__" in name or "tests" in name]


def test_the_installed_copy_is_the_one_that_runs(python, installed):
    done = python(
        "-c", "import harness; from harness.sources.packages import conf_dir; print(harness.__file__, conf_dir())"
    )
    assert done.stdout.split() == [str(installed / "harness" / "__init__.py"), str(installed / "harness" / "conf")]


def test_wrong_input_is_refused_anywhere(python, tmp_path):
    done = python("-m", "harness", "method=nosuch")
    assert done.returncode == 2
    assert "there is no such method. Available: " in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_question_is_found_anywhere(python):
    done = python("-m", "harness", "-m", "sweep=smoke", "method.lr=-1")
    assert done.returncode == 2
    assert "method=qlora" in done.stderr
    assert "method.lr=-1: must be greater than 0" in done.stderr


def test_the_configuration_can_be_shown_anywhere(python):
    done = python("-m", "harness", "--cfg", "job", "sweep=smoke", "train=smoke")
    assert done.returncode == 0
    assert "question: Does every part" in done.stdout
    assert "max_steps: 3" in done.stdout


def test_the_report_command_is_there(python):
    done = python("-m", "harness.report", "nowhere")
    assert done.returncode == 2
    assert "no such runs folder" in done.stderr
