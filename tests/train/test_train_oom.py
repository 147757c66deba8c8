"""Memory that runs out: smaller micro batches, each in a process of its own, and OOM as a result."""

import dataclasses
import json

import pytest

from harness.config import config
from harness.methods.contexts import TrainedWith
from harness.records import record
from harness.records.events import Message
from harness.records.record import RunRecord
from harness.records.settings import Fallback
from harness.run import inputs, run, state
from harness.run.outcome import instead, ladder
from harness.sources.packages import conf_dir
from harness.sweep import sweep
from tests.train.hungry import Hungry


@pytest.fixture
def hungry(compose, tiny_overrides):
    """An experiment of four rows a step whose device has room for `room` of them."""

    def made(room, *words):
        described = inputs.resolve(config.build(compose(*tiny_overrides, "method=lora", "train.max_steps=1", *words)))
        return dataclasses.replace(described, method=Hungry(room=room, **vars(described.method)))

    return made


def attempts(experiment):
    kept = record.read(RunRecord, experiment.folder / "record.json")
    return [(a.status, a.micro_batch_size, a.gradient_checkpointing) for a in kept.attempts]


def test_the_micro_batch_shrinks_until_training_fits(hungry):
    told = []
    experiment = hungry(1)
    result = run.run(experiment, told.append)
    assert result.status == "ok"
    assert attempts(experiment) == [("oom", 4, False), ("oom", 2, False), ("ok", 1, False)]
    assert [event.text for event in told if isinstance(event, Message)] == [
        "hungry: out of memory with micro batches of 4; trying micro batches of 2",
        "hungry: out of memory with micro batches of 2; trying micro batches of 1",
    ]
    assert len(result.training.losses) == 1
    assert result.training.padded_tokens[0] > 0
    assert result.recipe["train"]["micro_batch_size"] == 4, "what was asked for is what identifies the run"


def test_out_of_memory_at_the_last_rung_is_a_result(hungry):
    experiment = hungry(0)
    result = run.run(experiment, lambda event: None)
    assert result.status == "oom"
    assert [micro for _, micro, _ in attempts(experiment)] == [4, 2, 1]
    assert "out of memory" in result.current.reason
    assert result.peak_memory_bytes > 0
    assert state.done(experiment), "a result is not made again"


def test_without_the_ladder_the_first_attempt_is_the_result(hungry):
    experiment = hungry(1, "train/oom=none")
    assert run.run(experiment, lambda event: None).status == "oom"
    assert attempts(experiment) == [("oom", 4, False)]


def test_the_longest_rows_are_left_out_where_that_was_asked_for(hungry, tmp_path):
    path = tmp_path / "unlike.jsonl"
    answers = [" a b c" if n % 4 == 0 else f" {chr(97 + n % 26) * 3}" * 12 for n in range(80)]
    rows = [{"prompt": f"row {n}", "completion": answer} for n, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("train/oom=none", "train.oom.max_lengths=[20]", "train.max_length=64", f"data.file={path}")
    words += ("train.group_by_length=false",)
    experiment = hungry(4, *words)
    experiment = dataclasses.replace(experiment, method=dataclasses.replace(experiment.method, longest=20))
    result = run.run(experiment, lambda event: None)
    assert result.status == "ok"
    assert [a.max_length for a in result.attempts] == [None, 20]
    first, last = result.attempts[0].data, result.measured.data
    assert 0 < last.train_rows < first.train_rows
    assert last.train_rows + last.removed_too_long == first.train_rows + first.removed_too_long
    assert last.validation_rows == first.validation_rows
    assert experiment.recipe_id != hungry(4, *words[2:]).recipe_id, "other weights may come of it"
    assert result.training.losses[0] is not None


def test_a_base_in_four_bits_is_a_run_of_its_own_beside_what_did_not_fit(hungry):
    experiment = hungry(0, "train/oom=quantized", "train.oom.smaller_micro_batches=false")
    assert sweep.run_cell(experiment) == "oom"
    other = instead(experiment)
    found = {name.folder: record.read(RunRecord, name.folder / "record.json") for name in (experiment, other)}
    assert [(one.method, one.status) for one in found.values()] == [("hungry", "oom"), ("qlora", "ok")]
    assert found[other.folder].recipe["method"]["quantization"] == "nf4"
    assert found[other.folder].recipe["method"]["r"] == experiment.method.r
    assert instead(hungry(0)) is None, "only where it was asked for"


@pytest.mark.parametrize(
    ("words", "name"),
    [(["lora"], "qlora"), (["dora"], "qdora"), (["lora_plus"], None), (["lora", "method.init_lora_weights=pissa"],
    None),
     (["qlora"], None), (["full"], None), (["prefix"], None)],
)  # fmt: skip
def test_which_methods_there_are_beside_a_quantized_base(compose, words, name):
    found = config.build(compose(f"method={words[0]}", *words[1:], "train/oom=quantized"))
    other = instead(found)
    assert (other and other.method.name) == name
    assert other is None or other.recipe_id != found.recipe_id


def test_only_steps_that_leave_the_comparison_fair_are_on_by_default(hungry):
    assert ladder(hungry(1)) == (Fallback(4, False), Fallback(2, False), Fallback(1, False))
    more = ladder(hungry(1, "train/oom=checkpointing"))
    assert more[3:] == (Fallback(4, True), Fallback(2, True), Fallback(1, True))
    assert ladder(hungry(1, "train/oom=none")) == (Fallback(4, False),)
    shorter = ladder(hungry(1, "train/oom=shorter", "train.oom.max_lengths=[8,512,16]", "train.max_length=64"))
    assert shorter[6:] == (Fallback(1, True, 16), Fallback(1, True, 8)), "what is longer than was asked for is no step"
    twelve = ladder(hungry(1, "train.global_batch_size=12", "train.micro_batch_size=6"))
    assert [rung.micro_batch_size for rung in twelve] == [6, 4, 3, 2, 1]


LADDERS = [[f"method={path.stem}"] for path in sorted((conf_dir() / "method").glob("*.yaml")) if path.stem != "base"]
LADDERS += [["method=galore", "method.layerwise=true"], ["method=alora", "method.invocation=a"]]


@pytest.mark.parametrize("words", LADDERS, ids=" ".join)
def test_no_fallback_trains_a_method_in_a_way_that_it_refuses(compose, words):
    """Layerwise updates would make a step of every micro batch."""
    found = config.build(compose(*words, "train/oom=shorter", "train.max_length=512"))
    rungs = ladder(found)
    assert not any(found.method.unsupported(TrainedWith(rung.applied(found.train))) for rung in rungs)
    assert len({rung.max_length for rung in rungs}) == 3, "shorter rows are left to every method"
    assert len(rungs) > 3 or "method.layerwise=true" in words


def test_every_method_has_its_ladder_looked_at():
    assert len(LADDERS) == 25
