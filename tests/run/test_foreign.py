"""A runs folder of somebody else is reported, evaluated, merged and continued without a line of its code."""

import dataclasses
import json
import pickle
import shutil

import pytest

from harness.config import permissions
from harness.config.compose import experiments
from harness.records import record
from harness.records.record import RunRecord, SweepRecord
from harness.report.__main__ import main as report
from harness.run import inputs, run
from harness.sweep.__main__ import main as sweep
from harness.sweep.cluster import node, submissions

CODE = """\
from pathlib import Path

Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    pass


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


class Marks:
    """A pickle of it makes a file when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return type(self.mark).touch, (self.mark,)


@pytest.fixture(scope="module")
def made(tiny_model, letters_file, tmp_path_factory):
    """A finished run on a model whose folder holds code. It was made without running it, as nobody had trusted it."""
    folder = tmp_path_factory.mktemp("foreign")
    model = shutil.copytree(tiny_model, folder / "model")
    (model / "own.py").write_text(CODE.format(mark=str(folder / "ran")))
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": names}))
    words = [
        "model.source=path", f"model.path={model}", "model.name=tiny", "data=file", f"data.file={letters_file}",
        "eval.tasks=[]", "eval=smoke", "tracking=none", f"runs_dir={folder}/runs", "train=smoke", "train.max_steps=2",
        "train.precision=fp32", "method=lora",
    ]  # fmt: skip
    experiment = inputs.resolve(experiments(words)[0][1])
    assert run.run(experiment, lambda _: None).status == "ok"
    assert not (folder / "ran").exists()
    return folder


@pytest.fixture
def mark(made):
    """The file that code of somebody else makes where it runs."""
    (made / "ran").unlink(missing_ok=True)
    return made / "ran"


@pytest.fixture
def foreign(made, mark, tmp_path):
    """The same run with a record in which somebody has given every permission, and code in all the places."""
    runs = shutil.copytree(made / "runs", tmp_path / "runs")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "scored.py").write_text(f"from pathlib import Path\n\nPath({str(mark)!r}).touch()\nscore = len\n")
    (tasks / "mine.yaml").write_text("task: mine\ndataset_path: json\nprocess_results: !function scored.score\n")
    [path] = runs.glob("*/seed-*/record.json")
    own = record.read(RunRecord, path)
    settings = json.loads(json.dumps(own.config))
    settings["model"] |= {"trust_remote_code": True}
    settings["eval"] |= {"unsafe_code": True, "include_path": str(tasks)}
    record.write(dataclasses.replace(own, config=settings), path)
    return path.parent


def refused(code, err, *settings):
    assert code == 2
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1
    for setting in settings:
        assert setting in err


def test_a_report_reads_it(foreign, mark, tmp_path):
    assert report([str(foreign.parents[1]), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.md").is_file() and not mark.exists()


def test_the_permissions_of_a_record_are_asked_for_again(foreign, mark, capsys):
    """Each in its turn; with all of them denied the run is evaluated, and no line of its code has run."""
    from harness.evaluate.__main__ import main as evaluate

    words = [str(foreign), "--tasks", "piqa", "eval.limit=2"]
    refused(evaluate(words), capsys.readouterr().err, "model.trust_remote_code=true", "model.trust_remote_code=false")
    words += ["model.trust_remote_code=false"]
    refused(evaluate(words), capsys.readouterr().err, "eval.include_path=")
    words += ["eval.include_path=null"]
    refused(evaluate(words), capsys.readouterr().err, "eval.unsafe_code=true", "eval.unsafe_code=false")
    words += ["eval.unsafe_code=false"]
    assert evaluate(words) == 0
    assert "piqa" in capsys.readouterr().out
    assert not mark.exists()


def test_adapter_commands_ask_again_and_work_without_the_code(foreign, mark, capsys, tmp_path):
    from harness.adapter.__main__ import main as adapter

    both = ["combine", foreign, foreign, "--weights", "0.5", "0.5", tmp_path / "both"]
    for words in (["info", foreign], ["merge", foreign, tmp_path / "merged"], both):
        refused(adapter([str(one) for one in words]), capsys.readouterr().err, "--base model.trust_remote_code=true")
    assert adapter(["card", str(foreign)]) == 0
    denied = ["--base", "model.trust_remote_code=false"]
    assert adapter(["merge", str(foreign), str(tmp_path / "merged"), *denied]) == 0, capsys.readouterr().err
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert adapter(["info", str(foreign), *denied]) == 0, capsys.readouterr().err
    assert not mark.exists()


def test_what_the_person_at_the_keyboard_permits_is_done(foreign, mark, capsys, tmp_path, monkeypatch):
    from harness.adapter.__main__ import main as adapter

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    given = ["--base", "model.trust_remote_code=true"]
    assert adapter(["merge", str(foreign), str(tmp_path / "merged"), *given]) == 0, capsys.readouterr().err
    assert mark.exists()


def test_what_a_record_gives_holds_no_permission(foreign):
    from harness.config import config

    own = record.read(RunRecord, foreign / "record.json")
    recorded, given = config.from_settings(own.method, own.config), config.from_record(own)
    for setting, nothing in permissions.WITHHELD.items():
        section, _, name = setting.partition(".")
        assert getattr(getattr(recorded, section), name) != nothing
        assert getattr(getattr(given, section), name) == nothing
    assert given.recipe_id == recorded.recipe_id


WORDS = ["hydra.launcher.setup=[touch ran]", "model.trust_remote_code=true", "hydra.searchpath=[file:///elsewhere]"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("command", ["rerun", "submit", "extend"])
def test_a_sweep_is_not_continued_with_words_that_run_code(command, word, tmp_path, capsys, monkeypatch):
    called = []
    monkeypatch.setattr("os.execv", lambda *words: called.append(words))
    asked = SweepRecord(
        schema=record.SCHEMA, name="theirs", question=None, command=f"python -m harness -m method=lora {word}",
        cells=(), arguments=("method=lora", *([word] if not word.startswith("hydra.") else [])),
    )  # fmt: skip
    record.write(asked, tmp_path / "sweeps" / "theirs" / "sweep.json")
    sent = submissions.Submission(
        schema=record.SCHEMA, job="7", submitted_at="2026", runs=(("a", 0),), at_once=1, words=(word,)
    )
    submissions.keep(sent, tmp_path, "theirs")
    words = [command, "theirs", "--runs", str(tmp_path)]
    code = sweep(words)
    err = capsys.readouterr().err
    if command == "rerun" and "setup" in word:  # the launcher's words belong to a submission
        assert called and "touch" not in str(called)
        return
    assert code == 2 and not called
    if command == "extend":  # nothing was tuned, which it says first
        return
    assert word in err and "may run code" in err
    sweep([*words, word])
    assert called, "the person at the keyboard has said it again"


def test_collecting_reads_no_pickle(foreign, mark, tmp_path, monkeypatch, capsys):
    own = record.read(RunRecord, foreign / "record.json")
    cell = (own.recipe_id, own.seed)
    asked = SweepRecord(schema=record.SCHEMA, name="theirs", question=None, command="", cells=(), arguments=())
    record.write(asked, foreign.parents[1] / "sweeps" / "theirs" / "sweep.json")
    sent = submissions.Submission(schema=record.SCHEMA, job="7", submitted_at="2026", runs=(cell,), at_once=1, words=())
    submissions.keep(sent, foreign.parents[1], "theirs")
    jobs = submissions.jobs_folder(foreign.parents[1], "theirs")
    jobs.mkdir()
    for name in ("7_submitted.pkl", "7_0_result.pkl.save_tmp"):
        (jobs / name).write_bytes(pickle.dumps(Marks(mark)))
    monkeypatch.setattr("harness.sweep.cluster.queue.queued", lambda jobs: {})
    monkeypatch.setattr("harness.sweep.cluster.queue.endings", lambda job: {})
    for command in ("collect", "cancel"):
        sweep([command, "theirs", "--runs", str(foreign.parents[1])])
        assert "Traceback" not in capsys.readouterr().err
    assert not mark.exists()
    settings = submissions.Settings(method=own.method, config=own.config)
    submissions.keep_runs([settings], "7", foreign.parents[1], "theirs")
    tasks = submissions.Tasks(foreign.parents[1], "theirs")
    from harness.sweep.cluster import slurm

    assert slurm.experiment_of(foreign.parents[1], "theirs", tasks.of[cell]).recipe_id == own.recipe_id


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o602, 0o666])
def test_a_node_reads_a_job_only_from_a_file_that_nobody_else_can_have_written(mode, mark, tmp_path, monkeypatch):
    path = tmp_path / "7_submitted.pkl"
    node.dump(Marks(mark), path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    if mode & 0o022:
        with pytest.raises(SystemExit, match="nobody else may write"):
            node.load(path)
        assert not mark.exists()
        return
    with monkeypatch.context() as other:
        other.setattr("os.geteuid", lambda: 12345)
        with pytest.raises(SystemExit, match="belongs to user"):
            node.load(path)
    link = tmp_path / "link.pkl"
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        node.load(link)
    assert not mark.exists()
    node.load(path)
    assert mark.exists()
