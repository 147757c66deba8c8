"""A run that is interrupted and goes on is, to the bit, the run that was not."""

import dataclasses
import os
import re
import shutil
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from harness.records.events import Measured, Message
from harness.records.settings import Fallback
from harness.sources.packages import conf_dir
from harness.train import callback, checkpoint, resume, tensors
from harness.train.checkpoint import Belongs
from harness.train.loop import DivergedError, train
from harness.train.resume import Checkpoints
from harness.train.signals import PreemptedError

NAMES = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
UNTRAINED = {"base"}
NEEDS_CUDA = {"unsloth"}
SMALL = {
    "vera": ["method.r=64"],
    "llama_adapter": ["method.adapter_layers=2"],
    "alora": ["method.invocation=a"],
    "adalora": ["method.steps_between=1", "method.warmup_fraction=0.2", "method.final_fraction=0.4"],
    "galore": ["method.r=4", "method.update_proj_gap=2"],
}
A = 68  # the tiny tokenizer's letter
pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT of normalizations
BELONGS = Belongs(recipe_id="12345678", seed=0, code="code", rung=Fallback(4, False))


class AttemptLog:
    """Told to end after so many looks between two steps."""

    def __init__(self, looks):
        self.looks = looks

    def __call__(self):
        self.looks -= 1
        return self.looks == 0


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(folder=tmp_path / "checkpoint", of=BELONGS, every_seconds=None)


def weights(job):
    return {name: p.detach().clone() for name, p in job.model.named_parameters()}


def with_invocation(rows):
    """Rows that begin with the letter a, after which the method that waits for it acts."""
    return [{**row, "input_ids": [A, *row["input_ids"][1:]]} for row in rows]


def uninterrupted(make, *words, **settings):
    job = make(*words, **settings)
    return train(job), weights(job)


def interrupted(make, checkpoints, stops, *words, **settings):
    """Train with a process told to end after each of these numbers of steps, and begun anew each time."""
    for stop in stops:
        job = dataclasses.replace(
            make(*words, **settings), checkpoints=dataclasses.replace(checkpoints, requested=AttemptLog(stop))
        )
        with pytest.raises(PreemptedError):
            train(job)
        assert len(list(checkpoints.folder.glob("step-*"))) == 1, "only the last one is kept"
    job = dataclasses.replace(make(*words, **settings), checkpoints=checkpoints)
    return train(job), weights(job)


def assert_same(found, expected):
    (training, after), (plain, after_plain) = found, expected
    for name in ("losses", "gradient_norms", "learning_rates", "validation", "real_tokens", "padded_tokens",
                 "trained_tokens", "sequences", "kept_step", "stopped_early_at", "overfitted"):  # fmt: skip
        assert getattr(training, name) == getattr(plain, name), name
    assert len(training.step_seconds) == len(plain.step_seconds)
    assert training.train_seconds == pytest.approx(sum(training.step_seconds))
    assert training.profile.flops == plain.profile.flops
    assert after.keys() == after_plain.keys()
    assert all(torch.equal(after[name], after_plain[name]) for name in after)


def test_every_method_is_tried():
    assert len(NAMES) == 24
    assert UNTRAINED | NEEDS_CUDA | set(SMALL) <= set(NAMES)


@pytest.fixture(scope="module")
def biased(tiny_model, tmp_path_factory):
    """The tiny model with biases, for what trains nothing else."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("biased")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    torch.manual_seed(0)
    shape = AutoConfig.from_pretrained(tiny_model, attention_bias=True, mlp_bias=True)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", [name for name in NAMES if name not in UNTRAINED | NEEDS_CUDA])
def test_every_method_goes_on_to_the_bit(job, rows, checkpoints, biased, method):
    """At the end of an epoch, where it holds most for the order of the rows; with dropout where the method has it."""
    words = [f"model.path={biased}", *SMALL.get(method, [])]
    settings = {"method": method, "max_steps": 3, "micro_batch_size": 4, "lr": 1e-3, "rows": with_invocation(rows(16))}
    expected = uninterrupted(job, *words, **settings)
    assert len(expected[0].losses) == 3
    assert_same(interrupted(job, checkpoints, [2], *words, **settings), expected)


def test_what_ran_out_of_memory_goes_on_in_smaller_micro_batches(job, rows, checkpoints):
    """A step has the same rows whatever its micro batches are: equal up to rounding, and no step is made again."""
    settings = {"max_steps": 5, "rows": rows(20)}
    plain, after_plain = uninterrupted(job, **settings, micro_batch_size=4)
    first = dataclasses.replace(
        job(**settings, micro_batch_size=4), checkpoints=dataclasses.replace(checkpoints, requested=AttemptLog(3))
    )
    with pytest.raises(PreemptedError):
        train(first)
    events = []
    smaller = dataclasses.replace(checkpoints, of=dataclasses.replace(BELONGS, rung=Fallback(1, True)))
    second = job(**settings, micro_batch_size=1, gradient_checkpointing="true", emit=events.append)
    found = train(dataclasses.replace(second, checkpoints=smaller))
    assert Measured(resumed_at_step=3, checkpoint_step=3) in events
    assert found.losses[:3] == plain.losses[:3]
    assert found.losses == pytest.approx(plain.losses, abs=1e-5)
    assert found.real_tokens == plain.real_tokens
    for name, weight in weights(second).items():
        torch.testing.assert_close(weight, after_plain[name], rtol=1e-4, atol=1e-5)


FAMILIES = {
    "lora with dropout, packed": ("lora", ["method.lora_dropout=0.3", "train.packing=true"], {}),
    "a master copy": ("full", ["method.precision=bf16_fp32_master"], {"precision": "bf16"}),
    "a checkpointed backward pass": ("full", [], {"gradient_checkpointing": "true"}),
    "layerwise galore": (
        "galore",
        ["method.layerwise=true", "method.r=4", "method.update_proj_gap=2"],
        {"micro_batch_size": 8},
    ),
    "weights changed by the start": ("lora", ["method.init_lora_weights=pissa"], {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_particular_goes_on_to_the_bit(job, checkpoints, family):
    """Twice interrupted in the midst of epochs of three steps."""
    method, words, changed = FAMILIES[family]
    settings = {"method": method, "max_steps": 5, "micro_batch_size": 4, "lr": 1e-3, **changed}
    assert_same(interrupted(job, checkpoints, [1, 3], *words, **settings), uninterrupted(job, *words, **settings))


def test_early_stopping_goes_on_with_what_it_has_seen(job, checkpoints):
    def losses():
        seen = iter([3.0, 2.0, 2.5, 2.6])
        return lambda: next(seen)

    settings = {"max_steps": 20, "eval_every": 2, "patience": 2}
    expected = uninterrupted(job, validate=losses(), **settings)
    assert (expected[0].kept_step, expected[0].stopped_early_at) == (4, 8)
    shared = losses()  # a validation that an attempt has made is not made again
    assert_same(interrupted(job, checkpoints, [5], validate=shared, **settings), expected)


ENDS = {
    "within an epoch": ({"max_steps": 5}, []),
    "with an epoch": ({"max_steps": 3}, []),
    "by epochs": ({"max_steps": "null", "epochs": 2}, []),
    "early": ({"max_steps": 8}, ["train.eval_every=1", "train.patience=2"]),
    "early, at a new lowest loss": ({"max_steps": 2}, ["train.eval_every=1", "train.patience=2"]),
}


@pytest.mark.parametrize("end", ENDS)
def test_no_step_is_made_after_the_last_one(job, rows, checkpoints, end):
    """An attempt that ends between its last checkpoint and its weights has nothing left to train."""
    (settings, words), made = ENDS[end], []

    def attempt(**more):
        validations = iter((3.0, 2.0, 2.5, 2.6, 1.0, 0.5, 0.4, 0.3))
        trained = job(
            *words, **settings, rows=rows(20), lr_scheduler_type="constant", warmup_steps=0,
            validate=lambda: next(validations), **more,
        )  # fmt: skip
        kept = dataclasses.replace(trained, checkpoints=dataclasses.replace(checkpoints, last=True))
        return train(kept), weights(kept)

    expected = attempt()
    assert_same(attempt(emit=made.append), expected)
    resumed = [event.resumed_at_step for event in made if isinstance(event, Measured) and event.resumed_at_step]
    assert resumed == [len(expected[0].losses)]
    assert len(ENDS) == 5


def test_a_loss_that_has_left_is_counted_across_attempts(job, checkpoints):
    settings = {
        "max_steps": 30,
        "lr": 30.0,
        "divergence_factor": 1.01,
        "divergence_steps": 6,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
    }
    with pytest.raises(DivergedError) as expected:
        uninterrupted(job, **settings)
    with pytest.raises(DivergedError, match=re.escape(str(expected.value))):
        interrupted(job, checkpoints, [4], **settings)


def test_windows_that_are_not_read_yet_are_kept(job, checkpoints, monkeypatch):
    """On a GPU ten steps are read at once."""
    settings = {"max_steps": 6}
    expected = uninterrupted(job, **settings)
    plain = callback.TrainingMonitor.__init__

    def windowed(self, *arguments):
        plain(self, *arguments)
        self._window = 4

    monkeypatch.setattr(callback.TrainingMonitor, "__init__", windowed)
    assert_same(interrupted(job, checkpoints, [3], **settings), expected)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"recipe_id": "87654321"}, "another recipe"),
        ({"seed": 1}, "another seed"),
        ({"code": "other"}, "another code or library versions"),
        ({"rung": Fallback(4, False, 16)}, "other rows"),
    ],
)
def test_a_checkpoint_of_something_else_is_set_aside(job, checkpoints, changed, reason):
    job_of = lambda of, asked=lambda: False, events=None: dataclasses.replace(  # noqa: E731
        job(emit=(events if events is not None else []).append),
        checkpoints=dataclasses.replace(checkpoints, of=of, requested=asked),
    )
    with pytest.raises(PreemptedError):
        train(job_of(BELONGS, AttemptLog(2)))
    events = []
    found = train(job_of(dataclasses.replace(BELONGS, **changed), events=events))
    assert found.losses == train(job()).losses
    said = [event.text for event in events if isinstance(event, Message)]
    aside = checkpoints.folder.with_name("checkpoint.set-aside")
    assert said == [f"checkpoint of step 2 not used, training from the beginning: {reason}; see {aside}"]
    assert [path.name for path in aside.iterdir()] == ["step-000000002.safetensors"]


def test_weights_that_begin_otherwise_are_noticed(job, checkpoints):
    with pytest.raises(PreemptedError):
        train(dataclasses.replace(job(), checkpoints=dataclasses.replace(checkpoints, requested=AttemptLog(1))))
    events = []
    other = job(seed=1, emit=events.append)
    train(dataclasses.replace(other, checkpoints=checkpoints))
    assert "other weights at the start" in next(event.text for event in events if isinstance(event, Message))


def _flip(path):
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def _instead(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


KINDS = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": _flip,
    "binary": lambda path: path.write_bytes(b"\x00\xff{" * 40),
    "folder": _instead(lambda path: path.mkdir()),
    "pipe": _instead(os.mkfifo),
    "link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "link to nothing": _instead(lambda path: path.symlink_to("nowhere")),
}


def test_whatever_stands_in_the_place_of_a_checkpoint_training_begins_anew(job, checkpoints):
    """Of the state that it goes on from, and of the weights with the lowest loss, which the end puts back."""
    assert len(KINDS) == 8
    losses = iter([3.0, 2.0, 2.5])
    settings = {"max_steps": 20, "eval_every": 2, "patience": 2, "validate": lambda: next(losses)}
    with pytest.raises(PreemptedError):
        train(
            dataclasses.replace(job(**settings), checkpoints=dataclasses.replace(checkpoints, requested=AttemptLog(5)))
        )
    whole = checkpoints.folder.with_name("whole")
    shutil.copytree(checkpoints.folder, whole)
    names = sorted(path.name for path in whole.iterdir())
    assert names == ["lowest-4.safetensors", "step-000000005.safetensors"]
    events = []
    fresh = job(**settings, emit=events.append)
    for name, (kind, damage) in product(names, KINDS.items()):
        events.clear()
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
        shutil.copytree(whole, checkpoints.folder)
        assert resume.find(checkpoints, fresh) is not None
        damage(checkpoints.folder / name)
        assert resume.find(checkpoints, fresh) is None, (name, kind)
        [event] = events
        assert event.text.startswith("checkpoint of step 5 not used, training from the beginning: "), (name, kind)
        assert name in event.text


@pytest.mark.parametrize("damage", ["cut", "flipped", "header", "empty", "header flipped"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    file = tmp_path / "step-000000001.safetensors"
    value = {
        "a": torch.arange(5),
        3: (1.5, None, [torch.zeros(()), torch.empty(0), torch.ones(4, 3).T[:2]]),
        "b": torch.ones(2, dtype=torch.bfloat16),
    }
    tensors.write(file, value, {"of": 1})
    again, facts = tensors.read(file)
    assert facts == {"of": 1} == {"of": checkpoint.facts(file)["of"]}
    assert again.keys() == value.keys()
    assert torch.equal(again["a"], value["a"])
    assert again[3][:2] == (1.5, None)
    assert again[3][2][2].stride() == value[3][2][2].stride()
    assert load_file(file)["0"].tolist() == [0, 1, 2, 3, 4], "the format is that of safetensors"
    content = file.read_bytes()
    changed = {
        "cut": content[:-1],
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "header": b"\xff" * 8 + content[8:],
        "empty": b"",
        "header flipped": content.replace(b"1.5", b"2.5"),
    }[damage]
    file.write_bytes(changed)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: damaged"):
        tensors.read(file)


def test_what_cannot_be_stored_is_said_and_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="no room for a object"):
        tensors.write(tmp_path / "a", {"x": object()}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(job, checkpoints, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.train.resume.tensors.write", full)
    events = []
    often = dataclasses.replace(checkpoints, every_seconds=0.0)
    train(dataclasses.replace(job(emit=events.append), checkpoints=often))
    said = [event.text for event in events if isinstance(event, Message)]
    assert said[0] == "no checkpoint at step 1: [Errno 28] No space left on device"
    assert len(said) == 3, "after the last step there is nothing to go on to"


@pytest.mark.parametrize(("every", "steps"), [(0.0, [1, 2, 3, 4, 5]), (0.001, [1, 5])])
def test_writing_takes_a_twentieth_of_the_time_unless_every_step_is_asked_for(
    job, checkpoints, monkeypatch, every, steps
):
    """A checkpoint takes a second here, and a step six."""
    clock = [0.0]
    monkeypatch.setattr("harness.train.resume.time", SimpleNamespace(monotonic=lambda: clock[0]))
    plain = tensors.write

    def slow(*arguments):
        clock[0] += 1.0
        plain(*arguments)

    monkeypatch.setattr("harness.train.resume.tensors.write", slow)
    begin = callback.TrainingMonitor.on_step_begin

    def six_seconds(*arguments, **named):
        clock[0] += 6.0
        begin(*arguments, **named)

    monkeypatch.setattr(callback.TrainingMonitor, "on_step_begin", six_seconds)
    events = []
    often = dataclasses.replace(checkpoints, every_seconds=every)
    train(dataclasses.replace(job(max_steps=6, emit=events.append), checkpoints=often))
    written = [event.checkpoint_step for event in events if isinstance(event, Measured) and event.checkpoint_step]
    assert written == steps
