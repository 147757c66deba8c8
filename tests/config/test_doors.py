"""No YAML that Hydra reads runs code: what could is asked for on the command line or refused, before it happens."""

import dataclasses
import pickle
import sys

import pytest

from harness.config import doors
from harness.config.permissions import of_words
from harness.sweep.cluster.resources import SlurmSpec
from harness.sweep.local import LocalSpec

EVIL = "from pathlib import Path\n\nPath({mark!r}).touch()\n\n\nclass M:\n    pass\n"


class Marks:
    """A pickle of it makes a file when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return type(self.mark).touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """The file that code of somebody else makes where it runs."""
    return tmp_path / "ran"


@pytest.fixture
def theirs(tmp_path, mark):
    """A folder with a module that makes the mark when it is imported, and a place for YAML files."""
    (tmp_path / "evilmod.py").write_text(EVIL.format(mark=str(mark)))
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    return tmp_path


QUESTION = "name: theirs\nquestion: Which?\nvaries: [method]\ncells:\n  - method: [lora]\n"
DOORS = {
    "callbacks": "hydra:\n  callbacks:\n    x:\n      _target_: evilmod.M\n",
    "sweeper": "hydra:\n  sweeper:\n    _target_: evilmod.M\n",
    "launcher": "hydra:\n  launcher:\n    _target_: evilmod.M\n",
    "hydra_logging": "hydra:\n  hydra_logging:\n    version: 1\n    formatters:\n      f:\n        (): evilmod.M\n",
    "job_logging": "hydra:\n  job_logging:\n    version: 1\n    handlers:\n      h:\n        class: evilmod.M\n",
    "job_logging_object": "hydra:\n  job_logging:\n    version: 1\n    handlers:\n      h:\n        class: "
    "logging.StreamHandler\n        stream: ext://evilmod.M\n",
    "env_set": "hydra:\n  job:\n    env_set:\n      PYTHONSTARTUP: evil\n",
    "setup": "hydra:\n  launcher:\n    setup: [evil]\n",
    "method": "method:\n  _target_: evilmod.M\n",
}


@pytest.mark.parametrize("door", DOORS)
def test_a_question_file_of_somebody_else_runs_nothing(harness, tiny_overrides, theirs, mark, door):
    inside = QUESTION.replace("\n", "\n  ").removesuffix("  ")
    (theirs / "conf" / "sweep" / "theirs.yaml").write_text(f"# @package _global_\nsweep:\n  {inside}{DOORS[door]}")
    where = [f"hydra.searchpath=[file://{theirs}/conf]", "sweep=theirs"]
    extra = ["hydra/launcher=slurm"] if door == "setup" else []
    done = harness("-m", *tiny_overrides, *where, *extra, cwd=theirs, PYTHONPATH=str(theirs))
    assert not mark.exists()
    assert done.code == 2, done.out + done.err
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) <= 2
    assert (f"hydra.{door.removesuffix('_object')}" if door not in ("method", "setup", "env_set") else door) in done.err


@pytest.mark.parametrize(
    "word",
    ["hydra.launcher._target_=evilmod.M", "hydra.sweeper._target_=evilmod.M", "method._target_=evilmod.M",
     "method._target_=evilmod", "method._target_=os.system", "method._target_=harness.methods.base.os.system",
     "method._target_=evilmod.M.N", "method._target_=", "hydra.job_logging.handlers.console.class=evilmod.M"],
)  # fmt: skip
def test_a_target_on_the_command_line_is_of_an_allowed_place_or_one_line(harness, tiny_overrides, theirs, mark, word):
    done = harness("-m", *tiny_overrides, word, cwd=theirs, PYTHONPATH=str(theirs))
    assert (done.code, mark.exists()) == (2, False), done.out + done.err
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) <= 2


@pytest.mark.parametrize("option", ["--experimental-rerun", "--experimental", "--e"])
@pytest.mark.parametrize("sign", ["=", " "])
def test_hydra_reads_no_pickle(harness, theirs, mark, option, sign):
    (theirs / "config.pickle").write_bytes(pickle.dumps(Marks(mark)))
    done = harness(*f"{option}{sign}{theirs}/config.pickle".split(" "), cwd=theirs)
    assert (done.code, mark.exists()) == (2, False), done.out + done.err
    assert "reads a pickle" in done.err and len(done.err.strip().splitlines()) == 1


def test_a_method_of_ones_own_is_known_by_its_file_and_not_imported_for_that(theirs, mark, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(theirs), *sys.path])
    (theirs / "own.py").write_text(
        EVIL.format(mark=str(mark)) + "\n\nfrom harness.methods.lora import Lora\n\n\nclass Mine(Lora):\n    pass\n"
    )
    (theirs / "pack").mkdir()
    (theirs / "own.py").rename(theirs / "pack" / "own.py")
    (theirs / "pack" / "__init__.py").write_text(EVIL.format(mark=str(mark)))
    doors.check_method("pack.own.Mine")
    for wrong in ("pack.own.M", "pack.own", "pack.own.Path", "nosuch.own.Mine", "json.JSONDecoder"):
        with pytest.raises(ValueError, match="not a Method"):
            doors.check_method(wrong)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("word", "repeated"),
    [
        ("model.trust_remote_code=true", False), ("+model.trust_remote_code=true", False),
        ("model.trust_remote_code=false", True), ("eval.unsafe_code=True", False), ("eval.include_path=/x", False),
        ("eval.include_path=null", True), ("hydra.launcher.setup=[evil]", False), ("hydra.launcher.setup=[]", True),
        ("+hydra.launcher.options.wrap=evil", False), ("hydra.launcher.partition=gpu", True),
        ("hydra.launcher.cpus=8", True), ("hydra.launcher.wait=false", True), ("hydra/launcher=slurm", True),
        ("hydra/sweeper=other", False), ("hydra.searchpath=[file:///x]", False), ("hydra.callbacks.x={}", True),
        ("+hydra.callbacks.x._target_=evil.M", False), ("hydra.job.env_set.A=b", False), ("hydra.sweep.dir=/x", False),
        ("hydra/job_logging=evil", False), ("method._target_=evil.M", False), ("hydra.run.dir=/etc", False),
        ("method=lora", True), ("seed=0,1", True), ("data.file=/x", True), ("lr_scale=1", True),
        ("~hydra.callbacks", False),
    ],
)  # fmt: skip
def test_words_of_a_record_that_may_run_code_are_not_repeated(word, repeated):
    assert (list(of_words([word])) == []) is repeated


def test_every_setting_of_the_launchers_is_repeated_or_may_run_something():
    settings = {field.name for spec in (SlurmSpec, LocalSpec) for field in dataclasses.fields(spec)}
    assert len(settings) == 17
    repeated = {name for name in settings if not list(of_words([f"hydra.launcher.{name}=1"]))}
    assert settings - repeated == {"setup", "options"}
