"""What using a result costs: real runs of the tiny model, measured once, and shown where they were measured."""

import pytest

from harness.config import config
from harness.records import record
from harness.records.record import InferenceRecord
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.pages.report import page
from harness.report.writers.flat import columns, flat
from harness.run import inputs, run, state

USE = (
    "inference=standard", "inference.batch_sizes=[1,3]", "inference.new_tokens=4", "inference.prompt_tokens=6",
    "inference.num_repeats=1", "inference.num_outputs=3", "eval.weights=attached",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(compose, shared_overrides):
    """(the words, what each method's run measured)."""
    words, found = shared_overrides(), {}
    for method in ("base", "lora", "prefix"):
        experiment = inputs.resolve(config.build(compose(*words, f"method={method}", *USE)))
        assert run.run(experiment, lambda event: None).status == "ok"
        found[method] = experiment
    return words, found


def of(experiment):
    return record.read(InferenceRecord, experiment.folder / "inference.json")


def test_every_model_that_there_is_writes_at_every_batch_size(runs):
    found = {method: of(experiment) for method, experiment in runs[1].items()}
    assert set(found["base"].served) == {"plain"}
    assert set(found["lora"].served) == {"plain", "attached", "merged"}
    assert set(found["prefix"].served) == {"plain", "attached"}
    for one in found.values():
        for served in one.served.values():
            assert [(s.batch_size, s.prompt_tokens, s.new_tokens) for s in served.speeds] == [(1, 6, 4), (3, 6, 4)]
            for speed in served.speeds:
                assert speed.time_to_first_token_seconds > 0
                assert speed.tokens_per_second > 0
            assert served.num_outputs == 3
    assert "cannot be merged" in found["prefix"].unmerged_reason
    assert found["lora"].unmerged_reason == ""


def test_merging_changes_no_answer_here_and_an_adapter_is_as_large_as_what_it_holds(runs):
    found = of(runs[1]["lora"])
    assert found.equal_outputs == 3, "in float32 on a tiny model"
    held = {name: served.weight_bytes for name, served in found.served.items()}
    assert held["merged"] == held["plain"] < held["attached"]
    assert found.further.bytes_per_adapter == held["attached"] - held["plain"]
    assert found.further.switch_seconds > 0
    known = record.read(record.RunRecord, runs[1]["lora"].folder / "record.json")
    assert known.measured.phases["inference"].seconds > 0
    assert found.weights_from == known.current.weights_from


def test_it_is_measured_once_and_again_when_it_is_asked_otherwise(runs, compose):
    words, experiments = runs
    experiment = experiments["lora"]
    before = len(state.read(experiment).attempts)
    assert state.done(experiment)
    without = config.build(compose(*words, "method=lora"))
    assert inputs.resolve(without).recipe_id == experiment.recipe_id, "no weight depends on it"
    other = inputs.resolve(config.build(compose(*words, "method=lora", *USE, "inference.batch_sizes=[2]")))
    assert not state.done(other)
    again = run.run(other, lambda event: None)
    assert len(again.attempts) == before + 1
    assert again.current.training is None, "nothing was trained"
    assert again.training == again.attempts[0].training is not None
    assert [speed.batch_size for speed in of(other).served["merged"].speeds] == [2]
    trial = inputs.resolve(config.build(compose(*words, "method=lora", *USE, "eval.test=never")))
    todo = state.work_left(trial, state.inspect(trial))
    assert todo is None or not todo.inference, "a trial of a tuning is used by nobody"


def test_the_report_shows_it_where_it_was_measured_and_nowhere_else(runs):
    from pathlib import Path

    folder = Path(runs[1]["lora"].runs_dir)
    loaded = load([folder])
    text = page(Comparison(loaded))
    assert "<summary>Inference cost</summary>" in text
    assert "cannot be merged into the base model" in text
    names = [name for name in columns(loaded.rows) if name.startswith("inference/")]
    assert "inference/attached/1_rows/tokens_per_second" in names
    line = next(one for one in flat(loaded.rows) if one["method"] == "prefix")
    assert line["inference/plain/weight_bytes"] > 0
    assert line.get("inference/merged/weight_bytes") is None


@pytest.mark.parametrize("wrong", ["inference.batch_sizes=[]", "inference.batch_sizes=[0]", "inference.num_repeats=0"])
def test_settings_that_mean_nothing_are_refused(compose, wrong):
    with pytest.raises(ValueError, match=r"inference\."):
        config.build(compose(wrong))


@pytest.mark.parametrize("missing", ["plain", "attached", "merged"])
def test_a_model_that_does_not_fit_leaves_the_others_and_its_reason(tiny_model, tmp_path, missing):
    import contextlib

    import torch

    from harness.measure.memory import Phases
    from harness.records.settings import InferenceSpec, ModelSpec
    from harness.run import inference
    from harness.sources import models

    spec = ModelSpec(name="tiny", source="path", path=str(tiny_model))

    def made(name):
        def make():
            if name == missing:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return models.load(spec, {})

        return make

    use = inference.Use(
        spec=InferenceSpec(batch_sizes=(1,), new_tokens=2, prompt_tokens=3, num_repeats=1, num_outputs=1),
        precision="fp32", tokenizer=models.tokenizer(spec), prompts=[[5, 6, 7]],
        phases=Phases(False, lambda name: None),
        base=made("plain"), attached=made("attached"), merged=made("merged"),
        fixed_weights=lambda model: contextlib.nullcontext(), folder=tmp_path,
    )  # fmt: skip
    found = inference.measure(use)
    assert set(found["served"]) == {"plain", "attached", "merged"} - {missing}
    assert found["unmeasured"] == {missing: "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB"}
    assert (found["equal_outputs"] is None) == (missing != "plain")


def test_an_adapter_is_converted_once_and_writes_the_same(compose, tiny_overrides, tiny_model):
    """And not for each token, as autocast does."""
    import torch

    from harness.evaluate import generation
    from harness.records.settings import ModelSpec, SamplingSpec
    from harness.run import inference
    from harness.sources import models

    words = (*tiny_overrides, "method=lora", "train.precision=bf16")
    experiment = inputs.resolve(config.build(compose(*words)))
    assert run.run(experiment, lambda event: None).status == "ok"
    spec = ModelSpec(name="tiny", source="path", path=str(tiny_model))
    base = lambda: models.load(spec, {"dtype": torch.bfloat16})  # noqa: E731
    once = inference._attached(experiment, base()).eval()
    each = experiment.method.restore(base(), experiment.weights_folder).eval()
    assert {p.dtype for name, p in each.named_parameters() if "lora_" in name} == {torch.float32}
    assert {p.dtype for name, p in once.named_parameters() if "lora_" in name} == {torch.bfloat16}
    tokenizer, sampling = models.tokenizer(spec), SamplingSpec(max_new_tokens=6)
    texts = [generation.generate(model, tokenizer, [[5, 6, 7], [9, 8]], sampling, "bf16") for model in (once, each)]
    assert texts[0] == texts[1]
