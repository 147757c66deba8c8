"""The predicted peak of live bytes against that of the real loop on real tensors, and what a plan is made of."""

import dataclasses
import gc

import pytest

from harness.plan import devices, fake_model
from harness.plan.predict import Step, largest
from harness.records.settings import LaunchSpec
from harness.run import isolate

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT of normalizations
METHODS = (
    "full", "head", "lora", "dora", "vera", "ia3", "ln_tuning", "prompt", "p_tuning", "prefix", "adapter", "qlora",
)  # fmt: skip
CASES = [(m, c) for m in METHODS for c in (False, True) if not (m == "prefix" and c)]  # prefix refuses it
LENGTH, LAYERS = 48, 5
BOUND = {"qlora": 0.05}
SEVERAL = {"whole": LaunchSpec(num_processes=2), "divided": LaunchSpec(num_processes=2, sharding="fsdp")}
KERNELS = "lora by other kernels"
ON_A_GPU = (
    (("lora", False),), (("lora", True),), (("qlora", False),), (("dora", False),), (("prefix", False),),
    (("full", False), "method.precision=bf16_fp32_master"),
)  # fmt: skip
MASTER = (False, 2, "train.precision=bf16", "method.precision=bf16_fp32_master")  # of full


@pytest.fixture(scope="module")
def deeper_model(tiny_model, tmp_path_factory):
    """Five layers, of which the prediction computes three."""
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("deeper") / "model"
    shutil.copytree(tiny_model, folder)
    config = AutoConfig.from_pretrained(tiny_model)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = LAYERS, 128, 256
    config.head_dim = 32
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def described(compose, deeper_model):
    """Experiments of four rows a step, in micro batches of `rows`."""
    from harness.config import config

    def made(method, checkpointing, rows=2, *words):
        return config.build(
            compose(
                f"method={method}", "model.source=path", f"model.path={deeper_model}", "model.name=deeper",
                "train=smoke", "train.max_steps=2", "train.precision=fp32", f"train.max_length={LENGTH}",
                f"train.micro_batch_size={rows}", f"train.gradient_checkpointing={str(checkpointing).lower()}",
                *words,
            )
        )  # fmt: skip

    return made


@pytest.fixture(scope="module")
def predicted(described, tmp_path_factory):
    """(method, checkpointing) -> the plan on this machine's CPU, of the whole model; LoRA's by several processes."""
    device = devices.Device("cpu", 2**34, 1e12, on_gpu=False)
    kernels = ("train.kernels.compile=true", "train.kernels.liger=true", "train.kernels.attention=eager")
    several = [dataclasses.replace(described("lora", False), launch=one) for one in SEVERAL.values()]
    others = [described("lora", False, 2, *kernels), described("full", *MASTER)]
    log = tmp_path_factory.mktemp("plan") / "log.txt"
    each = [*(described(*case) for case in CASES), *several, *others]
    ended = isolate.call("harness.plan.predict:cells", each, device, 0.5, log=log)
    assert ended.kind == "returned", ended.reason
    return dict(zip([*CASES, *SEVERAL, KERNELS, MASTER], ended.value, strict=True))


def tracked_peak(experiment, folder, cuda=False):
    """The peak of live bytes while the real loop trains for two steps, and the weights' share of it.

    With `cuda` the steps are a GPU's, taken by a processor: their numbers are not looked at.
    """
    import transformers

    from harness.measure.operations import LiveBytes, tensors_in
    from harness.run import worker
    from harness.sources import models
    from harness.train.loop import Job, compute_dtype, train

    method, spec = experiment.method, experiment.train
    rows = [{"input_ids": [4 + i] * LENGTH, "completion_mask": [1] * LENGTH} for i in range(8)]
    transformers.set_seed(0)
    base = models.load(experiment.model, method.load_options(compute_dtype(spec.precision)), method.read)
    tokenizer = models.tokenizer(experiment.model)
    model = method.attach(base, worker.setting(experiment, tokenizer, rows))
    job = Job(
        model=model, method=method, rows=rows, spec=spec, seed=0, tokenizer=tokenizer, validate=lambda: 0.0,
        emit=lambda _: None, scratch=str(folder), cuda=cuda,
    )  # fmt: skip
    gc.collect()
    live = LiveBytes()
    live.hold(tensors_in(model), "weights")
    weights = live.live_bytes
    with live:
        train(job)
    return live.peak_bytes, weights


def test_the_cases_are_all_there():
    assert len(CASES) == 2 * 12 - 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}{'-checkpointed' * case[1]}")
def test_the_predicted_peak_is_that_of_a_real_step(case, described, predicted, tmp_path):
    plan = predicted[case]
    assert plan["unpredicted"] is None
    peak, weights = tracked_peak(described(*case), tmp_path)
    assert plan["weights_bytes"] == weights
    assert plan["peak_bytes"] == pytest.approx(peak, rel=BOUND.get(case[0], 0.02))
    assert peak > 1.2 * weights, "a step that is all weights would test nothing"


def test_weights_in_bfloat16_with_a_float32_copy_are_planned_with_the_copy(described, predicted, tmp_path):
    plan = predicted[MASTER]
    peak, weights = tracked_peak(described("full", *MASTER), tmp_path)
    assert plan["weights_bytes"] == pytest.approx(weights, rel=1e-3)  # a table of the positions is in another dtype
    assert plan["optimizer_bytes"] == pytest.approx(6 * weights, rel=0.02), "the copy and its two moments"
    assert plan["peak_bytes"] == pytest.approx(peak, rel=0.05)


@pytest.fixture(scope="module")
def on_a_gpu(described, tmp_path_factory):
    """(method, checkpointing) -> the plan of a step on a GPU in bfloat16."""
    device = devices.Device("a GPU", 2**34, 1e12, on_gpu=True)
    each = [described(*case, 2, "train.precision=bf16", *more) for case, *more in ON_A_GPU]
    ended = isolate.call("harness.plan.predict:cells", each, device, None, log=tmp_path_factory.mktemp("g") / "log.txt")
    assert ended.kind == "returned", ended.reason
    return dict(zip([case for case, *_ in ON_A_GPU], ended.value, strict=True))


@pytest.mark.parametrize(("case", "more"), [(case, more) for case, *more in ON_A_GPU])
def test_the_plan_of_a_gpu_is_that_of_the_path_that_a_gpu_takes(case, more, described, on_a_gpu, tmp_path, monkeypatch):
    from harness.train.callback import TrainingMonitor

    monkeypatch.setattr(
        TrainingMonitor, "_read", lambda watcher: None
    )  # a head whose tiles stay in place has no losses
    plan = on_a_gpu[case]
    with fake_model.as_on_gpu():
        peak, weights = tracked_peak(described(*case, 2, "train.precision=bf16", *more), tmp_path, cuda=True)
    assert plan["unpredicted"] is None
    assert plan["weights_bytes"] == pytest.approx(weights, rel=1e-3)
    assert plan["peak_bytes"] == pytest.approx(peak, rel=0.05)


def test_a_quantized_base_changes_weights_and_no_activation_on_a_gpu(on_a_gpu):
    """Else a table would show as a saving of QLoRA what PEFT's casts take of LoRA."""
    lora, qlora = on_a_gpu["lora", False], on_a_gpu["qlora", False]
    assert qlora["weights_bytes"] < lora["weights_bytes"]
    assert qlora["activations_bytes"] == pytest.approx(lora["activations_bytes"], rel=0.02)


def test_paged_moments_are_planned_and_are_not_in_the_peak(described, tmp_path):
    """Ranks so high that bitsandbytes would page the moments of some matrices."""
    words = ("train.precision=bf16", "method.r=800")
    names = ("adamw", "paged_adamw_32bit", "paged_adamw_8bit")
    each = [described("qlora", False, 2, *words, f"method.optimizer_name={name}") for name in names]
    ended = isolate.call("harness.plan.predict:cells", each, None, None, log=tmp_path / "log.txt")
    assert ended.kind == "returned", ended.reason
    plain, *paged = ended.value
    assert "optimizer_name" not in plain["not_modeled"]
    for plan, name in zip(paged, names[1:], strict=True):
        assert plan["unpredicted"] is None
        assert f"method.optimizer_name={name}: the moments are AdamW's" in plan["not_modeled"]
        assert plan["weights_bytes"] == plain["weights_bytes"]
        assert 0 < plain["peak_bytes"] - plan["peak_bytes"] < plain["optimizer_bytes"]
    assert paged[0]["peak_bytes"] == paged[1]["peak_bytes"]


def test_the_head_of_a_gpu_works_in_place(compose, tmp_path):
    """Llama 3.2 1B, 8 x 512: 7.21 GiB beside the weights; TRL's functions for a CPU and PEFT's casts took 10.4."""
    from harness.config import config

    asked = ("model=llama-3.2-1b", "train.micro_batch_size=8", "train.max_length=512", "train.precision=bf16")
    each = [config.build(compose(f"method={method}", *asked)) for method in ("lora", "qlora")]
    ended = isolate.call("harness.plan.predict:cells", each, None, None, log=tmp_path / "log.txt")
    assert ended.kind == "returned", ended.reason
    for plan in ended.value:
        assert plan["activations_bytes"] / 2**30 == pytest.approx(7.21, abs=0.02)


def test_a_padded_batch_is_planned_where_the_model_needs_its_mask(described, monkeypatch):
    from harness.plan import predict
    from harness.train import loop

    experiment = predict.settled(described("lora", False, 2, "train.precision=bf16"), on_gpu=True)
    peaks = []
    for reads in (False, True):
        monkeypatch.setattr(loop, "reads_padding", lambda _, reads=reads: reads)
        peaks.append(predict.Predictor(experiment, on_gpu=True).step(2).peak_bytes)
    assert peaks[1] > peaks[0]


def test_checkpointing_saves_memory_and_costs_operations(predicted):
    for method in ("full", "lora", "qlora"):
        plain, again = predicted[method, False], predicted[method, True]
        assert again["peak_bytes"] < plain["peak_bytes"]
        assert again["flops"] > 1.1 * plain["flops"]


def test_kernels_that_fake_tensors_cannot_have_are_left_out_and_named(predicted):
    usual, other = predicted["lora", False], predicted[KERNELS]
    assert "train.kernels" in other["not_modeled"]
    assert not usual["not_modeled"]
    assert other["peak_bytes"] > usual["peak_bytes"], "attention=eager keeps its scores, and is predicted"
    assert other["weights_bytes"] == usual["weights_bytes"]


def test_operations_follow_what_is_trained(predicted):
    full, lora, head = (predicted[method, False]["flops"] for method in ("full", "lora", "head"))
    assert head < lora < full


def test_a_plan_for_a_gpu_holds_what_a_gpu_would_hold(compose):
    """Full fine-tuning has its weights in bfloat16 there and a float32 copy in the optimizer, on a CPU in float32."""
    from harness.config import config
    from harness.plan.predict import settled

    asked = config.build(compose("method=full"))
    assert asked.method.precision == "auto"
    on_gpu, on_cpu = settled(asked, on_gpu=True), settled(asked, on_gpu=False)
    assert (on_gpu.train.precision, on_gpu.method.precision) == ("bf16", "bf16_fp32_master")
    assert on_cpu.method.precision == "fp32"
    fixed = settled(config.build(compose("method=full", "train.precision=fp32")), on_gpu=True)
    assert (fixed.train.precision, fixed.method.precision) == ("fp32", "fp32")


def test_what_fits_is_the_largest_that_does(predicted):
    plan = predicted["lora", False]
    assert plan["fits"]
    assert plan["step_seconds"] == pytest.approx(plan["flops"] / (1e12 * 0.5))
    assert plan["largest_micro_batch"] > 100


@pytest.mark.parametrize("name", SEVERAL)
def test_several_processes_share_a_step_and_what_is_not_known_of_them_is_said(predicted, name):
    alone, plan = predicted["lora", False], predicted[name]
    assert plan["flops"] == alone["flops"]
    assert plan["step_seconds"] == pytest.approx(alone["step_seconds"] / 2)
    assert plan["not_modeled"].startswith(
        {"whole": "launch.num_processes=2, ", "divided": "launch.sharding=fsdp, "}[name]
    )
    assert alone["not_modeled"] == ""


@pytest.mark.parametrize("limit", [99, 100, 150, 1000, 1009, 1010, 5000, 10**9])
def test_the_search_finds_it_on_any_convex_curve(limit):
    def peak(rows):
        return max(100 + rows, 10 * rows, 25 * rows - 1000)

    known = Step(
        micro_batch_size=4, weights_bytes=0, gradients_bytes=0, optimizer_bytes=0, activations_bytes=0,
        peak_bytes=peak(4), flops=0,
    )  # fmt: skip
    found = largest(peak, known, limit)
    expected = max((rows for rows in range(1, 4097) if peak(rows) <= limit), default=0)
    assert found == expected


def test_devices_have_names_and_amounts():
    assert devices.named("24GiB").memory_bytes == 24 * 2**30
    assert devices.named("24GiB").flops_per_second is None
    assert devices.named("RTX-4090").flops_per_second == 165.2e12
    assert devices.named("cpu").on_gpu is False
    assert devices.named("h200").usable_bytes < devices.named("h200").memory_bytes
    with pytest.raises(ValueError, match="give one of rtx-3090"):
        devices.named("rtx-9999")
