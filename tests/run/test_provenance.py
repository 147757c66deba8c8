import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.run import provenance

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh():
    provenance.facts.cache_clear()
    yield
    provenance.facts.cache_clear()


def test_facts_are_true_and_can_be_kept():
    facts = provenance.facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["versions"]["torch"] == importlib.metadata.version("torch")
    assert all(facts["versions"].values())
    assert len(facts["versions"]) >= 10
    assert facts["python"] == sys.version.split()[0]
    assert facts["cpu_cores"] == len(os.sched_getaffinity(0))
    assert facts["memory_bytes"] > 2**30


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("no_such_package",))
    assert provenance.facts()["versions"] == {"no_such_package": None}


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A repository in which the module seems to lie."""
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "provenance.py").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "harness" / "run" / "provenance.py"))
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout):
    facts = provenance.facts()
    assert (facts["commit"], facts["uncommitted_changes"]) == (git(checkout, "rev-parse", "HEAD"), False)


def test_changes_are_told_and_new_files_are_not(checkout):
    (checkout / "runs").mkdir()
    (checkout / "runs" / "record.json").write_text("{}")
    assert provenance.facts()["uncommitted_changes"] is False
    provenance.facts.cache_clear()
    (checkout / "harness" / "provenance.py").write_text("x = 2\n")
    assert provenance.facts()["uncommitted_changes"] is True


def test_the_digest_of_the_code_changes_with_a_module_and_with_nothing_else(checkout):
    def digest():
        provenance.facts.cache_clear()
        return provenance.facts()["program"]

    first, module = digest(), checkout / "harness" / "provenance.py"
    (checkout / "README.md").write_text("a registration, a report")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "second")
    assert digest() == first
    module.write_text("x = 2\n")
    changed = digest()
    module.write_text("x = 1\n")
    assert digest() == first != changed
    module.rename(checkout / "harness" / "other.py")
    assert len({first, changed, digest()}) == 3


def test_outside_of_a_checkout_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "harness" / "run" / "provenance.py"))
    facts = provenance.facts()
    assert (facts["commit"], facts["uncommitted_changes"]) == (None, None)


def test_without_git_nothing_is_known(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    facts = provenance.facts()
    assert (facts["commit"], facts["uncommitted_changes"]) == (None, None)


def test_the_command_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/a/harness/__main__.py", "-m", "method=lora,dora", "target='re:(q|v)_proj'"])
    words = provenance.command()
    assert words.startswith("python -m harness -m method=lora,dora ")
    import shlex

    assert shlex.split(words)[3:] == sys.argv[1:]


def test_the_device_is_named():
    device = provenance.device()
    assert device["device"] in ("cpu", "cuda")
    assert device["device_name"]
    assert device["num_processes"] == 1


def test_a_method_that_imports_a_package_before_all_others_has_its_version_among_the_facts():
    from harness.methods.unsloth import Unsloth

    assert Unsloth.imports_first == ("unsloth",)
    assert set(provenance.with_versions_of(("unsloth",))["versions"]) == {*provenance.facts()["versions"], "unsloth"}
    assert provenance.with_versions_of(("pytest",))["versions"]["pytest"] == importlib.metadata.version("pytest")
    assert provenance.with_versions_of(()) == {}


def test_facts_need_no_torch():
    code = "import sys; from harness.run import provenance; provenance.facts(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
