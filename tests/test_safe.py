"""What comes from elsewhere is read and never run: code beside a model or data set, pickles, what a model writes."""

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from harness.data import rows
from harness.evaluate import tasks
from harness.records.settings import ModelSpec
from harness.run import inputs
from harness.sources import hub, models, pickles
from harness.sources.packages import conf_dir

READERS = {  # of JSON, of YAML, of models and tasks through this program, and of checkpoints by the unpickler below
    "json.load", "yaml.load", "models.load", "tasks.load", "self.load", "manager.load", "dcp.load",
    "_TableUnpickler(stream).load",
}  # fmt: skip
SOURCES = sorted((Path(__file__).parents[1] / "harness").rglob("*.py"))
CODE = """\
from pathlib import Path

Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


class Marks:
    """A pickle of it makes a file when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """The file that code from elsewhere makes where it runs."""
    return tmp_path / "ran"


@pytest.fixture
def copied(tiny_model, tmp_path):
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def is_pickle(text):
    return isinstance(text, str) and text.endswith((".pkl", ".pickle"))


def with_code(folder, mark, file, **changes):
    """Have a file of the model's folder name classes of a module beside it."""
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))


def with_pickle(folder, mark, name="pytorch_model.bin"):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save({"weights": Marks(mark)}, folder / name)


# --- code beside a model or a data set ---


def test_no_model_of_the_table_has_its_code_trusted():
    files = sorted((conf_dir() / "model").glob("*.yaml"))
    assert len(files) >= 30
    assert [file.name for file in files if "trust_remote_code: false" not in file.read_text()] == []
    assert ModelSpec(name="m", source="hub").trust_remote_code is False


def test_code_beside_a_model_runs_only_where_that_is_asked_for(copied, mark, monkeypatch, tmp_path):
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    with_code(copied, mark, "config.json", model_type="own", auto_map=names)
    spec = {"name": "m", "source": "path", "path": str(copied)}
    for read in (lambda one: models.load(one, {}), lambda one: models.skeleton(one, torch.float32)):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            read(ModelSpec(**spec))
    assert not mark.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert type(models.load(ModelSpec(**spec, trust_remote_code=True), {})).__name__ == "OwnModel"
    assert mark.exists()


def test_code_beside_a_tokenizer_is_not_run(copied, mark):
    names = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    with_code(copied, mark, "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=names)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        models.tokenizer(ModelSpec(name="m", source="path", path=str(copied)))
    assert not mark.exists()


def test_a_model_with_code_is_refused_before_anything_starts(harness, tiny_overrides, copied, mark, tmp_path):
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    with_code(copied, mark, "config.json", model_type="own", auto_map=names)
    done = harness(*tiny_overrides, f"model.path={copied}", cwd=tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "trust_remote_code" in done.err
    assert not mark.exists()


def test_a_data_set_that_is_a_program_is_not_run(tmp_path, mark, monkeypatch):
    monkeypatch.setattr(hub, "commit", lambda *_: None)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"from pathlib import Path\n\nPath({str(mark)!r}).touch()\n")
    with pytest.raises(ValueError, match="cannot load"):
        rows._from_hub(str(tmp_path / "set"), None, "train", None)
    assert not mark.exists()


# --- pickles ---


def test_no_line_of_the_program_reads_a_pickle_from_elsewhere():
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            names += [ast.unparse(node.func)] if isinstance(node, ast.Call) else []
            given = {ast.unparse(one) for one in node.keywords} if isinstance(node, ast.Call) else set()
            bad = {"pickle", "cloudpickle", "dill", "joblib", "torch.load", "numpy.load", "np.load"} & set(names)
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            bad |= {called} - READERS if called.endswith((".load", ".read_pickle", ".results")) else set()
            bad |= {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and is_pickle(one.value)}
            bad |= {"trust_remote_code=True", "use_safetensors=False", "weights_only=False"} & given
            found |= {(path.name, one) for one in bad}
    assert len(SOURCES) > 150
    assert found == {
        ("compose.py", "pickle"),  # of what it made itself, in memory
        ("node.py", "pickle"),  # a job, from a file that nobody but its own user can have written
        ("node.py", "cloudpickle"),  # writes it
        ("pickles.py", ".pkl"),  # names that are refused
        ("pickles.py", ".pickle"),
        ("submissions.py", "_0_result.pkl"),  # looks whether it is there
        ("launcher.py", "pickle"),  # an exception that it raised itself, in memory
        ("fsdp.py", "pickle"),  # an unpickler that knows torch's classes of a checkpoint's index and nothing else
    }


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "consolidated.pth"]
)
def test_a_model_in_a_pickle_is_refused(copied, mark, name):
    with_pickle(copied, mark, name)
    with pytest.raises(ValueError, match=f"model.path={copied}: its weights are a pickle, {name}, .*save_pretrained"):
        inputs.folder_content(copied)
    with pytest.raises(OSError, match="safetensors"):
        models.load(ModelSpec(name="m", source="path", path=str(copied)), {})
    assert not mark.exists()


def test_a_model_in_a_pickle_is_refused_by_the_command(harness, tiny_overrides, copied, mark, tmp_path):
    with_pickle(copied, mark)
    done = harness(*tiny_overrides, f"model.path={copied}", cwd=tmp_path)
    assert done.code == 2
    assert "its weights are a pickle, pytorch_model.bin" in done.err
    assert "Traceback" not in done.err
    assert not mark.exists()
    assert not list(tmp_path.glob("runs/*/seed-*"))


def test_what_a_trainer_leaves_beside_weights_does_no_harm(copied):
    before = inputs.folder_content(copied)
    for name in ("training_args.bin", "optimizer.pt", "pytorch_model.bin"):
        (copied / name).write_bytes(b"never read")
    assert inputs.folder_content(copied) == before


def test_an_adapter_in_a_pickle_is_refused_beside_other_weights(copied, mark):
    torch.save(Marks(mark), copied / "adapter_model.bin")  # transformers would have PEFT add it to the model
    with pytest.raises(ValueError, match=r"a pickle, adapter_model\.bin"):
        pickles.refuse(copied, "it")


# --- what a model writes ---

UNSAFE = ("humaneval", "humaneval_instruct", "mbpp", "mbpp_instruct")


@pytest.mark.parametrize("name", UNSAFE)
def test_a_task_that_runs_what_a_model_writes_is_refused_unread(name):
    with pytest.raises(ValueError, match=rf"eval\.tasks={name}: {name} runs the code .*eval\.unsafe_code=true"):
        tasks.load(name, "package", None)
    assert not [
        module for module in sys.modules if module.startswith(("lm_eval.tasks.humaneval", "lm_eval.tasks.mbpp"))
    ]


def test_a_task_of_ones_own_that_runs_code_is_refused_unread(tmp_path, mark):
    (tmp_path / "scored.py").write_text(f"from pathlib import Path\n\nPath({str(mark)!r}).touch()\nscore = len\n")
    common = (
        "unsafe_code: true\ndataset_path: json\noutput_type: generate_until\nprocess_results: !function scored.score\n"
    )
    (tmp_path / "_common_yaml").write_text(common)
    (tmp_path / "mine.yaml").write_text("task: mine\ninclude: _common_yaml\n")
    scored = "aggregate_metric_list:\n  - metric: acc\n"  # without it the group has no score, and is refused for that
    (tmp_path / "ours.yaml").write_text(f"group: ours\ntask:\n  - mine\n{scored}")
    for name in ("mine", "ours"):
        with pytest.raises(ValueError, match=rf"eval\.tasks={name}: mine runs the code that the model writes"):
            tasks.load(name, "package", None, str(tmp_path))
    assert not mark.exists()
